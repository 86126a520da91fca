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
