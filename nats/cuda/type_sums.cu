// From sums over rows to the gradient of the types: what nats_type_gradient of nats/cpu/type_sums.c does.
//
// The chunks of a (sequence, kv head) are taken in strips, a thread block each. The sums of every chunk (over
// its tokens and the query heads of the group, visible and hidden pairs together) come to shared memory; then
// every thread has ITEMS neighbouring chunks, and finds what a global there takes away. That is a sum over
// the chunks of the segment before it, which begins anew after every global chunk: a segmented scan (Blelloch
// 1990, "Prefix sums and their applications", section 1.5). What strips leave to those after them is taken
// away by a second kernel.
#include "nats/cuda/attention.h"

enum { THREADS = 256, WARPS = THREADS / NN_WARP, ITEMS = NATS_STRIP / THREADS };

// A strip in shared memory. The gradient of its types takes the place of the first three sums.
enum { ALL, LOCAL, WINDOW, ENDED, OWN, SEEN, SUMS };
typedef struct {
  float sums[SUMS][NATS_STRIP];
  uint8_t before[NATS_STRIP + 1]; // the type of the chunk before each one, global before the first of all
} strip_memory;

__device__ static inline nats_segment_sum join(nats_segment_sum before, nats_segment_sum x) {
  if (x.whole)
    return x;
  return {before.ended + x.ended, before.crossing + x.crossing, before.whole};
}

// The sum over the LANES neighbours of which this lane is one; every one of them gets it.
template <int LANES> __device__ static inline double sum_lanes(double x) {
#pragma unroll
  for (int step = LANES / 2; step > 0; step /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, step);
  return x;
}

// What is known of a token and a query head.
typedef struct {
  float all[2], local[2], window[2], ended[2]; // of visible and of hidden pairs
  float own, seen;
} token_sums;

__device__ static inline token_sums load_sums(const nats_cuda_attention &a, int64_t at) {
  return {{a.visible.all[at], a.hidden.all[at]},
          {a.visible.local[at], a.hidden.local[at]},
          {a.visible.window[at], a.hidden.window[at]},
          {a.visible.ended[at], a.hidden.ended[at]},
          a.visible.own[at],
          a.visible.seen[at]};
}

__device__ static inline void add_sums(const token_sums &token, double sums[SUMS]) {
  sums[ALL] += (double)token.all[0] + (double)token.all[1];
  sums[LOCAL] += (double)token.local[0] + (double)token.local[1];
  sums[WINDOW] += (double)token.window[0] + (double)token.window[1];
  sums[ENDED] += (double)token.ended[0] + (double)token.ended[1];
  sums[OWN] += (double)token.own;
  sums[SEEN] += (double)token.seen;
}

// Sums of the strip that begins with chunk `first`, `complete` chunks of it: by LANES lanes a chunk, ITEMS
// chunks at once, whose loads are all under way together. Slots behind the last chunk get that one's sums,
// which nobody reads.
template <int LANES>
__device__ static void sum_chunks(const nats_cuda_attention &a, int64_t pair, int32_t first, int32_t complete,
                                  strip_memory &strip) {
  const int thread = (int)threadIdx.x, lane = thread % LANES;
  const int64_t heads = pair * a.group * a.length + (int64_t)first * a.chunk; // the group's first query head
  for (int part = 0; part < LANES && complete > 0; part++) {
    const int32_t slot = (part * ITEMS * THREADS + thread) / LANES; // then every THREADS / LANES
    double x[ITEMS][SUMS] = {};
    for (int32_t g = 0; g < a.group; g++)
      for (int32_t t = 0; t < a.chunk; t += LANES) {
        const int64_t at = heads + (int64_t)g * a.length + min(t + lane, a.chunk - 1);
        token_sums tokens[ITEMS];
#pragma unroll
        for (int item = 0; item < ITEMS; item++)
          tokens[item] =
              load_sums(a, at + (int64_t)min(slot + item * (THREADS / LANES), complete - 1) * a.chunk);
        __syncwarp(); // the compiler would move loads to where their values are needed
#pragma unroll
        for (int item = 0; item < ITEMS; item++)
          if (t + lane < a.chunk)
            add_sums(tokens[item], x[item]);
      }
#pragma unroll
    for (int item = 0; item < ITEMS; item++)
#pragma unroll
      for (int sum = 0; sum < SUMS; sum++) {
        const double total = sum_lanes<LANES>(x[item][sum]);
        if (lane == 0)
          strip.sums[sum][slot + item * (THREADS / LANES)] = (float)total;
      }
  }
}

// What the chunk in `slot` leaves to the one after it.
__device__ static nats_segment_sum leave(const strip_memory &strip, int32_t slot) {
  const uint8_t type = strip.before[slot + 1];
  if (type == NATS_GLOBAL)
    return {0, 0, 1};
  return {strip.sums[ENDED][slot], type == NATS_LOCAL ? strip.sums[LOCAL][slot] : 0.0, 0};
}

// The term of the chunk in `slot` in the segmented sums, but for what the strip before leaves.
__device__ static nats_segment_sum term_of(const strip_memory &strip, int32_t slot) {
  if (strip.before[slot] == NATS_GLOBAL)
    return {0, 0, 1};
  nats_segment_sum term = slot > 0 ? leave(strip, slot - 1) : nats_segment_sum{0, 0, 0};
  term.crossing -= strip.sums[SEEN][slot];
  return term;
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

// Over the threads before this one.
__device__ static inline nats_segment_sum scan_before(nats_segment_sum x) {
  __shared__ nats_segment_sum of_warp[WARPS];
  const int lane = (int)threadIdx.x % NN_WARP, mine = (int)threadIdx.x / NN_WARP;
  x = scan_warp(x);
  if (lane == NN_WARP - 1)
    of_warp[mine] = x;
  __syncthreads();
  nats_segment_sum before = {0, 0, 0};
  for (int warp = 0; warp < mine; warp++)
    before = join(before, of_warp[warp]);
  x = {__shfl_up_sync(0xffffffffu, x.ended, 1), __shfl_up_sync(0xffffffffu, x.crossing, 1),
       __shfl_up_sync(0xffffffffu, x.whole, 1)};
  return lane == 0 ? before : join(before, x);
}

// Every thread turns the sums of its chunks into the gradient of their types. The last one learns what the
// strip leaves to the next: *left.
__device__ static void take_away(strip_memory &strip, int32_t complete, nats_segment_sum *left) {
  const int32_t first = (int32_t)threadIdx.x * ITEMS;
  nats_segment_sum terms[ITEMS], own = {0, 0, 0};
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    terms[item] = first + item < complete ? term_of(strip, first + item) : nats_segment_sum{0, 0, 0};
    own = join(own, terms[item]);
  }
  const nats_segment_sum rest = leave(strip, first + ITEMS - 1);
  nats_segment_sum taken = scan_before(own); // behind its barrier nobody reads what others write
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int32_t slot = first + item;
    taken = join(taken, terms[item]);
    const double ends = strip.before[slot + 1] == NATS_GLOBAL ? taken.ended : taken.crossing;
    const float alone = strip.sums[OWN][slot];
    strip.sums[ALL][slot] = (float)((double)strip.sums[ALL][slot] + alone - ends);
    strip.sums[LOCAL][slot] += alone;
    strip.sums[WINDOW][slot] += alone;
  }
  *left = join(taken, rest);
}

// One block a strip.
template <int LANES> // that add up a chunk, a power of two
__global__ __launch_bounds__(THREADS, 2) static void sum_strip(nats_cuda_attention a, int32_t strips) {
  __shared__ strip_memory strip;
  const int64_t pair = blockIdx.x / strips;
  const int32_t first = (int32_t)(blockIdx.x % strips) * NATS_STRIP, thread = (int32_t)threadIdx.x;
  const int32_t chunks = min((int32_t)NATS_STRIP, a.chunks - first);
  const int32_t complete = min(chunks, a.length / a.chunk - first);
  const uint8_t *types = a.types + pair * a.chunks + first;
  sum_chunks<LANES>(a, pair, first, complete, strip);
  for (int32_t i = thread; i <= NATS_STRIP; i += THREADS)
    strip.before[i] = i <= complete && first + i > 0 ? types[i - 1] : (uint8_t)NATS_GLOBAL;
  __syncthreads();
  nats_segment_sum left;
  take_away(strip, complete, &left);
  if (thread == THREADS - 1)
    a.taken[blockIdx.x] = left;
  __syncthreads();
  float *dtypes = a.dtypes + (pair * a.chunks + first) * 3;
  for (int32_t i = thread; i < 3 * chunks; i += THREADS)
    dtypes[i] = i < 3 * complete ? strip.sums[i % 3][i / 3] : 0; // an unfinished chunk gets no gradient
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

// Whether a segment begins with chunk `c`.
__device__ static inline bool begins(const uint8_t *types, int32_t c) {
  return c == 0 || types[c - 1] == NATS_GLOBAL;
}

// The chunks of a strip before the first segment that begins in it. One thread a chunk.
__global__ __launch_bounds__(NATS_STRIP) static void carry_strip(nats_cuda_attention a, int32_t strips) {
  const int64_t pair = blockIdx.x / strips;
  const int32_t strip = (int32_t)(blockIdx.x % strips), c = strip * NATS_STRIP + (int32_t)threadIdx.x;
  const uint8_t *types = a.types + pair * a.chunks;
  const int32_t complete = a.length / a.chunk, warp = (int32_t)threadIdx.x / NN_WARP;
  __shared__ uint32_t begun[NATS_STRIP / NN_WARP];
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
  if (a->chunk < 8)
    NN_TRY(NN_LAUNCH(device, sum_strip<1>, blocks, THREADS, 0, *a, strips));
  else if (a->chunk < NN_WARP)
    NN_TRY(NN_LAUNCH(device, sum_strip<8>, blocks, THREADS, 0, *a, strips));
  else
    NN_TRY(NN_LAUNCH(device, sum_strip<NN_WARP>, blocks, THREADS, 0, *a, strips));
  return strips == 1 ? NN_OK : NN_LAUNCH(device, carry_strip, blocks, NATS_STRIP, 0, *a, strips);
}
