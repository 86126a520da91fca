// Rows of keys and values into pages, from page to page, and values added to others.
#include <string.h> // memcpy

#include "nats/cpu/cache.h"
#include "nn/cpu/parallel.h"

nn_status nats_cpu_cache_enter(nn_device *device, const nats_cache_enter *op) {
  (void)device;
  for (int64_t i = 0; i < op->count; i++)
    op->table[op->entries[i].at] = op->entries[i].page;
  return NN_OK;
}

static void copy_row(nats_cpu_slot to, const float *k, const float *v, int32_t size) {
  memcpy(to.k, k, (size_t)size * sizeof *k);
  memcpy(to.v, v, (size_t)size * sizeof *v);
}

nn_status nats_cpu_cache_append(nn_device *device, const nats_cache_append *op) {
  (void)device;
  int32_t lists = op->sequences * op->kv_heads, size = op->pages.head_size;
#pragma omp parallel for if (nn_range_is_large((int64_t)lists * size))
  for (int32_t l = 0; l < lists; l++) {
    int64_t from = l / op->kv_heads * op->token_stride + (int64_t)(l % op->kv_heads) * size;
    copy_row(nats_cpu_slot_of(&op->pages, l, op->lists[l].length - 1), (const float *)op->k + from,
             (const float *)op->v + from, size);
  }
  return NN_OK;
}

nn_status nats_cpu_cache_store(nn_device *device, const nats_cache_store *op) {
  (void)device;
  int32_t lists = op->sequences * op->kv_heads, size = op->pages.head_size;
#pragma omp parallel for schedule(dynamic) if (nn_range_is_large((int64_t)lists * op->rows * size))
  for (int32_t l = 0; l < lists; l++) {
    const nats_cache_stored *list = &op->lists[l];
    for (int32_t t = 0; t < list->length; t++) {
      int64_t row = (int64_t)(l / op->kv_heads) * op->rows + (list->position ? list->position[t] : t);
      int64_t from = row * op->token_stride + (int64_t)(l % op->kv_heads) * size;
      copy_row(nats_cpu_slot_of(&op->pages, l, t), (const float *)op->k + from, (const float *)op->v + from,
               size);
    }
  }
  return NN_OK;
}

nn_status nats_cpu_cache_compact(nn_device *device, const nats_cache_compact *op) {
  (void)device;
  int32_t size = op->head_size;
  int64_t value = (int64_t)op->page_tokens * size;
#pragma omp parallel for if (nn_range_is_large(op->count * size))
  for (int64_t i = 0; i < op->count; i++) {
    const float *from = op->moves[i].from;
    float *to = op->moves[i].to;
    copy_row((nats_cpu_slot){to, to + value}, from, from + value, size);
  }
  return NN_OK;
}

nn_status nats_cpu_cache_merge(nn_device *device, const nats_cache_merge *op) {
  (void)device;
  int32_t size = op->head_size;
  int64_t value = (int64_t)op->page_tokens * size;
#pragma omp parallel for if (nn_range_is_large(op->count * size))
  for (int64_t i = 0; i < op->count; i++) {
    const float *from = (const float *)op->additions[i].from + value;
    float *to = (float *)op->additions[i].to + value;
    for (int32_t d = 0; d < size; d++)
      to[d] += op->additions[i].factor * from[d];
  }
  return NN_OK;
}
