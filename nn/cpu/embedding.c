#include <string.h> // memcpy

#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

static nn_status check_tokens(const nn_embedding *op) {
  for (int64_t row = 0; row < op->rows; row++)
    if (op->tokens[row] < 0 || op->tokens[row] >= op->vocab)
      return NN_FAIL(NN_ERR_INPUT, "embedding: token %d in row %lld is outside the vocabulary of %d",
                     op->tokens[row], (long long)row, op->vocab);
  return NN_OK;
}

nn_status nn_cpu_embedding_forward(nn_device *device, const nn_embedding *op) {
  (void)device;
  NN_TRY(check_tokens(op));
  const float *table = op->table;
  float *y = op->y;
#pragma omp parallel if (nn_range_is_large(op->rows * op->width))
  {
    nn_range mine = nn_range_mine(op->rows, 1);
    for (int64_t row = mine.begin; row < mine.end; row++)
      memcpy(y + row * op->width, table + (int64_t)op->tokens[row] * op->width,
             (size_t)op->width * sizeof *y);
  }
  return NN_OK;
}

// Threads own columns and take all rows in order: each sum has one order, whatever the number of threads.
NN_CLONES static void add_columns(const nn_embedding *op, nn_range columns) {
  const float *dy = op->dy;
  for (int64_t row = 0; row < op->rows; row++) {
    const float *from = dy + row * op->width;
    float *to = op->dtable + (int64_t)op->tokens[row] * op->width;
    for (int64_t c = columns.begin; c < columns.end; c++)
      to[c] += from[c];
  }
}

nn_status nn_cpu_embedding_backward(nn_device *device, const nn_embedding *op) {
  (void)device;
  NN_TRY(check_tokens(op));
#pragma omp parallel if (nn_range_is_large(op->rows * op->width))
  add_columns(op, nn_range_mine(op->width, NN_LANES));
  return NN_OK;
}
