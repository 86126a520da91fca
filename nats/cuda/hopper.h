// Products of a warpgroup on Hopper (wgmma, sm_90a): 64 x 64 x 16 in bf16 with float32 sums, a from registers
// or shared memory and b from shared memory (PTX ISA, "Asynchronous warpgroup level matrix instructions").
// Four consecutive warps that begin at a multiple of four call together; warp w holds rows 16 w to 16 w + 15
// of a and c, with the fragments of nats/cuda/tensor_core.h: c[4 n] to c[4 n + 3] are those of columns 8 n
// on.
//
// b lies in a tile of rows of 64 bf16, at a multiple of 1024 bytes, stored as nats_piece<64> says. A row is a
// query or a key; whether the product sums along rows or across them is ACROSS:
//   false: b[k][n] is element k of row n     16 k are 32 bytes of every row
//   true:  b[k][n] is element n of row k     16 k are 16 rows, 2048 bytes
// a from shared memory lies in a tile like this, too: a[m][k] is element k of row m.
//
// A product is under way from nats_wgmma to the nats_wgmma_wait that completes its group: until then no other
// instruction may touch its registers or overwrite the rows it reads.
#pragma once

#include "nats/cuda/tensor_core.h"

#ifndef __CUDACC__
#include "tests/emulator/hopper.h" // the same functions, computed on the CPU
#define NATS_WGMMA_CODE 1
#else

// Where code with these instructions is made: for sm_90a, not for the other architectures of the same source.
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#define NATS_WGMMA_CODE 1
#endif

// Where a tile begins, with the exchange of pieces in 128 bytes; the next eight rows follow after 1024 bytes.
__device__ static inline uint64_t nats_wgmma_tile(const void *shared) {
  return (uint64_t)((nats_shared_address(shared) & 0x3ffff) >> 4) | (uint64_t)1 << 16 |
         (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}
// The same tile further on: `bytes` is a multiple of 16.
__device__ static inline uint64_t nats_wgmma_at(uint64_t tile, uint32_t bytes) {
  return tile + (bytes >> 4);
}

// A barrier in shared memory whose phases, 0, 1, 0, 1, ... follow one another: each is over when `arrivals`
// threads have arrived in it. Threads wait for a phase wherever they are in the code, or do not. It begins
// with nats_begin_phases by one thread, before a __syncthreads.
typedef uint64_t nats_phases;

#ifdef NATS_WGMMA_CODE
// Before the first product that uses registers which other instructions wrote or read.
__device__ static inline void nats_wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
// Makes a group of the products since the last one.
__device__ static inline void nats_wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Waits until at most N of this warp's groups are under way.
template <int N> __device__ static inline void nats_wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}
// After the wait for the products on c: what reads c stays behind it.
__device__ static inline void nats_wgmma_done(float (&c)[32]) {
#pragma unroll
  for (int i = 0; i < 32; i++)
    asm volatile("" : "+f"(c[i])::"memory");
}
// Before other products start: what writes a stays ahead of them.
__device__ static inline void nats_wgmma_ready(uint32_t (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++)
    asm volatile("" : "+r"(a[i])::"memory");
}
// After this thread's copies to shared memory have arrived, before the barrier that hands them to products.
__device__ static inline void nats_wgmma_publish() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

__device__ static inline void nats_begin_phases(nats_phases *barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(nats_shared_address(barrier)), "r"(arrivals)
               : "memory");
}
__device__ static inline void nats_arrive(nats_phases *barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(nats_shared_address(barrier)) : "memory");
}
// Until `phase` is over. It must be the one that has begun, or the one before it.
__device__ static inline void nats_wait_phase(nats_phases *barrier, uint32_t phase) {
  asm volatile("{\n.reg .pred p;\nagain:\n"
               "mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
               "@!p bra again;\n}" ::"r"(nats_shared_address(barrier)),
               "r"(phase)
               : "memory");
}

// The instruction up to its sums, operands 0 to 31; `add` is one of the operands that follow.
#define NATS_WGMMA_INTO(add)                                                                                 \
  "{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n"                                                           \
  "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "                                                    \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                  \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
#define NATS_WGMMA_SUMS(c)                                                                                   \
  "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3]), "+f"(c[4]), "+f"(c[5]), "+f"(c[6]), "+f"(c[7]),            \
      "+f"(c[8]), "+f"(c[9]), "+f"(c[10]), "+f"(c[11]), "+f"(c[12]), "+f"(c[13]), "+f"(c[14]), "+f"(c[15]),  \
      "+f"(c[16]), "+f"(c[17]), "+f"(c[18]), "+f"(c[19]), "+f"(c[20]), "+f"(c[21]), "+f"(c[22]),             \
      "+f"(c[23]), "+f"(c[24]), "+f"(c[25]), "+f"(c[26]), "+f"(c[27]), "+f"(c[28]), "+f"(c[29]),             \
      "+f"(c[30]), "+f"(c[31])

// c = a b + (add ? c : 0), a from registers
template <bool ACROSS>
__device__ static inline void nats_wgmma(float (&c)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(NATS_WGMMA_INTO("%37") "{%32, %33, %34, %35}, %36, p, 1, 1, %38;\n}\n"
               : NATS_WGMMA_SUMS(c)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add), "n"(ACROSS ? 1 : 0));
}
// The same with a from shared memory, which leaves 16 registers free for every 64 columns of a.
template <bool ACROSS>
__device__ static inline void nats_wgmma(float (&c)[32], uint64_t a, uint64_t b, bool add) {
  asm volatile(NATS_WGMMA_INTO("%34") "%32, %33, p, 1, 1, 0, %35;\n}\n"
               : NATS_WGMMA_SUMS(c)
               : "l"(a), "l"(b), "r"((int)add), "n"(ACROSS ? 1 : 0));
}
#endif
#endif
