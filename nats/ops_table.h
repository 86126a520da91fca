// Private: the operators of this room, a table per device kind. One file per operator in nats/cpu and
// nats/cuda.
#pragma once

#include "nats/attention.h"
#include "nats/cache_ops.h"
#include "nats/types.h"

typedef struct {
  nn_status (*types_forward)(nn_device *, const nats_types *);
  nn_status (*types_backward)(nn_device *, const nats_types *);
  nn_status (*scorer_forward)(nn_device *, const nats_scorer *);
  nn_status (*scorer_backward)(nn_device *, const nats_scorer *);
  nn_status (*kv_cost_forward)(nn_device *, const nats_kv_cost *);
  nn_status (*kv_cost_backward)(nn_device *, const nats_kv_cost *);
  nn_status (*attention_forward)(nn_device *, const nats_attention *);
  nn_status (*attention_backward)(nn_device *, const nats_attention *);
  size_t (*attention_workspace)(const nn_device *, const nats_attention *);
  // decoding; NULL where a device cannot
  nn_status (*cache_enter)(nn_device *, const nats_cache_enter *);
  nn_status (*cache_append)(nn_device *, const nats_cache_append *);
  nn_status (*cache_store)(nn_device *, const nats_cache_store *);
  nn_status (*cache_compact)(nn_device *, const nats_cache_compact *);
  nn_status (*cache_merge)(nn_device *, const nats_cache_merge *);
  nn_status (*cache_cut)(nn_device *, const nats_cache_cut *); // NULL where lists are taken whole
  nn_status (*cache_attention)(nn_device *, const nats_cache_attention *);
  int32_t (*cache_item_tokens)(const nn_device *, int64_t tokens);
} nats_ops_table;

extern const nats_ops_table nats_cpu_ops;
extern const nats_ops_table nats_cuda_ops; // in a build with CUDA

// The table of a device; NULL when this build has none for its kind.
const nats_ops_table *nats_ops_of(const nn_device *device);
