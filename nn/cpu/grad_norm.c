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

static int64_t chunks_of(nn_piece piece) {
  return (piece.count + CHUNK - 1) / CHUNK;
}

// Chunks are counted piece by piece.
static void sum_chunks(const nn_params *params, double *chunk, nn_range mine) {
  int64_t first = 0; // chunk of the piece
  for (int32_t i = 0; i < nn_params_pieces(params); i++) {
    nn_piece piece = nn_params_piece(params, i);
    const float *grad = params->sum != NULL ? params->sum + piece.at : params->grad + piece.offset;
    int64_t chunks = chunks_of(piece);
    int64_t begin = mine.begin > first ? mine.begin : first;
    int64_t end = mine.end < first + chunks ? mine.end : first + chunks;
    for (int64_t c = begin; c < end; c++) {
      int64_t at = (c - first) * CHUNK, left = piece.count - at;
      chunk[c] = sum_squares(grad + at, left < CHUNK ? left : CHUNK);
    }
    first += chunks;
  }
}

nn_status nn_cpu_grad_norm(nn_device *device, const nn_params *params, nn_step *step) {
  int64_t chunks = 0;
  for (int32_t i = 0; i < nn_params_pieces(params); i++)
    chunks += chunks_of(nn_params_piece(params, i));
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)(chunks + 1) * sizeof(double), &workspace));
  double *chunk = workspace, sum = 0.0;
#pragma omp parallel if (nn_range_is_large(nn_params_owned(params)))
  sum_chunks(params, chunk, nn_range_mine(chunks, 1));
  for (int64_t c = 0; c < chunks; c++)
    sum += chunk[c];
  nn_step_set_norm(step, sum);
  return NN_OK;
}

nn_status nn_cpu_accumulate(nn_device *device, float *to, const float *from, int64_t count) {
  (void)device;
#pragma omp parallel for simd if (parallel : nn_range_is_large(count))
  for (int64_t i = 0; i < count; i++)
    to[i] += from[i];
  return NN_OK;
}
