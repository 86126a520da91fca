// Token types and what they make visible (Deng and Lindauer, "Neural Attention Search", NeurIPS 2025,
// arXiv 2502.13251; docs/method.md has the derivations).
//
// Per layer, kv head and chunk of C tokens a type is chosen; C = 1 gives every token its own. For every token
// j the mask is an interval of rows: key j is visible to query i exactly when j <= i <= expiry(j). So all
// that attention needs to know of types is one int32 per key, and dense and window attention are the same
// kernel with trivial expiries.
//
//   s(a) = min((a + 1) C, T)    first row after chunk a           N(a) = next global chunk after a, or none
//   global: expiry = T - 1      local: s(N(a)) - 1 (C = 1: N(j))  window: s(a) - 1 + W       all at most T -
//   1
// An unfinished last chunk (T not a multiple of C) has no type: its tokens expire at T - 1.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/device.h"
#include "nn/ops.h"

typedef enum { NATS_GLOBAL = 0, NATS_LOCAL = 1, NATS_WINDOW = 2, NATS_TYPES } nats_type;

typedef enum {
  NATS_ATTENTION_DENSE,  // every token global
  NATS_ATTENTION_NATS,   // types from the scorer
  NATS_ATTENTION_WINDOW, // every token window, token 0 global: a plain sliding-window model
} nats_attention_kind;

typedef enum {
  NATS_TYPES_FIXED,      // dense and window attention: no scorer
  NATS_TYPES_ALL_GLOBAL, // dense warm-up: every token global, the scorer does not learn
  NATS_TYPES_SAMPLED,    // training: argmax of softmax((logits + gumbel) / tau)
  NATS_TYPES_ARGMAX,     // evaluation and decoding
} nats_type_mode;

static inline int32_t nats_chunks(int32_t length, int32_t chunk) {
  return (length + chunk - 1) / chunk;
}

// Chooses types and expiries. Backward is straight-through: dlogit_a = y_a (d_a - sum_b y_b d_b) / tau,
// spread over the tokens of the chunk by 1 / C; forced chunks (the first; in SAMPLED also one that ends
// with the last token) and an unfinished chunk pass nothing.
typedef struct {
  int32_t batch, length, kv_heads; // B, T, Hk
  int32_t chunk, window;           // C, W
  nats_attention_kind kind;
  nats_type_mode mode;
  float tau;
  const float *logits; // [B, T, Hk, 3], NULL in mode FIXED
  uint64_t seed;       // noise key: (seed, step, layer; sample, head, chunk)
  int64_t step;
  int32_t layer;
  const int64_t *sample; // [B] global sample index, SAMPLED only
  uint8_t *types;        // [B, Hk, n] nats_type; n = nats_chunks(T, C)
  float *y;              // [B, Hk, n, 3], SAMPLED only
  int32_t *expiry;       // [B, Hk, T]
  const float *dtypes;   // [B, Hk, n, 3] backward
  float *dlogits;        // [B, T, Hk, 3] overwritten
} nats_types;
nn_status nats_types_forward(nn_device *device, const nats_types *op);
nn_status nats_types_backward(nn_device *device, const nats_types *op);

// The scorer: logits = x weight^T + bias in float32, an affine map of the normalised hidden state.
typedef struct {
  int64_t rows;         // N
  int32_t width, out;   // C, 3 Hk
  const nn_act *x;      // [N, C]
  const nn_act *weight; // [3 Hk, C]
  const nn_act *bias;   // [3 Hk]
  float *logits;        // [N, 3 Hk]
  const float *dlogits; // [N, 3 Hk]
  nn_act *dx;           // [N, C] ADDED to; NULL: the scorer's input is detached
  float *dweight;       // [3 Hk, C] added to
  float *dbias;         // [3 Hk] added to
} nats_scorer;
nn_status nats_scorer_forward(nn_device *device, const nats_scorer *op);
nn_status nats_scorer_backward(nn_device *device, const nats_scorer *op);

// The price of the cache. Token j is held for r_j = min(expiry(j), length - 1) - j + 1 rows; KV fraction =
// sum of r over causal pairs. Rows at or past a sample's `lengths` are padding and count nowhere. forward
// adds visible and causal pairs to `sums`; backward adds lambda * pair_scale * (r_j for that type, N held
// fixed, summed over the chunk) to dtypes.
typedef struct {
  int32_t batch, length, kv_heads, chunk, window;
  const int32_t *lengths; // [B] or NULL: all T
  const uint8_t *types;   // [B, Hk, n]
  const int32_t *expiry;  // [B, Hk, T]
  nn_sums *sums;          // forward; NULL: not wanted
  double *per_head;       // [Hk, 2] visible and causal pairs added to, or NULL
  const float *lambda;    // backward: one number in device memory
  const float
      *pair_scale; // one number: 1 / (causal pairs of the step over all ranks, micro-batches, layers, heads)
  float *dtypes;   // [B, Hk, n, 3] added to
} nats_kv_cost;
nn_status nats_kv_cost_forward(nn_device *device, const nats_kv_cost *op);
nn_status nats_kv_cost_backward(nn_device *device, const nats_kv_cost *op);
