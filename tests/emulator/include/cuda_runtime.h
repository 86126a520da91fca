// The device language, for the C++ compiler: keywords, vectors, intrinsics and the operations of warps and
// blocks that this project's kernels use. See tests/emulator/emulator.h.
#pragma once

#include <math.h>
#include <string.h>
#include <type_traits>

#include "tests/emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __constant__    static
#define __shared__      static // blocks run one after another
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

// nn/cuda/kernel.h has these for a GPU.
#define NN_LAUNCH(device, kernel, grid, block, shared_bytes, ...)                                            \
  ((void)(device), nn_cuda_status(emulator_launch(#kernel, kernel, grid, block, shared_bytes, __VA_ARGS__),  \
                                  #kernel, __FILE__, __LINE__))
#define NN_LAUNCH_EARLY NN_LAUNCH // one kernel runs at a time

#define NN_DYNAMIC_SHARED(type, name) type *name = static_cast<type *>(emulator_shared())

static const int warpSize = EMULATOR_LANES;

// ---- vectors

#define EMULATOR_VECTORS(type, name, alignment2, alignment4)                                                 \
  struct __align__(alignment2) name##2 {                                                                     \
    type x, y;                                                                                               \
  };                                                                                                         \
  struct name##3 {                                                                                           \
    type x, y, z;                                                                                            \
  };                                                                                                         \
  struct __align__(alignment4) name##4 {                                                                     \
    type x, y, z, w;                                                                                         \
  };                                                                                                         \
  static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                    \
  static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                         \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
#define uint3 emulator_uint3 // already there, for threadIdx
EMULATOR_VECTORS(unsigned, uint, 8, 16)
#undef uint3
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(float, float, 8, 16)
#undef EMULATOR_VECTORS

// ---- numbers

template <typename To, typename From> static inline To emulator_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "the same bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline int __float_as_int(float x) { return emulator_bits<int>(x); }
static inline unsigned __float_as_uint(float x) { return emulator_bits<unsigned>(x); }
static inline float __int_as_float(int x) { return emulator_bits<float>(x); }
static inline float __uint_as_float(unsigned x) { return emulator_bits<float>(x); }

// Macros: the C library has functions of these names that no header calls.
#define __expf  expf
#define __logf  logf
#define __log2f log2f
static inline float __fdividef(float x, float y) { return x / y; }
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }

static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }

#define EMULATOR_MIN_MAX(result, type1, type2)                                                               \
  static inline result min(type1 x, type2 y) {                                                               \
    return static_cast<result>(x) < static_cast<result>(y) ? static_cast<result>(x)                          \
                                                           : static_cast<result>(y);                         \
  }                                                                                                          \
  static inline result max(type1 x, type2 y) {                                                               \
    return static_cast<result>(x) > static_cast<result>(y) ? static_cast<result>(x)                          \
                                                           : static_cast<result>(y);                         \
  }
EMULATOR_MIN_MAX(int, int, int)
EMULATOR_MIN_MAX(unsigned, unsigned, unsigned)
EMULATOR_MIN_MAX(unsigned, int, unsigned)
EMULATOR_MIN_MAX(unsigned, unsigned, int)
EMULATOR_MIN_MAX(long, long, long)
EMULATOR_MIN_MAX(unsigned long, unsigned long, unsigned long)
EMULATOR_MIN_MAX(long long, long long, long long)
EMULATOR_MIN_MAX(unsigned long long, unsigned long long, unsigned long long)
static inline float min(float x, float y) { return fminf(x, y); }
static inline float max(float x, float y) { return fmaxf(x, y); }
static inline double min(double x, double y) { return fmin(x, y); }
static inline double max(double x, double y) { return fmax(x, y); }
#undef EMULATOR_MIN_MAX

// ---- memory

template <typename T> static inline T __ldg(const T *x) { return *x; }
static inline void __threadfence() {}
static inline void __threadfence_block() {}

// Integers only: the order of float sums would change their result.
template <typename T, typename U> static inline T atomicAdd(T *x, U value) {
  static_assert(std::is_integral<T>::value, "a sum that depends on the order of threads");
  T before = *x;
  *x = static_cast<T>(before + value);
  return before;
}

// ---- blocks

#define EMULATOR_HERE emulator_place here = emulator_place::here()
static inline void __syncthreads(EMULATOR_HERE) { emulator_barrier(here, false); }
static inline int __syncthreads_count(int predicate, EMULATOR_HERE) {
  return emulator_barrier(here, predicate != 0);
}
static inline int __syncthreads_or(int predicate, EMULATOR_HERE) {
  return emulator_barrier(here, predicate != 0) != 0;
}

// ---- warps

// What a lane that is not there would have sent: NaN, or -1.
template <typename T> static inline T emulator_nobody() {
  T value;
  memset(&value, 0xff, sizeof value);
  return value;
}

template <typename T> struct emulator_exchange {
  T sent, received;
  int from; // a lane
  static void act(void *payloads[EMULATOR_LANES]) {
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
      if (payloads[lane] != nullptr) {
        auto *self = static_cast<emulator_exchange *>(payloads[lane]);
        auto *peer = static_cast<emulator_exchange *>(payloads[self->from]);
        self->received = peer != nullptr ? peer->sent : emulator_nobody<T>();
      }
  }
};

static inline int emulator_lane() {
  return static_cast<int>((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) %
                          EMULATOR_LANES);
}

template <typename T>
static inline T emulator_receive(emulator_place here, const char *operation, unsigned mask, T value,
                                 int from) {
  static_assert(std::is_arithmetic<T>::value, "shuffles take numbers");
  emulator_exchange<T> exchange = {value, value, from};
  emulator_meet(here, operation, mask, &exchange, emulator_exchange<T>::act);
  return exchange.received;
}
// As in the PTX ISA, shfl.sync: lanes beyond the segment of `width` keep their own value.
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int from, int width = EMULATOR_LANES, EMULATOR_HERE) {
  return emulator_receive(here, "__shfl_sync", mask, value,
                          (emulator_lane() & ~(width - 1)) | (from & (width - 1)));
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = EMULATOR_LANES,
                                EMULATOR_HERE) {
  int lane = emulator_lane(), from = lane ^ lanes, end = (lane & ~(width - 1)) + width;
  return emulator_receive(here, "__shfl_xor_sync", mask, value, from < end ? from : lane);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = EMULATOR_LANES,
                               EMULATOR_HERE) {
  int lane = emulator_lane(), from = lane - static_cast<int>(lanes), begin = lane & ~(width - 1);
  return emulator_receive(here, "__shfl_up_sync", mask, value, from >= begin ? from : lane);
}

// Sum, minimum and the like over the lanes of the mask.
template <typename T, T (*combine)(T, T)> struct emulator_reduction {
  T value;
  static void act(void *payloads[EMULATOR_LANES]) {
    bool any = false;
    T total = T();
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
      if (payloads[lane] != nullptr) {
        T value = static_cast<emulator_reduction *>(payloads[lane])->value;
        total = any ? combine(total, value) : value;
        any = true;
      }
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
      if (payloads[lane] != nullptr)
        static_cast<emulator_reduction *>(payloads[lane])->value = total;
  }
};
template <typename T, T (*combine)(T, T)>
static inline T emulator_reduce(emulator_place here, const char *operation, unsigned mask, T value) {
  emulator_reduction<T, combine> reduction = {value};
  emulator_meet(here, operation, mask, &reduction, emulator_reduction<T, combine>::act);
  return reduction.value;
}
template <typename T> static inline T emulator_or(T x, T y) { return static_cast<T>(x | y); }
template <typename T> static inline T emulator_least(T x, T y) { return y < x ? y : x; }
template <typename T> static inline T emulator_most(T x, T y) { return x < y ? y : x; }

static inline unsigned __ballot_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  unsigned bit = predicate != 0 ? 1u << emulator_lane() : 0;
  return emulator_reduce<unsigned, emulator_or<unsigned>>(here, "__ballot_sync", mask, bit);
}
static inline int __any_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  return emulator_reduce<int, emulator_most<int>>(here, "__any_sync", mask, predicate != 0);
}
static inline int __all_sync(unsigned mask, int predicate, EMULATOR_HERE) {
  return emulator_reduce<int, emulator_least<int>>(here, "__all_sync", mask, predicate != 0);
}
static inline void __syncwarp(unsigned mask = ~0u, EMULATOR_HERE) {
  emulator_reduce<int, emulator_least<int>>(here, "__syncwarp", mask, 0);
}
