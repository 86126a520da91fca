#include "nn/cpu/columns.h"

#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

enum {
  BLOCK = 16
}; // rows added up before `out` is touched: fewer memory accesses, and smaller rounding errors

NN_INLINE void add_block(int64_t rows, int64_t width, const float *x, float *out, int lanes) {
  nn_v16 sum = {0};
  for (int64_t row = 0; row < rows; row++)
    sum += nn_v16_load_n(x + row * width, lanes, 0.0f);
  nn_v16_store_n(out, nn_v16_load_n(out, lanes, 0.0f) + sum, lanes);
}

NN_CLONES static void sum_columns(int64_t rows, int64_t width, const float *x, float *out, nn_range columns) {
  for (int64_t row = 0; row < rows; row += BLOCK) {
    int64_t block = rows - row < BLOCK ? rows - row : BLOCK;
    NN_FOR_LANES(columns.begin, columns.end, c, lanes,
                 add_block(block, width, x + row * width + c, out + c, lanes););
  }
}

void nn_cpu_add_column_sums(int64_t rows, int64_t width, const float *x, float *out) {
#pragma omp parallel if (nn_range_is_large(rows * width))
  sum_columns(rows, width, x, out, nn_range_mine(width, NN_LANES));
}
