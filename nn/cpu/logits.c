#include "nn/cpu/matmul.h"
#include "nn/cpu/operators.h"

nn_status nn_cpu_logits_forward(nn_device *device, const nn_logits *op) {
  (void)device;
  nn_cpu_multiply(&(nn_cpu_product){.m = op->rows,
                                    .n = op->vocab,
                                    .k = op->width,
                                    .a = op->x,
                                    .b = op->weight,
                                    .transposed_b = true,
                                    .c = op->y});
  return NN_OK;
}
