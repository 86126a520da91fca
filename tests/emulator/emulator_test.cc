// The emulated GPU must see what it is there to see: an oversight here lets a broken kernel pass all tests.
#include <criterion/criterion.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>

#include <cuda_bf16.h>

#include "nats/cuda/hopper.h"

enum { THREADS = 64, WHOLE = 48 };

static float *device_floats(int count) {
  float *memory = nullptr;
  cr_assert_eq(cudaMalloc(&memory, static_cast<size_t>(count) * sizeof *memory), cudaSuccess);
  return memory;
}

// ---- what kernels may do

__global__ static void lanes_and_blocks(float *out) {
  float *shared = static_cast<float *>(emulator_shared());
  float sum = 1.0f;
  for (int lanes = 16; lanes > 0; lanes /= 2)
    sum += __shfl_xor_sync(~0u, sum, lanes);
  shared[threadIdx.x] = sum + __popc(__ballot_sync(~0u, threadIdx.x % 2 == 0));
  int odd = __syncthreads_count(threadIdx.x % 2);
  out[blockIdx.x * THREADS + threadIdx.x] = shared[THREADS - 1 - threadIdx.x] + static_cast<float>(odd);
}
Test(emulator, lanes_and_blocks_meet) {
  float *out = device_floats(2 * THREADS);
  cr_assert_eq(
      emulator_launch("lanes_and_blocks", lanes_and_blocks, 2, THREADS, THREADS * sizeof(float), out),
      cudaSuccess);
  for (int i = 0; i < 2 * THREADS; i++)
    cr_assert_eq(out[i], 32.0f + 16.0f + 32.0f, "%d: %g", i, static_cast<double>(out[i]));
  cudaFree(out);
}

// Threads that have returned keep nobody waiting, as on a GPU.
__global__ static void early_return(float *out) {
  if (threadIdx.x >= WHOLE)
    return;
  __syncthreads();
  out[threadIdx.x] = __shfl_sync(~0u, static_cast<float>(threadIdx.x), 3);
}
Test(emulator, returned_threads_keep_nobody_waiting) {
  float *out = device_floats(THREADS);
  cr_assert_eq(emulator_launch("early_return", early_return, 1, THREADS, 0, out), cudaSuccess);
  cr_expect_eq(out[0], 3.0f);
  cr_expect_eq(out[WHOLE - 1], 35.0f);
  cr_expect(isnan(out[WHOLE]), "fresh device memory");
  cudaFree(out);
}

// ---- what they may not

static void launch_one(void (*kernel)(float *)) {
  emulator_launch("kernel", kernel, 1, THREADS, THREADS * sizeof(float), device_floats(THREADS));
}

__global__ static void waits_for_ever(float *out) {
  if (threadIdx.x < 16)
    out[0] = __shfl_xor_sync(~0u, 1.0f, 1);
  else
    __syncthreads();
}
Test(emulator, deadlock_ends_the_program, .signal = SIGABRT) { launch_one(waits_for_ever); }

__global__ static void parts_at_a_barrier(float *out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads_or(1);
  out[0] = 1;
}
Test(emulator, barriers_on_two_lines_end_the_program, .signal = SIGABRT) { launch_one(parts_at_a_barrier); }

__global__ static void lane_outside_its_mask(float *) { __syncwarp(1); }
Test(emulator, lane_outside_its_mask_ends_the_program, .signal = SIGABRT) {
  launch_one(lane_outside_its_mask);
}

Test(emulator, impossible_launches_are_refused) {
  cr_expect_eq(emulator_launch("kernel", early_return, 1, 1025, 0, nullptr), cudaErrorInvalidConfiguration);
  cr_expect_eq(emulator_launch("kernel", early_return, 1, 32, 228 << 10, nullptr),
               cudaErrorInvalidConfiguration);
  cr_expect_eq(emulator_launch("kernel", early_return, dim3(1, 65536), 32, 0, nullptr),
               cudaErrorInvalidConfiguration);
  cr_expect_eq(emulator_launch("kernel", early_return, 0, 32, 0, nullptr), cudaErrorInvalidConfiguration);
}

// ---- what they would read too early

__global__ static void copies(float *out, const float *from) {
  float *shared = static_cast<float *>(emulator_shared());
  if (threadIdx.x != 0)
    return;
  out[0] = shared[0]; // never written in this block
  for (int piece = 0; piece < 2; piece++) {
    nats_copy16(shared + 4 * piece, from + 4 * piece, true);
    nats_copy_commit();
  }
  nats_copy16(shared + 8, nullptr, false);
  nats_copy_wait<1>();
  out[1] = shared[0];
  out[2] = shared[4]; // the second group is still under way
  nats_copy_commit();
  nats_copy_wait<0>();
  out[3] = shared[4];
  out[4] = shared[8];
}
Test(emulator, copies_arrive_when_waited_for) {
  float *out = device_floats(5), *from = device_floats(8);
  for (int i = 0; i < 8; i++)
    from[i] = static_cast<float>(1 + i);
  cr_assert_eq(emulator_launch("copies", copies, 2, 32, 48, out, from), cudaSuccess);
  cr_expect(isnan(out[0]), "shared memory of an earlier block");
  cr_expect_eq(out[1], 1.0f);
  cr_expect(isnan(out[2]));
  cr_expect_eq(out[3], 5.0f);
  cr_expect_eq(out[4], 0.0f);
  cudaFree(out);
  cudaFree(from);
}

// Lane 0 writes what the others read, without a barrier: right in one order of turns, wrong in another.
__global__ static void missing_barrier(float *out) {
  float *shared = static_cast<float *>(emulator_shared());
  if (threadIdx.x == 0)
    shared[0] = 7.0f;
  out[threadIdx.x] = shared[0];
}
Test(emulator, another_order_shows_a_missing_barrier) {
  float *out = device_floats(THREADS);
  setenv("NATSFORMER_EMULATOR_ORDER", "forward", 1);
  emulator_launch("missing_barrier", missing_barrier, 1, THREADS, 4, out);
  cr_expect_eq(out[THREADS - 1], 7.0f);
  setenv("NATSFORMER_EMULATOR_ORDER", "reverse", 1);
  emulator_launch("missing_barrier", missing_barrier, 1, THREADS, 4, out);
  cr_expect(isnan(out[THREADS - 1]));
  cudaFree(out);
}

// ---- the runtime

Test(emulator, copies_stay_inside_allocations) {
  float *there = device_floats(4), here[8] = {};
  cr_expect_eq(cudaMemcpy(there, here, 16, cudaMemcpyHostToDevice), cudaSuccess);
  cr_expect_eq(cudaMemcpy(there, here, 17, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  cr_expect_eq(cudaMemcpy(here, there + 1, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  cr_expect_eq(cudaMemcpy(there, here, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  cr_expect_eq(cudaMemset(here, 0, 4), cudaErrorInvalidValue);
  cr_expect_eq(cudaFree(here), cudaErrorInvalidValue);
  cr_expect_eq(cudaFree(there), cudaSuccess);
}

// Halfway goes to the even neighbour, and what rounds past the largest number is infinite.
Test(emulator, bf16_rounds_to_nearest_even) {
  cr_expect_eq(static_cast<float>(__float2bfloat16(1.00390625f)), 1.0f);
  cr_expect_eq(static_cast<float>(__float2bfloat16(1.01171875f)), 1.015625f);
  cr_expect(isinf(static_cast<float>(__float2bfloat16(3.4e38f))));
  cr_expect(isnan(static_cast<float>(__float2bfloat16(NAN))));
}

// ---- tensor cores: c = a b with small integers, all fragments by the tables of nats/cuda/tensor_core.h

enum { M = 16, N = 8, K = 16 };
__global__ static void product(const __nv_bfloat16 *a, const __nv_bfloat16 *b, float *c) {
  const int lane = static_cast<int>(threadIdx.x), r = lane / 4, column = 2 * (lane % 4);
  uint32_t left[4], right[4];
  float sum[4] = {};
  nats_ldmatrix4(left, a + lane % 16 * K + lane / 16 * 8);
  nats_ldmatrix4_transposed(right, b + lane % 16 * N); // [K, N]: two matrices, twice
  nats_mma(sum, left, right);
  for (int i = 0; i < 4; i++)
    c[(r + i / 2 * 8) * N + column + i % 2] = sum[i];
}
Test(emulator, product_of_tiles) {
  __nv_bfloat16 *a = nullptr, *b = nullptr;
  float *c = device_floats(M * N);
  cudaMalloc(&a, M * K * sizeof *a);
  cudaMalloc(&b, K * N * sizeof *b);
  for (int i = 0; i < M * K; i++)
    a[i] = __float2bfloat16(static_cast<float>(i * 7 % 11 - 5));
  for (int i = 0; i < K * N; i++)
    b[i] = __float2bfloat16(static_cast<float>(i * 5 % 13 - 6));
  cr_assert_eq(emulator_launch("product", product, 1, 32, 0, a, b, c), cudaSuccess);
  for (int m = 0; m < M; m++)
    for (int n = 0; n < N; n++) {
      float expected = 0;
      for (int k = 0; k < K; k++)
        expected += static_cast<float>(a[m * K + k]) * static_cast<float>(b[k * N + n]);
      cr_assert_eq(c[m * N + n], expected, "(%d, %d)", m, n);
    }
  cudaFree(a);
  cudaFree(b);
  cudaFree(c);
}

// ---- phases of a barrier: one warp hands number after number to another through a place for one

enum { NUMBERS = 5 };
__global__ static void hand_over(float *out) {
  struct place {
    nats_phases full, empty;
    float number;
  } *shared = static_cast<place *>(emulator_shared());
  if (threadIdx.x == 0) {
    nats_begin_phases(&shared->full, 1);
    nats_begin_phases(&shared->empty, 32);
  }
  __syncthreads();
  for (int i = 0; i < NUMBERS; i++)
    if (threadIdx.x >= 32) {
      nats_wait_phase(&shared->full, i % 2);
      out[(threadIdx.x - 32) * NUMBERS + i] = shared->number;
      nats_arrive(&shared->empty);
    } else if (threadIdx.x == 0) {
      nats_wait_phase(&shared->empty, (i + 1) % 2); // the phase before the first is over
      shared->number = static_cast<float>(i);
      nats_arrive(&shared->full);
    }
}
Test(emulator, phases_of_a_barrier) {
  float *out = device_floats(32 * NUMBERS);
  cr_assert_eq(emulator_launch("hand_over", hand_over, 1, 64, 64, out), cudaSuccess);
  for (int i = 0; i < 32 * NUMBERS; i++)
    cr_expect_eq(out[i], i % NUMBERS, "%d", i);
  cudaFree(out);
}

// ---- products of a warpgroup: a [64, 16] times rows of 64 columns in shared memory, along them and across;
// and of these rows with each other

enum { ROWS64 = 64, DEEP = 16 };
// out[0] and out[1]: sums before and after they are waited for. c, d, e [64, 64].
__global__ static void warpgroup_products(const __nv_bfloat16 *a, const __nv_bfloat16 *rows, float *c,
                                          float *d, float *e, float *out) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  auto *shared = static_cast<__nv_bfloat16 *>(emulator_shared());
  for (int i = thread; i < ROWS64 * 64; i += 128)
    shared[nats_piece<64>(i / 64, i % 64 / 8) + i % 8] = rows[i];
  __syncthreads();
  uint32_t left[4];
  nats_ldmatrix4(left, a + (16 * warp + lane % 16) * DEEP + lane / 16 * 8);
  float along[32], across[32] = {}, both[32];
  const uint64_t tile = nats_wgmma_tile(shared);
  nats_wgmma_fence();
  nats_wgmma<false>(along, left, nats_wgmma_at(tile, 32), false); // columns 16 to 31
  nats_wgmma_commit();
  nats_wgmma<true>(across, left, nats_wgmma_at(tile, 2048), true); // rows 16 to 31
  nats_wgmma<true>(across, left, nats_wgmma_at(tile, 2048), true);
  nats_wgmma<false>(both, nats_wgmma_at(tile, 32), nats_wgmma_at(tile, 32), false);
  nats_wgmma_commit();
  nats_wgmma_wait<1>();
  const float early = across[0];
  nats_wgmma_wait<0>();
  if (thread == 0)
    out[0] = early, out[1] = across[0];
  for (int i = 0; i < 32; i++) {
    const int row = 16 * warp + lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
    c[row * 64 + column] = along[i];
    d[row * 64 + column] = across[i];
    e[row * 64 + column] = both[i];
  }
}
Test(emulator, products_of_a_warpgroup) {
  __nv_bfloat16 *a = nullptr, *rows = nullptr;
  float *c = device_floats(64 * 64), *d = device_floats(64 * 64), *e = device_floats(64 * 64);
  float *out = device_floats(2);
  cudaMalloc(&a, 64 * DEEP * sizeof *a);
  cudaMalloc(&rows, ROWS64 * 64 * sizeof *rows);
  for (int i = 0; i < 64 * DEEP; i++)
    a[i] = __float2bfloat16(static_cast<float>(i * 7 % 11 - 5));
  for (int i = 0; i < ROWS64 * 64; i++)
    rows[i] = __float2bfloat16(static_cast<float>(i * 5 % 13 - 6));
  const size_t shared = ROWS64 * 64 * sizeof *rows;
  cr_assert_eq(emulator_launch("products", warpgroup_products, 1, 128, shared, a, rows, c, d, e, out),
               cudaSuccess);
  for (int m = 0; m < 64; m++)
    for (int n = 0; n < 64; n++) {
      float along = 0, across = 0, both = 0;
      for (int k = 0; k < DEEP; k++) {
        const float left = static_cast<float>(a[m * DEEP + k]);
        along += left * static_cast<float>(rows[n * 64 + 16 + k]);
        across += 2 * left * static_cast<float>(rows[(16 + k) * 64 + n]);
        both += static_cast<float>(rows[m * 64 + 16 + k]) * static_cast<float>(rows[n * 64 + 16 + k]);
      }
      cr_assert_eq(c[m * 64 + n], along, "(%d, %d)", m, n);
      cr_assert_eq(d[m * 64 + n], across, "(%d, %d)", m, n);
      cr_assert_eq(e[m * 64 + n], both, "(%d, %d)", m, n);
    }
  cr_expect(isnan(out[0]), "sums are there before they were waited for");
  cr_expect_eq(out[1], d[0]);
  for (void *memory : {static_cast<void *>(a), static_cast<void *>(rows), static_cast<void *>(c),
                       static_cast<void *>(d), static_cast<void *>(e), static_cast<void *>(out)})
    cudaFree(memory);
}
