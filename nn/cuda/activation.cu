#include "nn/cuda/gelu.h"
#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

enum { THREADS = 256 };

template <typename T> __device__ static inline float gelu_slope(float x) {
  float gate = nn_gelu_gate<T>(x);
  return gate + x * gate * (1.0f - gate) * (NN_GELU_SCALE * (1.0f + 3.0f * NN_GELU_CUBIC * x * x));
}

// A thread takes one pack of all rows laid end to end.
template <typename T, int N>
__global__ static void gelu_forward(int64_t packs, const T *x, T *y) { // [packs, N] both
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (at >= packs)
    return;
  float value[N];
  nn_load_floats(x + at * N, value);
#pragma unroll
  for (int i = 0; i < N; i++)
    value[i] *= nn_gelu_gate<T>(value[i]);
  nn_store_floats(y + at * N, value);
}

template <typename T, int N>
__global__ static void gelu_backward(int64_t packs, const T *x, const T *dy, T *dx) { // dx may be x
  int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (at >= packs)
    return;
  float value[N], gradient[N];
  nn_load_floats(x + at * N, value);
  nn_load_floats(dy + at * N, gradient);
#pragma unroll
  for (int i = 0; i < N; i++)
    gradient[i] *= gelu_slope<T>(value[i]);
  nn_store_floats(dx + at * N, gradient);
}

// SwiGLU: gate sigmoid(gate) up. A block takes one row.
template <typename T, int N>
__global__ static void swiglu_forward(int32_t width, const T *x, T *y) { // [rows, 2 width], [rows, width]
  const T *gate = x + (int64_t)blockIdx.x * 2 * width, *up = gate + width;
  y += (int64_t)blockIdx.x * width;
  for (int32_t at = (int32_t)threadIdx.x * N; at < width; at += (int32_t)blockDim.x * N) {
    float g[N], u[N];
    nn_load_floats(gate + at, g);
    nn_load_floats(up + at, u);
#pragma unroll
    for (int i = 0; i < N; i++)
      u[i] *= g[i] * nn_sigmoid<T>(g[i]);
    nn_store_floats(y + at, u);
  }
}

template <typename T, int N>
__global__ static void swiglu_backward(int32_t width, const T *x, const T *dy, T *dx) { // dx may be x
  const T *gate = x + (int64_t)blockIdx.x * 2 * width, *up = gate + width;
  T *dgate = dx + (int64_t)blockIdx.x * 2 * width, *dup = dgate + width;
  dy += (int64_t)blockIdx.x * width;
  for (int32_t at = (int32_t)threadIdx.x * N; at < width; at += (int32_t)blockDim.x * N) {
    float g[N], u[N], d[N];
    nn_load_floats(gate + at, g);
    nn_load_floats(up + at, u);
    nn_load_floats(dy + at, d);
#pragma unroll
    for (int i = 0; i < N; i++) {
      float s = nn_sigmoid<T>(g[i]), silu = g[i] * s;
      g[i] = d[i] * u[i] * (s + silu * (1.0f - s));
      u[i] = d[i] * silu;
    }
    nn_store_floats(dgate + at, g);
    nn_store_floats(dup + at, u);
  }
}

// Threads for a row of `packs`: all of them where they are few.
static dim3 row_threads(int32_t packs) {
  return dim3(packs < THREADS ? nn_ceil_div(packs, (int32_t)NN_WARP) * NN_WARP : THREADS);
}

template <typename T, int N> static nn_status forward(nn_device *device, const nn_activation *op) {
  if (op->kind == NN_MLP_SWIGLU)
    return NN_LAUNCH(device, (swiglu_forward<T, N>), dim3((unsigned)op->rows), row_threads(op->width / N), 0,
                     op->width, op->x, op->y);
  int64_t packs = op->rows * op->width / N;
  return NN_LAUNCH(device, (gelu_forward<T, N>), dim3((unsigned)nn_ceil_div(packs, (int64_t)THREADS)),
                   dim3(THREADS), 0, packs, op->x, op->y);
}

template <typename T, int N> static nn_status backward(nn_device *device, const nn_activation *op) {
  if (op->kind == NN_MLP_SWIGLU)
    return NN_LAUNCH(device, (swiglu_backward<T, N>), dim3((unsigned)op->rows), row_threads(op->width / N), 0,
                     op->width, op->x, op->dy, op->dx);
  int64_t packs = op->rows * op->width / N;
  return NN_LAUNCH(device, (gelu_backward<T, N>), dim3((unsigned)nn_ceil_div(packs, (int64_t)THREADS)),
                   dim3(THREADS), 0, packs, op->x, op->dy, op->dx);
}

// GELU knows no rows: its elements only have to fill whole packs together.
static int64_t pack_width(const nn_activation *op) {
  return op->kind == NN_MLP_GELU ? op->rows * op->width : op->width;
}

template <typename T> static nn_status forward_typed(nn_device *device, const nn_activation *op) {
  return NN_PACKED(T, nn_packs_fit<T>(pack_width(op), op->x, op->y), forward, device, op);
}

template <typename T> static nn_status backward_typed(nn_device *device, const nn_activation *op) {
  return NN_PACKED(T, nn_packs_fit<T>(pack_width(op), op->x, op->dy, op->dx), backward, device, op);
}

extern "C" nn_status nn_cuda_activation_forward(nn_device *device, const nn_activation *op) {
  return NN_CUDA_TYPED(device, forward_typed, device, op);
}

extern "C" nn_status nn_cuda_activation_backward(nn_device *device, const nn_activation *op) {
  return NN_CUDA_TYPED(device, backward_typed, device, op);
}
