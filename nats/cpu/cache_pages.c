// Rows of keys and values into pages, from page to page, and values added to others.
#include <string.h> // memcpy

#include "nats/cpu/cache.h"
#include "nn/cpu/parallel.h"

nn_status nats_cpu_cache_append(nn_device *device, const nats_cache_append *op) {
  (void)device;
  const float *k = op->k, *v = op->v;
  int32_t size = op->pages.head_size;
  size_t bytes = (size_t)size * sizeof(float);
#pragma omp parallel for if (nn_range_is_large(op->count * size))
  for (int64_t i = 0; i < op->count; i++) {
    const nats_cache_write *write = &op->writes[i];
    nats_cpu_slot to = nats_cpu_slot_at(&op->pages, write->slot);
    int64_t from = write->row * op->token_stride + (int64_t)write->head * size;
    memcpy(to.k, k + from, bytes);
    memcpy(to.v, v + from, bytes);
  }
  return NN_OK;
}

// One list; `k` and `v` at row 0 of its sequence and head.
static void store_list(const nats_cache_store *op, const nats_cache_stored *list, const float *k,
                       const float *v) {
  int32_t size = op->pages.head_size, page_tokens = op->pages.page_tokens;
  for (int32_t t = 0; t < list->length; t++) {
    nats_cpu_slot page = nats_cpu_page_at(&op->pages, list->pages[t / page_tokens]);
    int64_t from = (list->position ? list->position[t] : t) * op->token_stride;
    int64_t to = (int64_t)(t % page_tokens) * size;
    memcpy(page.k + to, k + from, (size_t)size * sizeof *k);
    memcpy(page.v + to, v + from, (size_t)size * sizeof *v);
  }
}

nn_status nats_cpu_cache_store(nn_device *device, const nats_cache_store *op) {
  (void)device;
  int32_t lists = op->sequences * op->kv_heads, size = op->pages.head_size;
#pragma omp parallel for schedule(dynamic) if (nn_range_is_large((int64_t)lists * op->rows * size))
  for (int32_t l = 0; l < lists; l++) {
    int64_t at =
        (int64_t)(l / op->kv_heads) * op->rows * op->token_stride + (int64_t)(l % op->kv_heads) * size;
    store_list(op, &op->lists[l], (const float *)op->k + at, (const float *)op->v + at);
  }
  return NN_OK;
}

nn_status nats_cpu_cache_compact(nn_device *device, const nats_cache_compact *op) {
  (void)device;
  int32_t size = op->pages.head_size;
  size_t bytes = (size_t)size * sizeof(float);
#pragma omp parallel for if (nn_range_is_large(op->count * size))
  for (int64_t i = 0; i < op->count; i++) {
    nats_cpu_slot from = nats_cpu_slot_at(&op->pages, op->moves[i].from);
    nats_cpu_slot to = nats_cpu_slot_at(&op->pages, op->moves[i].to);
    memcpy(to.k, from.k, bytes);
    memcpy(to.v, from.v, bytes);
  }
  return NN_OK;
}

nn_status nats_cpu_cache_merge(nn_device *device, const nats_cache_merge *op) {
  (void)device;
  int32_t size = op->pages.head_size;
#pragma omp parallel for if (nn_range_is_large(op->count * size))
  for (int64_t i = 0; i < op->count; i++) {
    const nats_cache_addition *addition = &op->additions[i];
    const float *from = nats_cpu_slot_at(&op->pages, addition->from).v;
    float *to = nats_cpu_slot_at(&op->pages, addition->to).v;
    for (int32_t d = 0; d < size; d++)
      to[d] += addition->factor * from[d];
  }
  return NN_OK;
}
