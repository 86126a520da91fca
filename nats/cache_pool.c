#include "nats/cache_pool.h"

#include <stdlib.h> // realloc, free
#include <string.h> // memset

enum { WORD_PAGES = 32 };
static const size_t LARGEST_SLAB = 16 << 20; // bytes; a page may be larger
static const int64_t SLABS_AT_MOST = 64;     // in a pool whose slabs are not the largest or the smallest

static int32_t choose_slab_pages(size_t page_bytes, int64_t most_pages) {
  int32_t pages = WORD_PAGES;
  while (pages < most_pages / SLABS_AT_MOST && 2 * (size_t)pages * page_bytes <= LARGEST_SLAB)
    pages *= 2;
  return pages;
}

void nats_page_pool_init(nats_page_pool *pool, nn_device *device, int32_t page_tokens, int32_t head_size,
                         int64_t most_pages) {
  size_t page_bytes = 2 * (size_t)page_tokens * (size_t)head_size * nn_device_act_size(device);
  *pool = (nats_page_pool){
      .device = device,
      .page_bytes = page_bytes,
      .page_tokens = page_tokens,
      .head_size = head_size,
      .slab_pages = choose_slab_pages(page_bytes, most_pages),
  };
}

void nats_page_pool_free(nats_page_pool *pool) {
  for (int32_t slab = 0; slab < pool->slab_count; slab++)
    nn_device_free(pool->device, pool->slabs[slab]);
  free(pool->slabs);
  free(pool->vacant);
  free(pool->pages_taken);
  *pool = (nats_page_pool){0};
}

static int32_t words_of(const nats_page_pool *pool) {
  return pool->slab_pages / WORD_PAGES;
}

static nn_status grow_table(nats_page_pool *pool) {
  int32_t capacity = pool->slab_capacity > 0 ? 2 * pool->slab_capacity : 16;
  nn_act **slabs = realloc(pool->slabs, (size_t)capacity * sizeof *slabs);
  if (slabs)
    pool->slabs = slabs;
  uint32_t *vacant = realloc(pool->vacant, (size_t)capacity * (size_t)words_of(pool) * sizeof *vacant);
  if (vacant)
    pool->vacant = vacant;
  int32_t *taken = realloc(pool->pages_taken, (size_t)capacity * sizeof *taken);
  if (taken)
    pool->pages_taken = taken;
  if (!slabs || !vacant || !taken)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a table of %d cache slabs", (int)capacity);
  pool->slab_capacity = capacity;
  return NN_OK;
}

static void mark_all(nats_page_pool *pool, int32_t slab, bool vacant) {
  size_t words = (size_t)words_of(pool);
  memset(pool->vacant + (size_t)slab * words, vacant ? 0xff : 0, words * sizeof *pool->vacant);
}

// A slab in the first place that has none.
static nn_status add_slab(nats_page_pool *pool) {
  int32_t place = 0;
  void *memory;
  while (place < pool->slab_count && pool->slabs[place])
    place++;
  if (place == pool->slab_capacity)
    NN_TRY(grow_table(pool));
  size_t bytes = pool->page_bytes * (size_t)pool->slab_pages;
  NN_TRY(nn_device_alloc(pool->device, bytes, "pages of the KV cache", &memory));
  if (place == pool->slab_count)
    pool->slab_count++;
  pool->slabs[place] = memory;
  pool->pages_taken[place] = 0;
  mark_all(pool, place, true);
  pool->first_vacant = (int64_t)place * words_of(pool);
  pool->slabs_held++;
  pool->slabs_idle++;
  return NN_OK;
}

nn_status nats_page_take(nats_page_pool *pool, int32_t *page) {
  int64_t words = (int64_t)pool->slab_count * words_of(pool);
  while (pool->first_vacant < words && pool->vacant[pool->first_vacant] == 0)
    pool->first_vacant++;
  if (pool->first_vacant == words)
    NN_TRY(add_slab(pool));
  uint32_t *word = &pool->vacant[pool->first_vacant];
  *page = (int32_t)(pool->first_vacant * WORD_PAGES + __builtin_ctz(*word));
  *word &= *word - 1; // the lowest bit
  int32_t slab = *page / pool->slab_pages;
  if (pool->pages_taken[slab]++ == 0)
    pool->slabs_idle--;
  pool->pages_in_use++;
  return NN_OK;
}

void nats_page_return(nats_page_pool *pool, int32_t page) {
  int32_t slab = page / pool->slab_pages;
  int64_t word = page / WORD_PAGES;
  pool->vacant[word] |= UINT32_C(1) << (page % WORD_PAGES);
  if (word < pool->first_vacant)
    pool->first_vacant = word;
  pool->pages_in_use--;
  if (--pool->pages_taken[slab] == 0)
    pool->slabs_idle++;
}

nn_act *nats_page_at(const nats_page_pool *pool, int32_t page) {
  int64_t elements = 2 * (int64_t)pool->page_tokens * pool->head_size; // of a page
  return nn_act_at(pool->device, pool->slabs[page / pool->slab_pages], page % pool->slab_pages * elements);
}

void nats_page_pool_trim(nats_page_pool *pool) {
  for (int32_t slab = pool->slab_count - 1; slab >= 0 && pool->slabs_idle > 1; slab--) {
    if (!pool->slabs[slab] || pool->pages_taken[slab] > 0)
      continue;
    nn_device_free(pool->device, pool->slabs[slab]);
    pool->slabs[slab] = NULL;
    mark_all(pool, slab, false);
    pool->slabs_held--;
    pool->slabs_idle--;
  }
}

int64_t nats_page_pool_bytes(const nats_page_pool *pool) {
  return (int64_t)pool->slabs_held * pool->slab_pages * (int64_t)pool->page_bytes;
}
