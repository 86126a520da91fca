#include <math.h>

#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

enum { PAIRS = 128 }; // pairs of a head that are turned together

// Turns `pairs` pairs (a[i], b[i]) of every head of a row.
NN_INLINE void turn_heads(const nn_rope *op, float *row, const float *table, int32_t first, int32_t pairs,
                          float sign) {
  float c[PAIRS], s[PAIRS];
  int32_t half = op->head_size / 2;
  for (int32_t i = 0; i < pairs; i++) {
    c[i] = table[2 * (first + i)];
    s[i] = sign * table[2 * (first + i) + 1];
  }
  for (int32_t head = 0; head < op->heads; head++) {
    float *restrict a = row + (int64_t)head * op->head_size + first;
    float *restrict b = a + half;
    for (int32_t i = 0; i < pairs; i++) {
      float a0 = a[i], b0 = b[i];
      a[i] = a0 * c[i] - b0 * s[i];
      b[i] = a0 * s[i] + b0 * c[i];
    }
  }
}

NN_CLONES static void turn_rows(const nn_rope *op, nn_range rows, float sign) {
  int32_t half = op->head_size / 2;
  for (int64_t n = rows.begin; n < rows.end; n++) {
    int64_t position = op->position != NULL ? op->position[n] : n % op->period;
    for (int32_t first = 0; first < half; first += PAIRS)
      turn_heads(op, (float *)op->x + n * op->row_stride, op->table + position * op->head_size, first,
                 half - first < PAIRS ? half - first : PAIRS, sign);
  }
}

static nn_status turn(const nn_rope *op, float sign) {
  for (int64_t n = 0; op->position != NULL && n < op->rows; n++)
    if (op->position[n] < 0 || op->position[n] >= op->positions)
      return NN_FAIL(NN_ERR_INTERNAL, "rope: position %d in row %lld is outside the table of %d",
                     op->position[n], (long long)n, op->positions);
#pragma omp parallel if (nn_range_is_large(op->rows * op->heads * op->head_size))
  turn_rows(op, nn_range_mine(op->rows, 1), sign);
  return NN_OK;
}

nn_status nn_cpu_rope_forward(nn_device *device, const nn_rope *op) {
  (void)device;
  return turn(op, 1.0f);
}

nn_status nn_cpu_rope_backward(nn_device *device, const nn_rope *op) {
  (void)device;
  return turn(op, -1.0f);
}

nn_status nn_cpu_rope_table(nn_device *device, int32_t positions, int32_t head_size, double theta,
                            float *table) {
  (void)device;
  int32_t half = head_size / 2;
#pragma omp parallel if (nn_range_is_large((int64_t)positions * half))
  {
    nn_range mine = nn_range_mine(positions, 1);
    for (int32_t i = 0; i < half; i++) {
      double frequency = pow(theta, -2.0 * i / head_size);
      for (int64_t position = mine.begin; position < mine.end; position++) {
        float *pair = table + (position * half + i) * 2;
        pair[0] = (float)cos((double)position * frequency);
        pair[1] = (float)sin((double)position * frequency);
      }
    }
  }
  return NN_OK;
}
