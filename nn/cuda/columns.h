// Sums over the rows of a matrix, for gradients of biases and of norms' weights: sums of slabs of rows first,
// which fill the GPU, then the sum of those, always in the same order.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "nn/cuda/kernel.h"

// Bytes of `partial` that nn_cuda_add_column_sums takes.
size_t nn_cuda_column_sums_bytes(const nn_device *device, int64_t rows, int32_t width);

// out[c] += sum over rows of x[row, c]
nn_status nn_cuda_add_column_sums(nn_device *device, int64_t rows, int32_t width,
                                  const nn_act *x,             // [rows, width]
                                  float *partial, float *out); // [width]

// The second step alone: out[c] += sum over slabs of partial[slab, c]
nn_status nn_cuda_add_slabs(nn_device *device, int32_t slabs, int32_t width,
                            const float *partial, // [slabs, width]
                            float *out);          // [width]
