// From tokens to the output of the final norm, one layer after the other.
#include "nats/model_internal.h"

static nn_status embed(nats_model *m, nn_act *x) {
  return nn_embedding_forward(m->device, &(nn_embedding){
                                             .rows = nats_rows(m),
                                             .vocab = m->config.vocab,
                                             .width = m->config.width,
                                             .tokens = m->tokens,
                                             .table = nn_params_weight(&m->params, m->index.embedding),
                                             .y = x,
                                         });
}

// Adds `delta` (NULL at the first norm) to the stream in `x` and normalises the sum into acts->h.
static nn_status norm(nats_model *m, nats_affine at, const nn_act *x, const nn_act *delta,
                      const nats_norm_acts *acts) {
  nn_norm op = nats_norm_op(m, at, acts);
  op.x = x;
  op.delta = delta;
  return nn_norm_forward(m->device, &op);
}

static nn_status linear(nats_model *m, nats_affine at, int32_t in, int32_t out, const nn_act *x, nn_act *y) {
  nn_linear op = nats_linear_op(m, at, in, out, x);
  op.y = y;
  return nn_linear_forward(m->device, &op);
}

// q, k and v of every token, turned to its position.
static nn_status project_qkv(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  NN_TRY(
      linear(m, m->index.layers[layer].qkv, c->width, nats_qkv_size(c), acts->attention_norm.h, acts->qkv));
  nn_rope rope = nats_rope_op(m, acts->qkv);
  return nn_rope_forward(m->device, &rope);
}

// The scorer is read where types follow it; in a dense warm-up nobody asks.
static nn_status score_types(nats_model *m, int32_t layer) {
  if (m->kind != NATS_ATTENTION_NATS || m->pass.types == NATS_TYPES_ALL_GLOBAL)
    return NN_OK;
  nats_scorer op = nats_scorer_op(m, layer);
  return nats_scorer_forward(m->device, &op);
}

// What attention adds to the stream, and the norm of the sum.
static nn_status leave_attention(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  const nats_layer_params *at = &m->index.layers[layer];
  NN_TRY(linear(m, at->out, nats_query_size(c), c->width, acts->o, m->delta));
  return norm(m, at->mlp_norm, acts->attention_norm.x, m->delta, &acts->mlp_norm);
}

static nn_status mlp_inside(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  const nats_layer_acts *acts = &m->layers[layer];
  nn_linear up = nats_linear_op(m, m->index.layers[layer].up, c->width, nats_up_size(c), acts->mlp_norm.h);
  up.y = acts->up;
  up.gelu = c->mlp == NN_MLP_GELU ? acts->act : NULL;
  NN_TRY(nn_linear_forward(m->device, &up));
  if (up.gelu != NULL)
    return NN_OK;
  nn_activation activation = nats_activation_op(m, acts);
  return nn_activation_forward(m->device, &activation);
}

static nn_status mlp(nats_model *m, int32_t layer) {
  const nats_model_config *c = &m->config;
  NN_TRY(mlp_inside(m, layer));
  return linear(m, m->index.layers[layer].down, c->mlp_size, c->width, m->layers[layer].act, m->delta);
}

// Waits for the parameters before row `next` of the table, where these are on their way.
static nn_status await_params(const nats_model *m, int32_t next) {
  const nn_param_source *source = m->pass.source;
  return source ? source->await(source->context, m->params.table->items[next].offset) : NN_OK;
}

static nn_status await_last_params(const nats_model *m) {
  const nn_param_source *source = m->pass.source;
  return source ? source->await(source->context, m->params.table->total) : NN_OK;
}

nn_status nats_model_forward(nats_model *m, nats_mixer mixer) {
  const nats_model_config *c = &m->config;
  nn_act *x = m->layers[0].attention_norm.x; // the residual stream
  const nn_act *delta = NULL;                // what the block before adds to it
  NN_TRY(await_params(m, m->index.layers[0].attention_norm.weight));
  NN_TRY(embed(m, x));
  for (int32_t layer = 0; layer < c->layers; layer++) {
    const nats_layer_acts *acts = &m->layers[layer];
    const nats_layer_params *at = &m->index.layers[layer];
    bool last = layer == c->layers - 1;
    NN_TRY(await_params(m, last ? m->index.final_norm.weight : at[1].attention_norm.weight));
    NN_TRY(norm(m, at->attention_norm, x, delta, &acts->attention_norm));
    NN_TRY(project_qkv(m, layer));
    NN_TRY(score_types(m, layer));
    NN_TRY(mixer.mix(mixer.context, m, layer));
    NN_TRY(leave_attention(m, layer));
    NN_TRY(mlp(m, layer));
    x = acts->mlp_norm.x;
    delta = m->delta;
  }
  NN_TRY(await_last_params(m));
  return norm(m, m->index.final_norm, x, delta, &m->final_norm);
}

nn_status nats_again_attention(nats_model *m, int32_t layer) {
  const nats_layer_acts *acts = &m->layers[layer];
  NN_TRY(norm(m, m->index.layers[layer].attention_norm, acts->attention_norm.x, NULL, &acts->attention_norm));
  NN_TRY(project_qkv(m, layer));
  nats_attention op = nats_attention_op(m, layer);
  return nats_attention_forward(m->device, &op);
}

nn_status nats_again_mlp(nats_model *m, int32_t layer) {
  NN_TRY(leave_attention(m, layer));
  return mlp_inside(m, layer);
}

// Fixed expiries hold for every layer and, while the shape stays, for every pass.
static nn_status choose_types(nats_model *m, int32_t layer) {
  bool is_fixed = m->kind != NATS_ATTENTION_NATS;
  if (is_fixed && m->fixed_batch == m->batch && m->fixed_length == m->length)
    return NN_OK;
  nats_types op = nats_types_op(m, layer);
  NN_TRY(nats_types_forward(m->device, &op));
  if (is_fixed) {
    m->fixed_batch = m->batch;
    m->fixed_length = m->length;
  }
  return NN_OK;
}

nn_status nats_mix_parallel(void *unused, nats_model *m, int32_t layer) {
  (void)unused;
  NN_TRY(choose_types(m, layer));
  nats_kv_cost cost = nats_kv_cost_op(m, layer);
  cost.sums = m->pass.sums ? m->pass.sums : m->sums;
  if (m->wants_per_head)
    cost.per_head = m->per_head + (int64_t)layer * m->config.kv_heads * 2;
  NN_TRY(nats_kv_cost_forward(m->device, &cost));
  nats_attention op = nats_attention_op(m, layer);
  return nats_attention_forward(m->device, &op);
}
