// Private to nn/cuda: what a CUDA device keeps.
#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "nn/cuda/kernel.h"
#include "nn/cuda/matmul.h"

// Pinned memory by whose parts uploads go: a copy from ordinary memory would wait for the whole stream.
constexpr int NN_CUDA_STAGING_PARTS = 8;
constexpr size_t NN_CUDA_STAGING_BYTES = 1 << 20; // of a part
typedef struct {
  char *memory;                            // [NN_CUDA_STAGING_PARTS, NN_CUDA_STAGING_BYTES]
  cudaEvent_t done[NN_CUDA_STAGING_PARTS]; // the copy out of this part has ended
  int next;                                // part
} nn_cuda_staging;

// NVIDIA's recommendation for Hopper is 32 MiB; more lets products with few output tiles be split further.
constexpr size_t NN_CUDA_BLAS_BYTES = 64 << 20;

typedef struct {
  int ordinal;      // among the GPUs that this process sees
  int capability;   // 10 x major + minor
  int processors;   // multiprocessors
  int shared_bytes; // shared memory of a multiprocessor
  int block_shared; // the most of it that a thread block can have
  cudaStream_t stream;
  nn_cuda_staging staging;
  cublasLtHandle_t blas;
  void *blas_workspace; // [NN_CUDA_BLAS_BYTES]
  nn_cuda_plans *plans; // of products that ran before
} nn_cuda_gpu;

static inline nn_cuda_gpu *nn_cuda_gpu_of(const nn_device *device) {
  return static_cast<nn_cuda_gpu *>(device->own);
}
