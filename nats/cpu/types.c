// Choosing token types, and the straight-through gradient of that choice.
#include <math.h> // expf

#include "nats/cpu/ops.h"
#include "nn/random.h"

// Chunks that take their type from somewhere else than their logits: the first is always global; in training
// the one that ends with the last token is global too, which changes nothing inside one pass.
static bool is_forced(const nats_types *op, int32_t a) {
  return a == 0 || (op->mode == NATS_TYPES_SAMPLED && (a + 1) * op->chunk == op->length);
}

static void mean_logits(const nats_types *op, int32_t batch, int32_t head, int32_t a,
                        float mean[NATS_TYPES]) {
  const int64_t stride = (int64_t)op->kv_heads * NATS_TYPES;
  const float *logits =
      op->logits + ((int64_t)batch * op->length + (int64_t)a * op->chunk) * stride + head * NATS_TYPES;
  for (int type = 0; type < NATS_TYPES; type++) {
    float sum = 0;
    for (int32_t t = 0; t < op->chunk; t++)
      sum += logits[t * stride + type];
    mean[type] = sum / (float)op->chunk;
  }
}

static void add_noise(const nats_types *op, nn_random_key key, int32_t batch, int32_t head, int32_t a,
                      float logits[NATS_TYPES]) {
  uint32_t bits[4];
  nn_random_u32x4(key, (uint64_t)op->sample[batch], (uint64_t)head << 32 | (uint64_t)a, bits);
  for (int type = 0; type < NATS_TYPES; type++)
    logits[type] += nn_random_gumbel(bits[type]);
}

static void softmax(const float logits[NATS_TYPES], float tau, float y[NATS_TYPES]) {
  const float largest = fmaxf(logits[0], fmaxf(logits[1], logits[2]));
  float sum = 0;
  for (int type = 0; type < NATS_TYPES; type++)
    sum += y[type] = expf((logits[type] - largest) / tau);
  for (int type = 0; type < NATS_TYPES; type++)
    y[type] /= sum;
}

static uint8_t best(const float logits[NATS_TYPES]) {
  uint8_t type = 0;
  for (uint8_t other = 1; other < NATS_TYPES; other++)
    if (logits[other] > logits[type])
      type = other;
  return type;
}

// The type of a complete chunk. y: where its relaxed weights go, SAMPLED only.
static uint8_t choose(const nats_types *op, nn_random_key key, int32_t batch, int32_t head, int32_t a,
                      float *y) {
  if (op->mode == NATS_TYPES_ALL_GLOBAL || op->kind == NATS_ATTENTION_DENSE)
    return NATS_GLOBAL;
  if (op->kind == NATS_ATTENTION_WINDOW)
    return a == 0 ? NATS_GLOBAL : NATS_WINDOW;
  float logits[NATS_TYPES];
  mean_logits(op, batch, head, a, logits);
  if (op->mode == NATS_TYPES_SAMPLED) {
    add_noise(op, key, batch, head, a, logits);
    softmax(logits, op->tau, y);
  }
  return is_forced(op, a) ? NATS_GLOBAL : best(logits);
}

// The last row that sees each key. Backwards, so that the next global chunk is known.
static void expire(const nats_types *op, const uint8_t *types, int32_t *expiry) {
  const int32_t length = op->length;
  int32_t after_next = length; // s(N(a))
  for (int32_t a = nats_chunks(length, op->chunk) - 1; a >= 0; a--) {
    const int64_t start = (int64_t)(a + 1) * op->chunk; // s(a), before it is cut at T
    int64_t last = length - 1;
    if (start <= length && types[a] == NATS_LOCAL)
      last = after_next - 1;
    else if (start <= length && types[a] == NATS_WINDOW && start - 1 + op->window < last)
      last = start - 1 + op->window;
    for (int32_t j = a * op->chunk; j < start && j < length; j++)
      expiry[j] = (int32_t)last;
    if (start <= length && types[a] == NATS_GLOBAL)
      after_next = (int32_t)start;
  }
}

nn_status nats_cpu_types_forward(nn_device *device, const nats_types *op) {
  (void)device;
  const int32_t chunks = nats_chunks(op->length, op->chunk), complete = op->length / op->chunk;
  const nn_random_key key =
      nn_random_key_make(op->seed, NN_RANDOM_GUMBEL, (uint64_t)op->step, (uint64_t)op->layer);
#pragma omp parallel for schedule(static)
  for (int32_t pair = 0; pair < op->batch * op->kv_heads; pair++) {
    const int32_t batch = pair / op->kv_heads, head = pair % op->kv_heads;
    uint8_t *types = op->types + (int64_t)pair * chunks;
    float *y = op->mode == NATS_TYPES_SAMPLED ? op->y + (int64_t)pair * chunks * NATS_TYPES : NULL;
    for (int32_t a = 0; a < complete; a++)
      types[a] = choose(op, key, batch, head, a, y == NULL ? NULL : y + a * NATS_TYPES);
    if (complete < chunks) { // an unfinished chunk: no type, wholly visible, ends nothing
      types[complete] = NATS_GLOBAL;
      for (int type = 0; y != NULL && type < NATS_TYPES; type++)
        y[complete * NATS_TYPES + type] = type == NATS_GLOBAL;
    }
    expire(op, types, op->expiry + (int64_t)pair * op->length);
  }
  return NN_OK;
}

// Straight-through: the gradient of softmax at y, an equal share for each token of the chunk.
static void backward_chunk(const nats_types *op, int32_t batch, int32_t head, int32_t a) {
  const int32_t chunks = nats_chunks(op->length, op->chunk);
  const int64_t at = (((int64_t)batch * op->kv_heads + head) * chunks + a) * NATS_TYPES;
  float share[NATS_TYPES] = {0};
  if (op->mode == NATS_TYPES_SAMPLED && a < op->length / op->chunk && !is_forced(op, a)) {
    const float *y = op->y + at, *d = op->dtypes + at;
    const float mean = y[0] * d[0] + y[1] * d[1] + y[2] * d[2];
    for (int type = 0; type < NATS_TYPES; type++)
      share[type] = y[type] * (d[type] - mean) / (op->tau * (float)op->chunk);
  }
  for (int32_t t = a * op->chunk; t < (a + 1) * op->chunk && t < op->length; t++)
    for (int type = 0; type < NATS_TYPES; type++)
      op->dlogits[(((int64_t)batch * op->length + t) * op->kv_heads + head) * NATS_TYPES + type] =
          share[type];
}

nn_status nats_cpu_types_backward(nn_device *device, const nats_types *op) {
  (void)device;
  const int32_t chunks = nats_chunks(op->length, op->chunk);
#pragma omp parallel for schedule(static) collapse(2)
  for (int32_t batch = 0; batch < op->batch; batch++)
    for (int32_t a = 0; a < chunks; a++)
      for (int32_t head = 0; head < op->kv_heads; head++)
        backward_chunk(op, batch, head, a);
  return NN_OK;
}
