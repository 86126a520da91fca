#include "nn/cuda/columns.h"
#include "nn/cuda/matmul.h"
#include "nn/cuda/operators.h"

// In one go where cuBLASLt can. Its tanh is the hardware's: on an H100 gelu is off by up to 3e-4, which is
// what bfloat16 rounds off at 0.1.
static nn_status multiply_to_gelu(nn_device *device, const nn_linear *op, nn_cuda_product product) {
  bool fuses;
  product.before_gelu = op->y;
  product.c = op->gelu;
  NN_TRY(nn_cuda_fuses(device, &product, &fuses));
  if (fuses)
    return nn_cuda_multiply(device, &product);
  product.before_gelu = NULL;
  product.c = op->y;
  NN_TRY(nn_cuda_multiply(device, &product));
  nn_activation gelu = {};
  gelu.kind = NN_MLP_GELU;
  gelu.rows = op->rows;
  gelu.width = op->out;
  gelu.x = op->y;
  gelu.y = op->gelu;
  return nn_cuda_activation_forward(device, &gelu);
}

extern "C" nn_status nn_cuda_linear_forward(nn_device *device, const nn_linear *op) {
  nn_cuda_product product = {};
  product.m = op->rows;
  product.n = op->out;
  product.k = op->in;
  product.a = op->x;
  product.b = op->weight;
  product.transposed_b = true;
  product.bias = op->bias;
  product.c = op->y;
  return op->gelu != NULL ? multiply_to_gelu(device, op, product) : nn_cuda_multiply(device, &product);
}

// product.c = dx, times gelu'
static nn_status multiply_through_gelu(nn_device *device, const nn_linear *op, nn_cuda_product product) {
  bool fuses;
  product.gelu_of = op->gelu_of;
  NN_TRY(nn_cuda_fuses(device, &product, &fuses));
  if (fuses)
    return nn_cuda_multiply(device, &product);
  product.gelu_of = NULL;
  NN_TRY(nn_cuda_multiply(device, &product));
  nn_activation gelu = {};
  gelu.kind = NN_MLP_GELU;
  gelu.rows = op->rows;
  gelu.width = op->in;
  gelu.x = op->gelu_of;
  gelu.dy = op->dx;
  gelu.dx = op->dx;
  return nn_cuda_activation_backward(device, &gelu);
}

// dx = dy weight
static nn_status multiply_dx(nn_device *device, const nn_linear *op) {
  nn_cuda_product product = {};
  product.m = op->rows;
  product.n = op->in;
  product.k = op->out;
  product.a = op->dy;
  product.b = op->weight;
  product.add = op->dx_accumulate;
  product.c = op->dx;
  return op->gelu_of != NULL ? multiply_through_gelu(device, op, product)
                             : nn_cuda_multiply(device, &product);
}

// dweight += dy^T x
static nn_status multiply_dweight(nn_device *device, const nn_linear *op) {
  nn_cuda_product product = {};
  product.m = op->out;
  product.n = op->in;
  product.k = op->rows;
  product.a = op->dy;
  product.transposed_a = true;
  product.b = op->x;
  product.add = true;
  product.c = op->dweight;
  product.c_is_float = true;
  return nn_cuda_multiply(device, &product);
}

static nn_status add_dbias(nn_device *device, const nn_linear *op) {
  if (op->dy_sums != NULL)
    return nn_cuda_add_slabs(device, 1, op->out, op->dy_sums, op->dbias);
  void *partial;
  NN_TRY(nn_device_workspace(device, nn_cuda_column_sums_bytes(device, op->rows, op->out), &partial));
  return nn_cuda_add_column_sums(device, op->rows, op->out, op->dy, static_cast<float *>(partial), op->dbias);
}

extern "C" nn_status nn_cuda_linear_backward(nn_device *device, const nn_linear *op) {
  if (op->dx != NULL)
    NN_TRY(multiply_dx(device, op));
  if (op->dweight != NULL)
    NN_TRY(multiply_dweight(device, op));
  if (op->dbias != NULL)
    NN_TRY(add_dbias(device, op));
  return NN_OK;
}
