// GELU on the device, for the kernels that apply it.
#pragma once

#include "nn/cuda/kernel.h"

// bfloat16 results have 8 bits: the fast exponential and division serve them. float32 gets the exact ones.
template <typename T> __device__ static inline float nn_sigmoid(float x) {
  if constexpr (sizeof(T) == sizeof(float))
    return 1.0f / (1.0f + expf(-x));
  else
    return __fdividef(1.0f, 1.0f + __expf(-x));
}

// GELU, tanh form: x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3). That is x sigmoid(2u), which
// keeps its relative accuracy where x is very negative.
#define NN_GELU_SCALE (2.0f * 0.7978845608f)
#define NN_GELU_CUBIC 0.044715f

// gelu(x) / x
template <typename T> __device__ static inline float nn_gelu_gate(float x) {
  return nn_sigmoid<T>(NN_GELU_SCALE * (x + NN_GELU_CUBIC * x * x * x));
}
