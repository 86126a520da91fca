// Backward attention on tensor cores: two kernels, each of which computes the weights anew.
//
//   p = e^{s - lse}   D = p (do . v - delta)   delta = do . o
//   dq = scale D k    dk = scale D^T q         dv = p^T do
//
// One kernel for both would have to add up dq over thread blocks with atomics, in an order that changes from
// run to run; computing s and do . v twice costs 7 products of tiles instead of 5.
#pragma once

#include "nats/cuda/attention.h"
#include "nn/cuda/columns.h"

// Tiles of 64 queries or keys stream through shared memory past the rows or keys that a warp owns: BANDS x 16
// of them. PART columns of a tile at a time have their products in registers.
template <int D> struct nats_backward_shape {
  static constexpr int HEAD_SIZE = D, WARPS = 4, THREADS = WARPS * NN_WARP;
  static constexpr int TILE = 64, PIECES = D / 8;
  static constexpr int COPY_ROWS = THREADS / PIECES; // of a tile that the threads copy at once, a piece each
  static constexpr int BANDS = D == 64 ? 2 : 1, PART = 32;
  static constexpr int WARP_ROWS = 16 * BANDS, ROWS = WARPS * WARP_ROWS;
  static_assert(COPY_ROWS % 8 == 0, "all the rows of a thread exchange pieces alike");
  static_assert(THREADS == 2 * TILE && PART == NN_WARP, "a thread a number of two tiles, a lane a column");
};

#define NATS_LOG2_E 1.4426950408889634f

// Blocks start with x first, then y, then z. Those of a pair read the same q, do, k and v again and again,
// and the cache holds them of some pairs at a time only. So a group of pairs (x) takes its tiles one by one
// (y), the longest walks first, before the next group (z) begins. Tile i of all pairs before tile i + 1 would
// read them from memory for every tile; pair after pair would leave the longest walks of the last one to the
// end.
enum { NATS_GRID_PAIRS = 32 }; // of a group, at most
static inline dim3 nats_backward_grid(int32_t pairs, int32_t tiles) {
  const int32_t groups = nn_ceil_div(pairs, (int32_t)NATS_GRID_PAIRS);
  return dim3((unsigned)nn_ceil_div(pairs, groups), (unsigned)tiles, (unsigned)groups);
}
// The pair of a thread block. There may be none: the last group may be smaller.
__device__ static inline int32_t nats_backward_pair() {
  return (int32_t)(blockIdx.z * gridDim.x + blockIdx.x);
}

// Sums of a gradient's columns over the rows of each warp, for dbias.
template <int D> using nats_warp_columns = float[nats_backward_shape<D>::WARPS][D];

// A thread block's part of dbias, from what its warps have summed. Follows a barrier.
template <int D>
__device__ static void nats_write_columns(const nats_warp_columns<D> &columns,
                                          float *to) { // [D]
  for (int d = (int)threadIdx.x; d < D; d += nats_backward_shape<D>::THREADS) {
    float sum = 0;
    for (int warp = 0; warp < nats_backward_shape<D>::WARPS; warp++)
      sum += columns[warp][d];
    to[d] = sum;
  }
}

// Adds what the thread blocks have left of dbias, `blocks` of a sequence: [B, blocks, heads D].
static inline nn_status nats_add_columns(nn_device *device, const nats_cuda_attention *a, unsigned blocks,
                                         int32_t heads, const float *sums, float *dbias) {
  return nn_cuda_add_slabs(device, a->batch * (int32_t)blocks, heads * a->head_size, sums, dbias);
}
static inline nn_status nats_add_query_sums(nn_device *device, const nats_cuda_attention *a,
                                            unsigned blocks) {
  return a->dbias == NULL ? NN_OK : nats_add_columns(device, a, blocks, a->heads, a->query_sums, a->dbias);
}
static inline nn_status nats_add_key_sums(nn_device *device, const nats_cuda_attention *a, unsigned blocks) {
  return a->dbias == NULL ? NN_OK
                          : nats_add_columns(device, a, blocks, 2 * a->kv_heads, a->key_sums,
                                             a->dbias + a->heads * a->head_size);
}

// delta, dq, and visible.seen where types are wanted (attention_backward.cu)
nn_status nats_cuda_backward_queries(nn_device *device, const nats_cuda_attention *a);
// dk, dv and the other sums of `visible`; reads delta (attention_backward_keys.cu)
nn_status nats_cuda_backward_keys(nn_device *device, const nats_cuda_attention *a);
// The same with the products of Hopper's warpgroups, where nn_cuda_has_hopper_code; D = 64
// (attention_backward_hopper.cu, attention_backward_keys_hopper.cu)
nn_status nats_cuda_backward_queries_hopper(nn_device *device, const nats_cuda_attention *a);
nn_status nats_cuda_backward_keys_hopper(nn_device *device, const nats_cuda_attention *a);
