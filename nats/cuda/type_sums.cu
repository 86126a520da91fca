// From sums over rows to the gradient of the types: what nats_type_gradient of nats/cpu/type_sums.c does.
//
// The chunks of a (sequence, kv head) are taken in strips, a thread block each. Every thread has a chunk: its
// sums (over its tokens and the query heads of the group, visible and hidden pairs together), then what a
// global there takes away. That is a sum over the chunks of the segment before it, which begins anew after
// every global chunk: a segmented scan (Blelloch 1990, "Prefix sums and their applications", section 1.5).
// What strips leave to those after them is taken away by a second kernel.
#include "nats/cuda/attention.h"

enum { THREADS = NATS_STRIP, WARPS = THREADS / NN_WARP };

// The sums of nats_row_sums over a chunk.
typedef struct {
  double all, local, window, ended, own, seen;
} chunk_sums;

__device__ static inline nats_segment_sum join(nats_segment_sum before, nats_segment_sum x) {
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

// Chunk `c` by `lanes` lanes together; zeros where it does not exist.
__device__ static chunk_sums sum_chunk(const nats_cuda_attention &a, int64_t pair, int32_t c, bool exists,
                                       int lanes) {
  chunk_sums x = {};
  const int64_t head = pair * a.group; // sequence * H + the group's first query head
  for (int32_t g = 0; exists && g < a.group; g++)
    for (int32_t t = (int32_t)threadIdx.x % lanes; t < a.chunk; t += lanes) {
      const int64_t at = (head + g) * a.length + (int64_t)c * a.chunk + t;
      x.all += (double)a.visible.all[at] + (double)a.hidden.all[at];
      x.local += (double)a.visible.local[at] + (double)a.hidden.local[at];
      x.window += (double)a.visible.window[at] + (double)a.hidden.window[at];
      x.ended += (double)a.visible.ended[at] + (double)a.hidden.ended[at];
      x.own += (double)a.visible.own[at];
      x.seen += (double)a.visible.seen[at];
    }
  return {sum_lanes(x.all, lanes),   sum_lanes(x.local, lanes), sum_lanes(x.window, lanes),
          sum_lanes(x.ended, lanes), sum_lanes(x.own, lanes),   sum_lanes(x.seen, lanes)};
}

// Whether a segment begins with chunk `c`.
__device__ static inline bool begins(const uint8_t *types, int32_t c) {
  return c == 0 || types[c - 1] == NATS_GLOBAL;
}

// Chunk `c`'s own term of the segmented sums; `before` belongs to chunk c - 1.
__device__ static nats_segment_sum begin_segment(const uint8_t *types, int32_t c, const chunk_sums &before,
                                                 const chunk_sums &own) {
  if (begins(types, c))
    return {0, 0, 1};
  return {before.ended, (types[c - 1] == NATS_LOCAL ? before.local : 0) - own.seen, 0};
}

__device__ static inline nats_segment_sum scan_warp(nats_segment_sum x) {
  for (int step = 1; step < NN_WARP; step *= 2) {
    const nats_segment_sum before = {__shfl_up_sync(0xffffffffu, x.ended, step),
                                     __shfl_up_sync(0xffffffffu, x.crossing, step),
                                     __shfl_up_sync(0xffffffffu, x.whole, step)};
    if ((int)threadIdx.x % NN_WARP >= step)
      x = join(before, x);
  }
  return x;
}

// Up to this thread, over the block. *total: of all threads.
__device__ static inline nats_segment_sum scan_block(nats_segment_sum x, nats_segment_sum *total) {
  __shared__ nats_segment_sum of_warp[WARPS];
  const int mine = (int)threadIdx.x / NN_WARP;
  x = scan_warp(x);
  if (threadIdx.x % NN_WARP == NN_WARP - 1)
    of_warp[mine] = x;
  __syncthreads();
  nats_segment_sum before = {0, 0, 0};
  for (int warp = 0; warp < WARPS; warp++) {
    if (warp == mine)
      x = join(before, x);
    before = join(before, of_warp[warp]);
  }
  *total = before;
  return x;
}

// `lanes`: how many lanes add up a chunk, a power of two.
__global__ __launch_bounds__(THREADS) static void sum_strip(nats_cuda_attention a, int32_t strips,
                                                            int lanes) {
  __shared__ chunk_sums sums[1 + THREADS]; // of the chunk before the strip, then of the strip's
  const int64_t pair = blockIdx.x / strips;
  const int32_t first = (int32_t)(blockIdx.x % strips) * THREADS, complete = a.length / a.chunk;
  const int32_t thread = (int32_t)threadIdx.x;
  for (int part = -1; part < lanes; part++) {
    const int32_t slot = part < 0 ? -1 : (part * THREADS + thread) / lanes, c = first + slot;
    const chunk_sums x =
        sum_chunk(a, pair, c, c >= 0 && c < complete && (part >= 0 || thread < lanes), lanes);
    if (thread % lanes == 0 && (part >= 0 || thread == 0))
      sums[1 + slot] = x;
  }
  __syncthreads();

  const int32_t c = first + thread;
  const uint8_t *types = a.types + pair * a.chunks;
  const chunk_sums own = sums[1 + thread];
  nats_segment_sum taken = {0, 0, 0}, total;
  if (c < complete)
    taken = begin_segment(types, c, sums[thread], own);
  taken = scan_block(taken, &total);
  if (thread == 0)
    a.taken[blockIdx.x] = total;
  if (c >= a.chunks)
    return;
  float *dtypes = a.dtypes + (pair * a.chunks + c) * 3;
  const bool typed = c < complete; // an unfinished chunk gets no gradient
  const double ends = typed && types[c] == NATS_GLOBAL ? taken.ended : taken.crossing;
  dtypes[NATS_GLOBAL] = typed ? (float)(own.all + own.own - ends) : 0;
  dtypes[NATS_LOCAL] = typed ? (float)(own.local + own.own) : 0;
  dtypes[NATS_WINDOW] = typed ? (float)(own.window + own.own) : 0;
}

// What a strip gets from those before it: their totals, back to the last one in which a segment begins. By a
// warp.
__device__ static nats_segment_sum sum_before(const nats_segment_sum *totals, int32_t strip) {
  nats_segment_sum sum = {0, 0, 0};
  for (int32_t last = strip - 1; last >= 0 && !sum.whole; last -= NN_WARP) {
    const int32_t lane = (int32_t)threadIdx.x % NN_WARP, mine = last - lane;
    const nats_segment_sum x = mine >= 0 ? totals[mine] : nats_segment_sum{0, 0, 0};
    const uint32_t whole = __ballot_sync(0xffffffffu, x.whole);
    const bool counts = whole == 0 || lane < __ffs(whole);
    sum.ended += nn_warp_sum(counts ? x.ended : 0);
    sum.crossing += nn_warp_sum(counts ? x.crossing : 0);
    sum.whole = whole != 0;
  }
  return sum;
}

// The chunks of a strip before the first segment that begins in it.
__global__ __launch_bounds__(THREADS) static void carry_strip(nats_cuda_attention a, int32_t strips) {
  const int64_t pair = blockIdx.x / strips;
  const int32_t strip = (int32_t)(blockIdx.x % strips), c = strip * THREADS + (int32_t)threadIdx.x;
  const uint8_t *types = a.types + pair * a.chunks;
  const int32_t complete = a.length / a.chunk, warp = (int32_t)threadIdx.x / NN_WARP;
  __shared__ uint32_t begun[WARPS];
  const uint32_t mine = __ballot_sync(0xffffffffu, c < complete && begins(types, c));
  if (threadIdx.x % NN_WARP == 0)
    begun[warp] = mine;
  __syncthreads();
  for (int before = 0; before < warp; before++)
    if (begun[before] != 0)
      return;
  if (__ffs(mine) == 1)
    return;
  const nats_segment_sum taken = sum_before(a.taken + pair * strips, strip);
  const int32_t lane = (int32_t)threadIdx.x % NN_WARP;
  if (c < complete && (mine == 0 || lane < __ffs(mine) - 1))
    a.dtypes[(pair * a.chunks + c) * 3 + NATS_GLOBAL] -=
        (float)(types[c] == NATS_GLOBAL ? taken.ended : taken.crossing);
}

nn_status nats_cuda_type_gradient(nn_device *device, const nats_cuda_attention *a) {
  const int32_t strips = nats_strips(a->chunks);
  const unsigned blocks = (unsigned)a->batch * (unsigned)a->kv_heads * (unsigned)strips;
  int lanes = 1;
  while (lanes < NN_WARP && 2 * lanes <= a->chunk)
    lanes *= 2;
  NN_TRY(NN_LAUNCH(device, sum_strip, blocks, THREADS, 0, *a, strips, lanes));
  return strips == 1 ? NN_OK : NN_LAUNCH(device, carry_strip, blocks, THREADS, 0, *a, strips);
}
