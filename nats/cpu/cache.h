// Pages of the decoding cache as the CPU sees them: float32 in host memory.
#pragma once

#include "nats/cache_ops.h"

typedef struct {
  float *k, *v; // [D]
} nats_cpu_slot;

// Token 0 of a page; the keys of a page are [page_tokens, D], its values follow.
static inline nats_cpu_slot nats_cpu_page_at(const nats_cache_pages *pages, int32_t page) {
  int64_t half = (int64_t)pages->page_tokens * pages->head_size;
  float *slab = pages->slabs[page / pages->slab_pages];
  float *k = slab + page % pages->slab_pages * 2 * half;
  return (nats_cpu_slot){k, k + half};
}

static inline nats_cpu_slot nats_cpu_slot_at(const nats_cache_pages *pages, int64_t slot) {
  nats_cpu_slot page = nats_cpu_page_at(pages, (int32_t)(slot / pages->page_tokens));
  int64_t inside = slot % pages->page_tokens * pages->head_size;
  return (nats_cpu_slot){page.k + inside, page.v + inside};
}

nn_status nats_cpu_cache_append(nn_device *device, const nats_cache_append *op);
nn_status nats_cpu_cache_store(nn_device *device, const nats_cache_store *op);
nn_status nats_cpu_cache_compact(nn_device *device, const nats_cache_compact *op);
nn_status nats_cpu_cache_merge(nn_device *device, const nats_cache_merge *op);
nn_status nats_cpu_cache_attention(nn_device *device, const nats_cache_attention *op);
