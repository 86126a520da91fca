// Private: the folder that holds a run's checkpoints. step-000000100 is a complete checkpoint; a name that
// ends in .partial is being written, or was when its run died.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/status.h"

typedef struct {
  int64_t step;
  double loss; // NaN: unknown, not asked for, or the manifest is damaged
} data_checkpoint_entry;

// Paths inside `folder`. Errors: NN_ERR_IO when the path is too long.
enum { DATA_CHECKPOINT_PATH = 1024 };
nn_status data_checkpoint_path(const char *folder, int64_t step, char path[DATA_CHECKPOINT_PATH]);
nn_status data_checkpoint_partial_path(const char *folder, int64_t step, char path[DATA_CHECKPOINT_PATH]);

// The complete checkpoints, newest first; free with free(). A folder that is not there holds none.
nn_status data_checkpoint_list(const char *folder, bool losses, data_checkpoint_entry **entries,
                               int32_t *count);
// The entry with the lowest loss (the newer one of two), -1 where no loss is known.
int32_t data_checkpoint_best(const data_checkpoint_entry *entries, int32_t count);

// Removes what killed runs left half-written, and gives a checkpoint that one was replacing its name back.
nn_status data_checkpoint_sweep(const char *folder);

// Gives the finished partial folder of `step` its final name, durably; one that had the name is removed.
nn_status data_checkpoint_publish(const char *folder, int64_t step);

// The same where there is one of the name and the file system cannot exchange names.
nn_status data_checkpoint_replace(const char *folder, int64_t step);

// Removes checkpoints of earlier steps than `step` until the `keep` newest up to it are left, and the best.
// Later ones do not count and stay: they are what a run that resumed from before them could not read.
nn_status data_checkpoint_retain(const char *folder, int64_t step, int32_t keep, bool keep_best);
