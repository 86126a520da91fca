// Backward attention for delta, dq and visible.seen, as attention_backward.cu computes them, with the
// products of Hopper's warpgroups; D = 64. A thread block is one warpgroup with 128 rows, which it multiplies
// by the 64 keys of a tile in two halves.
#include "nats/cuda/attention_backward_queries.h"

#ifdef NATS_WGMMA_CODE
// What a warp holds of its rows: 16 of each 64 of the block. Their q and do stay in shared memory; in
// registers across tiles, nvcc 13.0 gives the place of do to the left side of the last product.
template <bool SUMS> struct query_group {
  static constexpr int ROWS = 64, BANDS = 2; // of a product; in the block
  static constexpr int D = 64;
  float dq[BANDS][D / 8][4];
  int32_t row, warp_row; // the block's first; of the warp within 64
};

template <bool SUMS>
__device__ static void begin_rows(const queries_shared<64, true> &, int32_t row, int32_t,
                                  query_group<SUMS> &group) {
  group = {};
  group.row = row;
  group.warp_row = (int)threadIdx.x / NN_WARP * 16;
}

// The left sides of products, which have to stay where they are as long as those are under way.
struct left_sides {
  uint32_t q[4][4], d_o[4][4], d[4][4];
};

// s and do . v of 64 rows and a tile's keys, as two groups of products.
__device__ static void start_products(const queries_shared<64, true> &shared, int stage, int row,
                                      left_sides &left, float (&s)[32], float (&dov)[32]) {
  const uint64_t k = nats_wgmma_tile(shared.k[stage]), v = nats_wgmma_tile(shared.v[stage]);
#pragma unroll
  for (int step = 0; step < 4; step++) {
    nats_fragment_a<64>(left.q[step], shared.k[shared.QUERIES], row, step);
    nats_fragment_a<64>(left.d_o[step], shared.v[shared.QUERIES], row, step);
  }
  nats_wgmma_fence();
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma<false>(s, left.q[step], nats_wgmma_at(k, 32 * step), step > 0);
  nats_wgmma_commit();
#pragma unroll
  for (int step = 0; step < 4; step++)
    nats_wgmma<false>(dov, left.d_o[step], nats_wgmma_at(v, 32 * step), step > 0);
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
  seen[nats_backward_shape<64>::THREADS] += sum[1];
}

// How 64 rows and a tile's keys stand to one another, the same in all warps.
__device__ static part_view view_tile(const key_span *span, int32_t first, int32_t last) {
  bool any = false, part = false;
#pragma unroll
  for (int key = (int)threadIdx.x % NN_WARP; key < nats_backward_shape<64>::TILE; key += NN_WARP) {
    any |= span[key].position <= last && span[key].expiry >= first;
    part |= span[key].position > first || span[key].expiry < last;
  }
  return part_view{__any_sync(0xffffffffu, any) != 0, __any_sync(0xffffffffu, part) == 0};
}

template <bool SUMS>
__device__ static void add_tile(const nats_cuda_attention &a, query_group<SUMS> &group,
                                queries_shared<64, true> &shared, int32_t tile) {
  const int stage = tile % shared.STAGES, lane = (int)threadIdx.x % NN_WARP;
  const uint64_t k = nats_wgmma_tile(shared.k[stage]);
  const key_span *span = shared.span[tile % SPANS];
  const int32_t *seen_from = shared.seen_from[tile % SPANS];
  const bool counts =
      SUMS && __any_sync(0xffffffffu, min(seen_from[lane], seen_from[lane + NN_WARP]) != INT32_MAX);
  const float scale = a.scale * NATS_LOG2_E;
  left_sides left[group.BANDS];
#pragma unroll
  for (int m = 0; m < group.BANDS; m++) {
    const int32_t first = group.row + group.ROWS * m, last = min(first + group.ROWS, a.length) - 1;
    const part_view view = view_tile(span, first, last);
    if (!view.any)
      continue;
    const int warp_row = group.ROWS * m + group.warp_row, lane_row = warp_row + lane / 4; // of the block
    float s[32], dov[32], d[32];
    start_products(shared, stage, warp_row, left[m], s, dov);
    nats_wgmma_wait<1>();
    nats_wgmma_done(s);
    if (!view.all) // hidden pairs weigh e^{-infinity}
      hide(span, group.row + lane_row, s);
    const float lse[2] = {shared.lse[lane_row], shared.lse[lane_row + 8]};
    const float delta[2] = {shared.delta[lane_row], shared.delta[lane_row + 8]};
    float p[32];
#pragma unroll
    for (int i = 0; i < 32; i++)
      p[i] = nn_exp2(s[i] * scale - lse[i / 2 % 2]);
    nats_wgmma_wait<0>();
    nats_wgmma_done(dov);
#pragma unroll
    for (int i = 0; i < 32; i++)
      d[i] = p[i] * (dov[i] - delta[i / 2 % 2]);
#pragma unroll
    for (int i = 0; i < 16; i++)
      left[m].d[i / 4][i % 4] = nats_pack(d[2 * i], d[2 * i + 1]);
#pragma unroll
    for (int step = 0; step < 4; step++)
      nats_wgmma_ready(left[m].d[step]);
    nats_wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; step++)
      nats_wgmma<true>(reinterpret_cast<float(&)[32]>(group.dq[m]), left[m].d[step],
                       nats_wgmma_at(k, 2048 * step), true);
    nats_wgmma_commit();
    if (counts)
      add_seen(&shared.seen[2 * m][threadIdx.x], seen_from, group.row + lane_row, d);
  }
  nats_wgmma_wait<0>();
}

template <bool SUMS>
__device__ static void finish_rows(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                   query_group<SUMS> &group, queries_shared<64, true> &shared) {
#pragma unroll
  for (int m = 0; m < group.BANDS; m++) {
    nats_wgmma_done(reinterpret_cast<float(&)[32]>(group.dq[m]));
    finish_band<SUMS>(a, sequence, head, row, group.ROWS * m + group.warp_row, group.dq[m],
                      &shared.seen[2 * m][threadIdx.x], shared);
  }
}
#endif

// Grid: nats_backward_grid of sequence and query head, block of queries (those that see most first).
template <bool SUMS>
__global__ static void __launch_bounds__(nats_backward_shape<64>::THREADS, 2)
    backward_queries_hopper(nats_cuda_attention a) {
#ifdef NATS_WGMMA_CODE
  NN_DYNAMIC_SHARED(char, memory);
  walk<64, true, SUMS, query_group<SUMS>>(a, *(queries_shared<64, true> *)memory);
#else
  (void)a;
#endif
}

nn_status nats_cuda_backward_queries_hopper(nn_device *device, const nats_cuda_attention *a) {
  using shape = nats_backward_shape<64>;
  const dim3 grid = nats_backward_grid(a->batch * a->heads, nn_ceil_div(a->length, (int32_t)shape::ROWS));
  const size_t bytes = sizeof(queries_shared<64, true>);
  return a->wants_types
             ? NN_LAUNCH(device, backward_queries_hopper<true>, grid, dim3(shape::THREADS), bytes, *a)
             : NN_LAUNCH(device, backward_queries_hopper<false>, grid, dim3(shape::THREADS), bytes, *a);
}
