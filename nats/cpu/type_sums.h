// The sums over rows from which the gradient of the token types is made (docs/method.md). With a = c(j) the
// chunk of key j, s(a) the first row after it and N(a) the next global chunk:
//   ALL      D_ij over rows s(a) .. T - 1
//   LOCAL    ... s(a) .. s(N(a)) - 1             (for a local key these are the visible pairs: A)
//   WINDOW   ... s(a) .. s(a) - 1 + W
//   ENDED    ... s(N(a)) .. s(N(N(a))) - 1       (local keys only: C)
//   OWN      D_jj, only where every token is its own chunk
//   SEEN     by row i: D_im over visible local keys m of earlier chunks: B
#pragma once

#include "nats/attention.h"
#include "nats/scratch.h"

enum { NATS_SUM_ALL, NATS_SUM_LOCAL, NATS_SUM_WINDOW, NATS_SUM_ENDED, NATS_LANE_SUMS };
enum { NATS_SUM_OWN = NATS_LANE_SUMS, NATS_SUM_SEEN, NATS_SUMS };

// The last rows of the sums of one key.
typedef struct {
  int32_t start;                         // s(a); T in a chunk without a type
  int32_t local, window, ended, longest; // last rows; ended == local where key is not local
  bool is_local;
} nats_type_rows;

typedef struct {
  nats_type_rows *rows; // [T]
  float *lanes;         // [T, NATS_LANE_SUMS, 16] partial sums
  bool wants_own;       // every token is its own chunk
  float *own;           // [T]
  float *seen;          // [T rounded up to 64]
} nats_type_sums;

void nats_type_sums_layout(nats_type_sums *sums, const nats_attention *op, nats_scratch *scratch);

// Sets all sums to zero and takes the rows of one (sequence, kv head): pair = batch * kv_heads + kv_head.
void nats_type_sums_begin(nats_type_sums *sums, const nats_attention *op, int32_t pair);

// Adds up lanes: result [T, NATS_SUMS].
void nats_type_sums_finish(const nats_type_sums *sums, int32_t length, float *result);

// The gradient of the relaxed weights from sums: `parts` arrays [T, NATS_SUMS], one after the other, are
// added. dtypes: [n, 3] of this (sequence, kv head).
void nats_type_gradient(const nats_attention *op, const uint8_t *types, int32_t parts, const float *sums,
                        float *dtypes);
