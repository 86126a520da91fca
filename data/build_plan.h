// Private to this room: what is in the inputs, found out before anything is written. The inputs are read and
// checked once, shared over the ranks by file; the plan says which documents make which shard, and it is the
// same whatever the number of ranks.
#pragma once

#include <stdint.h>

#include "dist/group.h"

// Consecutive documents of one input.
typedef struct {
  int64_t input;          // which file
  int64_t offset, line;   // where its first document begins
  int64_t documents;      // documents with text
  int64_t bytes;          // of their text
  int64_t first_document; // number of the first one, counted over all inputs
} data_block;

typedef struct {
  data_block *blocks;
  int64_t count;
  int64_t documents, bytes;
  int64_t *shard_blocks; // [shards + 1]: the first block of each shard
  int64_t shards;
} data_plan;

// Collective. `shard_bytes`: text of a shard, about; 0: chosen by what there is.
nn_status data_plan_make(dist_group *world, const char *const *inputs, int64_t count, const char *field,
                         int64_t shard_bytes, data_plan *out);
void data_plan_free(data_plan *plan);
