// From the gradient of the final norm's output back to the embedding. As soon as the gradients of a range of
// parameters are complete the listener is told: final norm and head, then per layer the MLP and attention,
// then the embedding; from the end of the arena to its start, without holes.
#include "nats/model_internal.h"

// dx = gradient of the stream by the residual path (NULL at the last norm) + through the norm. Its sums are
// the gradient of the bias of the linear that comes next.
static nn_status norm_backward(nats_model *m, nats_affine at, const nats_norm_acts *acts,
                               const nn_act *dsum) {
  nn_norm op = nats_norm_op(m, at, acts);
  op.dy = m->delta;
  op.dsum = dsum;
  op.dx = m->dx;
  op.dx_sums = m->index.layers[0].out.bias != NATS_NO_PARAM ? m->dx_sums : NULL;
  return nn_norm_backward(m->device, &op);
}

static nn_status linear_backward(nats_model *m, nats_affine at, int32_t in, int32_t out, const nn_act *x,
                                 const nn_act *dy, nn_act *dx) {
  nn_linear op = nats_linear_op(m, at, in, out, x);
  op.dy = dy;
  op.dx = dx;
  return nn_linear_backward(m->device, &op);
}

// The gradient of `up` from that of the block's output; *dup is where it lies.
static nn_status activation_backward(nats_model *m, int32_t layer, const nn_act **dup) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  nn_linear down = nats_linear_op(m, m->index.layers[layer].down, c->mlp_size, c->width, acts->act);
  down.dy = m->dx;
  down.dy_sums = m->dx_sums;
  down.dx = m->dact;
  down.gelu_of = c->mlp == NN_MLP_GELU ? acts->up : NULL;
  NN_TRY(nn_linear_backward(m->device, &down));
  *dup = m->dact;
  if (down.gelu_of != NULL)
    return NN_OK;
  nn_activation activation = nats_activation_op(m, acts);
  activation.dy = m->dact;
  activation.dx = acts->up; // in place: nobody reads `up` after this
  *dup = acts->up;
  return nn_activation_backward(m->device, &activation);
}

static nn_status mlp_backward(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  const nats_layer_params *at = &m->index.layers[layer];
  const nn_act *dup;
  NN_TRY(activation_backward(m, layer, &dup));
  NN_TRY(linear_backward(m, at->up, c->width, nats_up_size(c), acts->mlp_norm.h, dup, m->delta));
  return norm_backward(m, at->mlp_norm, &acts->mlp_norm, m->dx);
}

// Gradients of q, k and v in `dqkv` as the projection made them, before RoPE; of its bias; and of the types
// where these were sampled.
static nn_status attention_core_backward(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  nats_attention op = nats_attention_op(m, layer);
  int32_t bias = m->index.layers[layer].qkv.bias;
  int64_t key = nats_query_size(c), value = key + (int64_t)c->kv_heads * c->head_size;
  op.d_o = m->d_o;
  op.dq = m->dqkv;
  op.dk = nn_act_at(m->device, m->dqkv, key);
  op.dv = nn_act_at(m->device, m->dqkv, value);
  op.rope = m->rope;
  op.dbias = bias == NATS_NO_PARAM ? NULL : nn_params_grad(&m->params, bias);
  op.dtypes = m->pass.types == NATS_TYPES_SAMPLED ? m->dtypes : NULL;
  return nats_attention_backward(m->device, &op);
}

// From the gradient of the mask, plus the price of the cache, to the scorer, and to its input (added to
// `delta`, where the projection's part is) unless that is detached.
static nn_status types_backward(nats_model *m, int32_t layer) {
  nats_kv_cost cost = nats_kv_cost_op(m, layer);
  cost.lambda = m->pass.lambda;
  cost.pair_scale = m->pass.pair_scale;
  cost.dtypes = m->dtypes;
  NN_TRY(nats_kv_cost_backward(m->device, &cost));
  nats_types types = nats_types_op(m, layer);
  types.dtypes = m->dtypes;
  types.dlogits = m->logits;
  NN_TRY(nats_types_backward(m->device, &types));
  nats_scorer scorer = nats_scorer_op(m, layer);
  scorer.dlogits = m->logits;
  scorer.dx = m->config.scorer_detach ? NULL : m->delta;
  return nats_scorer_backward(m->device, &scorer);
}

static nn_status attention_backward(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  const nats_layer_params *at = &m->index.layers[layer];
  nn_linear out = nats_linear_op(m, at->out, nats_query_size(c), c->width, acts->o);
  out.dy = m->dx;
  out.dy_sums = m->dx_sums;
  out.dx = m->d_o;
  NN_TRY(nn_linear_backward(m->device, &out));
  NN_TRY(attention_core_backward(m, layer));
  const nats_affine qkv = {at->qkv.weight, NATS_NO_PARAM}; // its bias has got its gradient from attention
  NN_TRY(linear_backward(m, qkv, c->width, nats_qkv_size(c), acts->attention_norm.h, m->dqkv, m->delta));
  if (m->pass.types == NATS_TYPES_SAMPLED)
    NN_TRY(types_backward(m, layer));
  return norm_backward(m, at->attention_norm, &acts->attention_norm, m->dx);
}

static nn_status embedding_backward(nats_model *m) {
  return nn_embedding_backward(m->device, &(nn_embedding){
                                              .rows = nats_rows(m),
                                              .vocab = m->config.vocab,
                                              .width = m->config.width,
                                              .tokens = m->tokens,
                                              .dy = m->dx,
                                              .dtable = nn_params_grad(&m->params, m->index.embedding),
                                          });
}

// The gradients from row `first` of the table up to *end are complete; *end moves down to it.
static nn_status complete(const nats_model *m, const nn_grad_listener *listener, int32_t first,
                          int64_t *end) {
  int64_t begin = m->params.table->items[first].offset;
  int64_t count = *end - begin;
  *end = begin;
  return listener ? listener->ready(listener->context, begin, count) : NN_OK;
}

// Computes again what a half of a layer's backward pass reads and was not kept. Of the last layer everything
// is still there.
static nn_status before_mlp(nats_model *m, int32_t layer) {
  if (m->config.recompute != NATS_RECOMPUTE_BLOCK || layer == m->config.layers - 1)
    return NN_OK;
  NN_TRY(nats_again_attention(m, layer));
  return nats_again_mlp(m, layer);
}

static nn_status before_attention(nats_model *m, int32_t layer) {
  if (m->config.recompute != NATS_RECOMPUTE_ATTENTION || layer == m->config.layers - 1)
    return NN_OK;
  return nats_again_attention(m, layer);
}

nn_status nats_model_backward(nats_model *m, const nn_grad_listener *listener) {
  int64_t end = m->params.table->total;
  NN_TRY(norm_backward(m, m->index.final_norm, &m->final_norm, NULL));
  NN_TRY(complete(m, listener, m->index.final_norm.weight, &end));
  for (int32_t layer = m->config.layers - 1; layer >= 0; layer--) {
    const nats_layer_params *at = &m->index.layers[layer];
    NN_TRY(before_mlp(m, layer));
    NN_TRY(mlp_backward(m, layer));
    NN_TRY(complete(m, listener, at->mlp_norm.weight, &end));
    NN_TRY(before_attention(m, layer));
    NN_TRY(attention_backward(m, layer));
    NN_TRY(complete(m, listener, at->attention_norm.weight, &end));
  }
  NN_TRY(embedding_backward(m));
  return complete(m, listener, m->index.embedding, &end);
}
