// Checks a whole data set: every file is there, has its size and its hash, and says what the manifest says.
#pragma once

#include "data/manifest.h"
#include "dist/group.h"

typedef struct {
  int64_t index; // in the order of the manifest, the view of a split behind its shards
  char name[DATA_FILE_NAME];
  int64_t bytes, tokens, documents;
  char problem[400]; // "": there is none
} data_verified_file;

typedef struct {
  data_manifest manifest;
  data_verified_file *files;
  int64_t count, damaged;
} data_verification;

// Collective; the files are shared over the ranks. Fails only when the check cannot be made at all: what is
// wrong with files stands in the result, which every rank gets.
nn_status data_verify(dist_group *world, const char *folder, data_verification *out);
void data_verification_free(data_verification *verification);
