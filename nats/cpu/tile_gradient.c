#include "nats/cpu/tile_gradient.h"

#include "nats/cpu/exp2.h"
#include "nats/cpu/tile.h"

enum { VECTORS = NATS_TILE / NN_LANES };

// Lanes of vector v whose row is in [first, last], both counted from the block's first row. In one unsigned
// comparison: GCC 12 takes the conjunction of two apart, lane by lane.
NN_INLINE nn_i16 within(int v, int32_t first, int32_t last) {
  const nn_i16 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const uint32_t count = last < first ? 0 : (uint32_t)(last - first) + 1;
  return (nn_i16)((nn_u16)(lane - (first - v * NN_LANES)) < count);
}

NN_INLINE nn_v16 where(nn_i16 mask, nn_v16 value) {
  return (nn_v16)(mask & (nn_i16)value);
}

// to += the rows [first, last] of d; `total` is the sum of all its rows.
NN_INLINE void add_rows(float *to, const nn_v16 *d, nn_v16 total, int vectors, int32_t first, int32_t last) {
  if (first <= 0 && last >= vectors * NN_LANES - 1) {
    nn_v16_store(to, nn_v16_load(to) + total);
    return;
  }
  for (int v = first <= 0 ? 0 : first / NN_LANES; v < vectors && v * NN_LANES <= last; v++)
    nn_v16_store(to, nn_v16_load(to) + where(within(v, first, last), d[v]));
}

// One key's D_ij to the type sums. d is set from the vector that holds the key's own row on.
NN_INLINE void add_types(const nats_tile_rows *rows, int vectors, int32_t token, const nn_v16 *d,
                         nn_v16 total) {
  const nats_type_sums *sums = rows->sums;
  const nats_type_rows *bounds = sums->rows + token;
  const int32_t row = rows->row, start = bounds->start - row, last = vectors * NN_LANES - 1;
  if (start > last)
    return;
  float *lanes = sums->lanes + (int64_t)token * NATS_LANE_SUMS * NN_LANES;
  add_rows(lanes + NATS_SUM_ALL * NN_LANES, d, total, vectors, start, last);
  if (bounds->longest < row)
    return;
  add_rows(lanes + NATS_SUM_LOCAL * NN_LANES, d, total, vectors, start, bounds->local - row);
  add_rows(lanes + NATS_SUM_WINDOW * NN_LANES, d, total, vectors, start, bounds->window - row);
  add_rows(lanes + NATS_SUM_ENDED * NN_LANES, d, total, vectors, bounds->local + 1 - row,
           bounds->ended - row);
  if (!bounds->is_local)
    return;
  for (int v = start <= 0 ? 0 : start / NN_LANES; v < vectors && v * NN_LANES <= bounds->local - row; v++) {
    float *seen = sums->seen + row + v * NN_LANES;
    nn_v16_store(seen, nn_v16_load(seen) + where(within(v, start, bounds->local - row), d[v]));
  }
}

// e^{s - lse}, capped
NN_INLINE nn_v16 weight_of(const nats_tile_rows *rows, int v, const float *score) {
  const nn_v16 x = nn_v16_load(score + v * NN_LANES) - nn_v16_load(rows->lse + v * NN_LANES);
  return nats_exp2(nn_v16_select(x > rows->cap, nn_v16_set(rows->cap), x));
}

// D = e (do . v - do . o)
NN_INLINE nn_v16 mask_gradient(const nats_tile_rows *rows, int v, nn_v16 e, const float *d_weight) {
  return e * (nn_v16_load(d_weight + v * NN_LANES) - nn_v16_load(rows->delta + v * NN_LANES));
}

// d where visible, and hidden pairs as they count in the type sums.
NN_INLINE nn_v16 weigh_hidden(const nats_tile_rows *rows, nn_i16 visible, nn_v16 d) {
  if (rows->hidden_weight == 0) // whatever d is, infinity included
    return where(visible, d);
  return nn_v16_select(visible, d, d * rows->hidden_weight);
}

NN_CLONES void nats_tile_gradient(const nats_tile_rows *rows, int keys, const nats_column *columns,
                                  float *scores, float *d_weights) {
  const int vectors = rows->lanes / NN_LANES;
  for (int key = 0; key < keys; key++) {
    const int32_t token = columns[key].token;
    const int32_t first = token - rows->row, last = columns[key].end - rows->row;
    const bool whole = first <= 0 && last >= rows->lanes - 1;
    float *weight = scores + key * NATS_TILE, *gradient = d_weights + key * NATS_TILE;
    nn_v16 d[VECTORS], total = {0};
    for (int v = first <= 0 ? 0 : first / NN_LANES; v < vectors; v++) {
      nn_v16 e = weight_of(rows, v, weight);
      d[v] = mask_gradient(rows, v, e, gradient);
      nn_v16 d_score = d[v] * rows->scale;
      if (!whole) {
        const nn_i16 visible = within(v, first, last);
        e = where(visible, e);
        d_score = where(visible, d_score);
        d[v] = weigh_hidden(rows, visible, d[v]);
      }
      nn_v16_store(weight + v * NN_LANES, e);
      nn_v16_store(gradient + v * NN_LANES, d_score);
      total += d[v];
    }
    if (rows->sums == NULL)
      continue;
    add_types(rows, vectors, token, d, total);
    if (first >= 0 && rows->sums->wants_own)
      rows->sums->own[token] += d[first / NN_LANES][first % NN_LANES];
  }
}

NN_CLONES void nats_tile_hidden_gradient(const nats_tile_rows *rows, int keys, const nats_column *columns,
                                         const float *scores, const float *d_weights) {
  const int vectors = rows->lanes / NN_LANES;
  for (int key = 0; key < keys; key++) {
    nn_v16 d[VECTORS], total = {0};
    for (int v = 0; v < vectors; v++) {
      const nn_v16 e = weight_of(rows, v, scores + key * NATS_TILE);
      d[v] = mask_gradient(rows, v, e, d_weights + key * NATS_TILE) * rows->hidden_weight;
      total += d[v];
    }
    add_types(rows, vectors, columns[key].token, d, total);
  }
}
