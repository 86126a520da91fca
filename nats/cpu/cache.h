// Pages of the decoding cache as the CPU sees them: float32 in host memory.
#pragma once

#include "nats/cache_ops.h"

typedef struct {
  float *k, *v; // [D]
} nats_cpu_slot;

// Slot t of list l.
static inline nats_cpu_slot nats_cpu_slot_of(const nats_cache_pages *pages, int32_t l, int32_t t) {
  float *page = pages->table[l * pages->stride + t / pages->page_tokens];
  float *k = page + (int64_t)(t % pages->page_tokens) * pages->head_size;
  return (nats_cpu_slot){k, k + (int64_t)pages->page_tokens * pages->head_size};
}

nn_status nats_cpu_cache_enter(nn_device *device, const nats_cache_enter *op);
nn_status nats_cpu_cache_append(nn_device *device, const nats_cache_append *op);
nn_status nats_cpu_cache_store(nn_device *device, const nats_cache_store *op);
nn_status nats_cpu_cache_compact(nn_device *device, const nats_cache_compact *op);
nn_status nats_cpu_cache_merge(nn_device *device, const nats_cache_merge *op);
nn_status nats_cpu_cache_attention(nn_device *device, const nats_cache_attention *op);
int32_t nats_cpu_cache_item_tokens(const nn_device *device, int64_t tokens);
