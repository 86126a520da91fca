#include "nn/cpu/matmul.h"

#include <cblas.h>
#include <string.h> // memcpy

#include "nn/cpu/parallel.h"

enum { GRANULE = 16 }; // blocks start at multiples of what BLAS kernels compute at once

// Below this many multiplications one thread is faster.
static const int64_t PARALLEL_MIN = 1 << 20;

// Blocks of c along m, of `parts` in all. A thread copies m / (blocks along m) rows of a and n / (blocks
// along n) columns of b into BLAS's own layout: the fewer, the better.
static int blocks_along_m(const nn_cpu_product *p, int parts) {
  int best = 1;
  int64_t least = INT64_MAX;
  for (int along_m = 1; along_m <= parts; along_m++) {
    int64_t copied = p->m / along_m + p->n / (parts / along_m);
    if (parts % along_m == 0 && copied <= least) {
      least = copied;
      best = along_m;
    }
  }
  return best;
}

static void fill_with_bias(const nn_cpu_product *p, nn_range rows, nn_range columns) {
  for (int64_t row = rows.begin; row < rows.end; row++)
    memcpy(p->c + row * p->n + columns.begin, p->bias + columns.begin,
           (size_t)(columns.end - columns.begin) * sizeof *p->c);
}

static void multiply_block(const nn_cpu_product *p, nn_range rows, nn_range columns) {
  if (rows.begin == rows.end || columns.begin == columns.end)
    return;
  int m = (int)(rows.end - rows.begin), n = (int)(columns.end - columns.begin), k = (int)p->k;
  int lda = (int)(p->transposed_a ? p->m : p->k), ldb = (int)(p->transposed_b ? p->k : p->n);
  const float *a = p->a + (p->transposed_a ? rows.begin : rows.begin * p->k);
  const float *b = p->b + (p->transposed_b ? columns.begin * p->k : columns.begin);
  float *c = p->c + rows.begin * p->n + columns.begin;
  float beta = p->add || p->bias != NULL ? 1.0f : 0.0f;
  if (p->bias != NULL)
    fill_with_bias(p, rows, columns);
  if (p->m == 1 && p->transposed_b) // decoding: a row times a matrix, which BLAS need not copy
    cblas_sgemv(CblasRowMajor, CblasNoTrans, n, k, 1.0f, b, ldb, a, 1, beta, c, 1);
  else
    cblas_sgemm(CblasRowMajor, p->transposed_a ? CblasTrans : CblasNoTrans,
                p->transposed_b ? CblasTrans : CblasNoTrans, m, n, k, 1.0f, a, lda, b, ldb, beta, c,
                (int)p->n);
}

void nn_cpu_multiply(const nn_cpu_product *p) {
#pragma omp parallel if (p->m * p->n * p->k >= PARALLEL_MIN)
  {
    int parts = omp_get_num_threads(), part = omp_get_thread_num();
    int along_m = blocks_along_m(p, parts), along_n = parts / along_m;
    multiply_block(p, nn_range_part(p->m, GRANULE, part / along_n, along_m),
                   nn_range_part(p->n, GRANULE, part % along_n, along_n));
  }
}
