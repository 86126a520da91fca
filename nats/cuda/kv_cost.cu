// The share of the KV cache that types keep, and its price (nats/cpu/kv_cost.c).
#include "nats/cuda/next_global.h"
#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/cuda/ops.h"
}

enum { THREADS = 256, SLICE = 8192 /* keys that one block counts */ };
enum { COUNT_THREADS = 512, COUNT_WARPS = COUNT_THREADS / NN_WARP };

__device__ static int32_t length_of(const nats_kv_cost &op, int64_t batch) {
  return op.lengths == NULL ? op.length : op.lengths[batch];
}

// ---- forward: whole numbers below 2^53, so their sums in float64 are exact

// Block (pair, slice): the rows for which its keys are held.
static __global__ void count_slice(nats_kv_cost op, double *pairs) {
  __shared__ double of_warp[THREADS / NN_WARP];
  const int64_t pair = blockIdx.x;
  const int32_t length = length_of(op, pair / op.kv_heads);
  const int32_t *expiry = op.expiry + pair * op.length;
  const int64_t first = (int64_t)blockIdx.y * SLICE;
  int64_t rows = 0;
  for (int64_t j = first + threadIdx.x; j < first + SLICE && j < length; j += THREADS)
    rows += (expiry[j] < length - 1 ? expiry[j] : length - 1) - j + 1;
  const double sum = nn_warp_sum((double)rows);
  if (threadIdx.x % NN_WARP == 0)
    of_warp[threadIdx.x / NN_WARP] = sum;
  __syncthreads();
  if (threadIdx.x != 0)
    return;
  double total = 0;
  for (int warp = 0; warp < THREADS / NN_WARP; warp++)
    total += of_warp[warp];
  pairs[pair * gridDim.y + blockIdx.y] = total;
}

// Over batch and slices, a warp a head and then all heads.
static __global__ void __launch_bounds__(COUNT_THREADS)
    count_heads(nats_kv_cost op, const double *pairs, int32_t slices) {
  __shared__ double of_warp[2][COUNT_WARPS]; // visible and causal
  const int lane = (int)threadIdx.x % NN_WARP, warp = (int)threadIdx.x / NN_WARP;
  double all_visible = 0, all_causal = 0; // of this warp's heads
  for (int32_t head = warp; head < op.kv_heads; head += COUNT_WARPS) {
    double visible = 0, causal = 0;
    for (int32_t batch = lane; batch < op.batch; batch += NN_WARP) {
      const double length = length_of(op, batch);
      causal += 0.5 * length * (length + 1.0);
      for (int32_t slice = 0; slice < slices; slice++)
        visible += pairs[((int64_t)batch * op.kv_heads + head) * slices + slice];
    }
    visible = nn_warp_sum(visible);
    causal = nn_warp_sum(causal);
    if (lane == 0 && op.per_head != NULL) {
      op.per_head[2 * head] += visible;
      op.per_head[2 * head + 1] += causal;
    }
    all_visible += visible;
    all_causal += causal;
  }
  if (lane == 0) {
    of_warp[0][warp] = all_visible;
    of_warp[1][warp] = all_causal;
  }
  __syncthreads();
  if (warp != 0 || op.sums == NULL)
    return;
  all_visible = nn_warp_sum(lane < COUNT_WARPS ? of_warp[0][lane] : 0.0);
  all_causal = nn_warp_sum(lane < COUNT_WARPS ? of_warp[1][lane] : 0.0);
  if (lane == 0) {
    op.sums->visible += all_visible;
    op.sums->causal += all_causal;
  }
}

extern "C" nn_status nats_cuda_kv_cost_forward(nn_device *device, const nats_kv_cost *op) {
  const int64_t pairs = (int64_t)op->batch * op->kv_heads;
  const int32_t slices = nn_ceil_div(op->length, (int32_t)SLICE);
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)(pairs * slices) * sizeof(double), &workspace));
  double *of_slices = (double *)workspace;
  NN_TRY(NN_LAUNCH(device, count_slice, dim3((unsigned)pairs, (unsigned)slices), THREADS, 0, *op, of_slices));
  return NN_LAUNCH(device, count_heads, 1, COUNT_THREADS, 0, *op, of_slices, slices);
}

// ---- backward

// Adds what each type would cost a complete chunk of a sequence of `length` tokens, whose next global is
// `next`.
__device__ static void add_price(const nats_kv_cost &op, int32_t length, int32_t a, int32_t next,
                                 double price, float dtypes[NATS_TYPES]) {
  const int64_t first = (int64_t)a * op.chunk, start = first + op.chunk;
  const int64_t keys = (start < length ? start : length) - first; // that are no padding
  if (keys <= 0)
    return;
  const int64_t after_next = next == NATS_NONE ? op.length : (int64_t)(next + 1) * op.chunk; // s(N(a))
  const int64_t ends[NATS_TYPES] = {length, after_next, start + op.window}; // first row after each
#pragma unroll
  for (int type = 0; type < NATS_TYPES; type++) {
    const int64_t end = ends[type] < length ? ends[type] : length;
    const int64_t rows = keys * end - keys * (2 * first + keys - 1) / 2; // sum of end - j
    dtypes[type] += (float)(price * (double)rows);
  }
}

// One block a strip of chunks.
static __global__ void __launch_bounds__(NATS_STRIP_THREADS)
    add_prices(nats_kv_cost op, int32_t chunks, int32_t strips) {
  const int64_t pair = blockIdx.x / strips;
  const int32_t begin = (int32_t)(blockIdx.x % strips) * NATS_STRIP_CHUNKS, complete = op.length / op.chunk;
  const uint8_t *types = op.types + pair * chunks;
  float *dtypes = op.dtypes + pair * chunks * (int)NATS_TYPES, sum[NATS_STRIP_ITEMS][NATS_TYPES];
  bool globals[NATS_STRIP_ITEMS];
  int32_t next[NATS_STRIP_ITEMS];
#pragma unroll
  for (int item = 0; item < NATS_STRIP_ITEMS; item++) { // all on their way before one is needed
    const int32_t a = min(begin + item * NATS_STRIP_THREADS + (int32_t)threadIdx.x, chunks - 1);
    globals[item] = types[a] == NATS_GLOBAL;
#pragma unroll
    for (int type = 0; type < NATS_TYPES; type++)
      sum[item][type] = dtypes[a * (int)NATS_TYPES + type];
  }
#pragma unroll
  for (int item = 0; item < NATS_STRIP_ITEMS; item++)
    globals[item] &= begin + item * NATS_STRIP_THREADS + (int32_t)threadIdx.x < complete;
  nats_next_globals(globals, types, begin, complete, next);
  const int32_t length = length_of(op, pair / op.kv_heads);
  const double price = (double)*op.lambda * (double)*op.pair_scale;
#pragma unroll
  for (int item = 0; item < NATS_STRIP_ITEMS; item++) {
    const int32_t a = begin + item * NATS_STRIP_THREADS + (int32_t)threadIdx.x;
    if (a >= complete)
      continue;
    add_price(op, length, a, next[item], price, sum[item]);
#pragma unroll
    for (int type = 0; type < NATS_TYPES; type++)
      dtypes[a * (int)NATS_TYPES + type] = sum[item][type];
  }
}

extern "C" nn_status nats_cuda_kv_cost_backward(nn_device *device, const nats_kv_cost *op) {
  const int32_t chunks = nats_chunks(op->length, op->chunk), strips = nats_chunk_strips(chunks);
  const unsigned blocks = (unsigned)op->batch * (unsigned)op->kv_heads * (unsigned)strips;
  return NN_LAUNCH(device, add_prices, blocks, NATS_STRIP_THREADS, 0, *op, chunks, strips);
}
