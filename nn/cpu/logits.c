#include <cblas.h>

#include "nn/cpu/operators.h"

nn_status nn_cpu_logits_forward(nn_device *device, const nn_logits *op) {
  (void)device;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (int)op->rows, op->vocab, op->width, 1.0f, op->x,
              op->width, op->weight, op->width, 0.0f, op->y, op->vocab);
  return NN_OK;
}
