// Backward attention for delta, dq and visible.seen, as attention_backward.cu computes them, with the
// products of Hopper's warpgroups; D = 64. A thread block is one warpgroup with 64 rows, or 128 in two bands,
// each of which it multiplies by the 64 keys of a tile.
#include "nats/cuda/attention_backward_queries.h"

// Where types hide most keys, blocks are short: they wait more than they multiply, and the more of them a
// multiprocessor has, the less that matters. Where all is seen, a tile of keys should serve many rows.
template <bool SUMS> struct group_shape {
  static constexpr bool GROUP = true;         // products are those of the warpgroup
  static constexpr int BLOCKS = SUMS ? 4 : 3; // of a multiprocessor
  static constexpr int BANDS = SUMS ? 1 : 2, BAND_ROWS = 64, ROWS = BANDS * BAND_ROWS;
  static constexpr int HEAD_SIZE = 64, PIECES = HEAD_SIZE / 8, TILE = 64;
  static constexpr int THREADS = 4 * NN_WARP, COPY_ROWS = THREADS / PIECES;
  static constexpr int STAGES = 2, QUERIES = STAGES; // q and do stay where they are
};

#ifdef NATS_WGMMA_CODE
// What a warp holds of its rows: 16 of each band.
template <bool SUMS> struct query_group {
  using shape = group_shape<SUMS>;
  float dq[shape::BANDS][shape::PIECES][4];
  int32_t row, warp_row; // the block's first; of the warp within a band
};

template <bool SUMS>
__device__ static void begin_rows(const queries_shared<group_shape<SUMS>> &, int32_t row, int32_t,
                                  query_group<SUMS> &group) {
  group = {};
  group.row = row;
  group.warp_row = (int)threadIdx.x / NN_WARP * 16;
}

// s and do . v of a band and a tile's keys, as two groups of products.
template <bool SUMS>
__device__ static void start_products(const queries_shared<group_shape<SUMS>> &shared, int stage, int band,
                                      float (&s)[32], float (&dov)[32]) {
  const uint64_t q = nats_wgmma_tile(shared.k[shared.QUERIES + band]), k = nats_wgmma_tile(shared.k[stage]);
  const uint64_t d_o = nats_wgmma_tile(shared.v[shared.QUERIES + band]), v = nats_wgmma_tile(shared.v[stage]);
  nats_wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma<false>(s, nats_wgmma_at(q, 32 * step), nats_wgmma_at(k, 32 * step), step > 0);
  nats_wgmma_commit();
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma<false>(dov, nats_wgmma_at(d_o, 32 * step), nats_wgmma_at(v, 32 * step), step > 0);
  nats_wgmma_commit();
}

// Minus infinity where row `row` or the one 8 further, this lane's, does not see the key.
__device__ static void hide(const key_span *span, int32_t row, float (&s)[32]) {
  span += threadIdx.x % 4 * 2;
#pragma unroll
  for (int n = 0; n < 8; n++)
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const key_span key = span[8 * n + c % 2];
      const int32_t i = row + c / 2 * 8;
      s[4 * n + c] = key.position <= i && i <= key.expiry ? s[4 * n + c] : -INFINITY;
    }
}

// Adds the pairs of local keys in earlier chunks to this lane's two `seen`; d is 0 on hidden pairs.
__device__ static void add_seen(float *seen, const int32_t *seen_from, int32_t row, const float (&d)[32]) {
  seen_from += threadIdx.x % 4 * 2;
  float sum[2] = {};
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const int2 from = *(const int2 *)(seen_from + 8 * n);
#pragma unroll
    for (int c = 0; c < 4; c++)
      sum[c / 2] += row + c / 2 * 8 >= (c % 2 ? from.y : from.x) ? d[4 * n + c] : 0;
  }
  seen[0] += sum[0];
  seen[group_shape<true>::THREADS] += sum[1];
}

// How 64 rows and a tile's keys stand to one another, the same in all warps.
__device__ static part_view view_tile(const key_span *span, int32_t first, int32_t last) {
  bool any = false, part = false;
#pragma unroll
  for (int key = (int)threadIdx.x % NN_WARP; key < group_shape<true>::TILE; key += NN_WARP) {
    any |= span[key].position <= last && span[key].expiry >= first;
    part |= span[key].position > first || span[key].expiry < last;
  }
  return part_view{__any_sync(0xffffffffu, any) != 0, __any_sync(0xffffffffu, part) == 0};
}

// The weights of a band's rows and a tile's keys, and what these add to dq. On return no product is under
// way.
template <bool SUMS>
__device__ static void add_band(const nats_cuda_attention &a, query_group<SUMS> &group,
                                queries_shared<group_shape<SUMS>> &shared, int32_t tile, int band,
                                bool all_seen, bool counts) {
  const int stage = tile % shared.STAGES, lane = (int)threadIdx.x % NN_WARP;
  const int lane_row = group_shape<SUMS>::BAND_ROWS * band + group.warp_row + lane / 4; // of the block
  float s[32], p[32], dov[32], d[32];
  start_products(shared, stage, band, s, dov);
  nats_wgmma_wait<1>();
  nats_wgmma_done(s);
  if (!all_seen) // hidden pairs weigh e^{-infinity}
    hide(shared.span[tile % SPANS], group.row + lane_row, s);
  const float lse[2] = {shared.lse[lane_row], shared.lse[lane_row + 8]};
  const float delta[2] = {shared.delta[lane_row], shared.delta[lane_row + 8]};
#pragma unroll
  for (int i = 0; i < 32; i++)
    p[i] = nn_exp2(s[i] * (a.scale * NATS_LOG2_E) - lse[i / 2 % 2]);
  nats_wgmma_wait<0>();
  nats_wgmma_done(dov);
#pragma unroll
  for (int i = 0; i < 32; i++)
    d[i] = p[i] * (dov[i] - delta[i / 2 % 2]);
  uint32_t left[4][4];
#pragma unroll
  for (int i = 0; i < 16; i++)
    left[i / 4][i % 4] = nats_pack(d[2 * i], d[2 * i + 1]);
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma_ready(left[step]);
  const uint64_t k = nats_wgmma_tile(shared.k[stage]);
  float(&dq)[32] = reinterpret_cast<float(&)[32]>(group.dq[band]);
  nats_wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma<true>(dq, left[step], nats_wgmma_at(k, 2048 * step), true);
  nats_wgmma_commit();
  if (counts)
    add_seen(&shared.seen[2 * band][threadIdx.x], shared.seen_from[tile % SPANS], group.row + lane_row, d);
  nats_wgmma_wait<0>();
  nats_wgmma_done(dq);
}

template <bool SUMS>
__device__ static void add_tile(const nats_cuda_attention &a, query_group<SUMS> &group,
                                queries_shared<group_shape<SUMS>> &shared, int32_t tile) {
  using shape = group_shape<SUMS>;
  const int32_t *seen_from = shared.seen_from[tile % SPANS] + threadIdx.x % NN_WARP;
  const bool counts = SUMS && __any_sync(0xffffffffu, min(seen_from[0], seen_from[NN_WARP]) != INT32_MAX);
#pragma unroll
  for (int band = 0; band < shape::BANDS; band++) {
    const int32_t first = group.row + shape::BAND_ROWS * band;
    const part_view view =
        view_tile(shared.span[tile % SPANS], first, min(first + shape::BAND_ROWS, a.length) - 1);
    if (view.any)
      add_band(a, group, shared, tile, band, view.all, counts);
  }
}

template <bool SUMS>
__device__ static void finish_rows(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                   query_group<SUMS> &group, queries_shared<group_shape<SUMS>> &shared) {
  using shape = group_shape<SUMS>;
#pragma unroll
  for (int band = 0; band < shape::BANDS; band++)
    finish_band<SUMS>(a, sequence, head, row, shape::BAND_ROWS * band + group.warp_row, band == 0,
                      group.dq[band], &shared.seen[2 * band][threadIdx.x], shared);
}
#endif

// Grid: nats_backward_grid of sequence and query head, block of queries (those that see most first).
template <bool SUMS>
__global__ static void __launch_bounds__(group_shape<SUMS>::THREADS, group_shape<SUMS>::BLOCKS)
    backward_queries_hopper(nats_cuda_attention a) {
#ifdef NATS_WGMMA_CODE
  NN_DYNAMIC_SHARED(char, memory);
  walk<SUMS, query_group<SUMS>>(a, *(queries_shared<group_shape<SUMS>> *)memory);
#else
  (void)a;
#endif
}

template <bool SUMS> static nn_status launch_queries(nn_device *device, const nats_cuda_attention *a) {
  using shape = group_shape<SUMS>;
  const dim3 grid = nats_backward_grid(a->batch * a->heads, nn_ceil_div(a->length, (int32_t)shape::ROWS));
  NN_TRY(NN_LAUNCH(device, backward_queries_hopper<SUMS>, grid, dim3(shape::THREADS),
                   sizeof(queries_shared<shape>), *a));
  return nats_add_query_sums(device, a, grid.y);
}

nn_status nats_cuda_backward_queries_hopper(nn_device *device, const nats_cuda_attention *a) {
  return a->wants_types ? launch_queries<true>(device, a) : launch_queries<false>(device, a);
}
