// Masked attention over intervals, with the exact gradient of the token types.
//
//   s_ij = q_i . k_j / sqrt(D);   M_ij = 1 when j <= i <= expiry(j), else 0
//   o_i = sum_j M_ij e^{s_ij} v_j / sum_j M_ij e^{s_ij};   lse_i = log sum_j M_ij e^{s_ij}
//
// Type gradients (docs/method.md): with D_ij = e^{s_ij - lse_i} (do_i . v_j - do_i . o_i) for all causal
// pairs, hidden ones too, and summed over the query heads of a group:
//   dG_j = sum_{i >= j} D_ij - R_j     dL_j = sum_{i = j}^{N(j)} D_ij     dW_j = sum_{i = j}^{j + W} D_ij
// where R_j is what a global at j takes away from the local tokens that it ends or would end. On hidden pairs
// e^{s - lse} is capped at type_grad_clip (0: no cap).
#pragma once

#include "nats/types.h"

typedef struct {
  int32_t batch, length;   // B, T (any T)
  int32_t heads, kv_heads; // H, Hk; H is a multiple of Hk, head h reads kv head h / (H / Hk)
  int32_t head_size;       // D
  float scale;             // 1 / sqrt(D)
  const nn_act *q;         // [B, T, H, D], tokens `token_stride` elements apart
  const nn_act *k;         // [B, T, Hk, D], the same stride
  const nn_act *v;         // [B, T, Hk, D], the same stride
  int64_t token_stride;    // q, k, v and their gradients; (H + 2 Hk) D when they lie in one packed row
  const int32_t *expiry;   // [B, Hk, T], from nats_types_forward
  nn_act *o;               // [B, T, H, D], dense
  float *lse;              // [B, H, T]
  // backward
  const nn_act *d_o;    // [B, T, H, D], dense
  nn_act *dq, *dk, *dv; // like q, k, v; overwritten
  const float *rope;    // [T, D/2, 2] of nn_rope_table: dq and dk are those of q and k as they were before
                        // nn_rope_forward turned them to positions 0 .. T - 1; NULL: those of q and k
  float *dbias; // [(H + 2 Hk) D] added to: sums of dq, dk and dv over the tokens, which lie one behind
                // the other in packed rows; NULL: not wanted
  // type gradients; dtypes NULL: not wanted, hidden pairs are then never visited
  int32_t chunk, window; // C, W
  const uint8_t *types;  // [B, Hk, n]
  float *dtypes;         // [B, Hk, n, 3] overwritten
  float type_grad_clip;  // 0 or >= 1
  float type_grad_rows;  // share of query blocks on which hidden pairs are visited, scaled by 1 / share
  uint64_t seed;         // key of that choice, with step and layer
  int64_t step;
  int32_t layer;
} nats_attention;

nn_status nats_attention_forward(nn_device *device, const nats_attention *op);
nn_status nats_attention_backward(nn_device *device, const nats_attention *op);

// Bytes of workspace that forward, and backward where d_o is given, take at most: reads dimensions, and which
// outputs are wanted, but no tensor.
size_t nats_attention_workspace(const nn_device *device, const nats_attention *op);
