// Who owns what where ranks share the optimizer's work. The arena is cut into buckets from its end to its
// start, the order in which backward completes it, and every bucket into one piece for each rank, in the
// order of the ranks; a rank's shard is its piece of every bucket. So sums of gradients go to their owners
// bucket by bucket while backward runs, and updated parameters come back the same way.
//
//   arena    [ bucket 2 |       bucket 1       |       bucket 0       ]     bucket 2 holds what is left
//   ranks    [ 0 | 1 |2 |   0  |   1   |   2   |   0  |   1   |   2   ]
//   shard 1  [ of bucket 0 | of bucket 1 | of bucket 2 ]                    stored in the order of backward
#pragma once

#include <stdint.h>

#include "nn/params.h"

typedef struct {
  int64_t total; // elements of the arena
  int64_t width; // of a bucket, a multiple of size * NN_PARAM_ALIGN: pieces of whole buckets are equal
  int64_t buckets;
  int32_t rank, size;
} dist_shards;

// `bucket_bytes`: target size of a bucket of float32, rounded up. Errors: NN_ERR_USAGE (below 1).
nn_status dist_shards_make(int64_t total, int64_t bucket_bytes, int32_t rank, int32_t size, dist_shards *out);

// Where bucket `bucket` begins and how long it is.
int64_t dist_shards_bucket(const dist_shards *shards, int64_t bucket, int64_t *count);
// Its piece of rank r is [starts[r], starts[r + 1]), counted from its beginning. starts: [size + 1]
void dist_shards_starts(const dist_shards *shards, int64_t bucket, int64_t *starts);

// The piece that holds an element of the arena.
typedef struct {
  int32_t owner;
  int64_t end; // of the piece, in the arena
  int64_t at;  // where the element lies in its owner's shard
} dist_place;
dist_place dist_shards_find(const dist_shards *shards, int64_t element);

// This rank's shard, for nn_params_create_shard; free out->items. Errors: NN_ERR_MEMORY.
nn_status dist_shards_own(const dist_shards *shards, nn_shard *out);
