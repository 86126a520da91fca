#include <math.h>

#include "nn/cuda/operators.h"
#include "nn/cuda/segments.h"
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

// A sum of squares of float32 cannot overflow float64: it is finite exactly when all elements are. Segments
// end at multiples of NN_PARAM_ALIGN, `grad` holds the shard only or (`whole`) the arena.
__global__ static void __launch_bounds__(THREADS)
    sum_squares(__grid_constant__ const nn_segment_list list, const float *grad, bool whole,
                double *of_chunk) { // of_chunk: [blocks]
  nn_segment s = nn_segment_find(list, (int32_t)blockIdx.x);
  int64_t begin = (int64_t)((int32_t)blockIdx.x - s.first_block) * CHUNK + (int64_t)threadIdx.x * PACK;
  grad += whole ? s.begin : s.at;
  double sum = 0.0;
#pragma unroll 8
  for (int load = 0; load < LOADS; load++) {
    int64_t at = begin + (int64_t)load * THREADS * PACK;
    if (at < s.count) {
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
  double norm = sqrt(sum), most = (double)step->max_norm; // as nn_step_set_norm
  step->squares = sum;
  step->non_finite = !(sum <= 1.7976931348623157e308); // the largest float64; a NaN is not below it either
  step->grad_norm = (float)norm;
  step->clip_factor = most > 0.0 && norm > most ? (float)(most / norm) : 1.0f;
}

// Appends pieces from *next on, as many as the list holds.
static void collect_pieces(const nn_params *params, int32_t *next, nn_segment_list *list) {
  list->count = list->blocks = 0;
  for (; *next < nn_params_pieces(params); ++*next) {
    nn_piece piece = nn_params_piece(params, *next);
    nn_segment segment = {piece.offset, piece.count, piece.at, 0, 0};
    if (piece.count > 0 && !nn_segment_append(list, segment, CHUNK))
      return;
  }
}

extern "C" nn_status nn_cuda_grad_norm(nn_device *device, const nn_params *params, nn_step *step) {
  int64_t chunks = 0, done = 0;
  for (int32_t i = 0; i < nn_params_pieces(params); i++)
    chunks += nn_ceil_div(nn_params_piece(params, i).count, (int64_t)CHUNK);
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)(chunks + 1) * sizeof(double), &workspace));
  double *of_chunk = static_cast<double *>(workspace);
  const float *grad = params->sum != NULL ? params->sum : params->grad;
  nn_segment_list list;
  for (int32_t next = 0; next < nn_params_pieces(params); done += list.blocks) {
    collect_pieces(params, &next, &list);
    if (list.blocks > 0)
      NN_TRY(NN_LAUNCH(device, sum_squares, dim3((unsigned)list.blocks), dim3(THREADS), 0, list, grad,
                       params->sum == NULL, of_chunk + done));
  }
  return NN_LAUNCH(device, finish, dim3(1), dim3(JOIN_THREADS), 0, of_chunk, chunks, step);
}

// ---- adding up

__global__ static void __launch_bounds__(THREADS) add(float *to, const float *from, int64_t count) {
  int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
  if (at >= count)
    return;
  float sum[PACK], more[PACK];
  nn_load_floats(to + at, sum);
  nn_load_floats(from + at, more);
#pragma unroll
  for (int i = 0; i < PACK; i++)
    sum[i] += more[i];
  nn_store_floats(to + at, sum);
}

extern "C" nn_status nn_cuda_accumulate(nn_device *device, float *to, const float *from, int64_t count) {
  int64_t blocks = nn_ceil_div(count, (int64_t)THREADS * PACK);
  return NN_LAUNCH(device, add, dim3((unsigned)blocks), dim3(THREADS), 0, to, from, count);
}
