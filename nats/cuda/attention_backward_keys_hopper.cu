// Backward attention for dk, dv and the sums over rows, as attention_backward_keys.cu computes them, with the
// products of Hopper's warpgroups; D = 64.
//
// A thread block is one warpgroup with 64 neighbours of a list of keys, which takes 64 queries a step: of its
// 64 x 64 products warp w has the keys 16 w to 16 w + 15. Keys and values stay in registers. While the
// weights of a step become exponentials, the gradients of the step before are still being multiplied:
//
//   products:        s, do.v of this step, dv, dk of the step before | s, do.v of the next step, ...
//   exponentials:                          of this step              |
#include "nats/cuda/attention_backward_keys.h"
#include "nats/cuda/fragments.h"
#include "nats/cuda/hopper.h"

enum { D = 64, TILE = 64, THREADS = 128, PIECES = D / 8, COPY_ROWS = THREADS / PIECES };
enum { STAGES = 3 }; // steps whose queries are in shared memory: the last one's, this one's, the next one's

// What a thread block works on: neighbours in a list of a pair.
struct key_tile {
  int32_t sequence, kv_head;
  int32_t key_class;
  int32_t first, count; // in lists.key of the pair; count 0: nothing to do
};

struct keys_shared {
  nn_bf16 k[TILE * D], v[TILE * D]; // in the end their gradients
  nn_bf16 q[STAGES][TILE * D], d_o[STAGES][TILE * D];
  float stats[STAGES][THREADS]; // of the queries: lse, then delta
  int32_t position[TILE], expiry[TILE];
  key_tile tile;                        // here, because registers are scarce
  alignas(16) nats_key_rows rows[TILE]; // of here down with types only
  float own[TILE];
  float sums[NATS_KEY_SUMS][2][THREADS]; // of a lane's keys over its columns
};

#ifdef NATS_WGMMA_CODE

// Tile `index` of a pair, counted through the lists: lasting keys first, for they are seen longest.
__device__ static key_tile find_tile(const nats_cuda_attention &a, int32_t pair, int32_t index) {
  key_tile tile = {pair / a.kv_heads, pair % a.kv_heads, 0, 0, 0};
  if (tile.sequence >= a.batch)
    return tile;
  const int32_t *start = a.lists.start + (int64_t)pair * 4;
  for (int c = 0; c < NATS_KEY_CLASSES && tile.count == 0; c++) {
    const int32_t tiles = (start[c + 1] - start[c] + TILE - 1) / TILE;
    if (index < tiles) {
      tile.key_class = c;
      tile.first = start[c] + index * TILE;
      tile.count = min((int32_t)TILE, start[c + 1] - tile.first);
    }
    index -= tiles;
  }
  return tile;
}

// From q, k, v or their gradients to the kv head's row of position 0.
__device__ static int64_t kv_offset(const nats_cuda_attention &a, const key_tile &tile) {
  return (int64_t)tile.sequence * a.length * a.token_stride + (int64_t)tile.kv_head * D;
}

// Starts copying the tile's keys, values and rows. Slots without a key hold zeros: what they add up stays in
// their own rows, which are not written.
template <bool SUMS>
__device__ static void load_keys(const nats_cuda_attention &a, const key_tile &tile, keys_shared &shared) {
  const int64_t list = ((int64_t)tile.sequence * a.kv_heads + tile.kv_head) * a.length;
  const int32_t *key = a.lists.key + list + tile.first;
  const int thread = (int)threadIdx.x, first = thread / PIECES, piece = thread % PIECES;
  const int64_t from = kv_offset(a, tile) + piece * 8;
#pragma unroll
  for (int r = 0; r < TILE; r += COPY_ROWS) {
    const int row = first + r, to = nats_piece<D>(row, piece);
    const bool valid = row < tile.count;
    const int64_t at = from + (valid ? key[row] : 0) * a.token_stride;
    nats_copy16(shared.k + to, (const nn_bf16 *)a.k + at, valid);
    nats_copy16(shared.v + to, (const nn_bf16 *)a.v + at, valid);
  }
  if (thread < tile.count) {
    const int32_t position = key[thread];
    shared.position[thread] = position;
    shared.expiry[thread] = a.lists.until[list + tile.first + thread];
    if (SUMS)
      nats_copy16(&shared.rows[thread], &a.rows[list + position], true);
  }
}

// Where the walk along the queries is.
struct query_step {
  int32_t head, row; // of the first of 64 queries
  int32_t oldest;    // slot of the first key that is not over before that row
};

// To the first step from `row` on that sees a key of the tile; after the head's last one, to the next head's
// first.
__device__ static void find_step(const keys_shared &shared, int32_t row, query_step *at) {
  if (row > shared.expiry[shared.tile.count - 1]) {
    *at = query_step{at->head + 1, shared.position[0], 0};
    return;
  }
  while (shared.expiry[at->oldest] < row)
    at->oldest++;
  at->row = max(row, shared.position[at->oldest]);
}

// Starts copying q and do of a step; returns this thread's number of its `stats`.
__device__ static float load_step(const nats_cuda_attention &a, query_step at, int stage,
                                  keys_shared &shared) {
  const int32_t rows = a.length - at.row;
  const int64_t token = (int64_t)shared.tile.sequence * a.length + at.row, dense = (int64_t)a.heads * D;
  const int thread = (int)threadIdx.x, first = thread / PIECES, piece = thread % PIECES;
  const nn_bf16 *q = (const nn_bf16 *)a.q + token * a.token_stride + at.head * D + piece * 8;
  const nn_bf16 *d_o = (const nn_bf16 *)a.d_o + token * dense + at.head * D + piece * 8;
  const int to = nats_piece<D>(first, piece);
#pragma unroll
  for (int r = 0; r < TILE; r += COPY_ROWS) {
    const bool valid = first + r < rows;
    const int from = valid ? first + r : 0;
    nats_copy16(shared.q[stage] + to + r * D, q + from * a.token_stride, valid);
    nats_copy16(shared.d_o[stage] + to + r * D, d_o + from * dense, valid);
  }
  const int r = thread % TILE;
  const bool wants_lse = thread < TILE;
  if (r >= rows)
    return wants_lse ? 1e30f : 0; // weighs e^{-infinity}
  const int64_t stat = ((int64_t)shared.tile.sequence * a.heads + at.head) * a.length + at.row + r;
  return wants_lse ? a.lse[stat] * NATS_LOG2_E : a.delta[stat];
}

// What a warp holds of its keys. Lane l has keys l / 4 and l / 4 + 8 of the warp's.
struct key_band {
  uint32_t k[D / 16][4], v[D / 16][4];
  float dk[D / 2], dv[D / 2];
  int first, last; // the warp's slots; last < first: none
};

// This lane's sum over the queries from `from` to `to`, counted from the step's first, of its key of half h.
__device__ static float sum_between(const float (&d)[32], int h, int32_t from, int32_t to) {
  const int column = (int)threadIdx.x % 4 * 2;
  float sum = 0;
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int e = 0; e < 2; e++)
      sum += 8 * n + column + e >= from && 8 * n + column + e <= to ? d[4 * n + 2 * h + e] : 0;
  return sum;
}

// The step's share of the sums over rows; d is 0 on hidden pairs.
__device__ static void add_sums(keys_shared &shared, const key_band &band, int32_t row, bool wants_own,
                                const float (&d)[32]) {
  const int lane = (int)threadIdx.x % NN_WARP;
  // The bounds never decrease along a list: its ends tell whether one of them falls into the step. No row
  // that sees a local key is beyond `local`, and no row that sees a window key beyond `window`.
  const nats_key_rows low = shared.rows[band.first], high = shared.rows[band.last];
  const int32_t key_class = shared.tile.key_class, last = row + TILE - 1;
  const bool all_started = high.start <= row;
  const bool all_local = key_class == NATS_KEY_LOCAL || low.local >= last, no_local = high.local < row;
  const bool all_window = key_class == NATS_KEY_WINDOW || low.window >= last, no_window = high.window < row;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int slot = min(band.first + 8 * h + lane / 4, band.last);
    const nats_key_rows rows = shared.rows[slot];
    const int32_t start = all_started ? 0 : rows.start - row;
    float all = 0;
    if (all_started) // as in all steps of a long walk but the first
#pragma unroll
      for (int n = 0; n < 8; n++)
        all += d[4 * n + 2 * h] + d[4 * n + 2 * h + 1];
    else
      all = sum_between(d, h, start, TILE - 1);
    shared.sums[NATS_SUM_ALL][h][threadIdx.x] += all;
    if (all_local || !no_local)
      shared.sums[NATS_SUM_LOCAL][h][threadIdx.x] +=
          all_local ? all : sum_between(d, h, start, rows.local - row);
    if (all_window || !no_window)
      shared.sums[NATS_SUM_WINDOW][h][threadIdx.x] +=
          all_window ? all : sum_between(d, h, start, rows.window - row);
    const int32_t own = shared.position[slot] - row; // the diagonal's column
    if (wants_own && own >= 0 && own < TILE && own % 8 / 2 == lane % 4 &&
        slot == band.first + 8 * h + lane / 4)
      shared.own[slot] = sum_between(d, h, own, own);
  }
}

__device__ static void clear_sums(keys_shared &shared) {
  for (int sum = 0; sum < NATS_KEY_SUMS; sum++)
    for (int h = 0; h < 2; h++)
      shared.sums[sum][h][threadIdx.x] = 0;
}

// s and do . v of a step's queries with the keys and values, as two groups of products.
__device__ static void start_step(const key_band &band, int stage, keys_shared &shared, float (&s)[32],
                                  float (&d)[32]) {
  const uint64_t q = nats_wgmma_tile(shared.q[stage]), d_o = nats_wgmma_tile(shared.d_o[stage]);
  nats_wgmma_fence();
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    nats_wgmma<false>(s, band.k[step], nats_wgmma_at(q, 32 * step), step > 0);
  nats_wgmma_commit();
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    nats_wgmma<false>(d, band.v[step], nats_wgmma_at(d_o, 32 * step), step > 0);
  nats_wgmma_commit();
}

// p^T and D^T of a step, rounded to bf16: the left sides of products over its queries.
struct step_weights {
  uint32_t p[4][4], d[4][4];
};

// The step's share of dv and dk, as one group of products.
__device__ static void start_gradients(key_band &band, const step_weights &left, int stage,
                                       keys_shared &shared) {
  const uint64_t q = nats_wgmma_tile(shared.q[stage]), d_o = nats_wgmma_tile(shared.d_o[stage]);
#pragma unroll
  for (int step = 0; step < TILE / 16; step++)
    nats_wgmma<true>(band.dv, left.p[step], nats_wgmma_at(d_o, 2048 * step), true);
#pragma unroll
  for (int step = 0; step < TILE / 16; step++)
    nats_wgmma<true>(band.dk, left.d[step], nats_wgmma_at(q, 2048 * step), true);
  nats_wgmma_commit();
}

// Minus infinity where the row does not see the key.
__device__ static void hide(const keys_shared &shared, const key_band &band, int32_t row, float (&s)[32]) {
  const int lane = (int)threadIdx.x % NN_WARP;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int slot = min(band.first + 8 * h + lane / 4, band.last);
    const int32_t column = row + lane % 4 * 2 - shared.position[slot];
    const uint32_t seen = (uint32_t)(shared.expiry[slot] - shared.position[slot]);
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
      for (int e = 0; e < 2; e++)
        s[4 * n + 2 * h + e] = (uint32_t)(column + 8 * n + e) <= seen ? s[4 * n + 2 * h + e] : -INFINITY;
  }
}

// p = e^{s - lse}
__device__ static void weigh(const float *lse, float scale, const float (&s)[32], float (&p)[32]) {
  lse += (int)threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const float2 pair = *(const float2 *)(lse + 8 * n);
#pragma unroll
    for (int c = 0; c < 4; c++)
      p[4 * n + c] = nn_exp2(s[4 * n + c] * scale - (c % 2 ? pair.y : pair.x));
  }
}

// D = p (do . v - delta)
__device__ static void differentiate(const float *delta, const float (&p)[32], const float (&dov)[32],
                                     float (&d)[32]) {
  delta += (int)threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const float2 pair = *(const float2 *)(delta + 8 * n);
#pragma unroll
    for (int c = 0; c < 4; c++)
      d[4 * n + c] = p[4 * n + c] * (dov[4 * n + c] - (c % 2 ? pair.y : pair.x));
  }
}

__device__ static void round_step(const float (&x)[32], uint32_t (&left)[4][4]) {
#pragma unroll
  for (int i = 0; i < 16; i++)
    left[i / 4][i % 4] = nats_pack(x[2 * i], x[2 * i + 1]);
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma_ready(left[step]);
}

// The weights of a step whose products are under way, with OTHERS groups started after them. On return no
// product is.
template <bool SUMS, int OTHERS>
__device__ static void finish_step(const nats_cuda_attention &a, const key_band &band, int32_t row, int stage,
                                   keys_shared &shared, float (&s)[32], float (&dov)[32],
                                   step_weights &left) {
  float p[32], d[32];
  nats_wgmma_wait<OTHERS + 1>();
  nats_wgmma_done(s);
  if (row < shared.position[max(band.last, 0)] ||
      row + TILE - 1 > shared.expiry[min(band.first, shared.tile.count - 1)])
    hide(shared, band, row, s);
  weigh(shared.stats[stage], a.scale * NATS_LOG2_E, s, p);
  nats_wgmma_wait<OTHERS>();
  nats_wgmma_done(dov);
  differentiate(shared.stats[stage] + TILE, p, dov, d);
  if (SUMS && band.first <= band.last)
    add_sums(shared, band, row, a.chunk == 1, d);
  nats_wgmma_wait<0>();
  nats_wgmma_done(p);
  nats_wgmma_done(d);
  round_step(p, left.p);
  round_step(d, left.d);
}

// A warp's rows of a gradient, through its own rows of the tile, to their tokens: 16 bytes a lane.
__device__ static void write_gradient(const nats_cuda_attention &a, const key_band &band,
                                      const float (&sums)[32], float scale, nn_bf16 *tile,
                                      const int32_t *position, nn_bf16 *to) {
  float rows[PIECES][4];
#pragma unroll
  for (int i = 0; i < 32; i++)
    rows[i / 4][i % 4] = sums[i];
  nats_fragment_store<D>(tile, band.first / 16 * 16, rows, scale);
  __syncwarp();
#pragma unroll
  for (int i = 0; i < 16 * PIECES / NN_WARP; i++) {
    const int at = i * NN_WARP + (int)threadIdx.x % NN_WARP, piece = at % PIECES;
    const int slot = band.first + at / PIECES;
    if (slot <= band.last)
      *(uint4 *)(to + position[slot] * a.token_stride + piece * 8) =
          *(const uint4 *)(tile + nats_piece<D>(slot, piece));
  }
}

// All steps of the walk.
template <bool SUMS>
__device__ static void walk(const nats_cuda_attention &a, key_band &band, keys_shared &shared) {
  const int32_t heads_end = (shared.tile.kv_head + 1) * a.group;
  query_step now = {shared.tile.kv_head * a.group, shared.position[0], 0};
  shared.stats[0][threadIdx.x] = load_step(a, now, 0, shared);
  nats_copy_commit();
  query_step next = now;
  find_step(shared, now.row + TILE, &next);
  float stat = next.head < heads_end ? load_step(a, next, 1, shared) : 0;
  nats_copy_commit();
  nats_copy_wait<1>();
  nats_wgmma_publish();
  __syncthreads();
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    nats_fragment_a<D>(band.k[step], shared.k, (int)threadIdx.x / NN_WARP * 16, step);
    nats_fragment_a<D>(band.v[step], shared.v, (int)threadIdx.x / NN_WARP * 16, step);
  }
  step_weights left;
  {
    float s[32], dov[32];
    start_step(band, 0, shared, s, dov);
    finish_step<SUMS, 0>(a, band, now.row, 0, shared, s, dov, left);
  }
  int stage = 0;
  while (true) {
    if (SUMS && next.head != now.head) {
      nats_write_key_sums<2>(a, now.head, band, shared);
      clear_sums(shared);
    }
    if (next.head >= heads_end)
      break;
    const int before = stage;
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    shared.stats[stage][threadIdx.x] = stat;
    nats_copy_wait<0>();
    nats_wgmma_publish();
    __syncthreads(); // this step has come, and all are done with the one before the last
    now = next;
    find_step(shared, now.row + TILE, &next);
    if (next.head < heads_end)
      stat = load_step(a, next, stage == STAGES - 1 ? 0 : stage + 1, shared);
    nats_copy_commit();
    float s[32], dov[32];
    start_step(band, stage, shared, s, dov);
    start_gradients(band, left, before, shared);
    finish_step<SUMS, 1>(a, band, now.row, stage, shared, s, dov, left);
  }
  nats_wgmma_fence();
  start_gradients(band, left, stage, shared);
  nats_wgmma_wait<0>();
  nats_wgmma_done(band.dk);
  nats_wgmma_done(band.dv);
}
#endif

// Grid: nats_backward_grid of sequence and kv head, tile of the lists.
template <bool SUMS>
__global__ static void __launch_bounds__(THREADS, 2) backward_keys_hopper(nats_cuda_attention a) {
#ifdef NATS_WGMMA_CODE
  NN_DYNAMIC_SHARED(char, memory);
  keys_shared &shared = *(keys_shared *)memory;
  const key_tile tile = find_tile(a, nats_backward_pair(), (int32_t)blockIdx.y);
  if (tile.count == 0)
    return;
  if (threadIdx.x == 0)
    shared.tile = tile;
  load_keys<SUMS>(a, tile, shared);
  if (SUMS)
    clear_sums(shared);
  __syncthreads();
  key_band band = {};
  band.first = (int)threadIdx.x / NN_WARP * 16;
  band.last = min(band.first + 16, tile.count) - 1;
  walk<SUMS>(a, band, shared);
  const int64_t kv = kv_offset(a, shared.tile);
  if (a.rope != NULL)
    nats_turn_keys_back<D>(a.rope, shared.position, band.first, band.last,
                           reinterpret_cast<float(&)[PIECES][4]>(band.dk));
  write_gradient(a, band, band.dk, a.scale, shared.k, shared.position, (nn_bf16 *)a.dk + kv);
  write_gradient(a, band, band.dv, 1, shared.v, shared.position, (nn_bf16 *)a.dv + kv);
#endif
}

nn_status nats_cuda_backward_keys_hopper(nn_device *device, const nats_cuda_attention *a) {
  const dim3 grid = nats_backward_grid(a->batch * a->kv_heads,
                                       nn_ceil_div(a->length, (int32_t)TILE) + NATS_KEY_CLASSES - 1);
  return a->wants_types
             ? NN_LAUNCH(device, backward_keys_hopper<true>, grid, dim3(THREADS), sizeof(keys_shared), *a)
             : NN_LAUNCH(device, backward_keys_hopper<false>, grid, dim3(THREADS),
                         offsetof(keys_shared, rows), *a);
}
