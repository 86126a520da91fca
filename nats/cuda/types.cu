// Choosing token types, and the straight-through gradient of that choice (nats/cpu/types.c). The choice is
// one thread a chunk, and so are the expiries, which follow from the next global.
#include "nats/cuda/next_global.h"
#include "nn/cuda/kernel.h"
#include "nn/cuda/random.h"

extern "C" {
#include "nats/cuda/ops.h"
}

enum { THREADS = 256 };

// Chunks that take their type from somewhere else than their logits: the first is always global; in training
// the one that ends with the last token is global too, which changes nothing inside one pass.
__device__ static bool is_forced(const nats_types &op, int32_t a) {
  return a == 0 || (op.mode == NATS_TYPES_SAMPLED && (int64_t)(a + 1) * op.chunk == op.length);
}

// [3] means over the tokens of a chunk, summed in their order as on the CPU.
__device__ static float3 mean_logits(const nats_types &op, int64_t batch, int32_t head, int32_t a) {
  const int64_t stride = (int64_t)op.kv_heads * NATS_TYPES;
  const float *logits =
      op.logits + (batch * op.length + (int64_t)a * op.chunk) * stride + head * (int)NATS_TYPES;
  float3 sum = make_float3(0, 0, 0);
  for (int32_t t = 0; t < op.chunk; t++, logits += stride) {
    sum.x += logits[0];
    sum.y += logits[1];
    sum.z += logits[2];
  }
  const float count = (float)op.chunk;
  return make_float3(sum.x / count, sum.y / count, sum.z / count);
}

__device__ static void softmax(float3 logits, float tau, float *y) {
  const float largest = fmaxf(logits.x, fmaxf(logits.y, logits.z));
  const float a = expf((logits.x - largest) / tau), b = expf((logits.y - largest) / tau);
  const float c = expf((logits.z - largest) / tau), sum = a + b + c;
  y[0] = a / sum;
  y[1] = b / sum;
  y[2] = c / sum;
}

// The lowest type on ties.
__device__ static uint8_t best(float3 logits) {
  uint8_t type = logits.y > logits.x ? 1 : 0;
  return logits.z > fmaxf(logits.x, logits.y) ? 2 : type;
}

// The type of a complete chunk. y: where its relaxed weights go, SAMPLED only.
__device__ static uint8_t choose(const nats_types &op, nn_random_key key, int64_t batch, int32_t head,
                                 int32_t a, float *y) {
  if (op.mode == NATS_TYPES_ALL_GLOBAL || op.kind == NATS_ATTENTION_DENSE)
    return NATS_GLOBAL;
  if (op.kind == NATS_ATTENTION_WINDOW)
    return a == 0 ? NATS_GLOBAL : NATS_WINDOW;
  float3 logits = mean_logits(op, batch, head, a);
  if (op.mode == NATS_TYPES_SAMPLED) {
    const uint4 bits =
        nn_cuda_random_u32x4(key, (uint64_t)op.sample[batch], (uint64_t)head << 32 | (uint64_t)a);
    logits.x += nn_cuda_random_gumbel(bits.x);
    logits.y += nn_cuda_random_gumbel(bits.y);
    logits.z += nn_cuda_random_gumbel(bits.z);
    softmax(logits, op.tau, y);
  }
  return is_forced(op, a) ? (uint8_t)NATS_GLOBAL : best(logits);
}

// One thread a chunk of a (sequence, kv head).
static __global__ void choose_types(nats_types op, nn_random_key key, int32_t chunks, int64_t count) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count)
    return;
  const int64_t pair = i / chunks;
  const int32_t a = (int32_t)(i - pair * chunks);
  float *y = op.mode == NATS_TYPES_SAMPLED ? op.y + i * (int)NATS_TYPES : NULL;
  if (a < op.length / op.chunk) {
    op.types[i] = choose(op, key, pair / op.kv_heads, (int32_t)(pair % op.kv_heads), a, y);
    return;
  }
  op.types[i] = NATS_GLOBAL; // an unfinished chunk: no type, wholly visible, ends nothing
  for (int type = 0; y != NULL && type < NATS_TYPES; type++)
    y[type] = type == NATS_GLOBAL;
}

// The last row that sees the keys of chunk a. `next`: the next global chunk.
__device__ static int32_t last_row(const nats_types &op, uint8_t type, int32_t a, int32_t next) {
  const int64_t start = (int64_t)(a + 1) * op.chunk, end = op.length - 1; // start: s(a)
  int64_t last = end;
  if (start <= op.length && type == NATS_LOCAL && next != NATS_NONE)
    last = (int64_t)(next + 1) * op.chunk - 1;
  else if (start <= op.length && type == NATS_WINDOW)
    last = start - 1 + op.window;
  return (int32_t)(last < end ? last : end);
}

// One block a strip of chunks.
static __global__ void __launch_bounds__(1024) expire(nats_types op, int32_t chunks, int32_t strips) {
  const int64_t pair = blockIdx.x / strips;
  const int32_t a = (int32_t)(blockIdx.x % strips * blockDim.x + threadIdx.x);
  const uint8_t *types = op.types + pair * chunks;
  const int32_t next = nats_next_global(types, a, op.length / op.chunk);
  if (a >= chunks)
    return;
  const int32_t last = last_row(op, types[a], a, next);
  const int64_t first = (int64_t)a * op.chunk;
  int32_t *expiry = op.expiry + pair * op.length;
  for (int32_t t = 0; t < op.chunk && first + t < op.length; t++)
    expiry[first + t] = last;
}

extern "C" nn_status nats_cuda_types_forward(nn_device *device, const nats_types *op) {
  const int32_t chunks = nats_chunks(op->length, op->chunk);
  const int64_t pairs = (int64_t)op->batch * op->kv_heads, count = pairs * chunks;
  const nn_random_key key =
      nn_random_key_make(op->seed, NN_RANDOM_GUMBEL, (uint64_t)op->step, (uint64_t)op->layer);
  NN_TRY(NN_LAUNCH(device, choose_types, (unsigned)nn_ceil_div(count, (int64_t)THREADS), THREADS, 0, *op, key,
                   chunks, count));
  const int32_t strips = nats_strip_count(chunks);
  return NN_LAUNCH(device, expire, (unsigned)(pairs * strips), (unsigned)nats_strip_threads(chunks), 0, *op,
                   chunks, strips);
}

// The gradient of softmax at y, an equal share for each token of the chunk. One thread a (token, kv head).
static __global__ void spread_gradient(nats_types op, int32_t chunks, int64_t count) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count)
    return;
  const int64_t token = i / op.kv_heads, batch = token / op.length;
  const int32_t head = (int32_t)(i - token * op.kv_heads);
  const int32_t a = (int32_t)(token - batch * op.length) / op.chunk;
  float *dlogits = op.dlogits + i * (int)NATS_TYPES;
  if (a >= op.length / op.chunk || is_forced(op, a)) {
    dlogits[0] = dlogits[1] = dlogits[2] = 0;
    return;
  }
  const int64_t at = ((batch * op.kv_heads + head) * chunks + a) * (int)NATS_TYPES;
  const float *y = op.y + at, *d = op.dtypes + at;
  const float mean = y[0] * d[0] + y[1] * d[1] + y[2] * d[2], scale = op.tau * (float)op.chunk;
  for (int type = 0; type < NATS_TYPES; type++)
    dlogits[type] = y[type] * (d[type] - mean) / scale;
}

extern "C" nn_status nats_cuda_types_backward(nn_device *device, const nats_types *op) {
  const int64_t count = (int64_t)op->batch * op->length * op->kv_heads;
  if (op->mode != NATS_TYPES_SAMPLED)
    return nn_device_zero(device, op->dlogits, (size_t)count * NATS_TYPES * sizeof(float));
  return NN_LAUNCH(device, spread_gradient, (unsigned)nn_ceil_div(count, (int64_t)THREADS), THREADS, 0, *op,
                   nats_chunks(op->length, op->chunk), count);
}
