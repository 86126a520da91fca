// The sums over hidden pairs with Hopper's products of a warpgroup (bf16, D = 64). As attention_hidden.cu:
//   S^T = K Q^T      dP^T = V dO^T      sum += min(e^{S - lse}, clip) (dP - do . o)
// but a thread block is two warpgroups, each with 64 of its 128 keys in registers as operand a, and the rows'
// Q and dO are read where they lie in the ring. While the exponentials of a warpgroup wait for their unit,
// the tensor cores work on its dP, and on the products of the other three that share the multiprocessor: 128
// registers a thread are what allows so many. A thread owns two keys and, of 64 rows, sixteen.
//
// Rows go by in two phases. Up to the last bound of a warpgroup's keys every pair is compared with the
// bounds; then all are hidden, and only `all` grows.
#include "nats/cuda/attention_hidden.h"
#include "nats/cuda/hopper.h"

enum { D = 64, GROUP = 4 * NN_WARP, GROUPS = 2, THREADS = GROUPS * GROUP };
enum { GROUP_KEYS = 64, KEYS = GROUPS * GROUP_KEYS, ROWS = 64, PASS = THREADS / (D / 8) };
enum { SLOTS = 4, AHEAD = SLOTS - 1 }; // of the ring, and blocks of rows that are under way

// lse / ln 2 and do . o of a block of rows, in the order in which threads take them: those with lane % 4 = t
// have rows 8 n + 2 t and the next, n = 0 .. 7. Four floats between the threads keep their banks apart.
enum { START_STRIDE = 20, STARTS = 4 * START_STRIDE };
typedef struct {
  float lse[STARTS], delta[STARTS];
} row_starts;

typedef struct {
  nn_bf16 slot[SLOTS][2][ROWS * D]; // Q, dO; at first K of all keys, then V
  row_starts starts[SLOTS];
  int32_t row[SLOTS]; // the first of the block; T or more where there are no more blocks
  nats_hidden_bounds keys[KEYS];
  nats_phases come; // a phase for each block of rows that all threads have copied
  // registers are scarce
  nats_hidden_tile tile;
  float hidden_weight;    // of all drawn blocks
  const nn_bf16 *q, *d_o; // of row 0 and the query head
  const float *lse, *delta;
} hidden_shared;

// The thread's keys: 64 of a warpgroup as operand a, and the sums of keys r and r + 8 of the warp's sixteen,
// r = lane / 4.
typedef struct {
  uint32_t k[D / 16][4], v[D / 16][4];
  float all[2], second[2], third[2];
} own_keys;

#ifdef NATS_WGMMA_CODE
// Both products start at 0, so what a row's would start from is left to the sums.
__device__ static __forceinline__ void multiply(float (&c)[32], const uint32_t (&keys)[D / 16][4],
                                                const nn_bf16 *rows) {
  const uint64_t tile = nats_wgmma_tile(rows);
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    nats_wgmma<false>(c, keys[step], nats_wgmma_at(tile, 32 * step), step > 0);
  nats_wgmma_commit();
}

// Sixteen numbers of rows a thread, four at a time: of columns 8 n to 8 n + 15.
__device__ static __forceinline__ float4 starts_of(const float *starts, int n) {
  return *(const float4 *)(starts + threadIdx.x % 4 * START_STRIDE + 2 * n);
}
// The one that belongs to sum e of eight: {row, row + 1} of two keys, then those of the next eight rows.
__device__ static __forceinline__ float start_of(const float4 &starts, int e) {
  return e < 4 ? (e % 2 ? starts.y : starts.x) : (e % 2 ? starts.w : starts.z);
}

// scores = min(e^{s - lse}, clip)
__device__ static __forceinline__ void weigh(float (&scores)[32], const float *lse, float factor,
                                             float log2_clip) {
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    const float4 starts = starts_of(lse, n);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const float x = fmaf(scores[4 * n + e], factor, -start_of(starts, e));
      scores[4 * n + e] = nn_exp2(fminf(x, log2_clip));
    }
  }
}

// Adds 64 rows from row i on to the sums. Without BOUNDED all of them lie past every bound.
template <bool BOUNDED>
__device__ static __forceinline__ void add_up(const float (&weights)[32], const float (&products)[32],
                                              const float *delta, int32_t i, const nats_hidden_bounds *keys,
                                              own_keys &own) {
  const int lane = threadIdx.x % NN_WARP;
  nats_hidden_bounds bounds[2];
  if (BOUNDED)
    bounds[0] = keys[lane / 4], bounds[1] = keys[lane / 4 + 8];
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    const float4 starts = starts_of(delta, n);
#pragma unroll
    for (int e = 0; e < 8; e++) {
      const int key = e / 2 % 2;
      const float product = products[4 * n + e] - start_of(starts, e);
      if (!BOUNDED) {
        own.all[key] = fmaf(weights[4 * n + e], product, own.all[key]);
        continue;
      }
      const int32_t query = i + 8 * (n + e / 4) + lane % 4 * 2 + e % 2;
      const float d = query > bounds[key].expiry ? weights[4 * n + e] * product : 0;
      own.all[key] += d;
      own.second[key] += query <= bounds[key].second ? d : 0;
      own.third[key] += query <= bounds[key].third ? d : 0;
    }
  }
}

// A block of rows. `keys` are the warp's.
template <bool BOUNDED>
__device__ static __forceinline__ void visit(const hidden_shared &shared, int slot,
                                             const nats_hidden_bounds *keys, float factor, float log2_clip,
                                             own_keys &own) {
  float scores[32], products[32];
  nats_wgmma_fence();
  multiply(scores, own.k, shared.slot[slot][0]);
  multiply(products, own.v, shared.slot[slot][1]);
  nats_wgmma_wait<1>();
  weigh(scores, shared.starts[slot].lse, factor, log2_clip);
  nats_wgmma_wait<0>();
  add_up<BOUNDED>(scores, products, shared.starts[slot].delta, shared.row[slot], keys, own);
}

// K and V of the tile's keys by way of the ring; zeros past the last key. `first` is the warp's
// first.
__device__ static __forceinline__ void load_keys(const nats_cuda_attention &a, const nats_hidden_tile &tile,
                                                 int first, hidden_shared &shared, own_keys &own) {
  nn_bf16 *k = shared.slot[0][0], *v = k + KEYS * D;
  const int piece = threadIdx.x % (D / 8), lane = threadIdx.x % NN_WARP;
  const int64_t base =
      (int64_t)tile.sequence * a.length * a.token_stride + tile.head / a.group * D + 8 * piece;
  for (int key = threadIdx.x / (D / 8); key < KEYS; key += PASS) {
    const bool valid = key < tile.count;
    const int64_t from = base + (valid ? shared.keys[key].token * a.token_stride : 0);
    nats_copy16(k + nats_piece<D>(key, piece), (const nn_bf16 *)a.k + from, valid);
    nats_copy16(v + nats_piece<D>(key, piece), (const nn_bf16 *)a.v + from, valid);
  }
  nats_copy_commit();
  nats_copy_wait<0>();
  __syncthreads();
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    const int at = nats_piece<D>(first + lane % 16, 2 * step + lane / 16);
    nats_ldmatrix4(own.k[step], k + at);
    nats_ldmatrix4(own.v[step], v + at);
  }
  __syncthreads();
}

// A thread's part in bringing rows.
typedef struct {
  int32_t block; // to bring next
  float start;   // lse or do . o of one row of the block brought last; threads past 2 ROWS have none
} row_source;

// Where the rows of the tile's query head lie, by one thread for all.
__device__ static __forceinline__ void find_rows(const nats_cuda_attention &a, const nats_hidden_tile &tile,
                                                 hidden_shared &shared) {
  const int64_t token = (int64_t)tile.sequence * a.length, column = tile.head * D;
  const int64_t head = ((int64_t)tile.sequence * a.heads + tile.head) * a.length;
  shared.q = (const nn_bf16 *)a.q + token * a.token_stride + column;
  shared.d_o = (const nn_bf16 *)a.d_o + token * a.heads * D + column;
  shared.lse = a.lse + head;
  shared.delta = a.delta + head;
}

// Starts copying the next block of rows, if there is one; zeros past the last row.
__device__ static __forceinline__ void fetch(const nats_cuda_attention &a, row_source &from,
                                             hidden_shared &shared, int slot) {
  const int32_t i = from.block * ROWS;
  if (threadIdx.x == 0)
    shared.row[slot] = i;
  if (threadIdx.x < 2 * ROWS) {
    const int32_t row = i + (int32_t)(threadIdx.x % ROWS);
    from.start = row < a.length ? (threadIdx.x < ROWS ? shared.lse : shared.delta)[row] : 0;
  }
  if (i < a.length) {
    const int first = threadIdx.x / (D / 8), piece = threadIdx.x % (D / 8);
    const nn_bf16 *q = shared.q + 8 * piece, *d_o = shared.d_o + 8 * piece;
    nn_bf16 *to = shared.slot[slot][0] + nats_piece<D>(first, piece);
#pragma unroll
    for (int pass = 0; pass < ROWS / PASS; pass++) { // PASS is a multiple of 8: pieces keep their places
      const uint32_t row = i + first + pass * PASS;
      const bool valid = row < (uint32_t)a.length;
      nats_copy16(to + pass * PASS * D, q + (uint64_t)row * (uint32_t)a.token_stride, valid);
      nats_copy16(to + (ROWS + pass * PASS) * D, d_o + (uint64_t)row * (uint32_t)(a.heads * D), valid);
    }
    from.block = nats_hidden_drawn<ROWS>(a, from.block + 1);
  }
  nats_copy_commit();
}

// What `fetch` asked for, a block later: then it has come. Past the last row lse is 0, and so are Q and dO,
// so that such pairs add 0.
__device__ static __forceinline__ void store_start(const row_source &from, hidden_shared &shared, int slot) {
  const int row = threadIdx.x % ROWS, at = row % 8 / 2 * START_STRIDE + row / 8 * 2 + row % 2;
  if (threadIdx.x < ROWS)
    shared.starts[slot].lse[at] = from.start * NATS_LOG2_E;
  else if (threadIdx.x < 2 * ROWS)
    shared.starts[slot].delta[at] = from.start;
}

// Hands block n to the products, which read shared memory past the usual path. One warpgroup may be at other
// rows of its keys, and so in another loop, than the other: that is why they do not meet at __syncthreads.
__device__ static __forceinline__ void receive(hidden_shared &shared, int n) {
  nats_copy_wait<AHEAD - 1>();
  nats_wgmma_publish();
  nats_arrive(&shared.come);
  nats_wait_phase(&shared.come, n % 2);
}

// `sum` over the four lanes that share a key.
__device__ static __forceinline__ float over_rows(float sum) {
  sum += __shfl_xor_sync(0xffffffffu, sum, 1);
  return sum + __shfl_xor_sync(0xffffffffu, sum, 2);
}

// To device memory; key `first` is the warp's first.
__device__ static void write_bounded(const nats_cuda_attention &a, const hidden_shared &shared, int first,
                                     const own_keys &own) {
  const nats_hidden_tile tile = shared.tile;
  const float factor = shared.hidden_weight;
  const int lane = threadIdx.x % NN_WARP;
  const int64_t head = ((int64_t)tile.sequence * a.heads + tile.head) * a.length;
  const bool local = tile.key_class == NATS_KEY_LOCAL;
#pragma unroll
  for (int key = 0; key < 2; key++) {
    const float second = over_rows(own.second[key] * factor), third = over_rows(own.third[key] * factor);
    const int at = first + 8 * key + lane / 4;
    if (lane % 4 != 0 || at >= tile.count)
      continue;
    const int64_t to = head + shared.keys[at].token;
    a.hidden.local[to] = local ? 0 : second;
    a.hidden.window[to] = local ? second : 0;
    a.hidden.ended[to] = third;
  }
}
__device__ static void write_all(const nats_cuda_attention &a, const hidden_shared &shared, int first,
                                 const own_keys &own) {
  const nats_hidden_tile tile = shared.tile;
  const float factor = shared.hidden_weight;
  const int lane = threadIdx.x % NN_WARP;
  const int64_t head = ((int64_t)tile.sequence * a.heads + tile.head) * a.length;
#pragma unroll
  for (int key = 0; key < 2; key++) {
    const float all = over_rows(own.all[key] * factor);
    const int at = first + 8 * key + lane / 4;
    if (lane % 4 == 0 && at < tile.count)
      a.hidden.all[head + shared.keys[at].token] = all;
  }
}
#endif

__global__ __launch_bounds__(THREADS, 2) static void hidden_hopper(nats_cuda_attention a, int32_t slots) {
#ifdef NATS_WGMMA_CODE
  NN_DYNAMIC_SHARED(char, memory);
  hidden_shared &shared = *(hidden_shared *)memory;
  const nats_hidden_tile tile = nats_hidden_find<KEYS>(a, slots);
  if (tile.count <= 0)
    return;
  nats_hidden_load_bounds(a, tile, shared.keys);
  if (threadIdx.x == 0) {
    shared.tile = tile;
    find_rows(a, tile, shared);
    nats_begin_phases(&shared.come, THREADS);
  }
  __syncthreads();
  // Later keys are hidden from fewer rows: in every other thread block the other warpgroup has them.
  const int group = (threadIdx.x / GROUP + blockIdx.x) % GROUPS * GROUP_KEYS;
  const int warp = group + threadIdx.x % GROUP / NN_WARP * 16;
  own_keys own = {};
  const int32_t drawn = nats_hidden_drawn<ROWS>(a, (shared.keys[0].expiry + 1) / ROWS);
  const bool hidden = tile.key_class != NATS_KEY_LASTING && drawn * ROWS < a.length;
  if (threadIdx.x == 0)
    shared.hidden_weight = hidden ? a.block_weight[drawn * ROWS / NATS_RANGE_ROWS] : 0;
  __syncthreads();
  if (!hidden) {
    write_bounded(a, shared, warp, own);
    write_all(a, shared, warp, own);
    return;
  }
  load_keys(a, tile, warp, shared, own);
  row_source source = {drawn, 0};
  for (int slot = 0; slot < AHEAD; slot++) {
    fetch(a, source, shared, slot);
    if (slot < AHEAD - 1)
      store_start(source, shared, slot);
  }
  int32_t first = a.length, last = a.length; // hidden row of the warpgroup's keys, and their last bound
  if (group < tile.count) {
    const nats_hidden_bounds bounds = shared.keys[min(group + GROUP_KEYS, tile.count) - 1];
    first = shared.keys[group].expiry + 1;
    last = max(bounds.expiry, max(bounds.second, bounds.third));
  }
  const float factor = a.scale * NATS_LOG2_E;
  int n = 0; // block of rows
  auto go_on = [&] {
    store_start(source, shared, (n + AHEAD - 1) % SLOTS);
    fetch(a, source, shared, (n + AHEAD) % SLOTS);
  };
  auto row = [&] { return shared.row[n % SLOTS]; };
  for (receive(shared, n); row() + ROWS <= first && row() < a.length; receive(shared, ++n))
    go_on();
  for (; row() <= last && row() < a.length; receive(shared, ++n)) {
    go_on();
    visit<true>(shared, n % SLOTS, shared.keys + warp, factor, a.log2_clip, own);
  }
  write_bounded(a, shared, warp, own);
  for (; row() < a.length; receive(shared, ++n)) {
    go_on();
    visit<false>(shared, n % SLOTS, shared.keys + warp, factor, a.log2_clip, own);
  }
  write_all(a, shared, warp, own);
#else
  (void)a, (void)slots;
#endif
}

nn_status nats_cuda_hidden_hopper(nn_device *device, const nats_cuda_attention *a) {
  const int32_t slots = nats_hidden_slots(a, KEYS);
  return NN_LAUNCH(device, hidden_hopper, a->batch * a->heads * slots, THREADS, sizeof(hidden_shared), *a,
                   slots);
}
