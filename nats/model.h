// The transformer whose attention mask is learned: decoder-only, RoPE, grouped-query attention, pre-norm.
//
//   x = embedding;  per layer: h = norm1(x);  qkv = rope(linear(h));  types = scorer(h);
//   x += linear(attention(qkv, types));  x += mlp(norm2(x));   then logits = head(norm(x))
//
// Written once for all devices: it calls the operators of nn/ops.h, nats/types.h and nats/attention.h.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nats/attention.h"
#include "nats/types.h"
#include "nn/ops.h"
#include "nn/params.h"

// What a backward pass computes again from a layer's input instead of having kept it: nothing; normalised
// input, q, k, v and output of attention; or these and the inside of the MLP. Gradients are the same to the
// bit where sums of the residual stream are not rounded on their way to memory (float32), else to rounding.
typedef enum { NATS_RECOMPUTE_NONE, NATS_RECOMPUTE_ATTENTION, NATS_RECOMPUTE_BLOCK } nats_recompute;

typedef struct {
  int32_t layers;
  int32_t width;     // C
  int32_t heads;     // H
  int32_t kv_heads;  // Hk
  int32_t head_size; // D; H * D need not equal C
  int32_t mlp_size;  // F
  int32_t vocab;     // rows of the embedding table (padded)
  nn_norm_kind norm;
  nn_mlp_kind mlp;
  bool bias; // biases in linear layers (and in LayerNorm)
  bool tied; // the head is the embedding table
  double rope_theta;
  float norm_eps;
  float init_std; // projections into the residual stream get init_std / sqrt(2 layers)
  nats_attention_kind attention;
  int32_t window;     // W
  int32_t type_chunk; // C of nats/types.h
  float type_tau;
  float type_grad_clip;
  float type_grad_rows;
  float scorer_bias; // initial bias for global
  bool scorer_detach;
  nats_recompute recompute; // in training; no part of what the model is
} nats_model_config;

// What is impossible about a configuration, as one line with the field's name; NN_ERR_USAGE.
nn_status nats_model_config_check(const nats_model_config *config);

// The parameter table of a configuration, in forward order.
nn_status nats_model_params(const nats_model_config *config, nn_param_table *out);

typedef struct nats_model nats_model;

// Room for batches of up to `batch` sequences of up to `length` tokens. `training` also holds what backward
// needs. `params` must outlive the model; evaluation and training models may share it.
nn_status nats_model_create(const nats_model_config *config, const nn_params *params, int32_t batch,
                            int32_t length, bool training, nats_model **out);
void nats_model_free(nats_model *model);
const nats_model_config *nats_model_get_config(const nats_model *model);

// Bytes that nats_model_create would allocate: activations (and gradients of activations); workspace of
// operators.
typedef struct {
  int64_t activations;
  int64_t workspace;
} nats_model_memory;
nn_status nats_model_measure(const nats_model_config *config, nn_device *device, int32_t batch,
                             int32_t length, bool training, nats_model_memory *out);

// One micro-batch. All pointers are host memory; the model uploads them.
typedef struct {
  int32_t batch, length;  // at most what the model was created for
  const int32_t *tokens;  // [B, T]
  const int32_t *targets; // [B, T], -1 = not scored
  const int32_t *lengths; // [B] tokens that are no padding, or NULL: all T
  const int64_t *sample;  // [B] global sample index: key of the noise; may be NULL outside of training
} nats_batch;

// What a pass is for.
typedef struct {
  nats_type_mode types; // ignored (FIXED) by dense and window models
  uint64_t seed;
  int64_t step;
  // training, device memory:
  const float *grad_scale;       // 1 / scored tokens of the step
  const float *pair_scale;       // 1 / causal pairs of the step over layers and heads
  const float *lambda;           // price of the whole cache in nats
  nn_sums *sums;                 // added to; NULL: not wanted
  const nn_param_source *source; // parameters are on their way; NULL: all are there
} nats_pass;

// Loss without gradients. nll: [B, T] host memory or NULL. per_head: [layers, Hk, 2] host float64, visible
// and causal pairs ADDED to, or NULL. Synchronises only when nll or per_head is wanted.
nn_status nats_model_evaluate(nats_model *model, const nats_batch *batch, const nats_pass *pass, float *nll,
                              double *per_head);

// Forward and backward: adds to params->grad, calls `listener` (may be NULL) as ranges complete. Type
// gradients are computed only in mode SAMPLED.
nn_status nats_model_train(nats_model *model, const nats_batch *batch, const nats_pass *pass,
                           const nn_grad_listener *listener);

// After a pass: the types of one layer, [B, Hk, n] into host memory.
nn_status nats_model_read_types(nats_model *model, int32_t layer, uint8_t *types);
