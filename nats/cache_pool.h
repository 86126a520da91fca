// Pages of keys and values, taken from slabs that are given back to the device when they are empty.
#pragma once

#include "nats/cache_ops.h"

typedef struct {
  nn_device *device;
  size_t page_bytes;
  int32_t page_tokens, head_size;
  int32_t slab_pages;   // a multiple of 32
  nn_act **slabs;       // [slab_count], NULL where a slab was given back
  uint32_t *vacant;     // [slab_count, slab_pages / 32] a bit per page that nobody has
  int32_t *pages_taken; // [slab_count]
  int64_t first_vacant; // no word of `vacant` before this one has a bit
  int32_t slab_count, slab_capacity;
  int32_t slabs_held; // not NULL
  int32_t slabs_idle; // all pages vacant
  int64_t pages_in_use;
} nats_page_pool;

// `most_pages`: how many there may be at once, as far as anybody knows. Asking the device for memory takes
// long, so slabs are larger where more is to come; what they hold too much is a small part of that.
void nats_page_pool_init(nats_page_pool *pool, nn_device *device, int32_t page_tokens, int32_t head_size,
                         int64_t most_pages);
void nats_page_pool_free(nats_page_pool *pool);

// The lowest vacant page, so that high slabs run empty. Errors: NN_ERR_MEMORY.
nn_status nats_page_take(nats_page_pool *pool, int32_t *page);
void nats_page_return(nats_page_pool *pool, int32_t page);
nn_act *nats_page_at(const nats_page_pool *pool, int32_t page);

// Gives idle slabs back to the device, but for one, so that a page at a border costs nothing. Until then a
// returned page can still be read.
void nats_page_pool_trim(nats_page_pool *pool);

int64_t nats_page_pool_bytes(const nats_page_pool *pool); // held from the device, in use or not
