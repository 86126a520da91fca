// What the CUDA sources share: launching, the two compute types, and reductions.
//
// Kernels are templates over the compute type T (float or nn_bf16), computed in float32 between one load and
// one store. They have no atomics whose order could change a sum: results repeat bit for bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

extern "C" {
#include "nn/device_table.h"
#include "nn/ops_table.h"
}
#include "nn/cuda/stream.h"

typedef __nv_bfloat16 nn_bf16;

// Starts a kernel on the device's stream; its value is the status of the launch. A kernel with several
// template arguments stands in parentheses. The CPU's stand-in for the CUDA runtime (tests/emulator) has its
// own.
#ifndef NN_LAUNCH
#define NN_LAUNCH(device, kernel, grid, block, shared_bytes, ...)                                            \
  nn_cuda_launch(device, false, #kernel, kernel, grid, block, shared_bytes, __VA_ARGS__)
// The same for a kernel that calls nn_await_kernels_before: on Hopper it may begin before they have ended.
#define NN_LAUNCH_EARLY(device, kernel, grid, block, shared_bytes, ...)                                      \
  nn_cuda_launch(device, true, #kernel, kernel, grid, block, shared_bytes, __VA_ARGS__)
// Shared memory whose size is given at the launch.
#define NN_DYNAMIC_SHARED(type, name) extern __shared__ __align__(1024) type name[]

template <typename... Parameters, typename... Arguments>
static inline nn_status nn_cuda_launch(nn_device *device, bool early, const char *name,
                                       void (*kernel)(Parameters...), dim3 grid, dim3 block,
                                       size_t shared_bytes, Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = early && nn_cuda_has_hopper_code(device) ? 1 : 0;
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = nn_cuda_stream(device);
  // A block has 48 KiB unless it asks for more, and what kernels declare as __shared__ is part of it.
  if (shared_bytes > 32 << 10)
    NN_TRY(nn_cuda_status(
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes), name,
        __FILE__, __LINE__));
  return nn_cuda_status(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), name,
                        __FILE__, __LINE__);
}
#endif

// Lets a kernel that is launched early begin when all blocks of this one have come here or ended. It finds
// room where this one leaves some: short kernels in a row begin while others still run out.
__device__ static inline void nn_let_next_kernel_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernels before this one have ended and what they wrote can be read. A kernel that is
// launched early may do until then what none of them has a part in.
__device__ static inline void nn_await_kernels_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Fetches the line of memory that x is in, for a load to come.
__device__ static inline void nn_prefetch(const void *x) {
#ifdef __CUDACC__
  asm volatile("prefetch.global.L2 [%0];" ::"l"(x));
#else // tests/emulator
  (void)x;
#endif
}

// Calls `run<T>(...)` with the device's compute type.
#define NN_CUDA_TYPED(device, run, ...)                                                                      \
  (nn_device_compute_type(device) == NN_BF16 ? run<nn_bf16>(__VA_ARGS__) : run<float>(__VA_ARGS__))

enum { NN_WARP = 32 };

template <typename T> __host__ __device__ static inline constexpr T nn_ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

__device__ static inline float nn_load(const float *x) {
  return *x;
}
__device__ static inline float nn_load(const nn_bf16 *x) {
  return __bfloat162float(*x);
}
__device__ static inline void nn_store(float *x, float value) {
  *x = value;
}
__device__ static inline void nn_store(nn_bf16 *x, float value) {
  *x = __float2bfloat16(value);
}

// Sums and maxima over the lanes of a warp; every lane gets the result.
__device__ static inline float nn_warp_sum(float x) {
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}
__device__ static inline double nn_warp_sum(double x) {
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    x += __shfl_xor_sync(0xffffffffu, x, lanes);
  return x;
}
__device__ static inline float nn_warp_max(float x) {
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, lanes));
  return x;
}

// 2^x in one instruction, with 0 for results below 2^-126. __expf would take five more to keep those.
__device__ static inline float nn_exp2(float x) {
#ifdef __CUDACC__
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else // tests/emulator
  return x < -126.0f ? 0.0f : exp2f(x);
#endif
}
