#include <math.h>

#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

enum { THREADS = 256, LOADS = 16, PACK = 4, CHUNK = THREADS * LOADS * PACK, JOIN_THREADS = 1024 };

// Sums of a block's threads, in an order of its own that is always the same; the first thread has the result.
template <int COUNT> __device__ static inline double block_sum(double sum) {
  __shared__ double of_warp[COUNT / NN_WARP];
  sum = nn_warp_sum(sum);
  if (threadIdx.x % NN_WARP == 0)
    of_warp[threadIdx.x / NN_WARP] = sum;
  __syncthreads();
  for (int warp = 1; threadIdx.x == 0 && warp < COUNT / NN_WARP; warp++)
    sum += of_warp[warp];
  return sum;
}

// A sum of squares of float32 cannot overflow float64: it is finite exactly when all elements are. The
// arena's length is a multiple of NN_PARAM_ALIGN.
__global__ static void __launch_bounds__(THREADS)
    sum_squares(const float *grad, int64_t total, double *of_chunk) { // of_chunk: [blocks]
  int64_t begin = (int64_t)blockIdx.x * CHUNK + (int64_t)threadIdx.x * PACK;
  double sum = 0.0;
#pragma unroll 8
  for (int load = 0; load < LOADS; load++) {
    int64_t at = begin + (int64_t)load * THREADS * PACK;
    if (at < total) {
      float g[PACK];
      nn_load_floats(grad + at, g);
#pragma unroll
      for (int i = 0; i < PACK; i++)
        sum += (double)g[i] * (double)g[i];
    }
  }
  sum = block_sum<THREADS>(sum);
  if (threadIdx.x == 0)
    of_chunk[blockIdx.x] = sum;
}

__global__ static void __launch_bounds__(JOIN_THREADS)
    finish(const double *of_chunk, int64_t chunks, nn_step *step) {
  double sum = 0.0;
  for (int64_t chunk = threadIdx.x; chunk < chunks; chunk += JOIN_THREADS)
    sum += of_chunk[chunk];
  sum = block_sum<JOIN_THREADS>(sum);
  if (threadIdx.x != 0)
    return;
  double norm = sqrt(sum), most = (double)step->max_norm;
  step->non_finite = !(sum <= 1.7976931348623157e308); // the largest float64; a NaN is not below it either
  step->grad_norm = (float)norm;
  step->clip_factor = most > 0.0 && norm > most ? (float)(most / norm) : 1.0f;
}

extern "C" nn_status nn_cuda_grad_norm(nn_device *device, const nn_params *params, nn_step *step) {
  int64_t total = params->table->total, chunks = nn_ceil_div(total, (int64_t)CHUNK);
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)chunks * sizeof(double), &workspace));
  double *of_chunk = static_cast<double *>(workspace);
  NN_TRY(NN_LAUNCH(device, sum_squares, dim3((unsigned)chunks), dim3(THREADS), 0, params->grad, total,
                   of_chunk));
  return NN_LAUNCH(device, finish, dim3(1), dim3(JOIN_THREADS), 0, of_chunk, chunks, step);
}
