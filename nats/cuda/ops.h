// The CUDA rows of nats_ops_table.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

#include "nats/ops_table.h"

nn_status nats_cuda_types_forward(nn_device *device, const nats_types *op);
nn_status nats_cuda_types_backward(nn_device *device, const nats_types *op);
nn_status nats_cuda_scorer_forward(nn_device *device, const nats_scorer *op);
nn_status nats_cuda_scorer_backward(nn_device *device, const nats_scorer *op);
nn_status nats_cuda_kv_cost_forward(nn_device *device, const nats_kv_cost *op);
nn_status nats_cuda_kv_cost_backward(nn_device *device, const nats_kv_cost *op);
nn_status nats_cuda_attention_forward(nn_device *device, const nats_attention *op);
nn_status nats_cuda_attention_backward(nn_device *device, const nats_attention *op);
size_t nats_cuda_attention_workspace(const nn_device *device, const nats_attention *op);
nn_status nats_cuda_cache_enter(nn_device *device, const nats_cache_enter *op);
nn_status nats_cuda_cache_append(nn_device *device, const nats_cache_append *op);
nn_status nats_cuda_cache_store(nn_device *device, const nats_cache_store *op);
nn_status nats_cuda_cache_compact(nn_device *device, const nats_cache_compact *op);
nn_status nats_cuda_cache_merge(nn_device *device, const nats_cache_merge *op);
nn_status nats_cuda_cache_cut(nn_device *device, const nats_cache_cut *op);
nn_status nats_cuda_cache_attention(nn_device *device, const nats_cache_attention *op);
int32_t nats_cuda_cache_item_tokens(const nn_device *device, int64_t tokens);

#ifdef __cplusplus
}
#endif
