// Private to this room: blocks of shards that were read lately, decoded. Samples that lie in them cost a copy
// instead of HDF5's checksum and selection. Bounded; memory is taken as it is needed.
#pragma once

#include <stdint.h>

#include "nn/status.h"

enum { DATA_BLOCK_BYTES = 16 << 10, DATA_BLOCKS = 512 }; // 8 MiB at most

typedef enum { DATA_BLOCK_TOKENS, DATA_BLOCK_LABELS, DATA_BLOCK_DOCUMENTS, DATA_BLOCK_KINDS } data_block_kind;

typedef struct data_block_cache data_block_cache;

nn_status data_block_cache_create(data_block_cache **out);
void data_block_cache_free(data_block_cache *cache); // NULL is allowed

// The block, or NULL when it is not there. Valid until the next call of data_block_cache_take.
void *data_block_cache_find(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block);
// Room for a block that is not there, in place of the one that was not used for longest among a few. Fill it,
// or call data_block_cache_drop.
nn_status data_block_cache_take(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block,
                                void **out);
void data_block_cache_drop(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block);
