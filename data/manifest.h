// manifest.json of a data set: what it holds and every file of it with size and XXH3-64. It is written last:
// a folder without one holds no data set. Format in docs/formats.md.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "data/shard.h"
#include "nn/status.h"

enum { DATA_MANIFEST_VERSION = 1, DATA_FILE_NAME = 32, DATA_SPLIT_NAME = 16, DATA_SPLITS = 2 };

typedef struct {
  char name[DATA_FILE_NAME]; // within the folder
  int64_t bytes;
  uint64_t hash; // XXH3-64 of the whole file
  data_counts counts;
} data_manifest_file;

typedef struct {
  char name[DATA_SPLIT_NAME]; // "train", "val"
  data_counts counts;
  int32_t shards;
  data_manifest_file *shard; // [shards], in the order of the documents
  data_manifest_file view;   // the virtual data set for h5py
} data_manifest_split;

typedef struct {
  data_format format;
  int32_t splits;
  data_manifest_split split[DATA_SPLITS];
  char *source; // JSON object: how the data set was made; may be NULL
} data_manifest;

// folder/name; NN_ERR_IO when that is too long for a path.
nn_status data_path_join(char *out, size_t room, const char *folder, const char *name);

bool data_manifest_exists(const char *folder);
// Errors: NN_ERR_INPUT names the manifest and the field. The caller frees `out` with data_manifest_free.
nn_status data_manifest_read(const char *folder, data_manifest *out);
nn_status data_manifest_parse(const char *path, const char *text, size_t bytes, data_manifest *out);
// Where it lies; NN_ERR_INPUT when `folder` holds none.
nn_status data_manifest_path(const char *folder, char *path, size_t room);
nn_status data_manifest_write(const char *folder, const data_manifest *manifest);
void data_manifest_free(data_manifest *manifest);

// NULL when there is no such split.
const data_manifest_split *data_manifest_find(const data_manifest *manifest, const char *split);
