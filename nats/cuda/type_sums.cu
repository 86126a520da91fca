// From sums over rows to the gradient of the types: what nats_type_gradient of nats/cpu/type_sums.c does.
//
// One thread block serves one (sequence, kv head). It takes the chunks in strips: first every sum of a chunk
// (over its tokens and the query heads of the group, visible and hidden pairs together), then, with one
// thread a chunk, what a global there takes away. That is a sum over the chunks of the segment before it,
// which begins anew after every global chunk: a segmented scan (Blelloch 1990, "Prefix sums and their
// applications", section 1.5).
#include "nats/cuda/attention.h"

enum { THREADS = 1024, WARPS = THREADS / NN_WARP };

// What a chunk brings to the chunks after it, and to its own gradient.
typedef struct {
  double all;   // with `own`
  double ended; // pairs of its locals that the global which ends them hides, up to the next global
  double local; // pairs of its living locals; 0 unless the chunk is local
  double seen;  // pairs of its rows with living locals before it
} chunk_sums;

// What globals take away, summed from the begin of a segment. `whole`: the segment begins in here, and
// nothing from before is added.
typedef struct {
  double ended, crossing;
  int whole;
} segment_sum;

__device__ static inline segment_sum join(segment_sum before, segment_sum x) {
  if (x.whole)
    return x;
  return {before.ended + x.ended, before.crossing + x.crossing, before.whole};
}

// The sum over the `lanes` neighbours of which this lane is one; every one of them gets it.
__device__ static inline double sum_lanes(double x, int lanes) {
  for (int step = lanes / 2; step > 0; step /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// The sums of chunk `c`, by `lanes` lanes together. Writes what needs no scan: dL and dW.
__device__ static chunk_sums sum_chunk(const nats_cuda_attention &a, int32_t pair, int32_t c, bool exists,
                                       int lanes) {
  double all = 0, local = 0, window = 0, ended = 0, own = 0, seen = 0;
  const int64_t head = (int64_t)pair * a.group; // sequence * H + the group's first query head
  if (exists) {
    for (int32_t g = 0; g < a.group; g++)
      for (int32_t t = threadIdx.x % lanes; t < a.chunk; t += lanes) {
        const int64_t at = (head + g) * a.length + (int64_t)c * a.chunk + t;
        all += (double)a.visible.all[at] + (double)a.hidden.all[at];
        local += (double)a.visible.local[at] + (double)a.hidden.local[at];
        window += (double)a.visible.window[at] + (double)a.hidden.window[at];
        ended += (double)a.visible.ended[at] + (double)a.hidden.ended[at];
        own += (double)a.visible.own[at];
        seen += (double)a.visible.seen[at];
      }
  }
  all = sum_lanes(all, lanes);
  local = sum_lanes(local, lanes);
  window = sum_lanes(window, lanes);
  ended = sum_lanes(ended, lanes);
  own = sum_lanes(own, lanes);
  seen = sum_lanes(seen, lanes);
  if (!exists)
    return {};
  const int64_t at = (int64_t)pair * a.chunks + c;
  if (threadIdx.x % lanes == 0) {
    a.dtypes[3 * at + NATS_LOCAL] = (float)(local + own);
    a.dtypes[3 * at + NATS_WINDOW] = (float)(window + own);
  }
  return {all + own, ended, a.types[at] == NATS_LOCAL ? local : 0, seen};
}

// Chunk `c`'s own term of the segmented sums; `before` belongs to chunk c - 1.
__device__ static segment_sum begin_segment(const uint8_t *types, int32_t c, const chunk_sums &before,
                                            const chunk_sums &own) {
  if (c == 0 || types[c - 1] == NATS_GLOBAL)
    return {0, 0, 1};
  return {before.ended, before.local - own.seen, 0};
}

__device__ static inline segment_sum scan_warp(segment_sum x) {
  for (int step = 1; step < NN_WARP; step *= 2) {
    const segment_sum before = {__shfl_up_sync(0xffffffffu, x.ended, step),
                                __shfl_up_sync(0xffffffffu, x.crossing, step),
                                __shfl_up_sync(0xffffffffu, x.whole, step)};
    if ((int)threadIdx.x % NN_WARP >= step)
      x = join(before, x);
  }
  return x;
}

// `lanes`: how many lanes add up a chunk, a power of two.
__global__ __launch_bounds__(THREADS) static void type_gradient_kernel(nats_cuda_attention a, int lanes) {
  __shared__ chunk_sums strip[THREADS + 1]; // behind the last chunk of the strip before
  __shared__ segment_sum warp_total[WARPS];
  const int32_t pair = blockIdx.x, complete = a.length / a.chunk, thread = threadIdx.x;
  const uint8_t *types = a.types + (int64_t)pair * a.chunks;
  float *dtypes = a.dtypes + (int64_t)pair * a.chunks * 3;
  segment_sum carry = {0, 0, 0};
  for (int32_t first = 0; first < complete; first += THREADS) {
    for (int part = 0; part < lanes; part++) {
      const int32_t slot = (part * THREADS + thread) / lanes;
      const chunk_sums sums = sum_chunk(a, pair, first + slot, first + slot < complete, lanes);
      if (thread % lanes == 0)
        strip[1 + slot] = sums;
    }
    __syncthreads();

    const int32_t c = first + thread;
    segment_sum sum = {0, 0, 0};
    if (c < complete)
      sum = begin_segment(types, c, strip[thread], strip[1 + thread]);
    sum = scan_warp(sum);
    if (thread % NN_WARP == NN_WARP - 1)
      warp_total[thread / NN_WARP] = sum;
    __syncthreads();
    for (int warp = 0; warp < WARPS; warp++) {
      if (warp == thread / NN_WARP)
        sum = join(carry, sum);
      carry = join(carry, warp_total[warp]);
    }
    if (c < complete)
      dtypes[3 * c + NATS_GLOBAL] =
          (float)(strip[1 + thread].all - (types[c] == NATS_GLOBAL ? sum.ended : sum.crossing));
    const chunk_sums last = strip[THREADS];
    __syncthreads();
    if (thread == 0)
      strip[0] = last;
  }
  if (thread < 3 && complete < a.chunks) // an unfinished chunk
    dtypes[3 * complete + thread] = 0;
}

nn_status nats_cuda_type_gradient(nn_device *device, const nats_cuda_attention *a) {
  int lanes = 1;
  while (lanes < NN_WARP && 2 * lanes <= a->chunk)
    lanes *= 2;
  return NN_LAUNCH(device, type_gradient_kernel, a->batch * a->kv_heads, THREADS, 0, *a, lanes);
}
