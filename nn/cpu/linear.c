#include <stddef.h>

#include "nn/cpu/columns.h"
#include "nn/cpu/matmul.h"
#include "nn/cpu/operators.h"

nn_status nn_cpu_linear_forward(nn_device *device, const nn_linear *op) {
  nn_cpu_multiply(&(nn_cpu_product){.m = op->rows,
                                    .n = op->out,
                                    .k = op->in,
                                    .a = op->x,
                                    .b = op->weight,
                                    .transposed_b = true,
                                    .bias = op->bias,
                                    .c = op->y});
  if (op->gelu == NULL)
    return NN_OK;
  return nn_cpu_activation_forward(
      device,
      &(nn_activation){.kind = NN_MLP_GELU, .rows = op->rows, .width = op->out, .x = op->y, .y = op->gelu});
}

// dx becomes the gradient of what x is gelu of.
static nn_status pass_gelu(nn_device *device, const nn_linear *op) {
  return nn_cpu_activation_backward(device, &(nn_activation){.kind = NN_MLP_GELU,
                                                             .rows = op->rows,
                                                             .width = op->in,
                                                             .x = op->gelu_of,
                                                             .dy = op->dx,
                                                             .dx = op->dx});
}

nn_status nn_cpu_linear_backward(nn_device *device, const nn_linear *op) {
  if (op->dx != NULL) // dx = dy weight
    nn_cpu_multiply(&(nn_cpu_product){.m = op->rows,
                                      .n = op->in,
                                      .k = op->out,
                                      .a = op->dy,
                                      .b = op->weight,
                                      .add = op->dx_accumulate,
                                      .c = op->dx});
  if (op->dx != NULL && op->gelu_of != NULL)
    NN_TRY(pass_gelu(device, op));
  if (op->dweight != NULL) // dweight += dy^T x
    nn_cpu_multiply(&(nn_cpu_product){.m = op->out,
                                      .n = op->in,
                                      .k = op->rows,
                                      .a = op->dy,
                                      .transposed_a = true,
                                      .b = op->x,
                                      .add = true,
                                      .c = op->dweight});
  if (op->dbias != NULL && op->dy_sums != NULL)
    for (int32_t o = 0; o < op->out; o++)
      op->dbias[o] += op->dy_sums[o];
  else if (op->dbias != NULL)
    nn_cpu_add_column_sums(op->rows, op->out, op->dy, op->dbias);
  return NN_OK;
}
