// Sums over the rows of a matrix, for gradients of biases.
#pragma once

#include <stdint.h>

// out[c] += sum over rows of x[row, c]. Threads own columns, so the order of additions does not depend on
// their number.
void nn_cpu_add_column_sums(int64_t rows, int64_t width, const float *x,
                            float *out); // [rows, width], [width]
