// Backward attention, first kernel: a block of queries walks along the keys that it can see, for delta, dq
// and visible.seen (attention_backward.h has the formulas).
#include "nats/cuda/attention_backward.h"
#include "nats/cuda/fragments.h"

// A key in shared memory.
struct __align__(8) key_span {
  int32_t position, expiry; // no row sees a slot beyond the last key: INT32_MAX, -1
};

enum { SPANS = 4 }; // tiles whose keys are known: two are in shared memory, one is asked for

// What a block of queries can see: a piece of each list, one after the other.
struct visible_keys {
  const nn_bf16 *k, *v; // of position 0
  const int32_t *key, *until;
  int32_t first[NATS_KEY_CLASSES]; // index into the lists, less the slot where the class begins
  int32_t end[NATS_KEY_CLASSES];   // slot after the class's last key
};

template <int D> struct queries_shared {
  using shape = nats_backward_shape<D>;
  nn_bf16 k[2][shape::TILE * D], v[2][shape::TILE * D]; // at first the block's q and do
  key_span span[SPANS][shape::TILE];
  int32_t seen_from[SPANS][shape::TILE]; // first row of visible.seen: s(a) of a local key, else INT32_MAX
  visible_keys keys;                     // here, like all of the following, because registers are scarce
  float lse[shape::ROWS], delta[shape::ROWS];
  float seen[2 * shape::BANDS][shape::THREADS]; // of a lane's rows over its columns
};

__device__ static visible_keys find_visible(const nats_cuda_attention &a, int32_t sequence, int32_t kv_head,
                                            int32_t row, int32_t rows) {
  const int64_t pair = (int64_t)sequence * a.kv_heads + kv_head;
  const int64_t kv = (int64_t)sequence * a.length * a.token_stride + (int64_t)kv_head * a.head_size;
  visible_keys keys;
  keys.k = (const nn_bf16 *)a.k + kv;
  keys.v = (const nn_bf16 *)a.v + kv;
  keys.key = a.lists.key + pair * a.length;
  keys.until = a.lists.until + pair * a.length;
  const int32_t block = row / NATS_RANGE_ROWS;
  const int32_t last = min(a.lists.blocks, (row + rows) / NATS_RANGE_ROWS) - 1;
  const int64_t ranges = pair * a.lists.blocks;
  int32_t slots = 0;
  for (int c = 0; c < NATS_KEY_CLASSES; c++) {
    const int32_t first = a.lists.first[(ranges + block) * NATS_KEY_CLASSES + c];
    const int32_t end = a.lists.end[(ranges + last) * NATS_KEY_CLASSES + c];
    keys.first[c] = first - slots;
    slots += max(end - first, 0);
    keys.end[c] = slots;
  }
  return keys;
}

// The key in a slot, as one thread keeps it until it goes to shared memory.
__device__ static key_span find_key(const visible_keys &keys, int32_t slot) {
  if (slot >= keys.end[NATS_KEY_WINDOW])
    return key_span{INT32_MAX, -1};
  const int32_t index = slot + (slot < keys.end[NATS_KEY_LASTING] ? keys.first[NATS_KEY_LASTING]
                                : slot < keys.end[NATS_KEY_LOCAL] ? keys.first[NATS_KEY_LOCAL]
                                                                  : keys.first[NATS_KEY_WINDOW]);
  return key_span{keys.key[index], keys.until[index]};
}

template <int D, bool SUMS>
__device__ static void put_key(const nats_cuda_attention &a, queries_shared<D> &shared, int32_t slot,
                               key_span key) {
  enum { TILE = nats_backward_shape<D>::TILE };
  const int32_t tile = slot / TILE % SPANS;
  shared.span[tile][slot % TILE] = key;
  if (!SUMS)
    return;
  const bool local = slot >= shared.keys.end[NATS_KEY_LASTING] && slot < shared.keys.end[NATS_KEY_LOCAL];
  shared.seen_from[tile][slot % TILE] = local ? (key.position / a.chunk + 1) * a.chunk : INT32_MAX;
}

// Starts copying the keys of a tile and their values.
template <int D>
__device__ static void gather_keys(const nats_cuda_attention &a, const visible_keys &keys,
                                   const key_span *span, nn_bf16 *k_tile, nn_bf16 *v_tile) {
  using shape = nats_backward_shape<D>;
  const int row = (int)threadIdx.x / shape::PIECES, piece = (int)threadIdx.x % shape::PIECES;
  const nn_bf16 *k = keys.k + piece * 8, *v = keys.v + piece * 8;
  k_tile += nats_piece<D>(row, piece), v_tile += nats_piece<D>(row, piece);
#pragma unroll
  for (int r = 0; r < shape::TILE; r += shape::COPY_ROWS) {
    const int32_t position = span[row + r].position;
    const bool valid = position != INT32_MAX;
    const int64_t from = (valid ? position : 0) * a.token_stride;
    nats_copy16(k_tile + r * D, k + from, valid);
    nats_copy16(v_tile + r * D, v + from, valid);
  }
  nats_copy_commit();
}

// The dot product of two pieces of 8 elements.
__device__ static float dot_piece(const uint4 &x, const uint4 &y) {
  nn_bf16 a[8], b[8];
  memcpy(a, &x, sizeof a);
  memcpy(b, &y, sizeof b);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i++)
    sum += nn_load(a + i) * nn_load(b + i);
  return sum;
}

// The block's q and do to shared memory, in place of the first keys and values; lse; and delta, which is
// also written for the kernels to come. Rows past the end are zero, and their weights e^{-infinity}.
template <int D>
__device__ static void load_queries(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                    queries_shared<D> &shared) {
  using shape = nats_backward_shape<D>;
  const int64_t token = (int64_t)sequence * a.length + row;
  const int64_t stats = ((int64_t)sequence * a.heads + head) * a.length + row; // in lse and delta
  const int64_t dense = (int64_t)a.heads * D;
  const nn_bf16 *q = (const nn_bf16 *)a.q + token * a.token_stride + head * D;
  const nn_bf16 *o = (const nn_bf16 *)a.o + token * dense + head * D;
  const nn_bf16 *d_o = (const nn_bf16 *)a.d_o + token * dense + head * D;
  const int32_t rows = min(shape::ROWS, a.length - row);
#pragma unroll 4
  for (int i = 0; i < shape::ROWS * shape::PIECES / shape::THREADS; i++) {
    const int at = i * shape::THREADS + (int)threadIdx.x;
    const int r = at / shape::PIECES, piece = at % shape::PIECES;
    const bool valid = r < rows;
    nats_copy16(&shared.k[0][0] + nats_piece<D>(r, piece), q + (valid ? r : 0) * a.token_stride + piece * 8,
                valid);
    uint4 x = {0, 0, 0, 0}, y = {0, 0, 0, 0};
    if (valid) {
      x = *(const uint4 *)(d_o + r * dense + piece * 8);
      y = *(const uint4 *)(o + r * dense + piece * 8);
    }
    *(uint4 *)(&shared.v[0][0] + nats_piece<D>(r, piece)) = x;
    float delta = dot_piece(x, y);
    for (int lanes = shape::PIECES / 2; lanes > 0; lanes /= 2)
      delta += __shfl_xor_sync(0xffffffffu, delta, lanes);
    if (piece == 0) {
      shared.delta[r] = delta;
      if (valid)
        a.delta[stats + r] = delta;
    }
  }
  nats_copy_commit();
  const int r = (int)threadIdx.x;
  if (r < shape::ROWS)
    shared.lse[r] = r < rows ? a.lse[stats + r] * NATS_LOG2_E : 1e30f;
}

// What a warp holds of its rows. Lane l has, of band m and half h, row 16 m + 8 h + l / 4.
template <int D> struct query_band {
  using shape = nats_backward_shape<D>;
  uint32_t q[shape::BANDS][D / 16][4], d_o[shape::BANDS][D / 16][4];
  float dq[shape::BANDS][D / 8][4];
  const float *lse, *delta; // of this lane's row with m = h = 0, in shared memory to save registers
  int32_t row, first, last; // of this lane with m = h = 0; of the warp
};

template <int D>
__device__ static void begin_band(const queries_shared<D> &shared, int32_t row, int32_t length,
                                  query_band<D> &band) {
  using shape = nats_backward_shape<D>;
  const int warp_row = (int)threadIdx.x / NN_WARP * shape::WARP_ROWS;
  const int lane_row = warp_row + (int)threadIdx.x % NN_WARP / 4;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++) {
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      nats_fragment_a<D>(band.q[m][step], &shared.k[0][0], warp_row + 16 * m, step);
      nats_fragment_a<D>(band.d_o[m][step], &shared.v[0][0], warp_row + 16 * m, step);
    }
#pragma unroll
    for (int piece = 0; piece < D / 8; piece++)
      for (int e = 0; e < 4; e++)
        band.dq[m][piece][e] = 0;
  }
  band.lse = shared.lse + lane_row;
  band.delta = shared.delta + lane_row;
  band.row = row + lane_row;
  band.first = row + warp_row;
  band.last = min(row + warp_row + shape::WARP_ROWS, length) - 1;
}

// How a warp's rows and PART keys stand to one another, the same in every lane.
struct part_view {
  bool any, all; // some pair is visible; every pair is
};

template <int D> __device__ static part_view view_part(const query_band<D> &band, const key_span *span) {
  static_assert(nats_backward_shape<D>::PART == NN_WARP, "one key a lane");
  const key_span key = span[(int)threadIdx.x % NN_WARP];
  const bool any = key.position <= band.last && key.expiry >= band.first;
  const bool part = key.position > band.first || key.expiry < band.last;
  return part_view{__any_sync(0xffffffffu, any) != 0, __any_sync(0xffffffffu, part) == 0};
}

// Adds the part's pairs of local keys in earlier chunks to `seen`; d is 0 on hidden pairs.
template <int D>
__device__ static void
add_seen(queries_shared<D> &shared, int32_t lane_row, const int32_t *seen_from,
         const float (&d)[nats_backward_shape<D>::BANDS][nats_backward_shape<D>::PART / 8][4]) {
  using shape = nats_backward_shape<D>;
  const int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      const int32_t row = lane_row + 16 * m + 8 * h;
      float sum = 0;
#pragma unroll
      for (int n = 0; n < shape::PART / 8; n++)
#pragma unroll
        for (int e = 0; e < 2; e++)
          sum += row >= seen_from[8 * n + column + e] ? d[m][n][2 * h + e] : 0;
      shared.seen[2 * m + h][threadIdx.x] += sum;
    }
}

// PART keys from `key` of the tile on.
template <int D, bool SUMS>
__device__ static void add_part(const nats_cuda_attention &a, query_band<D> &band, queries_shared<D> &shared,
                                int32_t tile, int key) {
  using shape = nats_backward_shape<D>;
  const nn_bf16 *k = shared.k[tile % 2], *v = shared.v[tile % 2];
  const key_span *span = shared.span[tile % SPANS] + key;
  const int32_t *seen_from = shared.seen_from[tile % SPANS] + key;
  const part_view view = view_part(band, span);
  if (!view.any)
    return;
  float s[shape::BANDS][shape::PART / 8][4] = {}, d[shape::BANDS][shape::PART / 8][4];
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float delta = band.delta[16 * m + e / 2 * 8];
#pragma unroll
      for (int n = 0; n < shape::PART / 8; n++)
        d[m][n][e] = -delta;
    }
#pragma unroll
  for (int step = 0; step < D / 16; step++)
#pragma unroll
    for (int n = 0; n < shape::PART / 16; n++) {
      uint32_t b[4];
      nats_fragment_b<D>(b, k, key + 16 * n, step);
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++) {
        nats_mma(s[m][2 * n], band.q[m][step], b);
        nats_mma(s[m][2 * n + 1], band.q[m][step], b + 2);
      }
      nats_fragment_b<D>(b, v, key + 16 * n, step);
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++) {
        nats_mma(d[m][2 * n], band.d_o[m][step], b);
        nats_mma(d[m][2 * n + 1], band.d_o[m][step], b + 2);
      }
    }

  if (!view.all) { // hidden pairs weigh e^{-infinity}
    const int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
    for (int n = 0; n < shape::PART / 8; n++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const key_span one = span[8 * n + column + e % 2];
#pragma unroll
        for (int m = 0; m < shape::BANDS; m++) {
          const int32_t row = band.row + 16 * m + e / 2 * 8;
          s[m][n][e] = one.position <= row && row <= one.expiry ? s[m][n][e] : -INFINITY;
        }
      }
  }
  const float scale = a.scale * NATS_LOG2_E;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
    for (int e = 0; e < 4; e++) {
      const float lse = band.lse[16 * m + e / 2 * 8];
#pragma unroll
      for (int n = 0; n < shape::PART / 8; n++)
        d[m][n][e] *= nats_exp2(s[m][n][e] * scale - lse);
    }
  if (SUMS && __any_sync(0xffffffffu, seen_from[(int)threadIdx.x % NN_WARP] != INT32_MAX))
    add_seen<D>(shared, band.row, seen_from, d);

#pragma unroll
  for (int n = 0; n < shape::PART / 16; n++) {
    uint32_t left[shape::BANDS][4];
#pragma unroll
    for (int m = 0; m < shape::BANDS; m++)
      nats_fragment_round(left[m], d[m][2 * n], d[m][2 * n + 1]);
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      uint32_t b[4];
      nats_fragment_b_rows<D>(b, k, key + 16 * n, step);
#pragma unroll
      for (int m = 0; m < shape::BANDS; m++) {
        nats_mma(band.dq[m][2 * step], left[m], b);
        nats_mma(band.dq[m][2 * step + 1], left[m], b + 2);
      }
    }
  }
}

// The rows' dq through shared memory to the token rows, 16 bytes a thread; and `seen`.
template <int D, bool SUMS>
__device__ static void finish_band(const nats_cuda_attention &a, int32_t sequence, int32_t head,
                                   const query_band<D> &band, queries_shared<D> &shared) {
  using shape = nats_backward_shape<D>;
  nn_bf16 *tile = &shared.k[0][0];
  const int lane = (int)threadIdx.x % NN_WARP, warp_row = (int)threadIdx.x / NN_WARP * shape::WARP_ROWS;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
    nats_fragment_store<D>(tile, warp_row + 16 * m, band.dq[m], a.scale);
  __syncwarp();
  nn_bf16 *dq = (nn_bf16 *)a.dq + ((int64_t)sequence * a.length + band.first) * a.token_stride + head * D;
#pragma unroll
  for (int i = 0; i < shape::WARP_ROWS * shape::PIECES / NN_WARP; i++) {
    const int at = i * NN_WARP + lane, r = at / shape::PIECES, piece = at % shape::PIECES;
    if (band.first + r <= band.last)
      *(uint4 *)(dq + r * a.token_stride + piece * 8) =
          *(const uint4 *)(tile + nats_piece<D>(warp_row + r, piece));
  }
  if (!SUMS)
    return;
  float *seen = a.visible.seen + ((int64_t)sequence * a.heads + head) * a.length;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
#pragma unroll
    for (int h = 0; h < 2; h++) {
      float sum = shared.seen[2 * m + h][threadIdx.x];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int32_t row = band.row + 16 * m + 8 * h;
      if (lane % 4 == 0 && row <= band.last)
        seen[row] = sum;
    }
}

// Grid: sequence and query head, block of queries (those that see most first).
template <int D, bool SUMS>
__global__ static void __launch_bounds__(nats_backward_shape<D>::THREADS, 2)
    backward_queries(nats_cuda_attention a) {
  using shape = nats_backward_shape<D>;
  NN_DYNAMIC_SHARED(char, memory);
  queries_shared<D> &shared = *(queries_shared<D> *)memory;
  const int32_t sequence = (int32_t)(blockIdx.x / a.heads), head = (int32_t)(blockIdx.x % a.heads);
  const int32_t row = (int32_t)(gridDim.y - 1 - blockIdx.y) * shape::ROWS;
  if (threadIdx.x == 0)
    shared.keys = find_visible(a, sequence, head / a.group, row, shape::ROWS);
  __syncthreads();
  const visible_keys &keys = shared.keys;
  const int32_t tiles = (keys.end[NATS_KEY_WINDOW] + shape::TILE - 1) / shape::TILE;

  if (SUMS)
    for (int row = 0; row < 2 * shape::BANDS; row++)
      shared.seen[row][threadIdx.x] = 0;
  const int32_t slot = (int)threadIdx.x; // the first two tiles; later, half of the threads ask for one
  put_key<D, SUMS>(a, shared, slot, find_key(keys, slot));
  load_queries<D>(a, sequence, head, row, shared);
  nats_copy_wait<0>();
  __syncthreads();
  query_band<D> band;
  begin_band<D>(shared, row, a.length, band);
  __syncthreads();

  gather_keys<D>(a, keys, shared.span[0], shared.k[0], shared.v[0]);
  for (int32_t tile = 0; tile < tiles; tile++) {
    nats_copy_wait<0>();
    __syncthreads(); // this tile has come; all are done with the one before, and know the keys of the next
    const int buffer = tile % 2;
    if (tile + 1 < tiles)
      gather_keys<D>(a, keys, shared.span[(tile + 1) % SPANS], shared.k[buffer ^ 1], shared.v[buffer ^ 1]);
    key_span later = {};
    if ((int)threadIdx.x < shape::TILE)
      later = find_key(keys, (tile + 2) * shape::TILE + (int)threadIdx.x);
#pragma unroll 1
    for (int key = 0; key < shape::TILE; key += shape::PART)
      add_part<D, SUMS>(a, band, shared, tile, key);
    if ((int)threadIdx.x < shape::TILE)
      put_key<D, SUMS>(a, shared, (tile + 2) * shape::TILE + (int)threadIdx.x, later);
  }
  __syncthreads();
  finish_band<D, SUMS>(a, sequence, head, band, shared);
}

template <int D, bool SUMS> static nn_status launch_queries(nn_device *device, const nats_cuda_attention *a) {
  using shape = nats_backward_shape<D>;
  const dim3 grid((unsigned)a->batch * (unsigned)a->heads,
                  (unsigned)nn_ceil_div(a->length, (int32_t)shape::ROWS));
  return NN_LAUNCH(device, (backward_queries<D, SUMS>), grid, dim3(shape::THREADS), sizeof(queries_shared<D>),
                   *a);
}

nn_status nats_cuda_backward_queries(nn_device *device, const nats_cuda_attention *a) {
  if (a->head_size == 64)
    return a->wants_types ? launch_queries<64, true>(device, a) : launch_queries<64, false>(device, a);
  return a->wants_types ? launch_queries<128, true>(device, a) : launch_queries<128, false>(device, a);
}

nn_status nats_cuda_backward_tiles(nn_device *device, const nats_cuda_attention *a) {
  NN_TRY(nats_cuda_backward_queries(device, a));
  return nats_cuda_backward_keys(device, a);
}
