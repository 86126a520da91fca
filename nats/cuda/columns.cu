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

__device__ static int class_of(const classes &from, int32_t token) {
  if (token >= from.typed)
    return NATS_KEY_LASTING;
  const uint8_t type = from.types[from.chunk == 1 ? token : token / from.chunk];
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

// How many keys of each class a strip has: one block a strip. Not needed where there is one strip alone.
__global__ static void __launch_bounds__(LIST_THREADS) count_keys(nats_cuda_attention a, int32_t strips) {
  __shared__ key_counts shared[LIST_WARPS];
  const classes from = classes_of(&a, blockIdx.x / strips);
  const int64_t first = (int64_t)(blockIdx.x % strips) * STRIP + threadIdx.x;
  key_counts count = {0, 0};
#pragma unroll
  for (int item = 0; item < ITEMS; item++) {
    const int64_t token = first + item * LIST_THREADS;
    const int key = token < a.length ? class_of(from, (int32_t)token) : (int)NATS_KEY_WINDOW;
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

// Lists `keys`, those of ITEMS x 32 neighbouring tokens; the pair's lists begin at `list`. `at`: where the
// next lasting and the next local key goes; a window key goes to what is left of its position.
__device__ static void write_keys(const nats_cuda_attention &a, int64_t list, const int keys[ITEMS],
                                  int32_t token, key_counts at, const int32_t start[NATS_KEY_CLASSES]) {
  const uint32_t below = (1u << (threadIdx.x % NN_WARP)) - 1;
#pragma unroll
  for (int item = 0; item < ITEMS; item++, token += NN_WARP) {
    const uint32_t lasting = __ballot_sync(0xffffffffu, keys[item] == NATS_KEY_LASTING);
    const uint32_t local = __ballot_sync(0xffffffffu, keys[item] == NATS_KEY_LOCAL);
    const int32_t lastings = at.lasting + __popc(lasting & below), locals = at.local + __popc(local & below);
    const int32_t rank = keys[item] == NATS_KEY_LASTING ? lastings
                         : keys[item] == NATS_KEY_LOCAL ? locals
                                                        : token - lastings - locals;
    if (token < a.length) {
      a.lists.key[list + start[keys[item]] + rank] = token;
      a.lists.until[list + start[keys[item]] + rank] = a.expiry[list + token];
    }
    at.lasting += __popc(lasting);
    at.local += __popc(local);
  }
}

// One block a strip. Each warp takes ITEMS x 32 neighbouring tokens; where their keys go follows from the
// counts of the strips before, and from a scan over those of the warps, which every warp makes for itself.
__global__ static void __launch_bounds__(LIST_THREADS) list_keys(nats_cuda_attention a, int32_t strips) {
  __shared__ key_counts shared[LIST_WARPS];
  __shared__ uint32_t of_warp[NN_WARP]; // lasting keys, and locals in the upper half
  const int64_t pair = blockIdx.x / strips;
  const int32_t strip = (int32_t)(blockIdx.x % strips);
  const classes from = classes_of(&a, pair);
  const int warp = (int)threadIdx.x / NN_WARP, lane = (int)threadIdx.x % NN_WARP;
  const int64_t token = (int64_t)strip * STRIP + warp * ITEMS * NN_WARP + lane;
  int keys[ITEMS];
  uint32_t count = 0;
#pragma unroll
  for (int item = 0; item < ITEMS; item++) { // past the end: window keys, which are not counted
    const int64_t t = token + item * NN_WARP;
    keys[item] = t < a.length ? class_of(from, (int32_t)t) : (int)NATS_KEY_WINDOW;
    count += __popc(__ballot_sync(0xffffffffu, keys[item] == NATS_KEY_LASTING));
    count += __popc(__ballot_sync(0xffffffffu, keys[item] == NATS_KEY_LOCAL)) << 16;
  }
  if (threadIdx.x < NN_WARP)
    of_warp[lane] = 0;
  __syncthreads();
  if (lane == 0)
    of_warp[warp] = count;
  const int32_t *counts = a.lists.counts + 2 * pair * strips;
  const key_counts own = {lane == 0 ? (int32_t)(count & 0xffff) : 0, lane == 0 ? (int32_t)(count >> 16) : 0};
  // The barriers of these sums are those of `of_warp` too.
  const key_counts all = strips == 1 ? block_sum(own, shared) : sum_counts(counts, strips, shared);
  const key_counts earlier = strip == 0 ? key_counts{0, 0} : sum_counts(counts, strip, shared);
  const uint32_t before = __shfl_sync(0xffffffffu, warp_scan(of_warp[lane]), warp) - count;

  const int32_t start[NATS_KEY_CLASSES] = {0, all.lasting, all.lasting + all.local};
  if (strip == 0 && threadIdx.x <= NATS_KEY_CLASSES)
    a.lists.start[pair * 4 + threadIdx.x] = threadIdx.x < NATS_KEY_CLASSES ? start[threadIdx.x] : a.length;
  const key_counts at = {earlier.lasting + (int32_t)(before & 0xffff),
                         earlier.local + (int32_t)(before >> 16)};
  write_keys(a, pair * a.length, keys, (int32_t)token, at, start);
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

// One thread a block of rows and class; `slices` thread blocks a pair.
__global__ static void find_ranges(nats_cuda_attention a, int32_t slices) {
  const int64_t pair = blockIdx.x / slices;
  const int32_t index = (int32_t)(blockIdx.x % slices * SEARCH_THREADS + threadIdx.x);
  if (index >= a.lists.blocks * NATS_KEY_CLASSES)
    return;
  const int32_t key_class = index % NATS_KEY_CLASSES, row = index / NATS_KEY_CLASSES * NATS_RANGE_ROWS;
  const int32_t *key = a.lists.key + pair * a.length, *until = a.lists.until + pair * a.length;
  const int32_t low = a.lists.start[pair * 4 + key_class], high = a.lists.start[pair * 4 + key_class + 1];
  const int64_t at = pair * a.lists.blocks * NATS_KEY_CLASSES + index;
  const int32_t end = find(key, low, high, (int64_t)row + NATS_RANGE_ROWS);
  a.lists.end[at] = end;
  a.lists.first[at] = key_class == NATS_KEY_LASTING ? low : find(until, low, end, row);
}

// One thread a key; `slices` thread blocks a pair. Chunks are whole in the list of lasting keys: a chunk
// after the found one's first key, the next global chunk begins.
__global__ static void find_rows(nats_cuda_attention a, int32_t slices) {
  const int64_t pair = blockIdx.x / slices;
  const int64_t j = (int64_t)(blockIdx.x % slices) * SEARCH_THREADS + threadIdx.x;
  if (j >= a.length)
    return;
  const classes from = classes_of(&a, pair);
  const int32_t *key = a.lists.key + pair * a.length;
  const int64_t start = (j / a.chunk + 1) * a.chunk;
  const int32_t globals = a.lists.start[pair * 4 + 1] - (a.length - from.typed);
  const int32_t at = find(key, 0, globals, start);
  const int32_t next = at < globals ? key[at] + a.chunk : a.length;
  const int32_t second = at + (int64_t)a.chunk < globals ? key[at + a.chunk] + a.chunk : a.length;
  const bool local = class_of(from, (int32_t)j) == NATS_KEY_LOCAL;
  const int64_t window = start - 1 + a.window;
  a.rows[pair * a.length + j] =
      nats_key_rows{j < from.typed ? (int32_t)start : a.length, next - 1,
                    window < a.length ? (int32_t)window : a.length - 1, (local ? second : next) - 1};
}

nn_status nats_cuda_build_lists(nn_device *device, const nats_cuda_attention *a) {
  const unsigned pairs = (unsigned)a->batch * (unsigned)a->kv_heads;
  const int32_t strips = nats_list_strips(a->length);
  if (strips > 1)
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
