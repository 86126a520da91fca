#include <math.h>
#include <stddef.h>

#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

// ---- forward

// sum = x + delta, and the first moment (LayerNorm) or the second (RMSNorm) of the result.
NN_INLINE float add_and_reduce(const float *x, const float *delta, float *sum, int32_t width, bool layer) {
  nn_v16 total = {0};
  NN_FOR_LANES(0, width, i, lanes, {
    nn_v16 s = nn_v16_load_n(x + i, lanes, 0.0f);
    if (delta != NULL) {
      s += nn_v16_load_n(delta + i, lanes, 0.0f);
      nn_v16_store_n(sum + i, s, lanes);
    }
    total += layer ? s : (nn_v16)(s * s);
  });
  return nn_v16_sum(total);
}

NN_INLINE float squared_deviations(const float *x, float mean, int32_t width) {
  nn_v16 total = {0};
  NN_FOR_LANES(0, width, i, lanes, {
    nn_v16 deviation = nn_v16_load_n(x + i, lanes, mean) - mean;
    total += deviation * deviation;
  });
  return nn_v16_sum(total);
}

NN_INLINE void normalise(const float *x, float mean, float rstd, const float *weight, const float *bias,
                         float *y, int32_t width) {
  NN_FOR_LANES(0, width, i, lanes, {
    nn_v16 value = (nn_v16_load_n(x + i, lanes, 0.0f) - mean) * rstd * nn_v16_load_n(weight + i, lanes, 0.0f);
    if (bias != NULL)
      value += nn_v16_load_n(bias + i, lanes, 0.0f);
    nn_v16_store_n(y + i, value, lanes);
  });
}

NN_INLINE void forward_rows(const nn_norm *op, nn_range rows, bool layer) {
  int32_t width = op->width;
  for (int64_t row = rows.begin; row < rows.end; row++) {
    int64_t at = row * width;
    const float *x = (const float *)op->x + at;
    const float *delta = op->delta != NULL ? (const float *)op->delta + at : NULL;
    float *sum = op->delta != NULL ? (float *)op->sum + at : NULL;
    float moment = add_and_reduce(x, delta, sum, width, layer) / (float)width;
    const float *s = delta != NULL ? sum : x;
    float mean = layer ? moment : 0.0f;
    float variance = layer ? squared_deviations(s, mean, width) / (float)width : moment;
    float rstd = 1.0f / sqrtf(variance + op->eps);
    normalise(s, mean, rstd, op->weight, op->bias, (float *)op->y + at, width);
    op->rstd[row] = rstd;
    if (layer)
      op->mean[row] = mean;
  }
}

NN_CLONES static void rms_forward(const nn_norm *op, nn_range rows) {
  forward_rows(op, rows, false);
}

NN_CLONES static void layer_forward(const nn_norm *op, nn_range rows) {
  forward_rows(op, rows, true);
}

nn_status nn_cpu_norm_forward(nn_device *device, const nn_norm *op) {
  (void)device;
#pragma omp parallel if (nn_range_is_large(op->rows * op->width))
  {
    nn_range mine = nn_range_mine(op->rows, 1);
    if (op->kind == NN_NORM_LAYER)
      layer_forward(op, mine);
    else
      rms_forward(op, mine);
  }
  return NN_OK;
}

// ---- backward
//
// With xhat = (s - mean) rstd and g = dy weight, both averages over the row:
//   ds = rstd (g - [LayerNorm: average(g)] - xhat average(g xhat))

typedef struct {
  float g, g_xhat;
} row_averages;

NN_INLINE row_averages average(const float *s, const float *dy, const float *weight, float mean, float rstd,
                               int32_t width) {
  nn_v16 sum_g = {0};
  nn_v16 sum_g_xhat = {0};
  NN_FOR_LANES(0, width, i, lanes, {
    nn_v16 g = nn_v16_load_n(dy + i, lanes, 0.0f) * nn_v16_load_n(weight + i, lanes, 0.0f);
    sum_g += g;
    sum_g_xhat += g * (nn_v16_load_n(s + i, lanes, 0.0f) - mean);
  });
  float n = (float)width;
  return (row_averages){.g = nn_v16_sum(sum_g) / n, .g_xhat = nn_v16_sum(sum_g_xhat) * rstd / n};
}

// Adds the row's part of dweight, dbias and dx_sums to `partial` [3, width] and writes its dx.
NN_INLINE void backward_row(const nn_norm *op, int64_t row, float *partial, bool layer) {
  int32_t width = op->width;
  int64_t at = row * width;
  const float *s = (const float *)(op->delta != NULL ? op->sum : op->x) + at;
  const float *dy = (const float *)op->dy + at, *weight = op->weight;
  const float *dsum = op->dsum != NULL ? (const float *)op->dsum + at : NULL;
  float *dx = (float *)op->dx + at, *dweight = partial, *dbias = partial + width;
  float *dx_sums = partial + 2 * (int64_t)width;
  float rstd = op->rstd[row], mean = layer ? op->mean[row] : 0.0f;
  row_averages averages = average(s, dy, weight, mean, rstd, width);
  float shift = layer ? averages.g : 0.0f;
  NN_FOR_LANES(0, width, i, lanes, {
    nn_v16 d = nn_v16_load_n(dy + i, lanes, 0.0f);
    nn_v16 xhat = (nn_v16_load_n(s + i, lanes, 0.0f) - mean) * rstd;
    nn_v16 ds = rstd * (d * nn_v16_load_n(weight + i, lanes, 0.0f) - shift - xhat * averages.g_xhat);
    if (dsum != NULL)
      ds += nn_v16_load_n(dsum + i, lanes, 0.0f);
    nn_v16_store_n(dx + i, ds, lanes);
    nn_v16_store_n(dweight + i, nn_v16_load_n(dweight + i, lanes, 0.0f) + d * xhat, lanes);
    if (op->dbias != NULL)
      nn_v16_store_n(dbias + i, nn_v16_load_n(dbias + i, lanes, 0.0f) + d, lanes);
    if (op->dx_sums != NULL)
      nn_v16_store_n(dx_sums + i, nn_v16_load_n(dx_sums + i, lanes, 0.0f) + ds, lanes);
  });
}

NN_CLONES static void rms_backward(const nn_norm *op, nn_range rows, float *partial) {
  for (int64_t row = rows.begin; row < rows.end; row++)
    backward_row(op, row, partial, false);
}

NN_CLONES static void layer_backward(const nn_norm *op, nn_range rows, float *partial) {
  for (int64_t row = rows.begin; row < rows.end; row++)
    backward_row(op, row, partial, true);
}

// Every thread sums its rows on its own; the sums are then combined in the order of the threads.
nn_status nn_cpu_norm_backward(nn_device *device, const nn_norm *op) {
  int threads = nn_range_is_large(op->rows * op->width) ? omp_get_max_threads() : 1;
  size_t stride = (3 * (size_t)op->width + NN_LANES - 1) / NN_LANES * NN_LANES;
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)threads * stride * sizeof(float), &workspace));
  float *partials = workspace; // [threads, stride]
#pragma omp parallel num_threads(threads)
  {
    nn_range mine = nn_range_mine(op->rows, 1);
    float *partial = partials + (size_t)omp_get_thread_num() * stride;
    for (size_t i = 0; i < stride; i++)
      partial[i] = 0.0f;
    if (op->kind == NN_NORM_LAYER)
      layer_backward(op, mine, partial);
    else
      rms_backward(op, mine, partial);
#pragma omp single
    threads = omp_get_num_threads(); // the runtime may give fewer than were asked for
  }
  for (int thread = 0; thread < threads; thread++) {
    const float *partial = partials + (size_t)thread * stride;
    for (int32_t i = 0; i < op->width; i++)
      op->dweight[i] += partial[i];
    for (int32_t i = 0; op->dbias != NULL && i < op->width; i++)
      op->dbias[i] += partial[op->width + i];
    for (int32_t i = 0; op->dx_sums != NULL && i < op->width; i++)
      op->dx_sums[i] = (thread > 0 ? op->dx_sums[i] : 0.0f) + partial[2 * (int64_t)op->width + i];
  }
  return NN_OK;
}
