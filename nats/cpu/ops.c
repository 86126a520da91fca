#include "nats/cpu/ops.h"

#include "nats/cpu/cache.h"

static size_t attention_workspace(const nn_device *device, const nats_attention *op) {
  (void)device;
  const size_t forward = nats_cpu_attention_forward_workspace(op);
  const size_t backward = op->d_o == NULL ? 0 : nats_cpu_attention_backward_workspace(op);
  return forward > backward ? forward : backward;
}

const nats_ops_table nats_cpu_ops = {
    .types_forward = nats_cpu_types_forward,
    .types_backward = nats_cpu_types_backward,
    .scorer_forward = nats_cpu_scorer_forward,
    .scorer_backward = nats_cpu_scorer_backward,
    .kv_cost_forward = nats_cpu_kv_cost_forward,
    .kv_cost_backward = nats_cpu_kv_cost_backward,
    .attention_forward = nats_cpu_attention_forward,
    .attention_backward = nats_cpu_attention_backward,
    .attention_workspace = attention_workspace,
    .cache_enter = nats_cpu_cache_enter,
    .cache_append = nats_cpu_cache_append,
    .cache_store = nats_cpu_cache_store,
    .cache_compact = nats_cpu_cache_compact,
    .cache_merge = nats_cpu_cache_merge,
    .cache_attention = nats_cpu_cache_attention,
    .cache_item_tokens = nats_cpu_cache_item_tokens,
};
