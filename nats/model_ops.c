// The operators of the model with their tensors. What both directions read is filled here, gradients of
// parameters too where the model has them; the caller adds outputs (forward) or incoming gradients
// (backward).
#include "nats/model_internal.h"

static const nn_act *weight_of(const nats_model *m, int32_t param) {
  return param == NATS_NO_PARAM ? NULL : nn_params_weight(&m->params, param);
}

static float *grad_of(const nats_model *m, int32_t param) {
  return param == NATS_NO_PARAM || !m->training ? NULL : nn_params_grad(&m->params, param);
}

nn_linear nats_linear_op(const nats_model *m, nats_affine at, int32_t in, int32_t out, const nn_act *x) {
  return (nn_linear){
      .rows = nats_rows(m),
      .in = in,
      .out = out,
      .x = x,
      .weight = weight_of(m, at.weight),
      .bias = weight_of(m, at.bias),
      .dweight = grad_of(m, at.weight),
      .dbias = grad_of(m, at.bias),
  };
}

nn_norm nats_norm_op(const nats_model *m, nats_affine at, const nats_norm_acts *acts) {
  return (nn_norm){
      .kind = m->config.norm,
      .rows = nats_rows(m),
      .width = m->config.width,
      .eps = m->config.norm_eps,
      .x = acts->x,
      .sum = acts->x,
      .weight = weight_of(m, at.weight),
      .bias = weight_of(m, at.bias),
      .y = acts->h,
      .mean = acts->mean,
      .rstd = acts->rstd,
      .dweight = grad_of(m, at.weight),
      .dbias = grad_of(m, at.bias),
  };
}

nn_rope nats_rope_op(const nats_model *m, nn_act *qkv) {
  const nats_model_config *c = &m->config;
  return (nn_rope){
      .rows = nats_rows(m),
      .heads = c->heads + c->kv_heads, // q and k; v stays as it is
      .head_size = c->head_size,
      .row_stride = nats_qkv_size(c),
      .table = m->rope,
      .positions = m->positions,
      .period = m->length,
      .x = qkv,
  };
}

nn_activation nats_activation_op(const nats_model *m, const nats_layer_acts *acts) {
  return (nn_activation){
      .kind = m->config.mlp,
      .rows = nats_rows(m),
      .width = m->config.mlp_size,
      .x = acts->up,
      .y = acts->act,
  };
}

nats_scorer nats_scorer_op(const nats_model *m, int32_t layer) {
  nats_affine at = m->index.layers[layer].scorer;
  return (nats_scorer){
      .rows = nats_rows(m),
      .width = m->config.width,
      .out = NATS_TYPES * m->config.kv_heads,
      .x = m->layers[layer].attention_norm.h,
      .weight = weight_of(m, at.weight),
      .bias = weight_of(m, at.bias),
      .logits = m->logits,
      .dweight = grad_of(m, at.weight),
      .dbias = grad_of(m, at.bias),
  };
}

nats_types nats_types_op(const nats_model *m, int32_t layer) {
  const nats_layer_acts *acts = &m->layers[layer];
  return (nats_types){
      .batch = m->batch,
      .length = m->length,
      .kv_heads = m->config.kv_heads,
      .chunk = m->chunk,
      .window = m->config.window,
      .kind = m->kind,
      .mode = m->pass.types,
      .tau = m->config.type_tau,
      .logits = m->logits,
      .seed = m->pass.seed,
      .step = m->pass.step,
      .layer = layer,
      .sample = m->sample,
      .types = acts->types,
      .y = acts->y,
      .expiry = acts->expiry,
  };
}

nats_kv_cost nats_kv_cost_op(const nats_model *m, int32_t layer) {
  return (nats_kv_cost){
      .batch = m->batch,
      .length = m->length,
      .kv_heads = m->config.kv_heads,
      .chunk = m->chunk,
      .window = m->config.window,
      .lengths = m->has_lengths ? m->lengths : NULL,
      .types = m->layers[layer].types,
      .expiry = m->layers[layer].expiry,
  };
}

nats_attention nats_attention_op(const nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  int64_t key = nats_query_size(c), value = key + (int64_t)c->kv_heads * c->head_size;
  return (nats_attention){
      .batch = m->batch,
      .length = m->length,
      .heads = c->heads,
      .kv_heads = c->kv_heads,
      .head_size = c->head_size,
      .scale = nats_scale(c),
      .q = acts->qkv,
      .k = nn_act_at(m->device, acts->qkv, key),
      .v = nn_act_at(m->device, acts->qkv, value),
      .token_stride = nats_qkv_size(c),
      .expiry = acts->expiry,
      .o = acts->o,
      .lse = acts->lse,
      .chunk = m->chunk,
      .window = c->window,
      .types = acts->types,
      .type_grad_clip = c->type_grad_clip,
      .type_grad_rows = c->type_grad_rows,
      .seed = m->pass.seed,
      .step = m->pass.step,
      .layer = layer,
  };
}

nn_classifier nats_classifier_op(const nats_model *m) {
  return (nn_classifier){
      .rows = nats_rows(m),
      .width = m->config.width,
      .vocab = m->config.vocab,
      .x = m->final_norm.h,
      .weight = weight_of(m, m->index.head),
      .targets = m->targets,
      .sums = m->pass.sums ? m->pass.sums : m->sums,
  };
}
