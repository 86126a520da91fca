#include "nn/cuda/matmul_trial.h"

#include <algorithm> // sort

#include "nn/cuda/device.h"

enum { ROUNDS = 5, REPEATS = 2 }; // of all algorithms, in turns; of one in a round
enum { MOST = 16, THREADS = 256, BLOCKS = 1024 };

typedef struct {
  nn_device *device;
  const nn_cuda_trial *of;
  char *first, *other; // results: the first algorithm's; any other one's
  int32_t *differ;     // 1 where these do
  cudaEvent_t begun, ended;
} trial_run;

// ---- which algorithms may stand for the first one

template <typename Bits>
__global__ static void __launch_bounds__(THREADS)
    compare(int64_t rows, int64_t width, int64_t stride, const char *x, const char *y, int32_t *differ) {
  const int64_t step = (int64_t)gridDim.x * THREADS;
  for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < rows * width; i += step) {
    const int64_t at = i / width * stride + i % width;
    if (reinterpret_cast<const Bits *>(x)[at] != reinterpret_cast<const Bits *>(y)[at])
      *differ = 1;
  }
}

static bool has_equal(const cublasLtMatmulAlgo_t *x, const cublasLtMatmulAlgo_t *y,
                      cublasLtMatmulAlgoConfigAttributes_t attribute) {
  uint32_t of_x = 0, of_y = 0;
  size_t written;
  return cublasLtMatmulAlgoConfigGetAttribute(x, attribute, &of_x, sizeof of_x, &written) ==
             CUBLAS_STATUS_SUCCESS &&
         cublasLtMatmulAlgoConfigGetAttribute(y, attribute, &of_y, sizeof of_y, &written) ==
             CUBLAS_STATUS_SUCCESS &&
         of_x == of_y;
}

// Bits that are equal by chance, such as those of zeros, prove nothing: both must be of one kind, and split
// the sums alike.
static bool sums_alike(const cublasLtMatmulAlgo_t *x, const cublasLtMatmulAlgo_t *y) {
  return has_equal(x, y, CUBLASLT_ALGO_CONFIG_ID) && has_equal(x, y, CUBLASLT_ALGO_CONFIG_SPLITK_NUM) &&
         has_equal(x, y, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
}

static bool multiply(const trial_run *run, const cublasLtMatmulAlgo_t *algorithm, void *to) {
  const nn_cuda_gpu *gpu = nn_cuda_gpu_of(run->device);
  const nn_cuda_trial *of = run->of;
  const float one = 1.0f;
  return cublasLtMatmul(gpu->blas, of->operation, &one, of->a, of->a_layout, of->b, of->b_layout, &of->beta,
                        of->c, of->c_layout, to, of->c_layout, algorithm, gpu->blas_workspace,
                        NN_CUDA_BLAS_BYTES, gpu->stream) == CUBLAS_STATUS_SUCCESS;
}

static nn_status compare_results(const trial_run *run, bool *same) {
  const nn_cuda_trial *of = run->of;
  int32_t differ;
  NN_CUDA_TRY(cudaMemsetAsync(run->differ, 0, sizeof *run->differ, nn_cuda_stream(run->device)));
  if (of->element == 2)
    NN_TRY(NN_LAUNCH(run->device, compare<uint16_t>, dim3(BLOCKS), dim3(THREADS), 0, of->rows, of->width,
                     of->stride, run->first, run->other, run->differ));
  else
    NN_TRY(NN_LAUNCH(run->device, compare<uint32_t>, dim3(BLOCKS), dim3(THREADS), 0, of->rows, of->width,
                     of->stride, run->first, run->other, run->differ));
  NN_TRY(nn_device_download(run->device, &differ, run->differ, sizeof differ));
  NN_TRY(nn_device_sync(run->device));
  *same = differ == 0;
  return NN_OK;
}

static nn_status find_equals(const trial_run *run, int32_t count, const cublasLtMatmulAlgo_t algorithms[],
                             bool equal[MOST]) {
  equal[0] = multiply(run, &algorithms[0], run->first);
  for (int32_t i = 1; i < count; i++) {
    equal[i] =
        equal[0] && sums_alike(&algorithms[0], &algorithms[i]) && multiply(run, &algorithms[i], run->other);
    if (equal[i])
      NN_TRY(compare_results(run, &equal[i]));
  }
  return NN_OK;
}

// ---- how long they take

static nn_status measure(const trial_run *run, const cublasLtMatmulAlgo_t *algorithm, float *milliseconds) {
  const cudaStream_t stream = nn_cuda_stream(run->device);
  NN_CUDA_TRY(cudaEventRecord(run->begun, stream));
  for (int i = 0; i < REPEATS; i++)
    (void)multiply(run, algorithm, run->other);
  NN_CUDA_TRY(cudaEventRecord(run->ended, stream));
  NN_CUDA_TRY(cudaEventSynchronize(run->ended));
  NN_CUDA_TRY(cudaEventElapsedTime(milliseconds, run->begun, run->ended));
  return NN_OK;
}

// By the median: the clock of a GPU under load goes up and down.
static nn_status find_fastest(const trial_run *run, int32_t count, const cublasLtMatmulAlgo_t algorithms[],
                              int32_t *best) {
  bool equal[MOST];
  float times[MOST][ROUNDS];
  NN_TRY(find_equals(run, count, algorithms, equal));
  for (int round = 0; round < ROUNDS; round++)
    for (int32_t i = 0; i < count; i++)
      if (equal[i])
        NN_TRY(measure(run, &algorithms[i], &times[i][round]));
  for (int32_t i = 0; i < count; i++) {
    if (!equal[i])
      continue;
    std::sort(times[i], times[i] + ROUNDS);
    if (times[i][ROUNDS / 2] < times[*best][ROUNDS / 2])
      *best = i;
  }
  return NN_OK;
}

// ---- the trial

static bool is_recorded(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusActive;
  return cudaStreamIsCapturing(stream, &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

static bool begin(trial_run *run, char **memory) {
  const size_t bytes = ((size_t)(run->of->rows * run->of->stride) * run->of->element + 255) / 256 * 256;
  if (cudaMalloc(reinterpret_cast<void **>(memory), 2 * bytes + sizeof *run->differ) != cudaSuccess) {
    (void)cudaGetLastError(); // it is not the next launch's
    return false;
  }
  run->first = *memory;
  run->other = *memory + bytes;
  run->differ = reinterpret_cast<int32_t *>(*memory + 2 * bytes);
  return cudaEventCreate(&run->begun) == cudaSuccess && cudaEventCreate(&run->ended) == cudaSuccess;
}

static void end(const trial_run *run, char *memory) {
  if (run->begun != NULL)
    (void)cudaEventDestroy(run->begun);
  if (run->ended != NULL)
    (void)cudaEventDestroy(run->ended);
  if (memory != NULL)
    (void)cudaFree(memory);
}

nn_status nn_cuda_try_algorithms(nn_device *device, const nn_cuda_trial *trial, int32_t count,
                                 const cublasLtMatmulAlgo_t algorithms[], int32_t *best) {
  *best = 0;
  if (is_recorded(nn_cuda_stream(device)))
    return NN_OK;
  trial_run run = {};
  run.device = device;
  run.of = trial;
  char *memory = NULL;
  nn_status status = NN_OK;
  if (begin(&run, &memory))
    status = find_fastest(&run, count < MOST ? count : (int32_t)MOST, algorithms, best);
  end(&run, memory);
  return status;
}
