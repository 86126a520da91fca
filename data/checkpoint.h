// Checkpoints: a folder per step, written in the background, verified before it is trusted.
//
//   checkpoints/step-000000100/manifest.json    shapes, step, state, configuration, XXH3-64 per file
//                             /part-000.h5 ...   row-aligned ranges of every tensor, one writer each
//
// Saving takes a snapshot of the tensors into host memory and returns; a thread writes. The folder has a
// temporary name until, at a later step boundary, all ranks agree that every file succeeded; then rank 0
// writes the manifest and renames it. Any failure drops the folder and warns; training goes on.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "dist/group.h"
#include "dist/shards.h"
#include "nn/device.h"
#include "nn/params.h"
#include "nn/status.h"

typedef struct {
  char name[80]; // "param/layer.0.attention.qkv.weight", "moment1/...", "moment2/..."
  int64_t rows, columns;
  float *data; // device memory, [rows, columns]; with shards this rank's part of the whole arena
  const dist_shards *shards; // which rank has which elements; NULL: every rank has all
  int64_t offset;            // where the tensor begins in the arena that they cut
} data_tensor;

// The rows of a parameter table in one of its arenas (nn_params.master, moment1, ...), named "PREFIX/NAME".
// out: [table->count].
void data_tensors_of(const nn_param_table *table, const char *prefix, float *arena, data_tensor *out);
// The same of an arena that the ranks share; `shard` is what this one has of it. A file shows no difference.
void data_tensors_of_shard(const nn_param_table *table, const char *prefix, const dist_shards *shards,
                           float *shard, data_tensor *out);

// What a checkpoint says besides tensors.
typedef struct {
  int64_t step;            // updates made
  int64_t tokens;          // trained on so far
  int64_t samples;         // the loader's whole state
  double loss;             // validation loss when known, else NaN: decides which checkpoint is the best
  const char *state_json;  // one JSON object of the training loop (lambda, update counts, ...)
  const char *config_yaml; // the effective configuration
  const char *model_key;   // text of what must not change on resume; compared as a whole
  const char *tokenizer_kind;
  const void *tokenizer_blob;
  size_t tokenizer_bytes;
} data_checkpoint_info;

typedef struct data_checkpointer data_checkpointer;

typedef struct {
  const char *folder; // RUN/checkpoints
  int32_t keep;       // newest ones that are kept, at least 1
  bool keep_best;     // and the one with the lowest loss
  int32_t writers;    // at most this many ranks write
} data_checkpoint_config;

nn_status data_checkpointer_create(dist_group *world, nn_device *device, const data_checkpoint_config *config,
                                   const data_tensor *tensors, int32_t count, data_checkpointer **out);
void data_checkpointer_free(data_checkpointer *checkpointer);
int64_t data_checkpointer_snapshot_bytes(const data_checkpointer *checkpointer); // host memory on this rank

// Takes the snapshot and starts the writer; finishes an earlier one first. Collective. Failing to write is a
// warning (and counted), not an error.
nn_status data_checkpoint_save(data_checkpointer *checkpointer, const data_checkpoint_info *info);
// Finishes the save under way if all ranks are done (or waits for it): collective, at step boundaries.
nn_status data_checkpoint_poll(data_checkpointer *checkpointer, bool wait);
// Whether polling has anything to do; the same on all ranks.
bool data_checkpoint_under_way(const data_checkpointer *checkpointer);
int32_t data_checkpoint_failures(const data_checkpointer *checkpointer);

// What the checkpoints that this start completed took.
typedef struct {
  int32_t count;
  int64_t bytes;  // of the last one, all files (rank 0)
  double seconds; // from the snapshot to the name, training beside it; sum
  double stall;   // in which training stood still; sum, of save and poll, but not of waiting for the last one
} data_checkpoint_times;
data_checkpoint_times data_checkpointer_times(const data_checkpointer *checkpointer);

int64_t data_checkpoint_last_step(const data_checkpointer *checkpointer); // newest one completed, -1: none

// What load gives back; free with data_checkpoint_loaded_free.
typedef struct {
  int64_t step, tokens, samples;
  double loss; // NaN: unknown
  char *state_json, *config_yaml, *model_key, *tokenizer_kind;
  void *tokenizer_blob;
  size_t tokenizer_bytes;
  char path[1024];                           // the folder it came from
  struct data_checkpoint_manifest *manifest; // where its tensors lie
} data_checkpoint_loaded;

// Finds the newest checkpoint of `folder` that verifies (every file hashed by one rank before anyone opens
// it), saying which ones were skipped and why; *found is false when there is none. A folder with checkpoints
// of which none verifies is an error (NN_ERR_INPUT): to start anew there would give up what may be repaired.
// Collective. Reads no tensors.
nn_status data_checkpoint_find(dist_group *world, const char *folder, bool *found,
                               data_checkpoint_loaded *out);
// The same from the lowest loss up, those without a loss last.
nn_status data_checkpoint_find_best(dist_group *world, const char *folder, bool *found,
                                    data_checkpoint_loaded *out);
// Verifies one checkpoint, `path` being its own folder. Errors: NN_ERR_INPUT, NN_ERR_IO with the file's name.
nn_status data_checkpoint_open(dist_group *world, const char *path, data_checkpoint_loaded *out);
// Shape of a tensor; NN_ERR_INPUT where there is none of that name.
nn_status data_checkpoint_shape(const data_checkpoint_loaded *loaded, const char *name, int64_t *rows,
                                int64_t *columns);
// Reads tensors by name from the checkpoint found. Missing names and other shapes are errors. Not collective:
// each rank reads what it needs, and any number of ranks may have written.
nn_status data_checkpoint_read(const data_checkpoint_loaded *loaded, nn_device *device,
                               const data_tensor *tensors, int32_t count);
void data_checkpoint_loaded_free(data_checkpoint_loaded *loaded);

// An exclusive lock of the run folder (fcntl, freed by the kernel when the process ends, kill -9 included).
// Rank 0 takes it, all ranks agree. Errors: NN_ERR_USAGE with the pid that holds it.
nn_status data_run_lock(dist_group *world, const char *run_folder, int *fd);
void data_run_unlock(int fd);
