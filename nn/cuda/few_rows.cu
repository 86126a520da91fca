#include "nn/cuda/few_rows.h"

#include "nn/cuda/gelu.h"
#include "nn/cuda/vector.h"

// Blocks are small, so that all multiprocessors get about as many columns of a narrow matrix.
enum { MOST_ROWS = 4, MOST_RESULTS = 1 << 13, WARPS = 2, THREADS = WARPS * NN_WARP };

// Packs of a row of b that a lane has under way: all of them where a row is short, and enough to keep memory
// busy where it is long.
enum { SHORT_BATCH = 3, LONG_BATCH = 12 };

// An element of c from its sum.
template <typename T, typename C>
__device__ static void finish(const nn_cuda_product &p, int64_t row, int64_t column, int64_t stride,
                              float sum) {
  const int64_t at = row * stride + column;
  if (p.bias != NULL)
    sum += nn_load(static_cast<const T *>(p.bias) + column);
  if (p.before_gelu != NULL) { // gelu of what is stored, as if it were read again
    T *before = static_cast<T *>(p.before_gelu) + at;
    nn_store(before, sum);
    sum = nn_load(before);
    sum *= nn_gelu_gate<T>(sum);
  }
  nn_store(static_cast<C *>(p.c) + at, sum);
}

// A warp computes a column of c for M of its rows: it reads a row of b once for all of these.
template <typename T, typename C, int M, int BATCH>
__global__ static void __launch_bounds__(THREADS)
    multiply_few_rows(nn_cuda_product p, int64_t a_stride, int64_t c_stride) {
  constexpr int N = NN_PACK<T>;
  nn_let_next_kernel_begin();
  const int64_t column = (int64_t)blockIdx.x * WARPS + threadIdx.x / NN_WARP;
  const int lane = threadIdx.x % NN_WARP;
  if (column >= p.n)
    return;
  const int64_t first_row = (int64_t)blockIdx.y * M;
  const T *a = static_cast<const T *>(p.a) + first_row * a_stride,
          *b = static_cast<const T *>(p.b) + column * p.k;
  float sum[M] = {};
  for (int64_t begin = 0; begin < p.k; begin += BATCH * NN_WARP * N) {
    const int64_t first = begin + lane * N;
    nn_pack<T, N> weights[BATCH] = {}; // zeros behind the end of the row
#pragma unroll
    for (int u = 0; u < BATCH; u++)
      if (first + u * NN_WARP * N < p.k)
        weights[u] = nn_load_pack<N>(b + first + u * NN_WARP * N);
    if (begin == 0) // rows of b are parameters: they may come before
      nn_await_kernels_before();
    __syncwarp(); // or the compiler would load each where it is used, and wait for it
#pragma unroll
    for (int u = 0; u < BATCH; u++) {
      const int64_t at = first + u * NN_WARP * N;
      float weight[N], x[N];
      nn_unpack(weights[u], weight);
#pragma unroll
      for (int row = 0; row < M; row++) {
        const bool inside = first_row + row < p.m && at < p.k;
        nn_load_floats(a + (inside ? row * a_stride + at : 0), x);
#pragma unroll
        for (int i = 0; i < N; i++)
          sum[row] += weight[i] * x[i];
      }
    }
  }
#pragma unroll
  for (int row = 0; row < M; row++) {
    const float all = nn_warp_sum(sum[row]);
    if (lane == row && first_row + row < p.m)
      finish<T, C>(p, first_row + row, column, c_stride, all);
  }
}

static bool is_read_in_vectors(const nn_device *device, const nn_cuda_product *p) {
  const int64_t pack = 16 / (int64_t)nn_device_act_size(device);
  const uint64_t addresses = (uint64_t)(uintptr_t)p->a | (uint64_t)(uintptr_t)p->b;
  return p->transposed_b && !p->transposed_a && !p->add && p->gelu_of == NULL && p->k % pack == 0 &&
         p->a_stride % pack == 0 && addresses % 16 == 0;
}

bool nn_cuda_has_few_rows(const nn_device *device, const nn_cuda_product *p) {
  return p->m <= MOST_ROWS && is_read_in_vectors(device, p);
}

bool nn_cuda_has_few_results(const nn_device *device, const nn_cuda_product *p) {
  return p->m * p->n <= MOST_RESULTS && is_read_in_vectors(device, p);
}

template <typename T, typename C, int M>
static nn_status launch(nn_device *device, const nn_cuda_product *p) {
  const dim3 grid((unsigned)nn_ceil_div(p->n, (int64_t)WARPS), (unsigned)nn_ceil_div(p->m, (int64_t)M));
  const int64_t a_stride = p->a_stride != 0 ? p->a_stride : p->k;
  const int64_t c_stride = p->c_stride != 0 ? p->c_stride : p->n;
  if (p->k <= SHORT_BATCH * NN_WARP * NN_PACK<T>)
    return NN_LAUNCH_EARLY(device, (multiply_few_rows<T, C, M, SHORT_BATCH>), grid, THREADS, 0, *p, a_stride,
                           c_stride);
  return NN_LAUNCH_EARLY(device, (multiply_few_rows<T, C, M, LONG_BATCH>), grid, THREADS, 0, *p, a_stride,
                         c_stride);
}

template <typename T, typename C> static nn_status run_as(nn_device *device, const nn_cuda_product *p) {
  switch (p->m) {
  case 1:
    return launch<T, C, 1>(device, p);
  case 2:
    return launch<T, C, 2>(device, p);
  case 3:
    return launch<T, C, 3>(device, p);
  default:
    return launch<T, C, MOST_ROWS>(device, p);
  }
}

template <typename T> static nn_status run(nn_device *device, const nn_cuda_product *p) {
  return p->c_is_float ? run_as<T, float>(device, p) : run_as<T, T>(device, p);
}

nn_status nn_cuda_multiply_few_rows(nn_device *device, const nn_cuda_product *product) {
  return NN_CUDA_TYPED(device, run, device, product);
}
