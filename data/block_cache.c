#include "data/block_cache.h"

#include <stdbool.h>
#include <stdlib.h>

enum { WAYS = 8, SETS = DATA_BLOCKS / WAYS };

typedef struct {
  bool filled;
  int32_t shard;
  data_block_kind kind;
  int64_t block;
  uint64_t used; // when it was used last
  void *bytes;   // [DATA_BLOCK_BYTES]; NULL until it is needed
} slot;

struct data_block_cache {
  slot slots[SETS][WAYS];
  uint64_t clock;
};

nn_status data_block_cache_create(data_block_cache **out) {
  *out = calloc(1, sizeof **out);
  return *out != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for a cache of blocks");
}

void data_block_cache_free(data_block_cache *cache) {
  if (cache == NULL)
    return;
  for (int i = 0; i < DATA_BLOCKS; i++)
    free(cache->slots[i / WAYS][i % WAYS].bytes);
  free(cache);
}

// The slots where a block may stand. Neighbours stand in different ones.
static slot *set_of(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block) {
  uint64_t number = (uint64_t)shard * 0x9E3779B97F4A7C15u + (uint64_t)block * DATA_BLOCK_KINDS + kind;
  return cache->slots[number % SETS];
}

static slot *slot_of(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block) {
  slot *set = set_of(cache, shard, kind, block);
  for (int i = 0; i < WAYS; i++)
    if (set[i].filled && set[i].shard == shard && set[i].kind == kind && set[i].block == block)
      return &set[i];
  return NULL;
}

void *data_block_cache_find(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block) {
  slot *found = slot_of(cache, shard, kind, block);
  if (found == NULL)
    return NULL;
  found->used = ++cache->clock;
  return found->bytes;
}

nn_status data_block_cache_take(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block,
                                void **out) {
  slot *set = set_of(cache, shard, kind, block), *oldest = set;
  for (int i = 1; i < WAYS; i++)
    if (set[i].used < oldest->used)
      oldest = &set[i];
  if (oldest->bytes == NULL && (oldest->bytes = malloc(DATA_BLOCK_BYTES)) == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a block of %d bytes", DATA_BLOCK_BYTES);
  oldest->filled = true;
  oldest->shard = shard;
  oldest->kind = kind;
  oldest->block = block;
  oldest->used = ++cache->clock;
  *out = oldest->bytes;
  return NN_OK;
}

void data_block_cache_drop(data_block_cache *cache, int32_t shard, data_block_kind kind, int64_t block) {
  slot *found = slot_of(cache, shard, kind, block);
  if (found != NULL) {
    found->filled = false;
    found->used = 0;
  }
}
