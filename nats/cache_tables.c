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

// Room for the items of the layer that has most tokens: a list's last one may be short.
nn_status nats_cache_reserve_items(nats_cache *cache, int64_t most_tokens) {
  void *memory;
  NN_TRY(nats_cache_item_tokens(cache->device, most_tokens, &cache->item_tokens));
  int32_t needed = (int32_t)(most_tokens / cache->item_tokens) + nats_cache_layer_size(cache);
  if (needed <= cache->item_count && needed >= cache->item_count / 2)
    return NN_OK;
  nn_device_free(cache->device, cache->items);
  cache->items = NULL;
  cache->item_count = 0;
  int32_t count = needed + needed / 8;
  NN_TRY(nn_device_alloc(cache->device, (size_t)cache->shape.layers * (size_t)count * sizeof *cache->items,
                         "items of the KV cache", &memory));
  cache->items = memory;
  cache->item_count = count;
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
static nats_cache_tables pack_all(const nats_cache *cache, const nats_cache_tables *from, nats_scratch *to) {
  static const nats_cache_tables nothing = {0};
  const nats_cache_tables *t = from ? from : &nothing;
  return (nats_cache_tables){
      .rows = pack(to, t->rows, cache->list_count, sizeof *t->rows),
      .turns = pack(to, t->turns, cache->turn_count, sizeof *t->turns),
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

// Values are added before tokens are moved.
static nn_status change_pages(nats_cache *cache, nats_cache_changes from, nats_cache_changes to) {
  int32_t page_tokens = cache->shape.page_tokens, head_size = cache->shape.head_size;
  NN_TRY(nats_cache_merge_run(cache->device, &(nats_cache_merge){page_tokens, head_size,
                                                                 cache->sent.additions + from.additions,
                                                                 to.additions - from.additions}));
  return nats_cache_compact_run(
      cache->device,
      &(nats_cache_compact){page_tokens, head_size, cache->sent.moves + from.moves, to.moves - from.moves});
}

nn_status nats_cache_send(nats_cache *cache) {
  const nats_cache_changes all = {cache->addition_count, cache->move_count};
  nats_scratch counted = {0};
  pack_all(cache, NULL, &counted);
  NN_TRY(reserve_packed(cache, counted.used));
  pack_all(cache, &cache->made, &(nats_scratch){.base = cache->packed});
  cache->sent = pack_all(cache, NULL, &(nats_scratch){.base = cache->device_packed});
  NN_TRY(nn_device_upload(cache->device, cache->device_packed, cache->packed, counted.used));
  NN_TRY(nats_cache_cut_run(cache->device, &(nats_cache_cut){
                                               .lists = cache->sent.rows,
                                               .layers = cache->shape.layers,
                                               .lists_of_layer = nats_cache_layer_size(cache),
                                               .items = cache->items,
                                               .item_count = cache->item_count,
                                               .item_tokens = cache->item_tokens,
                                           }));
  NN_TRY(nats_cache_enter_run(cache->device, &(nats_cache_enter){
                                                 .table = cache->page_table,
                                                 .entries = cache->sent.entries,
                                                 .count = cache->entry_count,
                                             }));
  NN_TRY(change_pages(cache, (nats_cache_changes){0}, cache->left));
  NN_TRY(change_pages(cache, cache->left, all));
  cache->entry_count = cache->addition_count = cache->move_count = 0;
  cache->left = (nats_cache_changes){0};
  return NN_OK;
}
