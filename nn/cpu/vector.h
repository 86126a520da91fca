// Sixteen floats at a time, in GCC's vector extensions: one source for SSE2, AVX2, AVX-512 and other
// machines.
//
// How to write a fast kernel with it:
//   - Put the loop in a `static NN_CLONES` function that works on a slice, and call it from the parallel
//   region:
//     the body of an OpenMP region is compiled without the clones of the function around it.
//   - Helpers are NN_INLINE, so that each clone gets its own copy.
//   - Go over a row with NN_FOR_LANES and the _n loads and stores.
#pragma once

#include <stdint.h>
#include <string.h> // memcpy

// A function compiled for several levels of x86-64; the loader picks one. Elsewhere, the target of the build.
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__) &&             \
    !defined(NN_NO_CLONES)
#define NN_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define NN_CLONES
#endif

#define NN_INLINE static inline __attribute__((always_inline, unused))

enum { NN_LANES = 16 };

// Goes over [begin, end) by vectors: the body sees an offset `i` and how many `lanes` lie before the end. In
// all but the last, `lanes` is the constant NN_LANES, with which the _n functions below become plain loads
// and stores. `i` counts in int64_t.
#define NN_FOR_LANES(begin, end, i, lanes, ...)                                                              \
  do {                                                                                                       \
    int64_t i = (begin);                                                                                     \
    for (; i + NN_LANES <= (end); i += NN_LANES) {                                                           \
      enum { lanes = NN_LANES };                                                                             \
      __VA_ARGS__                                                                                            \
    }                                                                                                        \
    if (i < (end)) {                                                                                         \
      const int lanes = (int)((end)-i);                                                                      \
      __VA_ARGS__                                                                                            \
    }                                                                                                        \
  } while (0)

// aligned(4): may be loaded from any float. Comparisons give an nn_i16 of 0 and -1.
typedef float nn_v16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t nn_i16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint32_t nn_u16 __attribute__((vector_size(64), aligned(4), may_alias));
typedef float nn_v8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float nn_v4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef double nn_d8 __attribute__((vector_size(64), aligned(8), may_alias));
typedef double nn_d4 __attribute__((vector_size(32), aligned(8), may_alias));

NN_INLINE nn_v16 nn_v16_load(const float *from) {
  return *(const nn_v16 *)from;
}

NN_INLINE void nn_v16_store(float *to, nn_v16 value) {
  *(nn_v16 *)to = value;
}

NN_INLINE nn_v16 nn_v16_set(float value) {
  return (nn_v16){0} + value;
}

// The first n <= 16 lanes; the others are `fill`.
NN_INLINE nn_v16 nn_v16_load_n(const float *from, int n, float fill) {
  nn_v16 value = nn_v16_set(fill);
  memcpy(&value, from, (size_t)n * sizeof *from);
  return value;
}

NN_INLINE void nn_v16_store_n(float *to, nn_v16 value, int n) {
  memcpy(to, &value, (size_t)n * sizeof *to);
}

// mask ? a : b, lane by lane.
NN_INLINE nn_v16 nn_v16_select(nn_i16 mask, nn_v16 a, nn_v16 b) {
  return (nn_v16)((mask & (nn_i16)a) | (~mask & (nn_i16)b));
}

// b where a is NaN.
NN_INLINE nn_v16 nn_v16_max(nn_v16 a, nn_v16 b) {
  return nn_v16_select(a > b, a, b);
}

NN_INLINE nn_v16 nn_v16_min(nn_v16 a, nn_v16 b) {
  return nn_v16_select(a < b, a, b);
}

NN_INLINE nn_v16 nn_v16_abs(nn_v16 a) {
  return (nn_v16)((nn_i16)a & 0x7fffffff);
}

// Halves, without a conversion.
NN_INLINE nn_v8 nn_v16_low(nn_v16 a) {
  nn_v8 half;
  memcpy(&half, &a, sizeof half);
  return half;
}

NN_INLINE nn_v8 nn_v16_high(nn_v16 a) {
  nn_v8 half;
  memcpy(&half, (const char *)&a + sizeof half, sizeof half);
  return half;
}

// Sums of lanes, always in the same order: halves onto each other.
NN_INLINE float nn_v16_sum(nn_v16 a) {
  nn_v8 eight = nn_v16_low(a) + nn_v16_high(a);
  nn_v4 low, high;
  memcpy(&low, &eight, sizeof low);
  memcpy(&high, (const char *)&eight + sizeof low, sizeof high);
  nn_v4 four = low + high;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

NN_INLINE double nn_d8_sum(nn_d8 a) {
  nn_d4 low, high;
  memcpy(&low, &a, sizeof low);
  memcpy(&high, (const char *)&a + sizeof low, sizeof high);
  nn_d4 four = low + high;
  return (four[0] + four[2]) + (four[1] + four[3]);
}

// sixteen floats added to eight doubles
NN_INLINE nn_d8 nn_d8_add_v16(nn_d8 sum, nn_v16 a) {
  return sum +
         (__builtin_convertvector(nn_v16_low(a), nn_d8) + __builtin_convertvector(nn_v16_high(a), nn_d8));
}

NN_INLINE float nn_v16_largest(nn_v16 a) {
  float largest = a[0];
  for (int lane = 1; lane < NN_LANES; lane++)
    largest = a[lane] > largest ? a[lane] : largest;
  return largest;
}

// The parts of e^x = 2^n (1 + p): n = round(x / ln 2), p = e^r - 1 on |r| <= ln(2)/2, by a polynomial of
// degree 6 fitted at Chebyshev nodes (error 1e-8). `n` holds small integers as floats.
NN_INLINE nn_v16 nn_v16_exp_parts(nn_v16 x, nn_i16 *n) {
  const float magic = 12582912.0f; // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  nn_v16 shifted = x * 1.44269504f + magic;
  *n = (nn_i16)((nn_u16)shifted - 0x4b400000u);
  nn_v16 rounded = shifted - magic;
  nn_v16 r = (x - rounded * 0.693359375f) + rounded * 2.12194440e-4f; // ln 2 in two pieces
  nn_v16 q = r * 1.3933650e-3f + 8.3631801e-3f;
  q = q * r + 4.1666465e-2f;
  q = q * r + 1.66665770e-1f;
  q = q * r + 5.0000000e-1f;
  return q * (r * r) + r;
}

// 2^n for -126 <= n <= 127
NN_INLINE nn_v16 nn_v16_power_of_two(nn_i16 n) {
  return (nn_v16)(((nn_u16)n + 127u) << 23);
}

// e^x within 2 units in the last place; 0 and infinity where it must be, NaN for NaN.
NN_INLINE nn_v16 nn_v16_exp(nn_v16 x) {
  x = nn_v16_select(x > 89.0f, nn_v16_set(89.0f), x);
  x = nn_v16_select(x < -104.0f, nn_v16_set(-104.0f), x);
  nn_i16 n;
  nn_v16 p = nn_v16_exp_parts(x, &n);
  nn_i16 half = n >> 1; // in two factors, so that neither leaves the normal range
  return (1.0f + p) * nn_v16_power_of_two(half) * nn_v16_power_of_two(n - half);
}

// 1 / (1 + e^-x)
NN_INLINE nn_v16 nn_v16_sigmoid(nn_v16 x) {
  return 1.0f / (1.0f + nn_v16_exp(-x));
}

// tanh x = u / (u + 2) with u = e^(2|x|) - 1, exact near 0; 1 from 9.1 on.
NN_INLINE nn_v16 nn_v16_tanh(nn_v16 x) {
  nn_v16 twice = nn_v16_abs(x) * 2.0f;
  twice = nn_v16_select(twice > 18.2f, nn_v16_set(18.2f), twice);
  nn_i16 n;
  nn_v16 p = nn_v16_exp_parts(twice, &n);
  nn_v16 power = nn_v16_power_of_two(n);
  nn_v16 u = power * p + (power - 1.0f);
  nn_v16 magnitude = u / (u + 2.0f);
  return (nn_v16)((nn_i16)magnitude | ((nn_i16)x & (int32_t)0x80000000));
}
