// A data set that is being written. Shards go to FOLDER/.building; only when all ranks have succeeded does
// rank 0 move them up and write the manifest. Until then a data set that is there already stays whole, and
// whatever fails leaves nothing behind. Meanwhile FOLDER/.lock keeps other processes from writing there.
#pragma once

#include <limits.h> // PATH_MAX

#include "data/manifest.h"
#include "dist/group.h"

typedef struct data_output data_output;

enum { DATA_TRAIN = 0, DATA_VAL = 1 }; // the splits; names "train" and "val"

// Collective. A folder that holds a data set is NN_ERR_USAGE, unless `force`: then commit replaces it. So is
// one where another process is writing a data set; the text names that process and its host.
nn_status data_output_begin(dist_group *world, const char *folder, bool force, data_output **out);
void data_output_free(data_output *output); // NULL is allowed

// Where this rank writes shard `index` of a split; indices may have gaps, their order is what counts.
nn_status data_output_path(const data_output *output, int split, int64_t index, char path[PATH_MAX]);
// Takes note of a shard that this rank has finished, and hashes it.
nn_status data_output_add(data_output *output, int split, int64_t index, const data_counts *counts);

// Collective; `mine` is how writing went on this rank. Numbers the shards, writes views and manifest.
// `source` (may be NULL): JSON object for the manifest, how the data set was made. On failure nothing is
// left. `manifest` (may be NULL): what was written, on rank 0 only; the caller frees it.
nn_status data_output_commit(data_output *output, nn_status mine, const data_format *format,
                             const char *source, data_manifest *manifest);
