#include "nn/cpu/columns.h"

#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

enum { VECTORS = 8 }; // accumulators of one sweep over the rows

// One sweep over `rows` rows for up to VECTORS * NN_LANES columns.
NN_INLINE void sweep(int64_t rows, int64_t width, const float *x, int columns, float *out) {
  nn_v16 sum[VECTORS] = {0};
  int full = columns / NN_LANES, rest = columns % NN_LANES;
  for (int64_t row = 0; row < rows; row++) {
    const float *from = x + row * width;
    for (int v = 0; v < full; v++)
      sum[v] += nn_v16_load(from + v * NN_LANES);
    if (rest > 0)
      sum[full] += nn_v16_load_n(from + full * NN_LANES, rest, 0.0f);
  }
  for (int c = 0; c < columns; c++)
    out[c] += sum[c / NN_LANES][c % NN_LANES];
}

NN_CLONES static void sum_columns(int64_t rows, int64_t width, const float *x, float *out, nn_range mine) {
  const int64_t step = VECTORS * NN_LANES;
  int64_t c = mine.begin;
  for (; c + step <= mine.end; c += step)
    sweep(rows, width, x + c, (int)step, out + c);
  if (c < mine.end)
    sweep(rows, width, x + c, (int)(mine.end - c), out + c);
}

void nn_cpu_add_column_sums(int64_t rows, int64_t width, const float *x, float *out) {
#pragma omp parallel if (nn_range_is_large(rows * width))
  sum_columns(rows, width, x, out, nn_range_mine(width, NN_LANES));
}
