// The key lists of masked attention: per (sequence, kv head) the keys of each class in order, and which part
// of each list a block of rows can see.
#include "nats/cuda/attention.h"

// Lists are made strip by strip; a thread takes ITEMS tokens of its block's.
enum { LIST_THREADS = 256, LIST_WARPS = LIST_THREADS / NN_WARP, ITEMS = NATS_LIST_STRIP / LIST_THREADS };
enum { STRIP = NATS_LIST_STRIP, SEARCH_THREADS = 256 };

// What chooses the class of a token.
typedef struct {
  const uint8_t *types; // [chunks] of this pair
  int32_t chunk;
  int32_t typed; // tokens before the unfinished last chunk
} classes;

__device__ static classes classes_of(const nats_cuda_attention *a, int64_t pair) {
  return classes{a->types + pair * a->chunks, a->chunk, a->length / a->chunk * a->chunk};
}

__device__ static uint8_t type_of(const classes &from, int32_t token) {
  return from.types[from.chunk == 1 ? token : token / from.chunk];
}

__device__ static int class_of(const classes &from, int32_t token, uint8_t type) {
  if (token >= from.typed)
    return NATS_KEY_LASTING;
  return type == NATS_LOCAL ? NATS_KEY_LOCAL : type == NATS_WINDOW ? NATS_KEY_WINDOW : NATS_KEY_LASTING;
}

// Sum over the lanes up to this one.
__device__ static uint32_t warp_scan(uint32_t x) {
  for (int lanes = 1; lanes < NN_WARP; lanes *= 2) {
    const uint32_t before = __shfl_up_sync(0xffffffffu, x, lanes);
    x += threadIdx.x % NN_WARP >= (unsigned)lanes ? before : 0;
  }
  return x;
}

// Lasting and local keys; window keys are the others.
typedef struct {
  int32_t lasting, local;
} key_counts;

// Added up over a block's threads; `shared` has room for each warp. Every thread gets the sum.
__device__ static key_counts block_sum(key_counts x, key_counts *shared) {
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2) {
    x.lasting += __shfl_xor_sync(0xffffffffu, x.lasting, lanes);
    x.local += __shfl_xor_sync(0xffffffffu, x.local, lanes);
  }
  __syncthreads(); // what was there before has been read
  if (threadIdx.x % NN_WARP == 0)
    shared[threadIdx.x / NN_WARP] = x;
  __syncthreads();
  key_counts sum = {0, 0};
  for (int warp = 0; warp < LIST_WARPS; warp++) {
    sum.lasting += shared[warp].lasting;
    sum.local += shared[warp].local;
  }
  return sum;
}

// How many keys of each class a strip has: one block a strip.
__global__ static void __launch_bounds__(LIST_THREADS) count_keys(nats_cuda_attention a, int32_t strips) {
  __shared__ key_counts shared[LIST_WARPS];
  const classes from = classes_of(&a, blockIdx.x / strips);
  const int64_t first = (int64_t)(blockIdx.x % strips) * STRIP + threadIdx.x;
  key_counts count = {0, 0};
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int64_t token = first + item * LIST_THREADS;
    const int key = token < a.length ? class_of(from, (int32_t)token, type_of(from, (int32_t)token))
                                     : (int)NATS_KEY_WINDOW;
    count.lasting += key == NATS_KEY_LASTING;
    count.local += key == NATS_KEY_LOCAL;
  }
  count = block_sum(count, shared);
  if (threadIdx.x == 0) {
    a.lists.counts[2 * blockIdx.x] = count.lasting;
    a.lists.counts[2 * blockIdx.x + 1] = count.local;
  }
}

// Of the strips before `end`.
__device__ static key_counts sum_counts(const int32_t *counts, int32_t end, key_counts *shared) {
  key_counts sum = {0, 0};
  for (int32_t strip = (int32_t)threadIdx.x; strip < end; strip += LIST_THREADS) {
    sum.lasting += counts[2 * strip];
    sum.local += counts[2 * strip + 1];
  }
  return block_sum(sum, shared);
}

// What a warp has of its strip: the classes of ITEMS x 32 neighbouring tokens, how many keys lie before them
// in the strip, and how many the strip has.
typedef struct {
  int keys[ITEMS];
  key_counts before, strip;
} warp_part;

// `token`: this lane's first. Counts are scanned by every warp for itself: lasting keys, and locals in the
// upper half.
__device__ static warp_part look_at_part(const nats_cuda_attention &a, const classes &from, int64_t token) {
  __shared__ uint32_t of_warp[NN_WARP];
  const int warp = (int)threadIdx.x / NN_WARP, lane = (int)threadIdx.x % NN_WARP;
  warp_part part;
  uint32_t count = 0;
  uint8_t types[ITEMS];
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int64_t t = token + item * NN_WARP;
    types[item] = type_of(from, t < a.length ? (int32_t)t : a.length - 1);
  }
  __syncwarp(); // all on their way before one is needed
#pragma unroll
  for (int item = 0; item < ITEMS; item++) { // past the end: window keys, which are not counted
    const int64_t t = token + item * NN_WARP;
    part.keys[item] = t < a.length ? class_of(from, (int32_t)t, types[item]) : (int)NATS_KEY_WINDOW;
    count += __popc(__ballot_sync(0xffffffffu, part.keys[item] == NATS_KEY_LASTING));
    count += __popc(__ballot_sync(0xffffffffu, part.keys[item] == NATS_KEY_LOCAL)) << 16;
  }
  if (lane == 0)
    of_warp[warp] = count;
  __syncthreads();
  const uint32_t scan = warp_scan(lane < LIST_WARPS ? of_warp[lane] : 0);
  const uint32_t before = __shfl_sync(0xffffffffu, scan, warp) - count;
  const uint32_t all = __shfl_sync(0xffffffffu, scan, NN_WARP - 1);
  part.before = {(int32_t)(before & 0xffff), (int32_t)(before >> 16)};
  part.strip = {(int32_t)(all & 0xffff), (int32_t)(all >> 16)};
  return part;
}

// Where the lists of a pair lie, or are to be: `key` and `until` [T], `start` [4].
typedef struct {
  int32_t *key, *until, *start;
} pair_lists;

__device__ static pair_lists lists_of(const nats_cuda_attention &a, int64_t pair) {
  return {a.lists.key + pair * a.length, a.lists.until + pair * a.length, a.lists.start + pair * 4};
}

// Lists the keys of ITEMS x 32 neighbouring tokens. `at`: where the next lasting and the next local key goes;
// a window key goes to what is left of its position. `all`: of the pair.
__device__ static void write_keys(const nats_cuda_attention &a, const int32_t *expiry, const int keys[ITEMS],
                                  int32_t token, key_counts at, key_counts all, const pair_lists &to) {
  const uint32_t below = (1u << (threadIdx.x % NN_WARP)) - 1;
  int32_t until[ITEMS]; // all on their way at once
#pragma unroll
  for (int item = 0; item < ITEMS; item++)
    until[item] = expiry[min(token + item * NN_WARP, a.length - 1)];
  __syncwarp();
#pragma unroll
  for (int item = 0; item < ITEMS; item++, token += NN_WARP) {
    const uint32_t lasting = __ballot_sync(0xffffffffu, keys[item] == NATS_KEY_LASTING);
    const uint32_t local = __ballot_sync(0xffffffffu, keys[item] == NATS_KEY_LOCAL);
    const int32_t lastings = at.lasting + __popc(lasting & below), locals = at.local + __popc(local & below);
    const int32_t place = keys[item] == NATS_KEY_LASTING ? lastings
                          : keys[item] == NATS_KEY_LOCAL
                              ? all.lasting + locals
                              : all.lasting + all.local + token - lastings - locals;
    if (token < a.length) {
      to.key[place] = token;
      to.until[place] = until[item];
    }
    at.lasting += __popc(lasting);
    at.local += __popc(local);
  }
}

__device__ static void write_start(const nats_cuda_attention &a, key_counts all, int32_t *start) {
  if (threadIdx.x == 0) {
    start[NATS_KEY_LASTING] = 0;
    start[NATS_KEY_LOCAL] = all.lasting;
    start[NATS_KEY_WINDOW] = all.lasting + all.local;
    start[NATS_KEY_CLASSES] = a.length;
  }
}

// The first index in [low, high) of a number that is at least `wanted`; high where there is none.
__device__ static int32_t find(const int32_t *ascending, int32_t low, int32_t high, int64_t wanted) {
  while (low < high) {
    const int32_t middle = low + (high - low) / 2;
    if (ascending[middle] >= wanted)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

// What a block of rows can see of a class; `index` counts both, classes first. Hidden pairs of all rows
// count.
__device__ static void write_range(const nats_cuda_attention &a, int64_t pair, int32_t index,
                                   const pair_lists &in) {
  const int32_t key_class = index % NATS_KEY_CLASSES, row = index / NATS_KEY_CLASSES * NATS_RANGE_ROWS;
  const int32_t low = in.start[key_class], high = in.start[key_class + 1];
  const int64_t at = pair * a.lists.blocks * NATS_KEY_CLASSES + index;
  const int32_t end = find(in.key, low, high, (int64_t)row + NATS_RANGE_ROWS);
  a.lists.end[at] = end;
  a.lists.first[at] = key_class == NATS_KEY_LASTING ? low : find(in.until, low, end, row);
  if (a.wants_types && pair == 0 && key_class == NATS_KEY_LASTING)
    a.block_weight[row / NATS_RANGE_ROWS] = 1;
}

// The rows of key j. Chunks are whole in the list of lasting keys: a chunk after the found one's first key,
// the next global chunk begins.
__device__ static void write_rows(const nats_cuda_attention &a, const classes &from, int64_t pair, int64_t j,
                                  bool local, const pair_lists &in) {
  const int64_t start = (j / a.chunk + 1) * a.chunk;
  const int32_t globals = in.start[NATS_KEY_LOCAL] - (a.length - from.typed);
  const int32_t at = find(in.key, 0, globals, start);
  const int32_t next = at < globals ? in.key[at] + a.chunk : a.length;
  const int32_t second = at + (int64_t)a.chunk < globals ? in.key[at + a.chunk] + a.chunk : a.length;
  const int64_t window = start - 1 + a.window;
  a.rows[pair * a.length + j] =
      nats_key_rows{j < from.typed ? (int32_t)start : a.length, next - 1,
                    window < a.length ? (int32_t)window : a.length - 1, (local ? second : next) - 1};
}

// ---- a pair of one strip: everything by one thread block, in shared memory first

__global__ static void __launch_bounds__(LIST_THREADS) list_pair(nats_cuda_attention a) {
  __shared__ int32_t key[STRIP], until[STRIP], start[NATS_KEY_CLASSES + 1];
  const int64_t pair = blockIdx.x;
  const classes from = classes_of(&a, pair);
  const int32_t thread = (int32_t)threadIdx.x;
  const int32_t token = thread / NN_WARP * ITEMS * NN_WARP + thread % NN_WARP;
  const warp_part part = look_at_part(a, from, token);
  const pair_lists here = {key, until, start}, there = lists_of(a, pair);
  write_keys(a, a.expiry + pair * a.length, part.keys, token, part.before, part.strip, here);
  write_start(a, part.strip, start);
  __syncthreads();
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int32_t i = token + item * NN_WARP;
    if (i >= a.length)
      continue;
    there.key[i] = key[i];
    there.until[i] = until[i];
    if (a.wants_types)
      write_rows(a, from, pair, i, part.keys[item] == NATS_KEY_LOCAL, here);
  }
  if (thread <= NATS_KEY_CLASSES)
    there.start[thread] = start[thread];
  for (int32_t i = thread; i < a.lists.blocks * NATS_KEY_CLASSES; i += LIST_THREADS)
    write_range(a, pair, i, here);
}

// ---- more strips: a kernel a step, with many thread blocks

// One block a strip. Each warp takes ITEMS x 32 neighbouring tokens; where their keys go follows from the
// counts of the strips before.
__global__ static void __launch_bounds__(LIST_THREADS) list_keys(nats_cuda_attention a, int32_t strips) {
  __shared__ key_counts shared[LIST_WARPS];
  const int64_t pair = blockIdx.x / strips;
  const int32_t strip = (int32_t)(blockIdx.x % strips), thread = (int32_t)threadIdx.x;
  const int64_t token = (int64_t)strip * STRIP + thread / NN_WARP * ITEMS * NN_WARP + thread % NN_WARP;
  const warp_part part = look_at_part(a, classes_of(&a, pair), token);
  const int32_t *counts = a.lists.counts + 2 * pair * strips;
  const key_counts all = sum_counts(counts, strips, shared);
  const key_counts earlier = strip == 0 ? key_counts{0, 0} : sum_counts(counts, strip, shared);
  const key_counts at = {earlier.lasting + part.before.lasting, earlier.local + part.before.local};
  const pair_lists to = lists_of(a, pair);
  write_keys(a, a.expiry + pair * a.length, part.keys, (int32_t)token, at, all, to);
  if (strip == 0)
    write_start(a, all, to.start);
}

// One thread a block of rows and class; `slices` thread blocks a pair.
__global__ static void __launch_bounds__(SEARCH_THREADS) find_ranges(nats_cuda_attention a, int32_t slices) {
  const int64_t pair = blockIdx.x / slices;
  const int32_t index = (int32_t)(blockIdx.x % slices * SEARCH_THREADS + threadIdx.x);
  if (index < a.lists.blocks * NATS_KEY_CLASSES)
    write_range(a, pair, index, lists_of(a, pair));
}

// One thread a key; `slices` thread blocks a pair.
__global__ static void __launch_bounds__(SEARCH_THREADS) find_rows(nats_cuda_attention a, int32_t slices) {
  const int64_t pair = blockIdx.x / slices;
  const int64_t j = (int64_t)(blockIdx.x % slices) * SEARCH_THREADS + threadIdx.x;
  if (j >= a.length)
    return;
  const classes from = classes_of(&a, pair);
  const bool local = class_of(from, (int32_t)j, type_of(from, (int32_t)j)) == NATS_KEY_LOCAL;
  write_rows(a, from, pair, j, local, lists_of(a, pair));
}

nn_status nats_cuda_build_lists(nn_device *device, const nats_cuda_attention *a) {
  const unsigned pairs = (unsigned)a->batch * (unsigned)a->kv_heads;
  const int32_t strips = nats_list_strips(a->length);
  if (strips == 1)
    return NN_LAUNCH(device, list_pair, pairs, LIST_THREADS, 0, *a);
  NN_TRY(NN_LAUNCH(device, count_keys, pairs * (unsigned)strips, LIST_THREADS, 0, *a, strips));
  NN_TRY(NN_LAUNCH(device, list_keys, pairs * (unsigned)strips, LIST_THREADS, 0, *a, strips));
  const int32_t searches = a->lists.blocks * NATS_KEY_CLASSES;
  int32_t slices = nn_ceil_div(searches, (int32_t)SEARCH_THREADS);
  NN_TRY(NN_LAUNCH(device, find_ranges, pairs * (unsigned)slices, SEARCH_THREADS, 0, *a, slices));
  if (!a->wants_types)
    return NN_OK;
  slices = nn_ceil_div(a->length, (int32_t)SEARCH_THREADS);
  return NN_LAUNCH(device, find_rows, pairs * (unsigned)slices, SEARCH_THREADS, 0, *a, slices);
}
