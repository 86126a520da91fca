#include "nn/cuda/matmul.h"
#include "nn/cuda/operators.h"

extern "C" nn_status nn_cuda_logits_forward(nn_device *device, const nn_logits *op) {
  nn_cuda_product product = {};
  product.m = op->rows;
  product.n = op->vocab;
  product.k = op->width;
  product.a = op->x;
  product.b = op->weight;
  product.transposed_b = true;
  product.c = op->y;
  product.c_is_float = true;
  return nn_cuda_multiply(device, &product);
}
