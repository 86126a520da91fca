// Backward attention for dk, dv and the sums over rows, as attention_backward_keys.cu computes them, with the
// products of Hopper's warpgroups; D = 64.
//
// A thread block is one warpgroup with 64 neighbours of a list of keys, which takes 64 queries a step: of its
// 64 x 64 products warp w has the keys 16 w to 16 w + 15. While the weights of a step become exponentials,
// the gradients of the step before are still being multiplied:
//
//   products:      s of this step | dv, dk of the step before | do.v of this step | s of the next step, ...
//   between them:                 | p                         | p is rounded      | D, the sums
//
// Many walks are short, two or three steps long: what a block waits for before and after them is hidden by
// other blocks. Three fit a multiprocessor, because keys and values stay in shared memory, and the products
// s and do.v are not in registers together.
#include "nats/cuda/attention_backward_keys.h"
#include "nats/cuda/hopper.h"

enum { D = 64, TILE = 64, THREADS = 128, PIECES = D / 8, COPY_ROWS = THREADS / PIECES };
enum { STAGES = 3 }; // steps whose queries are in shared memory: the last one's, this one's, the next one's

// What a thread block works on: neighbours in a list of a pair.
struct key_tile {
  int32_t sequence, kv_head;
  int32_t heads_end; // after the last query head of the kv head
  int32_t key_class;
  int32_t first, count; // in lists.key of the pair; count 0: nothing to do
};

struct keys_shared {
  nn_bf16 k[TILE * D], v[TILE * D]; // in the end their gradients
  nn_bf16 q[STAGES][TILE * D], d_o[STAGES][TILE * D];
  float stats[STAGES][THREADS];         // of the queries: lse, then delta
  int32_t position[TILE], expiry[TILE]; // INT32_MAX in a slot without a key
  key_tile tile;                        // here, because registers are scarce
  alignas(16) nats_key_rows rows[TILE]; // of here down with types only
  float own[TILE];
  float sums[NATS_KEY_SUMS][2][THREADS]; // of a lane's keys over its columns
};

#ifdef NATS_WGMMA_CODE

// Tile `index` of a pair, counted through the lists: lasting keys first, for they are seen longest.
__device__ static key_tile find_tile(const nats_cuda_attention &a, int32_t pair, int32_t index) {
  const int32_t kv_head = pair % a.kv_heads;
  key_tile tile = {pair / a.kv_heads, kv_head, (kv_head + 1) * a.group, NATS_KEY_LASTING, 0, 0};
  if (tile.sequence >= a.batch)
    return tile;
  const int32_t *start = a.lists.start + (int64_t)pair * 4;
#pragma unroll
  for (int c = 0; c < NATS_KEY_CLASSES; c++) { // no early end: the loads are under way together
    const int32_t tiles = (start[c + 1] - start[c] + TILE - 1) / TILE;
    if (index >= 0 && index < tiles) {
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
  if (thread >= TILE)
    return;
  const bool valid = thread < tile.count;
  const int32_t position = valid ? key[thread] : INT32_MAX;
  shared.position[thread] = position;
  shared.expiry[thread] = valid ? a.lists.until[list + tile.first + thread] : INT32_MAX;
  if (SUMS && valid)
    nats_copy16(&shared.rows[thread], &a.rows[list + position], true);
}

// Where the walk along the queries is.
struct query_step {
  int32_t head, row; // of the first of 64 queries
};

// The first step from `row` on that sees a key of the tile; after the head's last one, the next head's first.
__device__ static query_step find_step(const keys_shared &shared, int32_t head, int32_t row) {
  const int32_t over = nats_keys_over<TILE>(shared.expiry, row);
  if (over >= shared.tile.count)
    return query_step{head + 1, shared.position[0]};
  return query_step{head, max(row, shared.position[over])};
}

// Starts copying q and do of a step; returns this thread's number of its `stats`.
__device__ static float load_step(const nats_cuda_attention &a, const key_tile &tile, query_step at,
                                  int stage, keys_shared &shared) {
  const int32_t rows = a.length - at.row;
  const int64_t token = (int64_t)tile.sequence * a.length + at.row, dense = (int64_t)a.heads * D;
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
  const int64_t stat = ((int64_t)tile.sequence * a.heads + at.head) * a.length + at.row + r;
  return wants_lse ? a.lse[stat] * NATS_LOG2_E : a.delta[stat];
}

// What a warp holds of its keys. Lane l has keys l / 4 and l / 4 + 8 of the warp's.
struct key_band {
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
      if (8 * n + e >= from - column && 8 * n + e <= to - column)
        sum += d[4 * n + 2 * h + e];
  return sum;
}

// The step's share of the sums over rows; d is 0 on hidden pairs.
__device__ static void add_sums(keys_shared &shared, const key_band &band, int32_t row, bool wants_own,
                                const float (&d)[32]) {
  const int32_t last = row + TILE - 1;
  if (shared.position[band.first] > last || shared.expiry[band.last] < row)
    return; // no key of this warp is seen
  const int lane = (int)threadIdx.x % NN_WARP;
  // The bounds never decrease along a list: its ends tell whether one of them falls into the step. No row
  // that sees a local key is beyond `local`, and no row that sees a window key beyond `window`: these sums
  // are made of `all` in the end.
  const nats_key_rows low = shared.rows[band.first], high = shared.rows[band.last];
  const int32_t key_class = shared.tile.key_class;
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int slot = band.first + 8 * h + lane / 4;
    const nats_key_rows rows = shared.rows[min(slot, band.last)];
    const int32_t start = max(rows.start - row, 0);
    float all = 0, before = 0;
    if (high.start <= row) // as in all steps of a long walk but the first
#pragma unroll
      for (int n = 0; n < 8; n++)
        all += d[4 * n + 2 * h] + d[4 * n + 2 * h + 1];
    else
#pragma unroll
      for (int i = 0; i < 16; i++) {
        const float one = d[4 * (i / 2) + 2 * h + i % 2];
        if (8 * (i / 2) + i % 2 >= start - lane % 4 * 2)
          all += one;
        else
          before += one;
      }
    shared.sums[NATS_SUM_ALL][h][threadIdx.x] += all;
    if (key_class != NATS_KEY_LOCAL && high.local >= row)
      shared.sums[NATS_SUM_LOCAL][h][threadIdx.x] +=
          low.local >= last ? all : sum_between(d, h, start, rows.local - row);
    if (key_class != NATS_KEY_WINDOW && high.window >= row)
      shared.sums[NATS_SUM_WINDOW][h][threadIdx.x] +=
          low.window >= last ? all : sum_between(d, h, start, rows.window - row);
    if (wants_own && before != 0 && slot <= band.last) // one lane's: all other rows before `start` are hidden
      shared.own[slot] = before;
  }
}

__device__ static void clear_sums(keys_shared &shared) {
  for (int sum = 0; sum < NATS_KEY_SUMS; sum++)
    for (int h = 0; h < 2; h++)
      shared.sums[sum][h][threadIdx.x] = 0;
  if (threadIdx.x % NN_WARP < 16)
    shared.own[threadIdx.x / NN_WARP * 16 + threadIdx.x % NN_WARP] = 0;
}

// Writes the sums of a head, and begins those of the next one.
__device__ static void finish_sums(const nats_cuda_attention &a, int32_t head, const key_band &band,
                                   keys_shared &shared) {
  static_assert((int)NATS_SUM_LOCAL == NATS_KEY_LOCAL && (int)NATS_SUM_WINDOW == NATS_KEY_WINDOW,
                "the sum that add_sums leaves out has the number of the keys' class");
  const int32_t sum = shared.tile.key_class;
  if (sum != NATS_KEY_LASTING)
    for (int h = 0; h < 2; h++)
      shared.sums[sum][h][threadIdx.x] = shared.sums[NATS_SUM_ALL][h][threadIdx.x];
  nats_write_key_sums<2>(a, head, band, shared);
  clear_sums(shared);
}

// c = the keys or values times a step's queries: s or do . v, as a group of products.
__device__ static void start_product(const nn_bf16 *keys, const nn_bf16 *queries, float (&c)[32]) {
  const uint64_t a = nats_wgmma_tile(keys), b = nats_wgmma_tile(queries);
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    nats_wgmma<false>(c, nats_wgmma_at(a, 32 * step), nats_wgmma_at(b, 32 * step), step > 0);
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

// The weights of a step; and what the step before, if this is not the FIRST, adds to the gradients. On return
// no product is under way.
template <bool SUMS, bool FIRST>
__device__ static void add_step(const nats_cuda_attention &a, key_band &band, int32_t row, int stage,
                                int before, keys_shared &shared, step_weights &left) {
  float s[32], p[32], dov[32], d[32];
  nats_wgmma_fence();
  start_product(shared.k, shared.q[stage], s);
  if (!FIRST)
    start_gradients(band, left, before, shared);
  nats_wgmma_wait<FIRST ? 0 : 1>();
  nats_wgmma_done(s);
  if (row < shared.position[band.last] ||
      row + TILE - 1 > shared.expiry[min(band.first, shared.tile.count - 1)])
    hide(shared, band, row, s);
  weigh(shared.stats[stage], a.scale * NATS_LOG2_E, s, p);
  nats_wgmma_wait<0>();
  nats_wgmma_fence();
  start_product(shared.v, shared.d_o[stage], dov);
  nats_wgmma_done(p);
  round_step(p, left.p);
  nats_wgmma_wait<0>();
  nats_wgmma_done(dov);
  differentiate(shared.stats[stage] + TILE, p, dov, d);
  if (SUMS && band.first <= band.last)
    add_sums(shared, band, row, a.chunk == 1, d);
  nats_wgmma_done(d);
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

// All steps of the walk. The first one's queries are on their way, and `stat` is this thread's number of its
// `stats`.
template <bool SUMS>
__device__ static void walk(const nats_cuda_attention &a, query_step now, float stat, key_band &band,
                            keys_shared &shared) {
  step_weights left;
  query_step next = find_step(shared, now.head, now.row + TILE);
  float next_stat = next.head < shared.tile.heads_end ? load_step(a, shared.tile, next, 1, shared) : 0;
  nats_copy_commit();
  shared.stats[0][threadIdx.x] = stat;
  nats_copy_wait<1>();
  nats_wgmma_publish();
  __syncthreads();
  add_step<SUMS, true>(a, band, now.row, 0, 0, shared, left);
  int stage = 0;
  while (true) {
    if (SUMS && next.head != now.head)
      finish_sums(a, now.head, band, shared);
    if (next.head >= shared.tile.heads_end)
      break;
    const int before = stage;
    stage = stage == STAGES - 1 ? 0 : stage + 1;
    shared.stats[stage][threadIdx.x] = next_stat;
    nats_copy_wait<0>();
    nats_wgmma_publish();
    __syncthreads(); // this step has come, and all are done with the one before the last
    now = next;
    next = find_step(shared, now.head, now.row + TILE);
    if (next.head < shared.tile.heads_end)
      next_stat = load_step(a, shared.tile, next, stage == STAGES - 1 ? 0 : stage + 1, shared);
    nats_copy_commit();
    add_step<SUMS, false>(a, band, now.row, stage, before, shared, left);
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
__global__ static void __launch_bounds__(THREADS, 3) backward_keys_hopper(nats_cuda_attention a) {
#ifdef NATS_WGMMA_CODE
  NN_DYNAMIC_SHARED(char, memory);
  keys_shared &shared = *(keys_shared *)memory;
  const key_tile tile = find_tile(a, nats_backward_pair(), (int32_t)blockIdx.y);
  if (tile.count == 0) {
    nats_leave_no_columns<D>(a, tile);
    return;
  }
  if (threadIdx.x == 0)
    shared.tile = tile;
  load_keys<SUMS>(a, tile, shared);
  // The first step begins with the first key, which is read here again: to wait for the one in shared memory
  // would put the copies of keys and queries one after the other.
  const int64_t list = ((int64_t)tile.sequence * a.kv_heads + tile.kv_head) * a.length;
  const query_step first = {tile.kv_head * a.group, a.lists.key[list + tile.first]};
  const float stat = load_step(a, tile, first, 0, shared);
  nats_copy_commit();
  if (SUMS)
    clear_sums(shared);
  __syncthreads();
  key_band band = {};
  band.first = (int)threadIdx.x / NN_WARP * 16;
  band.last = min(band.first + 16, tile.count) - 1;
  walk<SUMS>(a, first, stat, band, shared);
  __syncthreads(); // no product reads keys, values or queries: gradients, and their sums, take the place
  const int64_t kv = kv_offset(a, shared.tile);
  if (a.rope != NULL)
    nats_turn_keys_back<D>(a.rope, shared.position, band.first, band.last,
                           reinterpret_cast<float(&)[PIECES][4]>(band.dk));
  if (a.dbias != NULL) {
    nats_key_columns<D> &columns = *reinterpret_cast<nats_key_columns<D> *>(shared.q[0]);
    nats_add_key_columns<D>(a, band.first, band.last, true, reinterpret_cast<float(&)[PIECES][4]>(band.dk),
                            reinterpret_cast<float(&)[PIECES][4]>(band.dv), columns);
    nats_leave_key_columns<D>(a, shared.tile, columns);
  }
  write_gradient(a, band, band.dk, a.scale, shared.k, shared.position, (nn_bf16 *)a.dk + kv);
  write_gradient(a, band, band.dv, 1, shared.v, shared.position, (nn_bf16 *)a.dv + kv);
#endif
}

nn_status nats_cuda_backward_keys_hopper(nn_device *device, const nats_cuda_attention *a) {
  const dim3 grid = nats_backward_grid(a->batch * a->kv_heads,
                                       nn_ceil_div(a->length, (int32_t)TILE) + NATS_KEY_CLASSES - 1);
  NN_TRY(a->wants_types
             ? NN_LAUNCH(device, backward_keys_hopper<true>, grid, dim3(THREADS), sizeof(keys_shared), *a)
             : NN_LAUNCH(device, backward_keys_hopper<false>, grid, dim3(THREADS),
                         offsetof(keys_shared, rows), *a));
  return nats_add_key_sums(device, a, grid.y);
}
