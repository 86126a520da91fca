// Private to the files of the model and the decoder: what they share.
//
//   model_params.c    the parameter table, and where each operator finds its rows
//   model_memory.c    where every activation lies: one arena, laid out by one function
//   model_ops.c       the operators of a layer with their tensors, for both directions
//   model_forward.c   model_backward.c   model.c (create, evaluate, train)
//
// The decoder is a model of one position whose attention reads a cache (nats_mixer below).
#pragma once

#include <math.h> // sqrt

#include "nats/model.h"

enum { NATS_NO_PARAM = -1 };

// Rows of the parameter table; NATS_NO_PARAM where the configuration has none.
typedef struct {
  int32_t weight, bias;
} nats_affine;

typedef struct {
  nats_affine attention_norm, qkv, scorer, out;
  nats_affine mlp_norm, up, down;
} nats_layer_params;

typedef struct {
  int32_t embedding;
  nats_layer_params *layers; // [layers]
  nats_affine final_norm;
  int32_t head; // the embedding where they are tied
} nats_param_index;

// Finds the rows of `config` in a table that was made by nats_model_params from an equal configuration.
// Errors: NN_ERR_INPUT, naming the first row that differs.
nn_status nats_param_index_create(const nats_model_config *config, const nn_param_table *table,
                                  nats_param_index *out);
void nats_param_index_free(nats_param_index *index);

// What a norm leaves behind: its input (the residual stream after the addition) and its output.
typedef struct {
  nn_act *x, *h;      // [N, C]
  float *mean, *rstd; // [N]; mean is NULL for RMSNorm
} nats_norm_acts;

// Activations of a layer. In a model without gradients the layers share all but `types`; in one with them,
// what nats_recompute says.
typedef struct {
  nats_norm_acts attention_norm;
  nn_act *qkv;     // [N, (H + 2 Hk) D], q and k after RoPE
  uint8_t *types;  // [B, Hk, n]
  float *y;        // [B, Hk, n, 3]; NULL without gradients
  int32_t *expiry; // [B, Hk, T]
  float *lse;      // [B, H, T]
  nn_act *o;       // [N, H D]
  nats_norm_acts mlp_norm;
  nn_act *up;  // [N, 2F] SwiGLU, [N, F] GELU; of SwiGLU its gradient in backward
  nn_act *act; // [N, F]
} nats_layer_acts;

struct nats_model {
  nats_model_config config;
  nats_attention_kind kind; // the mask: the configuration's, or another one that a decoder wants
  int32_t chunk;            // tokens that share a type: 1 where types are fixed
  int32_t max_batch, max_length;
  int32_t positions; // rows of the RoPE table
  bool training;
  nn_device *device;
  nn_params params;
  nats_param_index index;

  void *memory; // the arena; everything below is inside
  float *rope;  // [positions, D/2, 2]
  int32_t *tokens, *targets, *lengths;
  int64_t *sample;
  nats_layer_acts *layers; // [layers], host memory
  nats_norm_acts final_norm;
  nn_act *delta;    // [N, C] what a block adds to the residual stream; in backward the gradient of a norm's y
  nn_act *dx;       // [N, C] gradient of the residual stream
  float *dx_sums;   // [C] its sums over the rows
  nn_act *dact;     // [N, F] gradient of `act`, of GELU that of `up`
  nn_act *d_o;      // [N, H D]
  nn_act *dqkv;     // [N, (H + 2 Hk) D]
  float *logits;    // [N, Hk, 3] of the scorer; in backward their gradient
  float *dtypes;    // [B, Hk, n, 3]
  float *nll;       // [N]
  double *per_head; // [layers, Hk, 2]
  nn_sums *sums;    // where a caller wants none

  double *host_per_head; // [layers, Hk, 2], host memory

  // the pass that runs
  nats_pass pass;
  int32_t batch, length;
  bool has_lengths; // of padding
  bool wants_per_head;
  int32_t fixed_batch, fixed_length; // what fixed expiries were last computed for
};

// How a layer mixes tokens: from `qkv` (RoPE applied) to `o`.
typedef struct {
  nn_status (*mix)(void *context, nats_model *model, int32_t layer);
  void *context;
} nats_mixer;

// Room that a model has.
typedef struct {
  int32_t batch, length;
  int32_t positions; // rows of the RoPE table, at least `length`
  bool training;
} nats_model_size;

// `kind` may differ from the configuration's attention (a decoder that keeps everything, for example), but is
// NATS only where the configuration has scorers.
nn_status nats_model_create_as(const nats_model_config *config, nats_attention_kind kind,
                               const nn_params *params, nats_model_size size, nats_model **out);

// The dimensions of a model, without its memory; `layers` is allocated.
nn_status nats_model_plan(const nats_model_config *config, nats_attention_kind kind, nn_device *device,
                          nats_model_size size, nats_model *out);

// Places every activation of the model from `base` on and returns the bytes; with NULL only counts.
size_t nats_model_lay_out(nats_model *model, void *base);

// Checks the batch and uploads it, and makes it and `pass` the running ones.
nn_status nats_model_begin(nats_model *model, const nats_batch *batch, const nats_pass *pass);

// From tokens to the output of the final norm. nats_mix_parallel is attention over the whole sequence.
nn_status nats_model_forward(nats_model *model, nats_mixer mixer);
nn_status nats_mix_parallel(void *unused, nats_model *model, int32_t layer);

// The forward pass of a part of a layer once more, from what was kept of it: the input of attention, or also
// of the MLP, and the types that were drawn. After nats_again_attention, nats_again_mlp may follow; `delta`
// is overwritten by that one.
nn_status nats_again_attention(nats_model *model, int32_t layer);
nn_status nats_again_mlp(nats_model *model, int32_t layer);

// From the final norm's output, whose gradient is in `delta`, to the embedding.
nn_status nats_model_backward(nats_model *model, const nn_grad_listener *listener);

// ---- operators with their tensors (model_ops.c); the caller adds what one direction alone needs

static inline int64_t nats_rows(const nats_model *model) {
  return (int64_t)model->batch * model->length;
}

static inline float nats_scale(const nats_model_config *config) {
  return (float)(1.0 / sqrt(config->head_size));
}

static inline int32_t nats_query_size(const nats_model_config *config) {
  return config->heads * config->head_size;
}

static inline int32_t nats_qkv_size(const nats_model_config *config) {
  return (config->heads + 2 * config->kv_heads) * config->head_size;
}

static inline int32_t nats_up_size(const nats_model_config *config) {
  return config->mlp == NN_MLP_SWIGLU ? 2 * config->mlp_size : config->mlp_size;
}

nn_linear nats_linear_op(const nats_model *model, nats_affine at, int32_t in, int32_t out, const nn_act *x);
nn_norm nats_norm_op(const nats_model *model, nats_affine at, const nats_norm_acts *acts);
nn_rope nats_rope_op(const nats_model *model, nn_act *qkv);
nn_activation nats_activation_op(const nats_model *model, const nats_layer_acts *acts);
nats_scorer nats_scorer_op(const nats_model *model, int32_t layer);
nats_types nats_types_op(const nats_model *model, int32_t layer);
nats_kv_cost nats_kv_cost_op(const nats_model *model, int32_t layer);
nats_attention nats_attention_op(const nats_model *model, int32_t layer);
nn_classifier nats_classifier_op(const nats_model *model);
