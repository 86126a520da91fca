// Choosing token types, and the straight-through gradient of that choice (nats/cpu/types.c). The expiries
// follow from the next global of every chunk.
#include "nats/cuda/next_global.h"
#include "nn/cuda/kernel.h"
#include "nn/cuda/random.h"

extern "C" {
#include "nats/cuda/ops.h"
}

enum { THREADS = NATS_STRIP_THREADS, ITEMS = NATS_STRIP_ITEMS };

// Chunks that take their type from somewhere else than their logits: the first is always global; in training
// the one that ends with the last token is global too, which changes nothing inside one pass.
__device__ static bool is_forced(const nats_types &op, int32_t a) {
  return a == 0 || (op.mode == NATS_TYPES_SAMPLED && (int64_t)(a + 1) * op.chunk == op.length);
}

// Means over the tokens of each of this thread's chunks, summed in their order as on the CPU. `first` and
// every THREADS-th chunk after it; behind the last complete one that one's again, which nobody asks for.
__device__ static void mean_logits(const nats_types &op, int64_t batch, int32_t head, int32_t first,
                                   float3 mean[ITEMS]) {
  const int64_t stride = (int64_t)op.kv_heads * NATS_TYPES;
  const float *logits = op.logits + batch * op.length * stride + head * (int)NATS_TYPES;
  const float count = (float)op.chunk;
  float3 sum[ITEMS] = {};
  for (int32_t t = 0; t < op.chunk; t++) {
    float3 of_token[ITEMS];
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
      const int32_t a = min(first + item * THREADS, op.length / op.chunk - 1);
      const float *from = logits + ((int64_t)a * op.chunk + t) * stride;
      of_token[item] = make_float3(from[0], from[1], from[2]);
    }
    __syncwarp(); // all on their way before one is needed: the compiler would load them one by one
#pragma unroll
    for (int item = 0; item < ITEMS; item++) {
      sum[item].x += of_token[item].x;
      sum[item].y += of_token[item].y;
      sum[item].z += of_token[item].z;
    }
  }
#pragma unroll
  for (int item = 0; item < ITEMS; item++)
    mean[item] = make_float3(sum[item].x / count, sum[item].y / count, sum[item].z / count);
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
                                 int32_t a, float3 logits, float *y) {
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

// A thread block's strip of chunks; this thread's are `first` and every THREADS-th after it.
typedef struct {
  int64_t pair;
  int32_t begin, first;
} strip;

__device__ static strip strip_of_block(int32_t strips) {
  const int32_t begin = (int32_t)(blockIdx.x % strips) * NATS_STRIP_CHUNKS;
  return {(int64_t)(blockIdx.x / strips), begin, begin + (int32_t)threadIdx.x};
}

// The expiries of a strip whose types this thread has at hand.
__device__ static void expire_strip(const nats_types &op, const strip &at, int32_t chunks,
                                    const uint8_t types[ITEMS]) {
  const int32_t complete = op.length / op.chunk;
  int32_t *expiry = op.expiry + at.pair * op.length;
  bool globals[ITEMS];
  int32_t next[ITEMS];
#pragma unroll
  for (int item = 0; item < ITEMS; item++)
    globals[item] = at.first + item * THREADS < complete && types[item] == NATS_GLOBAL;
  nats_next_globals(globals, op.types + at.pair * chunks, at.begin, complete, next);
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int32_t a = at.first + item * THREADS;
    if (a >= chunks)
      continue;
    const int32_t last = last_row(op, types[item], a, next[item]);
    for (int64_t t = (int64_t)a * op.chunk; t < (int64_t)(a + 1) * op.chunk && t < op.length; t++)
      expiry[t] = last;
  }
}

// Types that the scorer does not choose.
__device__ static uint8_t fixed_type(const nats_types &op, int32_t a) {
  return op.kind == NATS_ATTENTION_WINDOW && a > 0 ? NATS_WINDOW : NATS_GLOBAL;
}

// One block a strip of chunks. Where it is the only one, expiries follow at once.
static __global__ void __launch_bounds__(THREADS)
    choose_types(nats_types op, nn_random_key key, int32_t chunks, int32_t strips) {
  const strip at = strip_of_block(strips);
  const int64_t batch = at.pair / op.kv_heads;
  const int32_t head = (int32_t)(at.pair - batch * op.kv_heads), complete = op.length / op.chunk;
  const bool scored = op.mode == NATS_TYPES_SAMPLED || op.mode == NATS_TYPES_ARGMAX;
  float3 logits[ITEMS] = {};
  uint8_t types[ITEMS];
  if (scored && complete > 0)
    mean_logits(op, batch, head, at.first, logits);
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int32_t a = at.first + item * THREADS;
    float y[NATS_TYPES] = {1, 0, 0}; // of an unfinished chunk: no type, wholly visible, ends nothing
    types[item] = NATS_GLOBAL;
    if (a < complete)
      types[item] = scored ? choose(op, key, batch, head, a, logits[item], y) : fixed_type(op, a);
    if (a >= chunks)
      continue;
    op.types[at.pair * chunks + a] = types[item];
    for (int type = 0; op.mode == NATS_TYPES_SAMPLED && type < NATS_TYPES; type++)
      op.y[(at.pair * chunks + a) * (int)NATS_TYPES + type] = y[type];
  }
  if (strips == 1)
    expire_strip(op, at, chunks, types);
}

// One block a strip of chunks, when the types of all strips are known.
static __global__ void __launch_bounds__(THREADS) expire(nats_types op, int32_t chunks, int32_t strips) {
  const strip at = strip_of_block(strips);
  uint8_t types[ITEMS];
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int32_t a = at.first + item * THREADS;
    types[item] = a < chunks ? op.types[at.pair * chunks + a] : (uint8_t)NATS_WINDOW;
  }
  expire_strip(op, at, chunks, types);
}

extern "C" nn_status nats_cuda_types_forward(nn_device *device, const nats_types *op) {
  const int32_t chunks = nats_chunks(op->length, op->chunk), strips = nats_chunk_strips(chunks);
  const unsigned blocks = (unsigned)op->batch * (unsigned)op->kv_heads * (unsigned)strips;
  const nn_random_key key =
      nn_random_key_make(op->seed, NN_RANDOM_GUMBEL, (uint64_t)op->step, (uint64_t)op->layer);
  NN_TRY(NN_LAUNCH(device, choose_types, blocks, THREADS, 0, *op, key, chunks, strips));
  return strips == 1 ? NN_OK : NN_LAUNCH(device, expire, blocks, THREADS, 0, *op, chunks, strips);
}

// ---- backward

enum { TOKENS = 64 }; // of a thread block

// The gradient of softmax at y, an equal share for each token of the chunk: of a (token, kv head).
__device__ static float3 share_of(const nats_types &op, int64_t pair, int32_t chunks, int32_t a) {
  if (a >= op.length / op.chunk || is_forced(op, a))
    return make_float3(0, 0, 0);
  const float *y = op.y + (pair * chunks + a) * (int)NATS_TYPES;
  const float *d = op.dtypes + (pair * chunks + a) * (int)NATS_TYPES;
  const float mean = y[0] * d[0] + y[1] * d[1] + y[2] * d[2], scale = op.tau * (float)op.chunk;
  return make_float3(y[0] * (d[0] - mean) / scale, y[1] * (d[1] - mean) / scale,
                     y[2] * (d[2] - mean) / scale);
}

// Block (tokens, sequence). What is read lies along the tokens of a head, what is written along the heads of
// a token: it is turned in shared memory.
static __global__ void __launch_bounds__(THREADS) spread_gradient(nats_types op, int32_t chunks) {
  NN_DYNAMIC_SHARED(float, turned); // [TOKENS, stride], an odd stride for different banks
  const int32_t first = (int32_t)blockIdx.x * TOKENS, width = op.kv_heads * (int32_t)NATS_TYPES;
  const int32_t stride = width | 1, tokens = min((int32_t)TOKENS, op.length - first);
  const int64_t batch = blockIdx.y;
  for (int32_t i = (int32_t)threadIdx.x; i < TOKENS * op.kv_heads; i += THREADS) {
    const int32_t head = i / TOKENS, token = i % TOKENS;
    if (token >= tokens)
      continue;
    const float3 share = share_of(op, batch * op.kv_heads + head, chunks, (first + token) / op.chunk);
    float *to = turned + token * stride + head * (int32_t)NATS_TYPES;
    to[0] = share.x, to[1] = share.y, to[2] = share.z;
  }
  __syncthreads();
  float *dlogits = op.dlogits + (batch * op.length + first) * width;
  for (int32_t i = (int32_t)threadIdx.x; i < tokens * width; i += THREADS)
    dlogits[i] = turned[i / width * stride + i % width];
}

extern "C" nn_status nats_cuda_types_backward(nn_device *device, const nats_types *op) {
  const int64_t count = (int64_t)op->batch * op->length * op->kv_heads;
  if (op->mode != NATS_TYPES_SAMPLED)
    return nn_device_zero(device, op->dlogits, (size_t)count * NATS_TYPES * sizeof(float));
  const dim3 grid((unsigned)nn_ceil_div(op->length, (int32_t)TOKENS), (unsigned)op->batch);
  const size_t shared = TOKENS * (size_t)(op->kv_heads * NATS_TYPES | 1) * sizeof(float);
  return NN_LAUNCH(device, spread_gradient, grid, THREADS, shared, *op, nats_chunks(op->length, op->chunk));
}
