// The scorer, an affine map with 3 Hk outputs: so narrow that reading x is what it costs.
#include "nats/cpu/ops.h"
#include "nn/cpu/columns.h"
#include "nn/cpu/matmul.h"

nn_status nats_cpu_scorer_forward(nn_device *device, const nats_scorer *op) {
  (void)device;
  nn_cpu_multiply(&(nn_cpu_product){.m = op->rows,
                                    .n = op->out,
                                    .k = op->width,
                                    .a = op->x,
                                    .b = op->weight,
                                    .transposed_b = true,
                                    .bias = op->bias,
                                    .c = op->logits});
  return NN_OK;
}

nn_status nats_cpu_scorer_backward(nn_device *device, const nats_scorer *op) {
  (void)device;
  if (op->dx != NULL)
    nn_cpu_multiply(&(nn_cpu_product){.m = op->rows,
                                      .n = op->width,
                                      .k = op->out,
                                      .a = op->dlogits,
                                      .b = op->weight,
                                      .add = true,
                                      .c = op->dx});
  nn_cpu_multiply(&(nn_cpu_product){.m = op->out,
                                    .n = op->width,
                                    .k = op->rows,
                                    .a = op->dlogits,
                                    .transposed_a = true,
                                    .b = op->x,
                                    .add = true,
                                    .c = op->dweight});
  nn_cpu_add_column_sums(op->rows, op->out, op->dlogits, op->dbias);
  return NN_OK;
}
