// One query per sequence and head over the pages of its list (flash-decoding: Dao et al. 2023,
// "Flash-Decoding for long-context inference"). Lists are cut into items of equal length, so that the work
// follows the tokens that live, however unequal the lists are. An item's block reads keys and values once for
// all query heads of the group and leaves (largest score, sum of exponentials, weighted values); a second
// kernel joins the items of a list. Scores are in powers of 2.
#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/cuda/ops.h"
#include "nats/scratch.h"
}

enum { WARPS = 4, THREADS = WARPS * NN_WARP, BATCH = 4 /* rows under way in a lane */, MOST_GROUP = 8 };
enum { JOIN_WARPS = 8, JOIN_THREADS = JOIN_WARPS * NN_WARP };
enum { CUT_THREADS = 512 };
enum { SHORTEST_ITEM = 64, LONGEST_ITEM = 512, MOST_HEAD_SIZE = 1024 };

typedef struct {
  nats_cache_pages pages;
  int32_t head_size; // D
  int32_t heads, kv_heads, group, longest;
  int32_t item_tokens; // a multiple of WARPS
  int32_t lists, items;
  float scale; // log2(e) / sqrt(D)
  int64_t token_stride;
  const void *q;               // [S, H, D]
  void *o;                     // [S, H, D]
  const nats_cache_row *list;  // [lists]
  const nats_cache_item *item; // [items]
  const int32_t *turns;
  const float *rope; // [positions, D/2, 2] cos and sin
  // results of items
  float *peak, *mass; // [items, group]
  float *mix;         // [items, group, D]
  // of the whole list, where weights are wanted
  float *scores;   // [lists, group, longest]
  float *log_mass; // [lists, group]
  float *weights;  // [lists, longest]
} decode;

// ---- one item

// E numbers of a row for one lane. VECTOR: neighbours, 16 bytes of them, and as many lanes as a row needs
// work on it; else every 32nd, so that any head size will do.
template <typename T, int E, bool VECTOR> struct lane_place {
  int lanes, row, column; // lanes on a row; which row of several; first column

  __device__ lane_place(int lane, int32_t head_size) {
    lanes = NN_WARP;
    while (VECTOR && lanes > 1 && lanes / 2 * E >= head_size)
      lanes /= 2;
    row = lane / lanes;
    column = lane % lanes * (VECTOR ? E : 1);
  }
  __device__ int column_of(int e) const { return VECTOR ? column + e : column + e * NN_WARP; }
  __device__ void load(const T *from, bool valid, int32_t head_size, float x[E]) const {
    if (VECTOR) {
      const uint4 four =
          valid && column < head_size ? *(const uint4 *)(from + column) : make_uint4(0, 0, 0, 0);
      T numbers[E];
      memcpy(numbers, &four, sizeof four);
#pragma unroll
      for (int e = 0; e < E; e++)
        x[e] = nn_load(&numbers[e]);
    } else {
#pragma unroll
      for (int e = 0; e < E; e++)
        x[e] = valid && column_of(e) < head_size ? nn_load(from + column_of(e)) : 0.0f;
    }
  }
};

// Shared memory of a block.
template <typename T> struct item_memory {
  const T **keys; // [item_tokens] rows of K; those of V are `half` further on
  float *p;       // [G, item_tokens] scores, then exponentials
  float *mix;     // [WARPS, G, D]
  float *peak;    // [WARPS, G]
  float *mass;    // [WARPS, G]
};

static size_t item_bytes(int32_t group, int32_t item_tokens, int32_t head_size) {
  return (size_t)item_tokens * (sizeof(void *) + (size_t)group * sizeof(float)) +
         (size_t)WARPS * (size_t)group * (size_t)(head_size + 2) * sizeof(float);
}

// Where the rows [first, end) of the item's keys are.
template <typename T>
__device__ static void find_keys(const decode &d, const nats_cache_item &item, int32_t first, int32_t end,
                                 const T **keys) {
  nn_act *const *table = d.pages.table + item.list * d.pages.stride;
  for (int32_t t = first + (int32_t)(threadIdx.x % NN_WARP); t < end; t += NN_WARP) {
    const int32_t slot = item.begin + t, page = slot / d.pages.page_tokens;
    keys[t] = (const T *)table[page] + (int64_t)(slot - page * d.pages.page_tokens) * d.head_size;
  }
  __syncwarp();
}

template <typename T, int E, bool VECTOR, int G>
__device__ static void find_scores(const decode &d, const lane_place<T, E, VECTOR> &place,
                                   const float q[G][E], int32_t first, int32_t end,
                                   const item_memory<T> &shared) {
  const int rows = NN_WARP / place.lanes;
  for (int32_t t0 = first; t0 < end; t0 += BATCH * rows) {
    float k[BATCH][E];
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int32_t t = t0 + b * rows + place.row;
      place.load(shared.keys[t < end ? t : first], t < end, d.head_size, k[b]);
    }
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int32_t t = t0 + b * rows + place.row;
#pragma unroll
      for (int g = 0; g < G; g++) {
        float sum = 0;
#pragma unroll
        for (int e = 0; e < E; e++)
          sum += q[g][e] * k[b][e];
        for (int lanes = place.lanes / 2; lanes > 0; lanes /= 2)
          sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
        if (t < end && threadIdx.x % place.lanes == 0)
          shared.p[g * d.item_tokens + t] = sum;
      }
    }
  }
  __syncwarp();
}

// Scores of query heads [head, head + G) with a key as it looks `turn` positions further on: pairs (i, i +
// D/2) are turned as RoPE turns them.
template <typename T, int G>
__device__ static void find_turned_score(const decode &d, const T *queries, int32_t heads, int32_t t,
                                         int32_t turn, const item_memory<T> &shared) {
  const int32_t half = d.head_size / 2;
  const float *table = d.rope + (int64_t)turn * d.head_size;
  const T *key = shared.keys[t];
  for (int g = 0; g < G && g < heads; g++) {
    const T *q = queries + (int64_t)g * d.head_size;
    float sum = 0;
    for (int32_t i = (int32_t)(threadIdx.x % NN_WARP); i < half; i += NN_WARP) {
      const float a = nn_load(key + i), b = nn_load(key + half + i), c = table[2 * i], s = table[2 * i + 1];
      sum += nn_load(q + i) * (a * c - b * s) + nn_load(q + half + i) * (a * s + b * c);
    }
    sum = nn_warp_sum(sum);
    if (threadIdx.x % NN_WARP == 0)
      shared.p[g * d.item_tokens + t] = d.scale * sum;
  }
}

// Replaces the scores of keys that are turned: few, as a rule, so a warp takes one after the other.
template <typename T, int G>
__device__ static void find_turned_scores(const decode &d, const nats_cache_row &list, const T *queries,
                                          int32_t heads, int32_t begin, int32_t first, int32_t end,
                                          const item_memory<T> &shared) {
  for (int32_t t0 = first; t0 < end; t0 += NN_WARP) {
    const int32_t mine = t0 + (int32_t)(threadIdx.x % NN_WARP);
    const int32_t turn = mine < end ? d.turns[list.turns + begin + mine] : 0;
    for (unsigned left = __ballot_sync(0xffffffffu, turn != 0); left != 0; left &= left - 1) {
      const int lane = __ffs((int)left) - 1;
      find_turned_score<T, G>(d, queries, heads, t0 + lane, __shfl_sync(0xffffffffu, turn, lane), shared);
    }
  }
  __syncwarp();
}

// Scores to exponentials; *peak and *mass in every lane.
__device__ static void exponentials(float *p, int32_t first, int32_t end, float *peak, float *mass) {
  const int lane = threadIdx.x % NN_WARP;
  float most = -INFINITY, sum = 0;
  for (int32_t t = first + lane; t < end; t += NN_WARP)
    most = fmaxf(most, p[t]);
  most = nn_warp_max(most);
  for (int32_t t = first + lane; t < end; t += NN_WARP)
    sum += p[t] = exp2f(p[t] - most);
  *peak = most;
  *mass = nn_warp_sum(sum);
  __syncwarp();
}

template <typename T, int E, bool VECTOR, int G>
__device__ static void mix_values(const decode &d, const lane_place<T, E, VECTOR> &place, int32_t first,
                                  int32_t end, const item_memory<T> &shared, float mix[G][E]) {
  const int rows = NN_WARP / place.lanes;
  const int64_t half = (int64_t)d.pages.page_tokens * d.head_size;
  for (int32_t t0 = first; t0 < end; t0 += BATCH * rows) {
    float v[BATCH][E];
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int32_t t = t0 + b * rows + place.row;
      place.load(shared.keys[t < end ? t : first] + half, t < end, d.head_size, v[b]);
    }
#pragma unroll
    for (int b = 0; b < BATCH; b++) {
      const int32_t t = t0 + b * rows + place.row;
#pragma unroll
      for (int g = 0; g < G; g++) {
        const float p = t < end ? shared.p[g * d.item_tokens + t] : 0.0f;
#pragma unroll
        for (int e = 0; e < E; e++)
          mix[g][e] += p * v[b][e];
      }
    }
  }
  for (int lanes = place.lanes; lanes < NN_WARP; lanes *= 2)
#pragma unroll
    for (int i = 0; i < G * E; i++)
      mix[i / E][i % E] += __shfl_xor_sync(0xffffffffu, mix[i / E][i % E], lanes);
}

// Joins the warps of a block: query heads [head, head + G) of the group, as far as there are so many.
template <typename T, int G>
__device__ static void join_warps(const decode &d, int32_t item, int32_t head, const item_memory<T> &shared) {
  for (int32_t i = (int32_t)threadIdx.x; i < G * d.head_size; i += THREADS) {
    const int32_t g = i / d.head_size, column = i - g * d.head_size;
    float peak = -INFINITY, mass = 0, mix = 0;
    for (int warp = 0; warp < WARPS; warp++)
      peak = fmaxf(peak, shared.peak[warp * G + g]);
    for (int warp = 0; warp < WARPS; warp++) { // a warp without tokens: mass 0 at peak -infinity
      const float factor = exp2f(shared.peak[warp * G + g] - peak);
      mass += factor * shared.mass[warp * G + g];
      mix += factor * shared.mix[(warp * G + g) * d.head_size + column];
    }
    if (head + g >= d.group)
      continue;
    const int64_t to = (int64_t)item * d.group + head + g;
    d.mix[to * d.head_size + column] = mix;
    if (column == 0) {
      d.peak[to] = peak;
      d.mass[to] = mass;
    }
  }
}

template <typename T, int E, bool VECTOR, int G>
static __global__ void __launch_bounds__(THREADS, E > 16       ? 1
                                                  : E * G > 32 ? 3
                                                  : E * G > 8  ? 4
                                                               : 6) attend_item(decode d) {
  nn_let_next_kernel_begin();
  nn_await_kernels_before();
  NN_DYNAMIC_SHARED(char, memory);
  item_memory<T> shared;
  shared.keys = (const T **)memory;
  shared.p = (float *)(shared.keys + d.item_tokens);
  shared.mix = shared.p + G * d.item_tokens;
  shared.peak = shared.mix + WARPS * G * d.head_size;
  shared.mass = shared.peak + WARPS * G;

  const nats_cache_item item = d.item[blockIdx.x];
  if (item.list < 0)
    return;
  const nats_cache_row list = d.list[item.list];
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  const int32_t head = (int32_t)blockIdx.y * G; // of the group
  const int32_t part = d.item_tokens / WARPS, left = list.length - item.begin;
  const int32_t first = warp * part, end = first + part < left ? first + part : left; // of this warp
  const lane_place<T, E, VECTOR> place(lane, d.head_size);

  float q[G][E], mix[G][E] = {};
  const T *queries = (const T *)d.q + item.list / d.kv_heads * d.token_stride +
                     ((int64_t)(item.list % d.kv_heads) * d.group + head) * d.head_size;
#pragma unroll
  for (int i = 0; i < G * E; i++) {
    const int column = place.column_of(i % E);
    const bool inside = head + i / E < d.group && column < d.head_size;
    q[i / E][i % E] = inside ? d.scale * nn_load(queries + (int64_t)(i / E) * d.head_size + column) : 0.0f;
  }
  find_keys(d, item, first, end, shared.keys);
  find_scores<T, E, VECTOR, G>(d, place, q, first, end, shared);
  if (list.turns >= 0)
    find_turned_scores<T, G>(d, list, queries, d.group - head, item.begin, first, end, shared);
  for (int g = 0; g < G; g++) {
    float *p = shared.p + g * d.item_tokens;
    float *scores = d.scores + ((int64_t)item.list * d.group + head + g) * d.longest + item.begin;
    for (int32_t t = first + lane; d.scores != NULL && head + g < d.group && t < end; t += NN_WARP)
      scores[t] = p[t];
    exponentials(p, first, end, &shared.peak[warp * G + g], &shared.mass[warp * G + g]);
  }
  mix_values<T, E, VECTOR, G>(d, place, first, end, shared, mix);
#pragma unroll
  for (int i = 0; i < G * E; i++) {
    const int column = place.column_of(i % E);
    if (place.row == 0 && column < d.head_size)
      shared.mix[(warp * G + i / E) * d.head_size + column] = mix[i / E][i % E];
  }
  __syncthreads();
  join_warps<T, G>(d, (int32_t)blockIdx.x, head, shared);
}

// ---- one list

// Largest peak of the items of a list, for one query head of the group, and the sum of their masses at it; in
// every thread. `shared`: [JOIN_WARPS, 2].
__device__ static void join_masses(const decode &d, int32_t begin, int32_t end, int64_t head, float *shared,
                                   float *peak, float *mass) {
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  float most = -INFINITY, sum = 0;
  for (int32_t item = begin + (int32_t)threadIdx.x; item < end; item += JOIN_THREADS) {
    const int64_t from = (int64_t)item * d.group + head;
    const float of_item = d.peak[from], before = most;
    most = fmaxf(most, of_item);
    sum = exp2f(before - most) * sum + exp2f(of_item - most) * d.mass[from];
  }
  const float of_warp = nn_warp_max(most);
  sum = nn_warp_sum(sum > 0 ? exp2f(most - of_warp) * sum : 0); // a thread without items: sum 0
  if (lane == 0) {
    shared[warp] = of_warp;
    shared[JOIN_WARPS + warp] = sum;
  }
  __syncthreads();
  for (int w = 0; w < JOIN_WARPS; w++)
    most = fmaxf(most, shared[w]);
  sum = 0;
  for (int w = 0; w < JOIN_WARPS; w++)
    sum += exp2f(shared[w] - most) * shared[JOIN_WARPS + w];
  *peak = most;
  *mass = sum;
}

// Block (list, query head of the group): joins the items of the list. A warp takes every JOIN_WARPS-th item,
// and the warps are added in their order.
template <typename T> static __global__ void __launch_bounds__(JOIN_THREADS) join_items(decode d) {
  nn_let_next_kernel_begin();
  nn_await_kernels_before();
  NN_DYNAMIC_SHARED(float, parts); // [JOIN_WARPS, D], then [JOIN_WARPS, 2]
  const int64_t list = blockIdx.x, head = blockIdx.y;
  const int32_t begin = d.list[list].first_item;
  const int32_t end = begin + (d.list[list].length - 1) / d.item_tokens + 1;
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  float peak, mass;
  join_masses(d, begin, end, head, parts + JOIN_WARPS * d.head_size, &peak, &mass);
  for (int32_t column = lane; column < d.head_size; column += NN_WARP) {
    float mix = 0;
#pragma unroll 8
    for (int32_t item = begin + warp; item < end; item += JOIN_WARPS) {
      const int64_t from = (int64_t)item * d.group + head;
      mix += exp2f(d.peak[from] - peak) * d.mix[from * d.head_size + column];
    }
    parts[warp * d.head_size + column] = mix;
  }
  __syncthreads();
  T *o = (T *)d.o + (list / d.kv_heads * d.heads + list % d.kv_heads * d.group + head) * (int64_t)d.head_size;
  for (int32_t column = (int32_t)threadIdx.x; column < d.head_size; column += JOIN_THREADS) {
    float mix = 0;
    for (int w = 0; w < JOIN_WARPS; w++)
      mix += parts[w * d.head_size + column];
    nn_store(o + column, mix / mass);
  }
  if (d.scores != NULL && threadIdx.x == 0)
    d.log_mass[list * d.group + head] = peak + log2f(mass);
}

// Softmax weights of every slot, summed over the group's heads; 0 past the end of a list.
static __global__ void sum_weights(decode d) {
  const int64_t list = blockIdx.y;
  const int32_t t = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= d.longest)
    return;
  float sum = 0;
  for (int32_t g = 0; t < d.list[list].length && g < d.group; g++) {
    const int64_t head = list * d.group + g;
    sum += exp2f(d.scores[head * d.longest + t] - d.log_mass[head]);
  }
  d.weights[list * d.longest + t] = sum;
}

// ---- items

// The sum of `count` over the threads up to this one; `sums`: [CUT_THREADS].
__device__ static int32_t sum_up_to_mine(int32_t count, int32_t *sums) {
  const int mine = (int)threadIdx.x;
  sums[mine] = count;
  __syncthreads();
  for (int step = 1; step < CUT_THREADS; step *= 2) {
    const int32_t before = mine >= step ? sums[mine - step] : 0;
    __syncthreads();
    sums[mine] += before;
    __syncthreads();
  }
  return sums[mine];
}

// Block (layer), a thread a list.
static __global__ void __launch_bounds__(CUT_THREADS) cut_lists(nats_cache_cut op) {
  __shared__ int32_t sums[CUT_THREADS];
  nats_cache_row *lists = op.lists + (int64_t)blockIdx.x * op.lists_of_layer;
  nats_cache_item *items = op.items + (int64_t)blockIdx.x * op.item_count;
  int32_t used = 0;
  for (int32_t first = 0; first < op.lists_of_layer; first += CUT_THREADS) {
    const int32_t list = first + (int32_t)threadIdx.x;
    const bool valid = list < op.lists_of_layer;
    const int32_t count = valid ? (lists[list].length - 1) / op.item_tokens + 1 : 0;
    const int32_t begin = used + sum_up_to_mine(count, sums) - count;
    if (valid)
      lists[list].first_item = begin;
    for (int32_t i = 0; i < count; i++)
      items[begin + i] = nats_cache_item{list, i * op.item_tokens};
    used += sums[CUT_THREADS - 1];
    __syncthreads();
  }
  for (int32_t i = used + (int32_t)threadIdx.x; i < op.item_count; i += CUT_THREADS)
    items[i] = nats_cache_item{-1, 0};
}

extern "C" nn_status nats_cuda_cache_cut(nn_device *device, const nats_cache_cut *op) {
  return NN_LAUNCH(device, cut_lists, (unsigned)op->layers, CUT_THREADS, 0, *op);
}

// Short enough to keep all multiprocessors busy several times over, so that the last ones end together, and
// long enough to be worth joining.
extern "C" int32_t nats_cuda_cache_item_tokens(const nn_device *device, int64_t tokens) {
  const int64_t fair = tokens / (16 * nn_cuda_processors(device));
  int32_t item_tokens = SHORTEST_ITEM;
  while (item_tokens < LONGEST_ITEM && item_tokens < fair)
    item_tokens *= 2;
  return item_tokens;
}

static void take_results(nats_scratch *scratch, const nats_cache_attention *op, decode *d) {
  const int64_t results = (int64_t)d->items * d->group, rows = (int64_t)d->lists * d->group;
  d->peak = (float *)nats_scratch_take(scratch, results, sizeof(float));
  d->mass = (float *)nats_scratch_take(scratch, results, sizeof(float));
  d->mix = (float *)nats_scratch_take(scratch, results * d->head_size, sizeof(float));
  if (op->weights == NULL)
    return;
  d->scores = (float *)nats_scratch_take(scratch, rows * d->longest, sizeof(float));
  d->log_mass = (float *)nats_scratch_take(scratch, rows, sizeof(float));
}

// ---- the operator

template <typename T, int E, bool VECTOR, int G> static nn_status launch(nn_device *device, const decode *d) {
  const dim3 grid((unsigned)d->items, (unsigned)nn_ceil_div(d->group, (int32_t)G));
  return NN_LAUNCH_EARLY(device, (attend_item<T, E, VECTOR, G>), grid, THREADS,
                         item_bytes(G, d->item_tokens, d->head_size), *d);
}

template <typename T> static nn_status attend(nn_device *device, const decode *d) {
  constexpr int E = 16 / sizeof(T);
  if (d->head_size % E != 0 || d->head_size > E * NN_WARP)
    return d->head_size <= 8 * NN_WARP ? launch<T, 8, false, 1>(device, d)
                                       : launch<T, MOST_HEAD_SIZE / NN_WARP, false, 1>(device, d);
  if (d->group == 1)
    return launch<T, E, true, 1>(device, d);
  if (d->group == 2)
    return launch<T, E, true, 2>(device, d);
  return d->group <= 4 ? launch<T, E, true, 4>(device, d) : launch<T, E, true, MOST_GROUP>(device, d);
}

template <typename T> static nn_status run(nn_device *device, const decode *d) {
  NN_TRY(attend<T>(device, d));
  const size_t parts = (size_t)JOIN_WARPS * (size_t)(d->head_size + 2) * sizeof(float);
  NN_TRY(NN_LAUNCH_EARLY(device, join_items<T>, dim3((unsigned)d->lists, (unsigned)d->group), JOIN_THREADS,
                         parts, *d));
  if (d->scores == NULL)
    return NN_OK;
  const dim3 grid((unsigned)nn_ceil_div(d->longest, (int32_t)THREADS), (unsigned)d->lists);
  return NN_LAUNCH(device, sum_weights, grid, THREADS, 0, *d);
}

extern "C" nn_status nats_cuda_cache_attention(nn_device *device, const nats_cache_attention *op) {
  if (op->pages.head_size > MOST_HEAD_SIZE)
    return NN_FAIL(NN_ERR_UNSUPPORTED, "decoding on a GPU: head size %d, expected at most %d",
                   (int)op->pages.head_size, (int)MOST_HEAD_SIZE);
  decode d = {};
  d.pages = op->pages;
  d.head_size = op->pages.head_size;
  d.heads = op->heads;
  d.kv_heads = op->kv_heads;
  d.group = op->heads / op->kv_heads;
  d.longest = op->longest;
  d.lists = op->sequences * op->kv_heads;
  d.scale = op->scale * 1.44269504088896341f;
  d.token_stride = op->token_stride;
  d.q = op->q;
  d.o = op->o;
  d.weights = op->weights;
  d.rope = op->rope;
  d.list = op->lists;
  d.item = op->items;
  d.turns = op->turns;
  d.items = op->item_count;
  d.item_tokens = op->item_tokens;
  nats_scratch scratch = {NULL, 0};
  take_results(&scratch, op, &d);
  // Lists grow by a token a step: ask for room in coarse steps, or every step would allocate.
  void *workspace;
  NN_TRY(nn_device_workspace(device, (scratch.used | (((size_t)1 << 20) - 1)) + 1, &workspace));
  scratch = nats_scratch{(char *)workspace, 0};
  take_results(&scratch, op, &d);
  return NN_CUDA_TYPED(device, run, device, &d);
}
