// The share of the KV cache that types keep, and its price.
#include "nats/cpu/ops.h"

static int32_t length_of(const nats_kv_cost *op, int32_t batch) {
  return op->lengths == NULL ? op->length : op->lengths[batch];
}

static double visible_pairs(const int32_t *expiry, int32_t length) {
  int64_t pairs = 0;
  for (int32_t j = 0; j < length; j++)
    pairs += (expiry[j] < length - 1 ? expiry[j] : length - 1) - j + 1;
  return (double)pairs;
}

nn_status nats_cpu_kv_cost_forward(nn_device *device, const nats_kv_cost *op) {
  (void)device;
  for (int32_t batch = 0; batch < op->batch; batch++) {
    const int32_t length = length_of(op, batch);
    const double causal = 0.5 * length * (length + 1.0);
    for (int32_t head = 0; head < op->kv_heads; head++) {
      const double visible =
          visible_pairs(op->expiry + ((int64_t)batch * op->kv_heads + head) * op->length, length);
      if (op->sums != NULL) {
        op->sums->visible += visible;
        op->sums->causal += causal;
      }
      if (op->per_head != NULL) {
        op->per_head[2 * head] += visible;
        op->per_head[2 * head + 1] += causal;
      }
    }
  }
  return NN_OK;
}

// What each type would cost every complete chunk of one (sequence, kv head). Backwards, so that the next
// global chunk is known.
static void add_prices(const nats_kv_cost *op, const uint8_t *types, int32_t length, double price,
                       float *dtypes) {
  int64_t after_next = op->length; // s(N(a))
  for (int32_t a = op->length / op->chunk - 1; a >= 0; a--) {
    const int64_t first = (int64_t)a * op->chunk, start = first + op->chunk;
    const int64_t end[NATS_TYPES] = {length, after_next, start + op->window}; // first row after each
    for (int type = 0; type < NATS_TYPES; type++) {
      int64_t rows = 0;
      for (int64_t j = first; j < start && j < length; j++)
        rows += (end[type] < length ? end[type] : length) - j;
      dtypes[a * NATS_TYPES + type] += (float)(price * (double)rows);
    }
    if (types[a] == NATS_GLOBAL)
      after_next = start;
  }
}

nn_status nats_cpu_kv_cost_backward(nn_device *device, const nats_kv_cost *op) {
  (void)device;
  const int64_t chunks = nats_chunks(op->length, op->chunk);
  const double price = (double)*op->lambda * (double)*op->pair_scale;
#pragma omp parallel for schedule(static)
  for (int32_t pair = 0; pair < op->batch * op->kv_heads; pair++)
    add_prices(op, op->types + pair * chunks, length_of(op, pair / op->kv_heads), price,
               op->dtypes + pair * chunks * NATS_TYPES);
  return NN_OK;
}
