// Fragments of the tiles of tensor_core.h, as products of tiles take them, and sums going back to memory.
// `row` is a multiple of 8, so that it changes nothing about the exchange of pieces: what depends on the lane
// is then the same for all rows, and an exclusive or with a constant leads from one step to the next.
#pragma once

#include "nats/cuda/tensor_core.h"

// a[m][k] = tile[row + m][16 step + k]
template <int D>
__device__ static inline void nats_fragment_a(uint32_t a[4], const nn_bf16 *tile, int row, int step) {
  const int lane = (int)threadIdx.x % NN_WARP;
  nats_ldmatrix4(a, tile + row * D + nats_piece<D>(lane % 16, 2 * step ^ lane / 16));
}

// Two fragments, of the columns n = 0 .. 7 and 8 .. 15: b[k][n] = tile[row + n][16 step + k]
template <int D>
__device__ static inline void nats_fragment_b(uint32_t b[4], const nn_bf16 *tile, int row, int step) {
  const int lane = (int)threadIdx.x % NN_WARP;
  nats_ldmatrix4(b, tile + row * D + nats_piece<D>(lane % 8 + lane / 16 * 8, 2 * step ^ lane / 8 % 2));
}

// Two fragments of the tile as it lies, of 8 columns each: b[k][n] = tile[row + k][16 step + n]
template <int D>
__device__ static inline void nats_fragment_b_rows(uint32_t b[4], const nn_bf16 *tile, int row, int step) {
  const int lane = (int)threadIdx.x % NN_WARP;
  nats_ldmatrix4_transposed(b, tile + row * D + nats_piece<D>(lane % 16, 2 * step ^ lane / 16));
}

// Sums of a 16 x 16 product as the a of the next one, rounded to bf16.
__device__ static inline void nats_fragment_round(uint32_t a[4], const float left[4], const float right[4]) {
  a[0] = nats_pack(left[0], left[1]);
  a[1] = nats_pack(left[2], left[3]);
  a[2] = nats_pack(right[0], right[1]);
  a[3] = nats_pack(right[2], right[3]);
}

// Turns the sums of 16 rows back by RoPE's angles, [D/2, 2] cos and sin, those of this lane's row lane / 4
// and of the one 8 further. Columns i and i + D/2, which are turned together, are in the same lane.
template <int D>
__device__ static inline void nats_fragment_turn_back(float (&sums)[D / 8][4], const float *upper,
                                                      const float *lower) {
  const int column = (int)threadIdx.x % 4 * 2;
#pragma unroll
  for (int piece = 0; piece < D / 16; piece++)
#pragma unroll
    for (int h = 0; h < 4; h += 2) {
      const float4 turn = *(const float4 *)((h == 0 ? upper : lower) + 2 * (8 * piece + column));
      const float cosine[2] = {turn.x, turn.z}, sine[2] = {turn.y, turn.w};
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float &x = sums[piece][h + e], &y = sums[piece + D / 16][h + e];
        const float turned = x * cosine[e] + y * sine[e];
        y = y * cosine[e] - x * sine[e];
        x = turned;
      }
    }
}

// Adds scale times the sums of the first `rows` of 16 rows to `columns` [D], which only this warp touches;
// with `first` it overwrites them.
template <int D>
__device__ static inline void nats_fragment_add_columns(const float (&sums)[D / 8][4], int rows, float scale,
                                                        bool first, float *columns) {
  const int lane = (int)threadIdx.x % NN_WARP;
  const bool upper = lane / 4 < rows, lower = lane / 4 + 8 < rows;
#pragma unroll
  for (int piece = 0; piece < D / 8; piece++)
#pragma unroll
    for (int e = 0; e < 2; e++) {
      float sum = (upper ? sums[piece][e] : 0) + (lower ? sums[piece][2 + e] : 0);
      for (int lanes = 4; lanes < NN_WARP; lanes *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (lane < 4)
        columns[8 * piece + 2 * lane + e] = (first ? 0 : columns[8 * piece + 2 * lane + e]) + scale * sum;
    }
}

// Puts scale times the sums of 16 rows into a tile.
template <int D>
__device__ static inline void nats_fragment_store(nn_bf16 *tile, int row, const float sums[D / 8][4],
                                                  float scale) {
  const int lane = (int)threadIdx.x % NN_WARP, column = lane % 4 * 2;
  tile += row * D + column;
#pragma unroll
  for (int piece = 0; piece < D / 8; piece++) {
    const uint32_t upper = nats_pack(sums[piece][0] * scale, sums[piece][1] * scale);
    const uint32_t lower = nats_pack(sums[piece][2] * scale, sums[piece][3] * scale);
    memcpy(tile + nats_piece<D>(lane / 4, piece), &upper, sizeof upper);
    memcpy(tile + nats_piece<D>(lane / 4 + 8, piece), &lower, sizeof lower);
  }
}
