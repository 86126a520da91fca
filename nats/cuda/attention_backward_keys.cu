// Backward attention, second kernel: a tile of neighbours in a list of keys walks along the queries that see
// any of them, for dk, dv and the sums over rows (attention_backward.h has the formulas).
//
// Everything is transposed: keys are the rows of the products, so that a lane owns keys, and the sums over
// queries are sums within lanes. The query heads of a group follow one another, and add to the same dk and
// dv.
#include "nats/cuda/attention_backward_keys.h"
#include "nats/cuda/fragments.h"

// What a thread block works on: neighbours in a list of a pair.
struct key_tile {
  int32_t sequence, kv_head;
  int32_t first, count; // in lists.key of the pair; count 0: nothing to do
};

template <int D> struct keys_shared {
  using shape = nats_backward_shape<D>;
  nn_bf16 k[shape::ROWS * D], v[shape::ROWS * D];         // each warp reads its own rows alone
  nn_bf16 q[2][shape::TILE * D], d_o[2][shape::TILE * D]; // of two blocks of queries
  float stats[2][shape::THREADS];                         // their lse, then their delta: a thread each
  int32_t position[shape::ROWS], expiry[shape::ROWS];
  key_tile tile;                   // here, because registers are scarce
  nats_key_rows rows[shape::ROWS]; // of here down with types only
  float own[shape::ROWS];
  float sums[NATS_KEY_SUMS][2 * shape::BANDS][shape::THREADS]; // of a lane's keys over its columns
};

// Tile `index` of a pair, counted through the lists: lasting keys first, for they are seen longest.
__device__ static key_tile find_tile(const nats_cuda_attention &a, int32_t pair, int32_t index,
                                     int32_t keys) {
  key_tile tile = {pair / a.kv_heads, pair % a.kv_heads, 0, 0};
  if (tile.sequence >= a.batch)
    return tile;
  const int32_t *start = a.lists.start + (int64_t)pair * 4;
  for (int c = 0; c < NATS_KEY_CLASSES && tile.count == 0; c++) {
    const int32_t tiles = (start[c + 1] - start[c] + keys - 1) / keys;
    if (index < tiles) {
      tile.first = start[c] + index * keys;
      tile.count = min(keys, start[c + 1] - tile.first);
    }
    index -= tiles;
  }
  return tile;
}

// From q, k, v or their gradients to the kv head's row of position 0.
__device__ static int64_t kv_offset(const nats_cuda_attention &a, const key_tile &tile) {
  return (int64_t)tile.sequence * a.length * a.token_stride + (int64_t)tile.kv_head * a.head_size;
}

// Starts copying the tile's keys and values, and notes their rows. Slots without a key hold zeros: what they
// add up stays in their own rows, which are not written.
template <int D, bool SUMS>
__device__ static void load_keys(const nats_cuda_attention &a, const key_tile &tile, keys_shared<D> &shared) {
  using shape = nats_backward_shape<D>;
  const int64_t pair = (int64_t)tile.sequence * a.kv_heads + tile.kv_head;
  const int32_t *key = a.lists.key + pair * a.length + tile.first;
  const nn_bf16 *k = (const nn_bf16 *)a.k + kv_offset(a, tile);
  const nn_bf16 *v = (const nn_bf16 *)a.v + kv_offset(a, tile);
#pragma unroll 4
  for (int i = 0; i < shape::ROWS * shape::PIECES / shape::THREADS; i++) {
    const int at = i * shape::THREADS + (int)threadIdx.x;
    const int row = at / shape::PIECES, piece = at % shape::PIECES;
    const bool valid = row < tile.count;
    const int64_t from = (valid ? key[row] : 0) * a.token_stride + piece * 8;
    nats_copy16(shared.k + nats_piece<D>(row, piece), k + from, valid);
    nats_copy16(shared.v + nats_piece<D>(row, piece), v + from, valid);
  }
  const int row = (int)threadIdx.x;
  if (row >= shape::ROWS)
    return;
  const bool valid = row < tile.count;
  const int32_t position = valid ? key[row] : INT32_MAX;
  shared.position[row] = position;
  shared.expiry[row] = valid ? a.lists.until[pair * a.length + tile.first + row] : INT32_MAX;
  if (SUMS && valid)
    shared.rows[row] = a.rows[pair * a.length + position];
}

// Where the walk along the queries is: a block of TILE rows of a query head.
struct query_walk {
  int32_t head, block;
};

// To the next block that sees a key of the tile; after the head's last one, to the next head's first.
template <int D> __device__ static void walk_on(const keys_shared<D> &shared, query_walk *at) {
  enum { TILE = nats_backward_shape<D>::TILE };
  const int32_t block = at->block + 1;
  const int32_t over = nats_keys_over<nats_backward_shape<D>::ROWS>(shared.expiry, block * TILE);
  if (over >= shared.tile.count)
    *at = query_walk{at->head + 1, shared.position[0] / TILE};
  else
    at->block = max(block, shared.position[over] / TILE);
}

// Starts copying q and do of a block; returns this thread's number of its `stats`.
template <int D>
__device__ static float load_block(const nats_cuda_attention &a, int32_t sequence, query_walk at,
                                   nn_bf16 *q_tile, nn_bf16 *do_tile) {
  using shape = nats_backward_shape<D>;
  const int32_t row = at.block * shape::TILE, rows = a.length - row;
  const int64_t token = (int64_t)sequence * a.length + row, dense = (int64_t)a.heads * D;
  const int first = (int)threadIdx.x / shape::PIECES, piece = (int)threadIdx.x % shape::PIECES;
  const nn_bf16 *q = (const nn_bf16 *)a.q + token * a.token_stride + at.head * D + piece * 8;
  const nn_bf16 *d_o = (const nn_bf16 *)a.d_o + token * dense + at.head * D + piece * 8;
  q_tile += nats_piece<D>(first, piece), do_tile += nats_piece<D>(first, piece);
#pragma unroll
  for (int r = 0; r < shape::TILE; r += shape::COPY_ROWS) {
    const bool valid = first + r < rows;
    const int from = valid ? first + r : 0;
    nats_copy16(q_tile + r * D, q + from * a.token_stride, valid);
    nats_copy16(do_tile + r * D, d_o + from * dense, valid);
  }
  const int r = (int)threadIdx.x % shape::TILE;
  const bool wants_lse = (int)threadIdx.x < shape::TILE;
  if (r >= rows)
    return wants_lse ? 1e30f : 0; // weighs e^{-infinity}
  const int64_t stat = ((int64_t)sequence * a.heads + at.head) * a.length + row + r;
  return wants_lse ? a.lse[stat] * NATS_LOG2_E : a.delta[stat];
}

// What a warp holds of its keys. Lane l has, of band m and half h, key 16 m + 8 h + l / 4.
template <int D> struct key_band {
  float dk[nats_backward_shape<D>::BANDS][D / 8][4], dv[nats_backward_shape<D>::BANDS][D / 8][4];
  int first, last; // the warp's slots; last < first: none
};

// The part's share of the sums over rows; d is 0 on hidden pairs. `row` is the part's first.
template <int D>
__device__ static void
add_sums(keys_shared<D> &shared, const key_band<D> &band, int32_t row, bool wants_own,
         const float (&d)[nats_backward_shape<D>::BANDS][nats_backward_shape<D>::PART / 8][4]) {
  using shape = nats_backward_shape<D>;
  const int lane = (int)threadIdx.x % NN_WARP;
  // The bounds never decrease along a list: its ends tell whether one of them falls into the part.
  const nats_key_rows low = shared.rows[band.first], high = shared.rows[band.last];
  const int32_t last = row + shape::PART - 1;
  const bool whole = high.start <= row && (low.local >= last || high.local < row) &&
                     (low.window >= last || high.window < row);
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int slot = band.first + 16 * m + 8 * h + lane / 4;
      float all = 0, local = 0, window = 0;
      if (whole) {
#pragma unroll
        for (int n = 0; n < shape::PART / 8; n++)
          all += d[m][n][2 * h] + d[m][n][2 * h + 1];
        local = low.local >= last ? all : 0;
        window = low.window >= last ? all : 0;
      } else if (slot <= band.last) {
        const nats_key_rows rows = shared.rows[slot];
        const int32_t position = shared.position[slot];
#pragma unroll
        for (int n = 0; n < shape::PART / 8; n++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const float one = d[m][n][2 * h + e];
            const int32_t i = row + 8 * n + lane % 4 * 2 + e;
            const float counted = i >= rows.start ? one : 0;
            all += counted;
            local += i <= rows.local ? counted : 0;
            window += i <= rows.window ? counted : 0;
            if (wants_own && i == position)
              shared.own[slot] = one;
          }
      }
      shared.sums[NATS_SUM_ALL][2 * m + h][threadIdx.x] += all;
      shared.sums[NATS_SUM_LOCAL][2 * m + h][threadIdx.x] += local;
      shared.sums[NATS_SUM_WINDOW][2 * m + h][threadIdx.x] += window;
    }
}

// c += a b^T for the warp's rows of tile a, and PART rows of tile b.
template <int D>
__device__ static void
multiply(float (&c)[nats_backward_shape<D>::BANDS][nats_backward_shape<D>::PART / 8][4], const nn_bf16 *a,
         int a_row, const nn_bf16 *b, int b_row) {
  using shape = nats_backward_shape<D>;
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    uint32_t left[shape::BANDS][4];
#pragma unroll
    for (int m = 0; m < shape::BANDS; m++)
      nats_fragment_a<D>(left[m], a, a_row + 16 * m, step);
#pragma unroll
    for (int n = 0; n < shape::PART / 16; n++) {
      uint32_t right[4];
      nats_fragment_b<D>(right, b, b_row + 16 * n, step);
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++) {
        nats_mma(c[m][2 * n], left[m], right);
        nats_mma(c[m][2 * n + 1], left[m], right + 2);
      }
    }
  }
}

// PART queries from `query` of the block on; `row` is that query's.
template <int D, bool SUMS>
__device__ static void add_part(const nats_cuda_attention &a, key_band<D> &band, keys_shared<D> &shared,
                                int buffer, int query, int32_t row) {
  using shape = nats_backward_shape<D>;
  const int32_t last_row = min(row + shape::PART, a.length) - 1;
  if (band.last < band.first || last_row < shared.position[band.first] || row > shared.expiry[band.last])
    return;
  const nn_bf16 *q = shared.q[buffer], *d_o = shared.d_o[buffer];
  float s[shape::BANDS][shape::PART / 8][4] = {}, d[shape::BANDS][shape::PART / 8][4] = {};
  multiply<D>(s, shared.k, band.first, q, query);
  multiply<D>(d, shared.v, band.first, d_o, query);

  const int lane = (int)threadIdx.x % NN_WARP, column = lane % 4 * 2;
  if (row < shared.position[band.last] || last_row > shared.expiry[band.first]) { // some pairs are hidden
#pragma unroll
    for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int slot = min(band.first + 16 * m + 8 * h + lane / 4, band.last);
        const int32_t position = shared.position[slot], expiry = shared.expiry[slot];
#pragma unroll
        for (int n = 0; n < shape::PART / 8; n++)
#pragma unroll
          for (int e = 0; e < 2; e++) {
            const int32_t i = row + 8 * n + column + e;
            s[m][n][2 * h + e] = position <= i && i <= expiry ? s[m][n][2 * h + e] : -INFINITY;
          }
      }
  }
  const float scale = a.scale * NATS_LOG2_E;
#pragma unroll
  for (int n = 0; n < shape::PART / 8; n++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      const float lse = shared.stats[buffer][query + 8 * n + column + e];
      const float delta = shared.stats[buffer][shape::TILE + query + 8 * n + column + e];
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
        for (int h = 0; h < 2; h++) {
          const float p = nn_exp2(s[m][n][2 * h + e] * scale - lse);
          s[m][n][2 * h + e] = p;
          d[m][n][2 * h + e] = p * (d[m][n][2 * h + e] - delta);
        }
    }
  if (SUMS)
    add_sums<D>(shared, band, row, a.chunk == 1, d);

#pragma unroll
  for (int n = 0; n < shape::PART / 16; n++) {
    uint32_t p_left[shape::BANDS][4], d_left[shape::BANDS][4];
#pragma unroll
    for (int m = 0; m < shape::BANDS; m++) {
      nats_fragment_round(p_left[m], s[m][2 * n], s[m][2 * n + 1]);
      nats_fragment_round(d_left[m], d[m][2 * n], d[m][2 * n + 1]);
    }
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      uint32_t b[4];
      nats_fragment_b_rows<D>(b, d_o, query + 16 * n, step);
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++) {
        nats_mma(band.dv[m][2 * step], p_left[m], b);
        nats_mma(band.dv[m][2 * step + 1], p_left[m], b + 2);
      }
      nats_fragment_b_rows<D>(b, q, query + 16 * n, step);
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++) {
        nats_mma(band.dk[m][2 * step], d_left[m], b);
        nats_mma(band.dk[m][2 * step + 1], d_left[m], b + 2);
      }
    }
  }
}

template <int D> __device__ static void clear_sums(keys_shared<D> &shared) {
  using shape = nats_backward_shape<D>;
  for (int sum = 0; sum < NATS_KEY_SUMS; sum++)
    for (int row = 0; row < 2 * shape::BANDS; row++)
      shared.sums[sum][row][threadIdx.x] = 0;
}

// A warp's rows of a gradient, through its own rows of the tile, to their tokens: 16 bytes a lane.
template <int D>
__device__ static void write_gradient(const nats_cuda_attention &a, const key_band<D> &band,
                                      const float (&sums)[nats_backward_shape<D>::BANDS][D / 8][4],
                                      float scale, nn_bf16 *tile, const int32_t *position, nn_bf16 *to) {
  using shape = nats_backward_shape<D>;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
    nats_fragment_store<D>(tile, band.first + 16 * m, sums[m], scale);
  __syncwarp();
#pragma unroll 4
  for (int i = 0; i < shape::WARP_ROWS * shape::PIECES / NN_WARP; i++) {
    const int at = i * NN_WARP + (int)threadIdx.x % NN_WARP, piece = at % shape::PIECES;
    const int slot = band.first + at / shape::PIECES;
    if (slot <= band.last)
      *(uint4 *)(to + position[slot] * a.token_stride + piece * 8) =
          *(const uint4 *)(tile + nats_piece<D>(slot, piece));
  }
}

// Grid: nats_backward_grid of sequence and kv head, tile of the lists.
template <int D, bool SUMS>
__global__ static void __launch_bounds__(nats_backward_shape<D>::THREADS, 2)
    backward_keys(nats_cuda_attention a) {
  using shape = nats_backward_shape<D>;
  NN_DYNAMIC_SHARED(char, memory);
  keys_shared<D> &shared = *(keys_shared<D> *)memory;
  const key_tile tile = find_tile(a, nats_backward_pair(), (int32_t)blockIdx.y, shape::ROWS);
  if (tile.count == 0) {
    nats_leave_no_columns<D>(a, tile);
    return;
  }
  if (threadIdx.x == 0)
    shared.tile = tile;
  load_keys<D, SUMS>(a, tile, shared);
  if (SUMS)
    clear_sums<D>(shared);
  __syncthreads();

  key_band<D> band = {};
  band.first = (int)threadIdx.x / NN_WARP * shape::WARP_ROWS;
  band.last = min(band.first + shape::WARP_ROWS, shared.tile.count) - 1;
  query_walk at = {shared.tile.kv_head * a.group, shared.position[0] / shape::TILE};
  const int32_t heads_end = at.head + a.group;
  float stat = load_block<D>(a, shared.tile.sequence, at, shared.q[0], shared.d_o[0]);
  nats_copy_commit();
  for (int buffer = 0; at.head < heads_end; buffer ^= 1) {
    shared.stats[buffer][threadIdx.x] = stat;
    nats_copy_wait<0>();
    __syncthreads(); // this block has come, and all are done with the one before
    const query_walk now = at;
    walk_on<D>(shared, &at);
    if (at.head < heads_end)
      stat = load_block<D>(a, shared.tile.sequence, at, shared.q[buffer ^ 1], shared.d_o[buffer ^ 1]);
    nats_copy_commit();
#pragma unroll 1
    for (int query = 0; query < shape::TILE; query += shape::PART)
      add_part<D, SUMS>(a, band, shared, buffer, query, now.block * shape::TILE + query);
    if (SUMS && at.head != now.head) {
      nats_write_key_sums<2 * nats_backward_shape<D>::BANDS>(a, now.head, band, shared);
      clear_sums<D>(shared);
    }
  }
  const int64_t kv = kv_offset(a, shared.tile);
  if (a.rope != NULL)
#pragma unroll
    for (int m = 0; m < shape::BANDS; m++)
      nats_turn_keys_back<D>(a.rope, shared.position, band.first + 16 * m, band.last, band.dk[m]);
  if (a.dbias != NULL) {
    __syncthreads(); // nobody needs queries any more
    nats_key_columns<D> &columns = *reinterpret_cast<nats_key_columns<D> *>(shared.q[0]);
#pragma unroll
    for (int m = 0; m < shape::BANDS; m++)
      nats_add_key_columns<D>(a, band.first + 16 * m, band.last, m == 0, band.dk[m], band.dv[m], columns);
    nats_leave_key_columns<D>(a, shared.tile, columns);
  }
  write_gradient<D>(a, band, band.dk, a.scale, shared.k, shared.position, (nn_bf16 *)a.dk + kv);
  write_gradient<D>(a, band, band.dv, 1, shared.v, shared.position, (nn_bf16 *)a.dv + kv);
}

template <int D, bool SUMS> static constexpr size_t shared_bytes() {
  return SUMS ? sizeof(keys_shared<D>) : offsetof(keys_shared<D>, rows);
}

template <int D, bool SUMS> static nn_status launch_keys(nn_device *device, const nats_cuda_attention *a) {
  using shape = nats_backward_shape<D>;
  const dim3 grid = nats_backward_grid(a->batch * a->kv_heads,
                                       nn_ceil_div(a->length, (int32_t)shape::ROWS) + NATS_KEY_CLASSES - 1);
  NN_TRY(
      NN_LAUNCH(device, (backward_keys<D, SUMS>), grid, dim3(shape::THREADS), shared_bytes<D, SUMS>(), *a));
  return nats_add_key_sums(device, a, grid.y);
}

bool nats_cuda_backward_fits(const nn_device *device, const nats_cuda_attention *a) {
  static_assert(shared_bytes<128, false>() <= 99 << 10 && shared_bytes<64, true>() <= 99 << 10,
                "all other backward passes fit the smallest shared memory");
  return a->head_size == 64 || !a->wants_types ||
         (int)shared_bytes<128, true>() <= nn_cuda_block_shared(device);
}

nn_status nats_cuda_backward_keys(nn_device *device, const nats_cuda_attention *a) {
  if (a->head_size == 64 && nn_cuda_has_hopper_code(device))
    return nats_cuda_backward_keys_hopper(device, a);
  if (a->head_size == 64)
    return a->wants_types ? launch_keys<64, true>(device, a) : launch_keys<64, false>(device, a);
  return a->wants_types ? launch_keys<128, true>(device, a) : launch_keys<128, false>(device, a);
}
