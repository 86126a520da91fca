// Backward attention, first kernel: a block of queries walks along the keys that it can see, for delta, dq
// and visible.seen (attention_backward.h has the formulas).
//
// Each warp has rows of its own, and leaves out every 32 keys that none of these sees.
#include "nats/cuda/attention_backward_queries.h"

// q and do go to registers at the beginning, and leave their place to tiles of keys.
template <int D> struct query_shape : nats_backward_shape<D> {
  static constexpr bool GROUP = false; // products are those of a warp
  static constexpr int STAGES = 1 + query_shape::ROWS / query_shape::TILE, QUERIES = 1;
};

// What a warp holds of its rows. Lane l has, of band m and half h, row 16 m + 8 h + l / 4.
template <int D, bool SUMS> struct query_band {
  using shape = nats_backward_shape<D>;
  uint32_t q[shape::BANDS][D / 16][4], d_o[shape::BANDS][D / 16][4];
  float dq[shape::BANDS][D / 8][4];
  const float *lse, *delta; // of this lane's row with m = h = 0, in shared memory to save registers
  int32_t row, first, last; // of this lane with m = h = 0; of the warp
};

template <int D, bool SUMS>
__device__ static void begin_rows(const queries_shared<query_shape<D>> &shared, int32_t row, int32_t length,
                                  query_band<D, SUMS> &band) {
  using shape = nats_backward_shape<D>;
  const int warp_row = (int)threadIdx.x / NN_WARP * shape::WARP_ROWS;
  const int lane_row = warp_row + (int)threadIdx.x % NN_WARP / 4;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++) {
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      nats_fragment_a<D>(band.q[m][step], shared.k[shared.QUERIES], warp_row + 16 * m, step);
      nats_fragment_a<D>(band.d_o[m][step], shared.v[shared.QUERIES], warp_row + 16 * m, step);
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

template <int D, bool SUMS>
__device__ static part_view view_part(const query_band<D, SUMS> &band, const key_span *span) {
  static_assert(nats_backward_shape<D>::PART == NN_WARP, "one key a lane");
  const key_span key = span[(int)threadIdx.x % NN_WARP];
  const bool any = key.position <= band.last && key.expiry >= band.first;
  const bool part = key.position > band.first || key.expiry < band.last;
  return part_view{__any_sync(0xffffffffu, any) != 0, __any_sync(0xffffffffu, part) == 0};
}

// Adds the part's pairs of local keys in earlier chunks to `seen`; d is 0 on hidden pairs.
template <int D>
__device__ static void
add_seen(queries_shared<query_shape<D>> &shared, int32_t lane_row, const int32_t *seen_from,
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
__device__ static void add_part(const nats_cuda_attention &a, query_band<D, SUMS> &band,
                                queries_shared<query_shape<D>> &shared, int32_t tile, int key) {
  using shape = nats_backward_shape<D>;
  const nn_bf16 *k = shared.k[tile % shared.STAGES], *v = shared.v[tile % shared.STAGES];
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
        d[m][n][e] *= nn_exp2(s[m][n][e] * scale - lse);
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

template <int D, bool SUMS>
__device__ static void add_tile(const nats_cuda_attention &a, query_band<D, SUMS> &band,
                                queries_shared<query_shape<D>> &shared, int32_t tile) {
  using shape = nats_backward_shape<D>;
#pragma unroll 1
  for (int key = 0; key < shape::TILE; key += shape::PART)
    add_part(a, band, shared, tile, key);
}

template <int D, bool SUMS>
__device__ static void finish_rows(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                   query_band<D, SUMS> &band, queries_shared<query_shape<D>> &shared) {
  using shape = nats_backward_shape<D>;
  const int warp_row = (int)threadIdx.x / NN_WARP * shape::WARP_ROWS;
#pragma unroll
  for (int m = 0; m < shape::BANDS; m++)
    finish_band<SUMS>(a, sequence, head, row, warp_row + 16 * m, m == 0, band.dq[m],
                      &shared.seen[2 * m][threadIdx.x], shared);
}

// Grid: nats_backward_grid of sequence and query head, block of queries (those that see most first).
template <int D, bool SUMS>
__global__ static void __launch_bounds__(nats_backward_shape<D>::THREADS, 2)
    backward_queries(nats_cuda_attention a) {
  NN_DYNAMIC_SHARED(char, memory);
  walk<SUMS, query_band<D, SUMS>>(a, *(queries_shared<query_shape<D>> *)memory);
}

template <int D, bool SUMS> static nn_status launch_queries(nn_device *device, const nats_cuda_attention *a) {
  using shape = nats_backward_shape<D>;
  const dim3 grid = nats_backward_grid(a->batch * a->heads, nn_ceil_div(a->length, (int32_t)shape::ROWS));
  NN_TRY(NN_LAUNCH(device, (backward_queries<D, SUMS>), grid, dim3(shape::THREADS),
                   sizeof(queries_shared<query_shape<D>>), *a));
  return nats_add_query_sums(device, a, grid.y);
}

nn_status nats_cuda_backward_queries(nn_device *device, const nats_cuda_attention *a) {
  if (a->head_size == 64 && nn_cuda_has_hopper_code(device))
    return nats_cuda_backward_queries_hopper(device, a);
  if (a->head_size == 64)
    return a->wants_types ? launch_queries<64, true>(device, a) : launch_queries<64, false>(device, a);
  return a->wants_types ? launch_queries<128, true>(device, a) : launch_queries<128, false>(device, a);
}

nn_status nats_cuda_backward_tiles(nn_device *device, const nats_cuda_attention *a) {
  NN_TRY(nats_cuda_backward_queries(device, a));
  return nats_cuda_backward_keys(device, a);
}
