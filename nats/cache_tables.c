// What operators read of the lists, in device memory: the page table, which stays and is kept up to date, and
// the tables of a step, which are sent as one.
#include <stdlib.h> // calloc, free, realloc
#include <string.h> // memcpy

#include "nats/cache_internal.h"
#include "nats/scratch.h"

// ---- pages

nats_cache_pages nats_cache_pages_of(const nats_cache *cache, int64_t first) {
  return (nats_cache_pages){
      .table = cache->page_table + first * cache->page_stride,
      .stride = cache->page_stride,
      .page_tokens = cache->shape.page_tokens,
      .head_size = cache->shape.head_size,
  };
}

nn_status nats_cache_send_pages(nats_cache *cache, int64_t first, int32_t count) {
  int64_t stride = cache->page_stride, entries = count * stride;
  nn_act **table = calloc((size_t)entries, sizeof *table);
  if (!table)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a page table of %lld pages", (long long)entries);
  for (int32_t l = 0; l < count; l++) {
    const nats_cache_list *list = &cache->lists[first + l];
    for (int32_t p = 0; p < list->page_count; p++)
      table[l * stride + p] = nats_page_at(&cache->pool, list->pages[p]);
  }
  nn_status status = nn_device_upload(cache->device, cache->page_table + first * stride, table,
                                      (size_t)entries * sizeof *table);
  free(table);
  return status;
}

nn_status nats_cache_widen(nats_cache *cache, int32_t tokens) {
  int32_t wanted = nats_list_capacity(tokens, cache->shape.page_tokens);
  if (wanted <= cache->page_stride)
    return NN_OK;
  void *memory;
  nn_device_free(cache->device, cache->page_table);
  cache->page_table = NULL;
  cache->page_stride = 0;
  size_t bytes = (size_t)cache->list_count * (size_t)wanted * sizeof *cache->page_table;
  NN_TRY(nn_device_alloc(cache->device, bytes, "the page table of the KV cache", &memory));
  cache->page_table = memory;
  cache->page_stride = wanted;
  for (int64_t first = 0; first < cache->list_count; first += nats_cache_layer_size(cache))
    NN_TRY(nats_cache_send_pages(cache, first, nats_cache_layer_size(cache)));
  return NN_OK;
}

// ---- items

// Tokens of the layer that has most.
static int64_t most_tokens(const nats_cache *cache) {
  int64_t most = 0, sum = 0;
  for (int64_t i = 0; i < cache->list_count; i++) {
    sum = (i % nats_cache_layer_size(cache) == 0 ? 0 : sum) + cache->made.rows[i].length;
    most = sum > most ? sum : most;
  }
  return most;
}

static int32_t items_of(const nats_cache *cache, int64_t i) {
  return (cache->made.rows[i].length - 1) / cache->item_tokens + 1;
}

// Also numbers the first items of the lists.
static int32_t most_items(nats_cache *cache) {
  int32_t most = 0, sum = 0;
  for (int64_t i = 0; i < cache->list_count; i++) {
    sum = i % nats_cache_layer_size(cache) == 0 ? 0 : sum;
    cache->made.rows[i].first_item = sum;
    sum += items_of(cache, i);
    most = sum > most ? sum : most;
  }
  return most;
}

nn_status nats_cache_cut_items(nats_cache *cache) {
  NN_TRY(nats_cache_item_tokens(cache->device, most_tokens(cache), &cache->item_tokens));
  int32_t needed = most_items(cache);
  if (needed > cache->item_count || needed < cache->item_count / 2)
    cache->item_count = needed + needed / 8;
  NN_TRY(nats_cache_reserve((void **)&cache->made.items, &cache->item_capacity,
                            (int64_t)cache->shape.layers * cache->item_count, sizeof *cache->made.items));
  nats_cache_item *next = cache->made.items;
  for (int32_t layer = 0; layer < cache->shape.layers; layer++) {
    nats_cache_item *end = cache->made.items + (layer + INT64_C(1)) * cache->item_count;
    for (int32_t l = 0; l < nats_cache_layer_size(cache); l++) {
      int32_t items = items_of(cache, (int64_t)layer * nats_cache_layer_size(cache) + l);
      for (int32_t item = 0; item < items; item++)
        *next++ = (nats_cache_item){l, item * cache->item_tokens};
    }
    while (next < end)
      *next++ = (nats_cache_item){-1, 0};
  }
  return NN_OK;
}

// ---- sending

static void *pack(nats_scratch *to, const void *from, int64_t count, size_t size) {
  void *place = nats_scratch_take(to, count, size);
  if (place && from)
    memcpy(place, from, (size_t)count * size);
  return place;
}

// With `from` NULL nothing is copied: `to` is on the device, or nowhere and only counts.
static nats_cache_tables pack_all(const nats_cache *cache, bool lists, const nats_cache_tables *from,
                                  nats_scratch *to) {
  static const nats_cache_tables nothing = {0};
  const nats_cache_tables *t = from ? from : &nothing;
  int64_t rows = lists ? cache->list_count : 0, turns = lists ? cache->turn_count : 0;
  int64_t items = lists ? (int64_t)cache->shape.layers * cache->item_count : 0;
  return (nats_cache_tables){
      .rows = pack(to, t->rows, rows, sizeof *t->rows),
      .items = pack(to, t->items, items, sizeof *t->items),
      .turns = pack(to, t->turns, turns, sizeof *t->turns),
      .entries = pack(to, t->entries, cache->entry_count, sizeof *t->entries),
      .additions = pack(to, t->additions, cache->addition_count, sizeof *t->additions),
      .moves = pack(to, t->moves, cache->move_count, sizeof *t->moves),
  };
}

static nn_status reserve_packed(nats_cache *cache, size_t bytes) {
  if ((int64_t)bytes <= cache->packed_capacity)
    return NN_OK;
  int64_t capacity = cache->packed_capacity;
  void *memory;
  cache->packed_capacity = 0;
  NN_TRY(nats_cache_reserve((void **)&cache->packed, &capacity, (int64_t)bytes, 1));
  nn_device_free(cache->device, cache->device_packed);
  cache->device_packed = NULL;
  NN_TRY(nn_device_alloc(cache->device, (size_t)capacity, "tables of the KV cache", &memory));
  cache->device_packed = memory;
  cache->packed_capacity = capacity;
  return NN_OK;
}

nn_status nats_cache_send(nats_cache *cache, bool lists) {
  int32_t page_tokens = cache->shape.page_tokens, head_size = cache->shape.head_size;
  nats_scratch counted = {0};
  pack_all(cache, lists, NULL, &counted);
  if (counted.used == 0)
    return NN_OK;
  NN_TRY(reserve_packed(cache, counted.used));
  pack_all(cache, lists, &cache->made, &(nats_scratch){.base = cache->packed});
  cache->sent = pack_all(cache, lists, NULL, &(nats_scratch){.base = cache->device_packed});
  NN_TRY(nn_device_upload(cache->device, cache->device_packed, cache->packed, counted.used));
  NN_TRY(nats_cache_enter_run(cache->device, &(nats_cache_enter){
                                                 .table = cache->page_table,
                                                 .entries = cache->sent.entries,
                                                 .count = cache->entry_count,
                                             }));
  NN_TRY(
      nats_cache_merge_run(cache->device, &(nats_cache_merge){page_tokens, head_size, cache->sent.additions,
                                                              cache->addition_count}));
  NN_TRY(nats_cache_compact_run(
      cache->device, &(nats_cache_compact){page_tokens, head_size, cache->sent.moves, cache->move_count}));
  cache->entry_count = cache->addition_count = cache->move_count = 0;
  return NN_OK;
}
