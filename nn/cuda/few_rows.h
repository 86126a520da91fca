// Products of a few rows, as decoding has them.
#pragma once

#include "nn/cuda/matmul.h"

// Whether the product is one of few rows with a matrix whose rows lie in memory as they are summed, in whole
// vectors. Then reading that matrix is all that takes time, and tiles for tensor cores would only leave most
// multiprocessors without work. A bias and GELU (before_gelu) are part of it. b is read early: it is a
// parameter, which the kernel right before does not write.
bool nn_cuda_has_few_rows(const nn_device *device, const nn_cuda_product *product);

// The same of a product with few results, such as scorers have while some sequences are decoded: a tile or
// two would be all.
bool nn_cuda_has_few_results(const nn_device *device, const nn_cuda_product *product);

// Any of these.
nn_status nn_cuda_multiply_few_rows(nn_device *device, const nn_cuda_product *product);
