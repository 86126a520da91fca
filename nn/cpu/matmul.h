// Products of matrices on all threads, by BLAS.
#pragma once

#include <stdbool.h>
#include <stdint.h>

// c = a b + beta c, all row-major and without gaps. A flag says that an operand is stored transposed.
typedef struct {
  int64_t m, n, k;
  const float *a; // [m, k], or [k, m] with transposed_a
  const float *b; // [k, n], or [n, k] with transposed_b
  float *c;       // [m, n]
  bool transposed_a, transposed_b;
  bool add;          // beta is 1, else 0
  const float *bias; // [n] or NULL: every row of c starts from it; not together with `add`
} nn_cpu_product;

// Every thread computes one block of c with a single-threaded call. That is faster than BLAS's own threads at
// the sizes of a layer, and does not stall when a core is busy with something else. Sizes are below 2^31.
void nn_cpu_multiply(const nn_cpu_product *product);
