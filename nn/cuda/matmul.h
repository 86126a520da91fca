// Products of matrices on the GPU, by cuBLASLt; those of a few rows by nn/cuda/few_rows.cu.
#pragma once

#include <cublasLt.h>

#include "nn/cuda/kernel.h"

// c = a b + beta c, all row-major. A flag says that an operand is stored transposed. Operands are in the
// compute type, and all sums are float32 (no TF32: in float32 mode the GPU agrees with the CPU).
typedef struct {
  int64_t m, n, k;
  const nn_act *a; // [m, k], or [k, m] with transposed_a
  const nn_act *b; // [k, n], or [n, k] with transposed_b
  void *c;         // [m, n] in the compute type, or in float32 with c_is_float
  bool transposed_a, transposed_b, c_is_float;
  bool add;                   // beta is 1, else 0
  int64_t a_stride, c_stride; // elements from one row to the next as stored; 0: rows without gaps
  const nn_act *bias;         // [n] or NULL: added to every row of c; c is in the compute type, without `add`
  // What is done on the way, at most one of these and only where nn_cuda_fuses says so; else NULL.
  nn_act *before_gelu;   // [m, n] overwritten by a b + bias, and c by gelu of that
  const nn_act *gelu_of; // [m, n]: c = (a b) gelu'(this)
} nn_cuda_product;

// Whether nn_cuda_multiply can do such a product in one go.
nn_status nn_cuda_fuses(nn_device *device, const nn_cuda_product *product, bool *fuses);

// The algorithm is chosen at the first product of a shape, by cuBLASLt's own rules, and kept. Large products
// that keep coming are tried with its other answers as well, and the fastest stays among those that make the
// same bits: which one that is changes from run to run, but no result does.
nn_status nn_cuda_multiply(nn_device *device, const nn_cuda_product *product);

// What the device keeps of earlier products.
struct nn_cuda_plans;
nn_status nn_cuda_plans_create(nn_cuda_plans **out);
void nn_cuda_plans_free(nn_cuda_plans *plans); // NULL is allowed

// NN_OK, or a failure that names what was attempted.
nn_status nn_cuda_blas_status(cublasStatus_t error, const char *what, const char *file, int line);
