// The work of attention on one tile: up to 64 keys against up to 64 queries.
//
// Scores of a tile lie as [key][row]: a vector holds sixteen rows (queries) of one key, so that softmax over
// keys needs no sum across lanes, and neither keys nor values are ever transposed. Scores are in units of
// log 2: the queries are multiplied by scale * log2(e) when they are packed, and 2^x is what is evaluated.
#pragma once

#include <stdbool.h>
#include <stddef.h> // ptrdiff_t
#include <stdint.h>

enum { NATS_TILE = 64, NATS_TILE_AREA = NATS_TILE * NATS_TILE };

#define NATS_LOG2_E 1.4426950408889634
#define NATS_LN_2   0.6931471805599453

static inline int32_t nats_round_up(int32_t value, int32_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// A matrix in memory: element (i, j) at data[i * row + j * column].
typedef struct {
  const float *data;
  ptrdiff_t row, column;
} nats_matrix;

// c (+)= a b with c [m, n], a [m, k], b [k, n]. Rows of b and c are contiguous, `b_row` and `c_row` apart,
// and n is a multiple of 16.
void nats_tile_multiply(int m, int n, int k, nats_matrix a, const float *b, ptrdiff_t b_row, float *c,
                        ptrdiff_t c_row, bool add);

// The three kinds of product on a tile. In the block's own tile (`own`: key n is row n) what lies left of the
// diagonal is left out, sixteen keys or rows at a time.
//   scores[key][row] = keys[key] . rows[row], rows transposed with lines of NATS_TILE
void nats_tile_scores(bool own, int keys, int lanes, int depth, const float *k, int width, const float *rows,
                      float *scores);
//   sum[key] += sum over rows of weights[key][row] x[row]
void nats_tile_to_keys(bool own, int keys, int rows, const float *weights, const float *x, int width,
                       float *sum);
//   sum[row] (+)= sum over keys of weights[key][row] x[key]
void nats_tile_to_rows(bool own, int keys, int rows, const float *weights, const float *x, int width,
                       float *sum, bool add);

// to[r][c] = from[r][c], rows of `to` are `to_row` apart and filled up with zeros.
void nats_tile_copy(int rows, int columns, const float *from, ptrdiff_t from_row, float *to, int to_row);

// The same for the rows of a block: they, too, are filled up with zeros to a multiple of 16.
void nats_tile_load_rows(int rows, int columns, const float *from, ptrdiff_t from_row, float *to, int to_row);

// to[c][r] = factor * from[r][c], for packed rows; lines of `to` are NATS_TILE apart. `lanes` and `width` are
// multiples of 16.
void nats_tile_transpose(int lanes, int width, const float *from, float factor, float *to);

// Which rows of the block a key is visible to, counted from the block's first row: [first, last], may be
// empty.
typedef struct {
  int32_t first, last;
} nats_span;

// Running softmax of a block's rows (Milakov and Gimelshein 2018). `largest` is a bound that the scores
// exceed by little; it is raised, and what was summed is rescaled, only when they would leave float32's
// comfort.
typedef struct {
  float largest[NATS_TILE], sum[NATS_TILE], rescale[NATS_TILE];
} nats_softmax;

// Scores to weights 2^(score - largest), added to sum; hidden pairs weigh 0. `start`: the first tile of these
// rows, in which every row sees a key. Returns true when what was accumulated before must be multiplied by
// `rescale`.
bool nats_tile_softmax(nats_softmax *softmax, bool start, int keys, int lanes, const nats_span *visible,
                       float *scores);

// rows[r] *= factor[r], with rows of `width` (a multiple of 16)
void nats_tile_scale_rows(int rows, int width, const float *factor, float *values);

// result[r] = a[r] . b[r]
void nats_tile_dot_rows(int rows, int columns, const float *a, ptrdiff_t a_row, const float *b,
                        ptrdiff_t b_row, float *result);
