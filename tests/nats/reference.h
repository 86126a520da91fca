// Masked attention in float64, straight from its definition: relaxed weights make a mask, the mask weighs the
// softmax, and the gradient of the weights is the chain rule through every pair. Nothing here knows of
// intervals, of sums over rows or of what a global takes away.
#pragma once

#include <stdint.h>

typedef struct {
  int32_t heads, kv_heads, length, head_size, chunk, window;
  double clip;           // cap of e^{s - lse} on pairs whose mask is 0; 0: none
  const double *q, *d_o; // [T, H, D]
  const double *k, *v;   // [T, Hk, D]
  const double *weights; // [Hk, n, 3] global, local, window of every chunk
  double *o, *dq;        // [T, H, D]
  double *lse;           // [H, T]
  double *dk, *dv;       // [T, Hk, D]
  double *dtypes;        // [Hk, n, 3]
} reference;

// M_ij for i >= j: with c(x) the chunk of x, 1 inside a chunk, else
//   G_a + L_a prod_{a < b < c(i)} (1 - G_b) + W_a [i <= s(a) - 1 + W],  a = c(j)
double reference_mask(const reference *r, int32_t kv_head, int32_t i, int32_t j);

// o and lse; returns sum(o * d_o).
double reference_forward(const reference *r);

// dq, dk, dv and dtypes, after reference_forward.
void reference_backward(const reference *r);
