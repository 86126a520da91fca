#include "nn/cuda/columns.h"
#include "nn/cuda/matmul.h"
#include "nn/cuda/operators.h"

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
  return nn_cuda_multiply(device, &product);
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
  return nn_cuda_multiply(device, &product);
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
