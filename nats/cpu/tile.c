// Copies, transposes and the online softmax of a tile.
#include "nats/cpu/tile.h"

#include <string.h> // memcpy, memset

#include "nats/cpu/exp2.h"
#include "nn/cpu/vector.h"

// A score that no query has; 2^(this - anything) is 0.
static const float HIDDEN = -1e30f;
// How far scores may exceed the running bound before sums are rescaled, in powers of two: weights stay below
// 2^16 and sums of millions of them within float32.
static const float HEADROOM = 16.0f;

// a0 b0 a1 b1 ... of the low or high halves
NN_INLINE nn_v16 interleave_low(nn_v16 a, nn_v16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}

NN_INLINE nn_v16 interleave_high(nn_v16 a, nn_v16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// A 16 x 16 piece: four rounds that interleave row r with row r + 8 turn rows into columns.
NN_INLINE void transpose_square(const float *from, int from_row, float factor, float *to) {
  nn_v16 rows[NN_LANES], mixed[NN_LANES];
  for (int r = 0; r < NN_LANES; r++)
    rows[r] = nn_v16_load(from + r * from_row) * factor;
  for (int round = 0; round < 4; round++) {
    for (int r = 0; r < NN_LANES / 2; r++) {
      mixed[2 * r] = interleave_low(rows[r], rows[r + NN_LANES / 2]);
      mixed[2 * r + 1] = interleave_high(rows[r], rows[r + NN_LANES / 2]);
    }
    for (int r = 0; r < NN_LANES; r++)
      rows[r] = mixed[r];
  }
  for (int c = 0; c < NN_LANES; c++)
    nn_v16_store(to + c * NATS_TILE, rows[c]);
}

NN_CLONES void nats_tile_transpose(int lanes, int width, const float *from, float factor, float *to) {
  for (int r = 0; r < lanes; r += NN_LANES)
    for (int c = 0; c < width; c += NN_LANES)
      transpose_square(from + r * width + c, width, factor, to + c * NATS_TILE + r);
}

NN_CLONES void nats_tile_copy(int rows, int columns, const float *from, ptrdiff_t from_row, float *to,
                              int to_row) {
  for (int r = 0; r < rows; r++) {
    for (int c = 0; c < columns; c++)
      to[r * to_row + c] = from[r * from_row + c];
    for (int c = columns; c < to_row; c++)
      to[r * to_row + c] = 0;
  }
}

void nats_tile_load_rows(int rows, int columns, const float *from, ptrdiff_t from_row, float *to,
                         int to_row) {
  const int filled = nats_round_up(rows, NN_LANES);
  nats_tile_copy(rows, columns, from, from_row, to, to_row);
  memset(to + rows * to_row, 0, (size_t)((filled - rows) * to_row) * sizeof *to);
}

NN_INLINE void hide(int keys, int lanes, const nats_span *visible, float *scores) {
  for (int key = 0; key < keys; key++) {
    float *row = scores + key * NATS_TILE;
    for (int lane = 0; lane < visible[key].first && lane < lanes; lane++)
      row[lane] = HIDDEN;
    for (int lane = visible[key].last < 0 ? 0 : visible[key].last + 1; lane < lanes; lane++)
      row[lane] = HIDDEN;
  }
}

// The largest score of every row, against `largest`.
NN_INLINE void raise_bound(int keys, int lanes, const float *scores, float *largest) {
  for (int lane = 0; lane < lanes; lane += NN_LANES) {
    nn_v16 bound = nn_v16_load(largest + lane);
    for (int key = 0; key < keys; key++)
      bound = nn_v16_max(nn_v16_load(scores + key * NATS_TILE + lane), bound);
    nn_v16_store(largest + lane, bound);
  }
}

// Takes new bounds; factors for what was summed under the old ones go to `rescale`.
NN_INLINE void take_bound(nats_softmax *softmax, int lanes, const float *largest) {
  for (int lane = 0; lane < lanes; lane += NN_LANES) {
    const nn_v16 bound = nn_v16_load(largest + lane);
    const nn_v16 factor = nats_exp2(nn_v16_load(softmax->largest + lane) - bound);
    nn_v16_store(softmax->rescale + lane, factor);
    nn_v16_store(softmax->sum + lane, nn_v16_load(softmax->sum + lane) * factor);
    nn_v16_store(softmax->largest + lane, bound);
  }
}

NN_INLINE void weigh(nats_softmax *softmax, int keys, int lanes, float *scores) {
  for (int lane = 0; lane < lanes; lane += NN_LANES) {
    const nn_v16 bound = nn_v16_load(softmax->largest + lane);
    nn_v16 sum = nn_v16_load(softmax->sum + lane);
    for (int key = 0; key < keys; key++) {
      float *at = scores + key * NATS_TILE + lane;
      const nn_v16 weight = nats_exp2(nn_v16_load(at) - bound);
      nn_v16_store(at, weight);
      sum += weight;
    }
    nn_v16_store(softmax->sum + lane, sum);
  }
}

NN_CLONES bool nats_tile_softmax(nats_softmax *softmax, bool start, int keys, int lanes,
                                 const nats_span *visible, float *scores) {
  float largest[NATS_TILE];
  for (int lane = 0; lane < lanes && start; lane++) {
    softmax->largest[lane] = HIDDEN;
    softmax->sum[lane] = 0;
  }
  hide(keys, lanes, visible, scores);
  memcpy(largest, softmax->largest, (size_t)lanes * sizeof *largest);
  raise_bound(keys, lanes, scores, largest);
  bool rescale = false;
  for (int lane = 0; lane < lanes; lane++) { // each row by itself: what others see must not show in its bits
    const bool raise = largest[lane] > softmax->largest[lane] + HEADROOM;
    largest[lane] = raise ? largest[lane] : softmax->largest[lane];
    rescale |= raise;
  }
  if (rescale)
    take_bound(softmax, lanes, largest);
  weigh(softmax, keys, lanes, scores);
  return rescale && !start;
}

NN_CLONES void nats_tile_scale_rows(int rows, int width, const float *factor, float *values) {
  for (int r = 0; r < rows; r++)
    for (int c = 0; c < width; c += NN_LANES)
      nn_v16_store(values + r * width + c, nn_v16_load(values + r * width + c) * factor[r]);
}

NN_CLONES void nats_tile_dot_rows(int rows, int columns, const float *a, ptrdiff_t a_row, const float *b,
                                  ptrdiff_t b_row, float *result) {
  for (int r = 0; r < rows; r++) {
    nn_v16 sum = {0};
    int c = 0;
    for (; c + NN_LANES <= columns; c += NN_LANES)
      sum += nn_v16_load(a + r * a_row + c) * nn_v16_load(b + r * b_row + c);
    if (c < columns)
      sum +=
          nn_v16_load_n(a + r * a_row + c, columns - c, 0) * nn_v16_load_n(b + r * b_row + c, columns - c, 0);
    result[r] = nn_v16_sum(sum);
  }
}
