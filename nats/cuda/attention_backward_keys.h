// What the kernels of dk and dv do at the end: turning dk back, and bringing the sums over visible pairs to
// the keys' tokens.
#pragma once

#include "nats/cuda/attention_backward.h"
#include "nats/cuda/fragments.h"

// Turns dk of 16 slots from `first` on back from the positions of their keys. `last` is the last slot with a
// key; what the lanes behind it hold is not written.
template <int D>
__device__ static void nats_turn_keys_back(const float *rope, const int32_t *position, int first, int last,
                                           float (&dk)[D / 8][4]) {
  const int slot = first + (int)threadIdx.x % NN_WARP / 4;
  nats_fragment_turn_back<D>(dk, rope + position[min(slot, last)] * D,
                             rope + position[min(slot + 8, last)] * D);
}

// Sums of dk and dv over the keys of each warp.
template <int D> struct nats_key_columns { nats_warp_columns<D> dk, dv; };

// Adds 16 slots from `first` on, or begins with them.
template <int D>
__device__ static void nats_add_key_columns(const nats_cuda_attention &a, int first, int last, bool begins,
                                            const float (&dk)[D / 8][4], const float (&dv)[D / 8][4],
                                            nats_key_columns<D> &columns) {
  const int warp = (int)threadIdx.x / NN_WARP;
  nats_fragment_add_columns<D>(dk, last + 1 - first, a.scale, begins, columns.dk[warp]);
  nats_fragment_add_columns<D>(dv, last + 1 - first, 1, begins, columns.dv[warp]);
}

// Where a thread block's part of dk's sums goes; that of dv is kv_heads further on.
template <int D, typename key_tile>
__device__ static float *nats_key_sums_of(const nats_cuda_attention &a, const key_tile &tile) {
  const int64_t block = (int64_t)tile.sequence * gridDim.y + blockIdx.y;
  return a.key_sums + (block * 2 * a.kv_heads + tile.kv_head) * D;
}

template <int D, typename key_tile>
__device__ static void nats_leave_key_columns(const nats_cuda_attention &a, const key_tile &tile,
                                              const nats_key_columns<D> &columns) {
  float *to = nats_key_sums_of<D>(a, tile);
  __syncthreads();
  nats_write_columns<D>(columns.dk, to);
  nats_write_columns<D>(columns.dv, to + a.kv_heads * D);
}

// The part of a thread block without keys.
template <int D, typename key_tile>
__device__ static void nats_leave_no_columns(const nats_cuda_attention &a, const key_tile &tile) {
  if (a.dbias == NULL || tile.sequence >= a.batch)
    return;
  float *to = nats_key_sums_of<D>(a, tile);
  for (int d = (int)threadIdx.x; d < D; d += nats_backward_shape<D>::THREADS)
    to[d] = to[a.kv_heads * D + d] = 0;
}

// Of the pairs of a key: all, those that a local key would show, those that a window key would show.
enum { NATS_SUM_ALL, NATS_SUM_LOCAL, NATS_SUM_WINDOW, NATS_KEY_SUMS };

// How many of a tile's keys are over before `row`: along a list, they never end earlier than their neighbour
// before. A slot without a key has INT32_MAX.
template <int SLOTS> __device__ static int32_t nats_keys_over(const int32_t *expiry, int32_t row) {
  int32_t over = 0;
#pragma unroll
  for (int slot = 0; slot < SLOTS; slot += NN_WARP)
    over += __popc(__ballot_sync(0xffffffffu, expiry[slot + (int)threadIdx.x % NN_WARP] < row));
  return over;
}

// Writes the sums of a query head over the columns of a warp's keys: four lanes share a key. SLOTS are those
// of a lane, eight keys apart. `own` comes from one of the lanes.
template <int SLOTS, typename shared_memory, typename key_band>
__device__ static void nats_write_key_sums(const nats_cuda_attention &a, int32_t head, const key_band &band,
                                           const shared_memory &shared) {
  const int lane = (int)threadIdx.x % NN_WARP;
  const int64_t stats = ((int64_t)shared.tile.sequence * a.heads + head) * a.length;
  float *const to[NATS_KEY_SUMS] = {a.visible.all, a.visible.local, a.visible.window};
  __syncwarp(); // for `own`
#pragma unroll
  for (int row = 0; row < SLOTS; row++) {
    const int slot = band.first + 8 * row + lane / 4;
    const bool writes = lane % 4 == 0 && slot <= band.last;
    const int64_t at = stats + (writes ? shared.position[slot] : 0);
#pragma unroll
    for (int sum = 0; sum < NATS_KEY_SUMS; sum++) {
      float x = shared.sums[sum][row][threadIdx.x];
      x += __shfl_xor_sync(0xffffffffu, x, 1);
      x += __shfl_xor_sync(0xffffffffu, x, 2);
      if (writes)
        to[sum][at] = x;
    }
    if (writes) {
      a.visible.ended[at] = 0; // a sum of hidden pairs
      a.visible.own[at] = a.chunk == 1 ? shared.own[slot] : 0;
    }
  }
  __syncwarp();
}
