#include <cblas.h>
#include <string.h> // memcpy

#include "nn/cpu/columns.h"
#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"

// Every row of y is the bias, onto which the product is then added: no pass over y of its own, since the
// product would have to clear y otherwise.
static void fill_rows(float *y, const float *bias, int64_t rows, int32_t width) {
#pragma omp parallel if (nn_range_is_large(rows * width))
  {
    nn_range mine = nn_range_mine(rows, 1);
    for (int64_t row = mine.begin; row < mine.end; row++)
      memcpy(y + row * width, bias, (size_t)width * sizeof *y);
  }
}

nn_status nn_cpu_linear_forward(nn_device *device, const nn_linear *op) {
  (void)device;
  int rows = (int)op->rows;
  if (op->bias != NULL)
    fill_rows(op->y, op->bias, op->rows, op->out);
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, op->out, op->in, 1.0f, op->x, op->in, op->weight,
              op->in, op->bias != NULL ? 1.0f : 0.0f, op->y, op->out);
  return NN_OK;
}

nn_status nn_cpu_linear_backward(nn_device *device, const nn_linear *op) {
  (void)device;
  int rows = (int)op->rows;
  if (op->dx != NULL) // dx = dy weight
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, op->in, op->out, 1.0f, op->dy, op->out,
                op->weight, op->in, op->dx_accumulate ? 1.0f : 0.0f, op->dx, op->in);
  if (op->dweight != NULL) // dweight += dy^T x
    cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, op->out, op->in, rows, 1.0f, op->dy, op->out, op->x,
                op->in, 1.0f, op->dweight, op->in);
  if (op->dbias != NULL)
    nn_cpu_add_column_sums(op->rows, op->out, op->dy, op->dbias);
  return NN_OK;
}
