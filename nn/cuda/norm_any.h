// Norms of rows of any width, and what all widths share: sums over a block, and adding up partial sums of
// dweight, dbias and dx_sums. A block takes a row and reads it once per pass over it; after the first time it
// comes from the cache.
#pragma once

#include "nn/cuda/kernel.h"

enum { NORM_BLOCK = 256 };

// The sum over a block of COUNT threads; every thread gets the result.
template <int COUNT> __device__ static inline float nn_norm_block_sum(float x) {
  __shared__ float of_warp[COUNT / NN_WARP];
  x = nn_warp_sum(x);
  __syncthreads(); // of_warp may still be read from the call before
  if (threadIdx.x % NN_WARP == 0)
    of_warp[threadIdx.x / NN_WARP] = x;
  __syncthreads();
  x = 0.0f;
  for (int warp = 0; warp < COUNT / NN_WARP; warp++)
    x += of_warp[warp];
  return x;
}

// ---- adding up partial sums

enum { ADD_COLUMNS = 32, ADD_ROWS = 32 };

// Which sums a block leaves.
enum { NORM_DWEIGHT, NORM_DBIAS, NORM_DX_SUMS, NORM_SUMS };

// Adds partials [parts, 3, C] to dweight and dbias, and makes dx_sums. A block takes ADD_COLUMNS of the 3 C
// columns; thread (c, r) sums parts r, r + ADD_ROWS, ..., then the first row of threads sums those in order.
__global__ static void __launch_bounds__(ADD_COLUMNS *ADD_ROWS)
    nn_norm_add_kernel(nn_norm op, const float *partials, int64_t parts) {
  __shared__ float sums[ADD_ROWS][ADD_COLUMNS];
  int c = (int)threadIdx.x % ADD_COLUMNS, r = (int)threadIdx.x / ADD_COLUMNS;
  int64_t column = (int64_t)blockIdx.x * ADD_COLUMNS + c, columns = NORM_SUMS * (int64_t)op.width;
  float sum = 0.0f;
#pragma unroll 8
  for (int64_t part = r; part < parts; part += ADD_ROWS)
    sum += column < columns ? partials[part * columns + column] : 0.0f;
  sums[r][c] = sum;
  __syncthreads();
  if (r != 0 || column >= columns)
    return;
  for (int other = 1; other < ADD_ROWS; other++)
    sum += sums[other][c];
  const int which = (int)(column / op.width);
  column -= which * (int64_t)op.width;
  if (which == NORM_DWEIGHT)
    op.dweight[column] += sum;
  else if (which == NORM_DBIAS && op.dbias != NULL)
    op.dbias[column] += sum;
  else if (which == NORM_DX_SUMS && op.dx_sums != NULL)
    op.dx_sums[column] = sum;
}

static inline nn_status nn_norm_take_partials(nn_device *device, const nn_norm *op, int64_t parts,
                                              float **partials) {
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)(parts * NORM_SUMS * op->width) * sizeof(float), &workspace));
  *partials = static_cast<float *>(workspace);
  return NN_OK;
}

static inline nn_status nn_norm_add_partials(nn_device *device, const nn_norm *op, const float *partials,
                                             int64_t parts) {
  int wanted = op->dx_sums != NULL ? NORM_SUMS : op->dbias != NULL ? NORM_DX_SUMS : NORM_DBIAS;
  int64_t columns = wanted * (int64_t)op->width;
  return NN_LAUNCH(device, nn_norm_add_kernel, dim3((unsigned)nn_ceil_div(columns, (int64_t)ADD_COLUMNS)),
                   dim3(ADD_COLUMNS * ADD_ROWS), 0, *op, partials, parts);
}

// ---- forward

template <typename T> __global__ static void nn_norm_forward_any_kernel(nn_norm op) {
  int64_t at = (int64_t)blockIdx.x * op.width;
  const T *x = static_cast<const T *>(op.x) + at, *s = x;
  T *sum = static_cast<T *>(op.sum) + (op.delta != NULL ? at : 0);
  bool layer = op.kind == NN_NORM_LAYER;
  float moment = 0.0f, n = (float)op.width;
  for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += NORM_BLOCK) {
    if (op.delta != NULL) {
      nn_store(sum + c, nn_load(x + c) + nn_load(static_cast<const T *>(op.delta) + at + c));
      s = sum;
    }
    float value = nn_load(s + c);
    moment += layer ? value : value * value;
  }
  s = op.delta != NULL ? sum : x;
  float mean = 0.0f, variance = nn_norm_block_sum<NORM_BLOCK>(moment) / n;
  if (layer) {
    float deviations = 0.0f;
    mean = variance;
    for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += NORM_BLOCK)
      deviations += (nn_load(s + c) - mean) * (nn_load(s + c) - mean);
    variance = nn_norm_block_sum<NORM_BLOCK>(deviations) / n;
  }
  float rstd = 1.0f / sqrtf(variance + op.eps);
  for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += NORM_BLOCK) {
    float value = (nn_load(s + c) - mean) * rstd * nn_load(static_cast<const T *>(op.weight) + c);
    if (op.bias != NULL)
      value += nn_load(static_cast<const T *>(op.bias) + c);
    nn_store(static_cast<T *>(op.y) + at + c, value);
  }
  if (threadIdx.x != 0)
    return;
  op.rstd[blockIdx.x] = rstd;
  if (layer)
    op.mean[blockIdx.x] = mean;
}

template <typename T> static nn_status nn_norm_forward_any(nn_device *device, const nn_norm *op) {
  return NN_LAUNCH(device, nn_norm_forward_any_kernel<T>, dim3((unsigned)op->rows), dim3(NORM_BLOCK), 0, *op);
}

// ---- backward: a block takes neighbouring rows, and the sums of one column belong to one thread

template <typename T>
__global__ static void nn_norm_backward_any_kernel(nn_norm op, int64_t rows_each, float *partials) {
  const T *weight = static_cast<const T *>(op.weight);
  bool layer = op.kind == NN_NORM_LAYER;
  float *dweight = partials + NORM_SUMS * (int64_t)blockIdx.x * op.width;
  float *dbias = dweight + op.width, *dx_sums = dbias + op.width;
  int64_t begin = (int64_t)blockIdx.x * rows_each, end = begin + rows_each;
  for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += NORM_BLOCK)
    dweight[c] = dbias[c] = dx_sums[c] = 0.0f;
  for (int64_t row = begin; row < end && row < op.rows; row++) {
    const T *s = static_cast<const T *>(op.delta != NULL ? op.sum : op.x) + row * op.width;
    const T *dy = static_cast<const T *>(op.dy) + row * op.width;
    T *dx = static_cast<T *>(op.dx) + row * op.width;
    float rstd = op.rstd[row], mean = layer ? op.mean[row] : 0.0f, sum_g = 0.0f, sum_g_xhat = 0.0f;
    for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += NORM_BLOCK) {
      float d = nn_load(dy + c), xhat = (nn_load(s + c) - mean) * rstd, g = d * nn_load(weight + c);
      sum_g += g;
      sum_g_xhat += g * xhat;
      dweight[c] += d * xhat;
      dbias[c] += d;
    }
    float average_g_xhat = nn_norm_block_sum<NORM_BLOCK>(sum_g_xhat) / (float)op.width;
    float average_g = layer ? nn_norm_block_sum<NORM_BLOCK>(sum_g) / (float)op.width : 0.0f;
    for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += NORM_BLOCK) {
      float xhat = (nn_load(s + c) - mean) * rstd;
      float ds = rstd * (nn_load(dy + c) * nn_load(weight + c) - average_g - xhat * average_g_xhat);
      if (op.dsum != NULL)
        ds += nn_load(static_cast<const T *>(op.dsum) + row * op.width + c);
      nn_store(dx + c, ds);
      dx_sums[c] += ds;
    }
  }
}

template <typename T> static nn_status nn_norm_backward_any(nn_device *device, const nn_norm *op) {
  int64_t rows_each = nn_ceil_div(op->rows, (int64_t)4 * nn_cuda_processors(device));
  int64_t blocks = nn_ceil_div(op->rows, rows_each);
  float *partials;
  NN_TRY(nn_norm_take_partials(device, op, blocks, &partials));
  NN_TRY(NN_LAUNCH(device, nn_norm_backward_any_kernel<T>, dim3((unsigned)blocks), dim3(NORM_BLOCK), 0, *op,
                   rows_each, partials));
  return nn_norm_add_partials(device, op, partials, blocks);
}
