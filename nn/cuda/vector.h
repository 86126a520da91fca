// Packs: neighbouring elements that a thread loads or stores at once, as float32 in registers. A pack is 16
// bytes (N = NN_PACK<T>) where rows and addresses allow it, and one element (N = 1) elsewhere.
#pragma once

#include "nn/cuda/kernel.h"

template <typename T> constexpr int NN_PACK = 16 / (int)sizeof(T);

// N elements as they lie in memory.
template <typename T, int N> struct alignas(N * sizeof(T)) nn_pack { T element[N]; };

template <int N, typename T> __device__ static inline nn_pack<T, N> nn_load_pack(const T *x) {
  return *reinterpret_cast<const nn_pack<T, N> *>(x);
}

__device__ static inline float nn_to_float(float x) {
  return x;
}
__device__ static inline float nn_to_float(nn_bf16 x) {
  return __bfloat162float(x);
}

template <typename T, int N>
__device__ static inline void nn_unpack(const nn_pack<T, N> &pack, float (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; i++)
    values[i] = nn_to_float(pack.element[i]);
}

// Rounds to the compute type.
template <int N>
__device__ static inline void nn_round_pack(const float (&values)[N], nn_pack<float, N> &pack) {
#pragma unroll
  for (int i = 0; i < N; i++)
    pack.element[i] = values[i];
}
template <int N>
__device__ static inline void nn_round_pack(const float (&values)[N], nn_pack<nn_bf16, N> &pack) {
  if constexpr (N == 1) {
    pack.element[0] = __float2bfloat16(values[0]);
  } else {
#pragma unroll
    for (int i = 0; i < N; i += 2) { // two at once are one instruction
      __nv_bfloat162 pair = __floats2bfloat162_rn(values[i], values[i + 1]);
      pack.element[i] = pair.x;
      pack.element[i + 1] = pair.y;
    }
  }
}

template <int N, typename T> __device__ static inline void nn_load_floats(const T *x, float (&values)[N]) {
  nn_unpack(nn_load_pack<N>(x), values);
}

template <int N, typename T> __device__ static inline void nn_store_floats(T *x, const float (&values)[N]) {
  nn_pack<T, N> pack;
  nn_round_pack(values, pack);
  *reinterpret_cast<nn_pack<T, N> *>(x) = pack;
}

// Whether packs of 16 bytes fit: rows of `width` elements that begin at these addresses (NULL is allowed).
template <typename T, typename... Pointers>
static inline bool nn_packs_fit(int64_t width, const Pointers *...pointers) {
  return width % NN_PACK<T> == 0 && ((reinterpret_cast<uintptr_t>(pointers) % 16 == 0) && ...);
}

// Calls `run<T, N>(...)` with 16-byte packs where `fits`, with single elements elsewhere.
#define NN_PACKED(T, fits, run, ...) ((fits) ? run<T, NN_PACK<T>>(__VA_ARGS__) : run<T, 1>(__VA_ARGS__))

// The compute type's NaN, for rows whose input is out of range: nothing is read out of bounds, and the step
// shows a gradient that is not finite.
__device__ static inline float nn_not_a_number() {
  return __int_as_float(0x7fc00000);
}
