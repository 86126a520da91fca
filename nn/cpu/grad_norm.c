#include <math.h>
#include <stddef.h>

#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

enum { CHUNK = 1 << 14 }; // elements summed together; the sum does not depend on the number of threads

// A sum of squares of float32 cannot overflow float64: it is finite exactly when all elements are.
NN_CLONES static double sum_squares(const float *x, int64_t n) {
  nn_d8 low = {0}, high = {0};
  int64_t i = 0;
  for (; i + NN_LANES <= n; i += NN_LANES) {
    nn_v16 v = nn_v16_load(x + i);
    nn_d8 a = __builtin_convertvector(nn_v16_low(v), nn_d8),
          b = __builtin_convertvector(nn_v16_high(v), nn_d8);
    low += a * a;
    high += b * b;
  }
  double sum = nn_d8_sum(low + high);
  for (; i < n; i++)
    sum += (double)x[i] * (double)x[i];
  return sum;
}

static void sum_chunks(const float *grad, int64_t total, double *chunk, nn_range mine) {
  for (int64_t c = mine.begin; c < mine.end; c++) {
    int64_t begin = c * CHUNK, left = total - begin;
    chunk[c] = sum_squares(grad + begin, left < CHUNK ? left : CHUNK);
  }
}

nn_status nn_cpu_grad_norm(nn_device *device, const nn_params *params, nn_step *step) {
  int64_t total = params->table->total, chunks = (total + CHUNK - 1) / CHUNK;
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)chunks * sizeof(double), &workspace));
  double *chunk = workspace, sum = 0.0;
#pragma omp parallel if (nn_range_is_large(total))
  sum_chunks(params->grad, total, chunk, nn_range_mine(chunks, 1));
  for (int64_t c = 0; c < chunks; c++)
    sum += chunk[c];
  double norm = sqrt(sum);
  step->non_finite = !isfinite(sum);
  step->grad_norm = (float)norm;
  step->clip_factor = step->max_norm > 0.0f && norm > step->max_norm ? (float)(step->max_norm / norm) : 1.0f;
  return NN_OK;
}
