// Copies to shared memory that go on while their thread computes (cp.async).
#pragma once

#include "nn/cuda/kernel.h"

#ifndef __CUDACC__
#include "tests/emulator/copy.h" // the same functions on the CPU
#else

// Starts copying 16 bytes to shared memory; zeros where not `valid` (nothing is read then).
__device__ static inline void nn_copy16(void *shared, const void *global, bool valid) {
  asm volatile(
      "cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((uint32_t)__cvta_generic_to_shared(shared)),
      "l"(global), "r"(valid ? 16 : 0)
      : "memory");
}
__device__ static inline void nn_copy_commit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
// Waits until at most N of this thread's committed groups are under way.
template <int N> __device__ static inline void nn_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}
#endif
