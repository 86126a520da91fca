#include "dist/cuda/cast.h"

#include <cuda_bf16.h>
#include <cuda_runtime.h>

extern "C" {
#include "nn/device.h"
}
#include "nn/cuda/stream.h" // NN_CUDA_TRY

// A thread converts eight neighbours: 16 bytes of bf16, 32 of float32.
enum { EIGHT = 8, THREADS = 256 };

union bf16_eight {
  __nv_bfloat162 pair[EIGHT / 2];
  uint4 bits;
};

static __global__ void to_bf16(const float *from, __nv_bfloat16 *to, int64_t count) {
  int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EIGHT;
  if (i + EIGHT <= count) {
    float4 low = *(const float4 *)(from + i), high = *(const float4 *)(from + i + 4);
    bf16_eight out;
    out.pair[0] = __floats2bfloat162_rn(low.x, low.y);
    out.pair[1] = __floats2bfloat162_rn(low.z, low.w);
    out.pair[2] = __floats2bfloat162_rn(high.x, high.y);
    out.pair[3] = __floats2bfloat162_rn(high.z, high.w);
    *(uint4 *)(to + i) = out.bits;
    return;
  }
  for (; i < count; i++)
    to[i] = __float2bfloat16(from[i]);
}

static __global__ void from_bf16(const __nv_bfloat16 *from, float *to, int64_t count) {
  int64_t i = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * EIGHT;
  if (i + EIGHT <= count) {
    bf16_eight in;
    in.bits = *(const uint4 *)(from + i);
    float2 a = __bfloat1622float2(in.pair[0]), b = __bfloat1622float2(in.pair[1]);
    float2 c = __bfloat1622float2(in.pair[2]), d = __bfloat1622float2(in.pair[3]);
    *(float4 *)(to + i) = make_float4(a.x, a.y, b.x, b.y);
    *(float4 *)(to + i + 4) = make_float4(c.x, c.y, d.x, d.y);
    return;
  }
  for (; i < count; i++)
    to[i] = __bfloat162float(from[i]);
}

static cudaLaunchConfig_t launch_over(cudaStream_t stream, int64_t count) {
  const int64_t block = (int64_t)THREADS * EIGHT;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3((unsigned)((count + block - 1) / block));
  config.blockDim = dim3(THREADS);
  config.stream = stream;
  return config;
}

nn_status dist_cuda_to_bf16(cudaStream_t stream, const float *from, void *to, int64_t count) {
  cudaLaunchConfig_t config = launch_over(stream, count);
  NN_CUDA_TRY(cudaLaunchKernelEx(&config, to_bf16, from, (__nv_bfloat16 *)to, count));
  return NN_OK;
}

nn_status dist_cuda_from_bf16(cudaStream_t stream, const void *from, float *to, int64_t count) {
  cudaLaunchConfig_t config = launch_over(stream, count);
  NN_CUDA_TRY(cudaLaunchKernelEx(&config, from_bf16, (const __nv_bfloat16 *)from, to, count));
  return NN_OK;
}
