#include "nats/cache_pool.h"

#include <stdlib.h> // realloc, free

static const uint32_t ALL_VACANT = UINT32_MAX;

void nats_page_pool_init(nats_page_pool *pool, nn_device *device, int32_t page_tokens, int32_t head_size) {
  *pool = (nats_page_pool){
      .device = device,
      .page_bytes = 2 * (size_t)page_tokens * (size_t)head_size * nn_device_act_size(device),
      .page_tokens = page_tokens,
      .head_size = head_size,
  };
}

void nats_page_pool_free(nats_page_pool *pool) {
  for (int32_t slab = 0; slab < pool->slab_count; slab++)
    nn_device_free(pool->device, pool->slabs[slab]);
  free(pool->slabs);
  free(pool->vacant);
  *pool = (nats_page_pool){0};
}

static nn_status grow_table(nats_page_pool *pool) {
  int32_t capacity = pool->slab_capacity > 0 ? 2 * pool->slab_capacity : 16;
  nn_act **slabs = realloc(pool->slabs, (size_t)capacity * sizeof *slabs);
  if (slabs)
    pool->slabs = slabs;
  uint32_t *vacant = realloc(pool->vacant, (size_t)capacity * sizeof *vacant);
  if (vacant)
    pool->vacant = vacant;
  if (!slabs || !vacant)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a table of %d cache slabs", (int)capacity);
  pool->slab_capacity = capacity;
  return NN_OK;
}

static nn_status fill_slab(nats_page_pool *pool, int32_t slab) {
  void *memory;
  NN_TRY(nn_device_alloc(pool->device, pool->page_bytes * NATS_SLAB_PAGES, "pages of the KV cache", &memory));
  pool->slabs[slab] = memory;
  pool->vacant[slab] = ALL_VACANT;
  pool->slabs_held++;
  pool->slabs_idle++;
  return NN_OK;
}

// The lowest slab with a vacant page; a place without a slab only where no slab has one.
static nn_status find_slab(nats_page_pool *pool, int32_t *out) {
  int32_t place = -1;
  for (int32_t slab = 0; slab < pool->slab_count; slab++) {
    if (pool->slabs[slab] && pool->vacant[slab]) {
      *out = slab;
      return NN_OK;
    }
    if (!pool->slabs[slab] && place < 0)
      place = slab;
  }
  if (place < 0) {
    if (pool->slab_count == pool->slab_capacity)
      NN_TRY(grow_table(pool));
    place = pool->slab_count++;
    pool->slabs[place] = NULL;
    pool->vacant[place] = 0;
  }
  *out = place;
  return fill_slab(pool, place);
}

nn_status nats_page_take(nats_page_pool *pool, int32_t *page) {
  int32_t slab;
  NN_TRY(find_slab(pool, &slab));
  if (pool->vacant[slab] == ALL_VACANT)
    pool->slabs_idle--;
  int32_t bit = __builtin_ctz(pool->vacant[slab]);
  pool->vacant[slab] &= ~(UINT32_C(1) << bit);
  pool->pages_in_use++;
  *page = slab * NATS_SLAB_PAGES + bit;
  return NN_OK;
}

void nats_page_return(nats_page_pool *pool, int32_t page) {
  int32_t slab = page / NATS_SLAB_PAGES;
  pool->vacant[slab] |= UINT32_C(1) << (page % NATS_SLAB_PAGES);
  pool->pages_in_use--;
  if (pool->vacant[slab] != ALL_VACANT)
    return;
  if (pool->slabs_idle == 0) {
    pool->slabs_idle = 1;
    return;
  }
  nn_device_free(pool->device, pool->slabs[slab]);
  pool->slabs[slab] = NULL;
  pool->vacant[slab] = 0;
  pool->slabs_held--;
}

nats_cache_pages nats_page_pool_view(const nats_page_pool *pool) {
  return (nats_cache_pages){
      .slabs = pool->slabs,
      .slab_pages = NATS_SLAB_PAGES,
      .page_tokens = pool->page_tokens,
      .head_size = pool->head_size,
  };
}

int64_t nats_page_pool_bytes(const nats_page_pool *pool) {
  return (int64_t)pool->slabs_held * NATS_SLAB_PAGES * (int64_t)pool->page_bytes;
}
