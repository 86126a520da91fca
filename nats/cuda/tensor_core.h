// Tiles in shared memory and the instructions that work on them: asynchronous copies, ldmatrix, and the bf16
// product m16n8k16 with float32 sums (sm_80 and up). Every number of lanes, rows and columns below is that of
// the PTX ISA, "Matrix fragments for mma.m16n8k16 with floating point type".
//
//   a 16 x 16, row-major       lane l, r = l / 4, c = 2 (l % 4):
//     a[0] (r, c c+1)   a[1] (r + 8, c c+1)   a[2] (r, c+8 c+9)   a[3] (r + 8, c+8 c+9)
//   b 16 x 8, b[k][n]:  b[0] (k = c c+1, n = r)   b[1] (k = c+8 c+9, n = r)
//   c 16 x 8, float32:  c[0] c[1] (r, c c+1)      c[2] c[3] (r + 8, c c+1)
//
// A tile is [rows, D] of bf16, its 16-byte pieces exchanged within a row so that eight neighbouring rows of
// the same piece lie in eight different groups of banks: piece p of row r is stored at p ^ (r % 8).
#pragma once

#include "nn/cuda/kernel.h"

// Elements from the tile's start to piece `piece` (8 elements) of row `row`.
template <int D> __device__ static inline int nats_piece(int row, int piece) {
  return row * D + ((piece ^ (row & 7)) << 3);
}

// Two float32 to a pair of bf16, the first in the lower half.
__device__ static inline uint32_t nats_pack(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  uint32_t bits;
  memcpy(&bits, &pair, sizeof bits);
  return bits;
}

#ifndef __CUDACC__
#include "tests/emulator/tensor_core.h" // the same functions, computed on the CPU
#else

__device__ static inline uint32_t nats_shared_address(const void *shared) {
  return (uint32_t)__cvta_generic_to_shared(shared);
}

// Starts copying 16 bytes to shared memory; zeros where not `valid` (nothing is read then).
__device__ static inline void nats_copy16(void *shared, const void *global, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(nats_shared_address(shared)),
               "l"(global), "r"(valid ? 16 : 0));
}
__device__ static inline void nats_copy_commit() {
  asm volatile("cp.async.commit_group;");
}
// Waits until at most N of this thread's committed groups are under way.
template <int N> __device__ static inline void nats_copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N));
}

// Four 8 x 8 matrices: lanes 8 m to 8 m + 7 give the addresses of the rows of matrix m, which goes to r[m]:
// lane l holds elements (l / 4, 2 (l % 4)) and the next; with _transposed, (2 (l % 4), l / 4) and the next
// row's.
__device__ static inline void nats_ldmatrix4(uint32_t r[4], const void *shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(nats_shared_address(shared)));
}
__device__ static inline void nats_ldmatrix4_transposed(uint32_t r[4], const void *shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(nats_shared_address(shared)));
}

// c += a b
__device__ static inline void nats_mma(float c[4], const uint32_t a[4], const uint32_t b[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
               "{%0,%1,%2,%3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif
