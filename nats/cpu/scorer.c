// The scorer, an affine map with 3 Hk outputs: so narrow that reading x is what it costs.
#include <cblas.h>

#include "nats/cpu/ops.h"

nn_status nats_cpu_scorer_forward(nn_device *device, const nats_scorer *op) {
  (void)device;
  const int rows = (int)op->rows, out = op->out, width = op->width;
  const float *bias = op->bias;
#pragma omp parallel for schedule(static)
  for (int64_t row = 0; row < op->rows; row++)
    for (int a = 0; a < out; a++)
      op->logits[row * out + a] = bias[a];
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, out, width, 1.0f, op->x, width, op->weight,
              width, 1.0f, op->logits, out);
  return NN_OK;
}

nn_status nats_cpu_scorer_backward(nn_device *device, const nats_scorer *op) {
  (void)device;
  const int rows = (int)op->rows, out = op->out, width = op->width;
  if (op->dx != NULL)
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rows, width, out, 1.0f, op->dlogits, out,
                op->weight, width, 1.0f, op->dx, width);
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, out, width, rows, 1.0f, op->dlogits, out, op->x, width,
              1.0f, op->dweight, width);
  for (int64_t row = 0; row < op->rows; row++)
    for (int a = 0; a < out; a++)
      op->dbias[a] += op->dlogits[row * out + a];
  return NN_OK;
}
