#include "nats/cuda/ops.h"

const nats_ops_table nats_cuda_ops = {
    .types_forward = nats_cuda_types_forward,
    .types_backward = nats_cuda_types_backward,
    .scorer_forward = nats_cuda_scorer_forward,
    .scorer_backward = nats_cuda_scorer_backward,
    .kv_cost_forward = nats_cuda_kv_cost_forward,
    .kv_cost_backward = nats_cuda_kv_cost_backward,
    .attention_forward = nats_cuda_attention_forward,
    .attention_backward = nats_cuda_attention_backward,
    .attention_workspace = nats_cuda_attention_workspace,
    .cache_enter = nats_cuda_cache_enter,
    .cache_append = nats_cuda_cache_append,
    .cache_store = nats_cuda_cache_store,
    .cache_compact = nats_cuda_cache_compact,
    .cache_merge = nats_cuda_cache_merge,
    .cache_cut = nats_cuda_cache_cut,
    .cache_attention = nats_cuda_cache_attention,
    .cache_item_tokens = nats_cuda_cache_item_tokens,
};
