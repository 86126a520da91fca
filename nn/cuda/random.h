// The counter-based random numbers of nn/random.h for CUDA kernels: the same bits for the same counter and
// key. Keys are made on the host or here, with one result.
#pragma once

#include <cuda_runtime.h>

extern "C" {
#include "nn/random.h"
}

// Philox4x32-10 (Salmon et al. 2011); the constants are its multipliers and key increments.
__device__ static inline uint4 nn_cuda_philox(uint4 counter, nn_random_key key) {
  uint32_t k0 = key.key[0], k1 = key.key[1];
#pragma unroll
  for (int round = 0; round < 10; round++) {
    uint64_t product0 = (uint64_t)0xd2511f53u * counter.x;
    uint64_t product1 = (uint64_t)0xcd9e8d57u * counter.z;
    counter = make_uint4((uint32_t)(product1 >> 32) ^ counter.y ^ k0, (uint32_t)product1,
                         (uint32_t)(product0 >> 32) ^ counter.w ^ k1, (uint32_t)product0);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  return counter;
}

// The same, with the counter given as two 64-bit numbers.
__device__ static inline uint4 nn_cuda_random_u32x4(nn_random_key key, uint64_t high, uint64_t low) {
  return nn_cuda_philox(
      make_uint4((uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)), key);
}

// nn_random_key_make: the purpose turns the seed into a key, and that key turns (a, b) into the stream's own.
__device__ static inline nn_random_key nn_cuda_random_key_make(uint64_t seed, nn_random_purpose purpose,
                                                               uint64_t a, uint64_t b) {
  nn_random_key key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  uint4 bits = nn_cuda_random_u32x4(key, 0, (uint64_t)purpose);
  key.key[0] = bits.x;
  key.key[1] = bits.y;
  bits = nn_cuda_random_u32x4(key, a, b);
  key.key[0] = bits.x;
  key.key[1] = bits.y;
  return key;
}

// In (0, 1), exactly as on the host.
__device__ static inline float nn_cuda_random_uniform(uint32_t bits) {
  return ((float)(bits >> 9) + 0.5f) * 0x1p-23f;
}

// -log(-log(u)); the accurate logf, so that host and device differ in the last place at most.
__device__ static inline float nn_cuda_random_gumbel(uint32_t bits) {
  return -logf(-logf(nn_cuda_random_uniform(bits)));
}

// Box-Muller in float64 as on the host, so that the float32 results agree.
__device__ static inline float2 nn_cuda_random_normal2(uint32_t a, uint32_t b) {
  double radius = sqrt(-2.0 * log(((double)a + 0.5) * 0x1p-32));
  double angle = 2.0 * 3.14159265358979323846 * ((double)b * 0x1p-32);
  return make_float2((float)(radius * cos(angle)), (float)(radius * sin(angle)));
}
