// Checks the cache operators once for all devices and hands them to the device's table.
#include "nats/need.h"

static nn_status need_cache(nn_device *device, const nats_ops_table **out) {
  NN_TRY(nats_need_ops(device, out));
  if (!(*out)->cache_append || !(*out)->cache_compact || !(*out)->cache_attention)
    return NN_FAIL(NN_ERR_UNSUPPORTED, "decoding with a cache is not built for this device; use device=cpu");
  return NN_OK;
}

nn_status nats_cache_append_run(nn_device *device, const nats_cache_append *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return op->count > 0 ? table->cache_append(device, op) : NN_OK;
}

nn_status nats_cache_compact_run(nn_device *device, const nats_cache_compact *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  return op->count > 0 ? table->cache_compact(device, op) : NN_OK;
}

nn_status nats_cache_attention_run(nn_device *device, const nats_cache_attention *op) {
  const nats_ops_table *table;
  NN_TRY(need_cache(device, &table));
  if (op->kv_heads < 1 || op->heads % op->kv_heads != 0 || op->longest < 1)
    return NN_FAIL(NN_ERR_INTERNAL, "cache attention: %d heads over %d kv heads, longest list %d",
                   (int)op->heads, (int)op->kv_heads, (int)op->longest);
  return table->cache_attention(device, op);
}
