// Checks the cache operators once for all devices and hands them to the device's table.
#include "nats/need.h"

static nn_status need_cache(nn_device *device, const nats_ops_table **out) {
  NN_TRY(nats_need_ops(device, out));
  const nats_ops_table *table = *out;
  if (!table->cache_enter || !table->cache_append || !table->cache_store || !table->cache_compact ||
      !table->cache_merge || !table->cache_attention || !table->cache_item_tokens)
    return NN_FAIL(NN_ERR_UNSUPPORTED, "decoding with a cache is not built for this device; use device=cpu");
  return NN_OK;
}

nn_status nats_cache_enter_run(nn_device *device, const nats_cache_enter *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return op->count > 0 ? table->cache_enter(device, op) : NN_OK;
}

nn_status nats_cache_append_run(nn_device *device, const nats_cache_append *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return table->cache_append(device, op);
}

nn_status nats_cache_store_run(nn_device *device, const nats_cache_store *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return table->cache_store(device, op);
}

nn_status nats_cache_compact_run(nn_device *device, const nats_cache_compact *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return op->count > 0 ? table->cache_compact(device, op) : NN_OK;
}

nn_status nats_cache_merge_run(nn_device *device, const nats_cache_merge *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return op->count > 0 ? table->cache_merge(device, op) : NN_OK;
}

nn_status nats_cache_cut_run(nn_device *device, const nats_cache_cut *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return table->cache_cut ? table->cache_cut(device, op) : NN_OK;
}

nn_status nats_cache_attention_run(nn_device *device, const nats_cache_attention *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  if (op->kv_heads < 1 || op->heads % op->kv_heads != 0 || op->longest < 1)
    return NN_FAIL(NN_ERR_INTERNAL, "cache attention: %d heads over %d kv heads, longest list %d",
                   (int)op->heads, (int)op->kv_heads, (int)op->longest);
  if (op->turns && !op->rope)
    return NN_FAIL(NN_ERR_INTERNAL, "cache attention: keys are turned without a table");
  return table->cache_attention(device, op);
}

nn_status nats_cache_item_tokens(nn_device *device, int64_t tokens, int32_t *item_tokens) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  *item_tokens = table->cache_item_tokens(device, tokens);
  return NN_OK;
}
