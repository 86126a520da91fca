// Which of cuBLASLt's algorithms is fastest for a product, among those that make the same bits.
#pragma once

#include <cublasLt.h>

#include "nn/cuda/kernel.h"

// A product as cuBLASLt takes it, operands in its order.
typedef struct {
  cublasLtMatmulDesc_t operation;
  cublasLtMatrixLayout_t a_layout, b_layout, c_layout;
  const void *a, *b, *c;       // c is read with beta 1, and never written
  float beta;                  // 0 or 1
  int64_t rows, width, stride; // of c: [rows, width], rows `stride` elements apart
  size_t element;              // bytes, 2 or 4
} nn_cuda_trial;

// Runs each algorithm a few times; *best is the index of the fastest among the first one and those that sum
// in the same order as it and made the same bits. It is 0 where there is no memory for two results, or the
// stream is being recorded. What an epilogue writes beside c is overwritten.
nn_status nn_cuda_try_algorithms(nn_device *device, const nn_cuda_trial *trial, int32_t count,
                                 const cublasLtMatmulAlgo_t algorithms[], int32_t *best);
