// Where every activation lies: one arena, laid out by one function that either counts or places.
//
// Training keeps per layer what backward reads: the residual stream and the output of both norms, packed q, k
// and v, attention's output and lse, types and expiries, and both sides of the MLP's activation. Everything
// else is shared by the layers, and buffers of different phases of a layer lie on top of each other. What
// backward computes again (nats_recompute) is shared by the layers too; the input of every layer stays.
#include <stdint.h> // uintptr_t
#include <stdlib.h> // calloc, free

#include "nats/model_internal.h"

enum { ALIGNMENT = 64 };

typedef struct {
  char *base; // NULL: only count
  size_t used, peak;
} arena;

static void *take(arena *a, int64_t count, size_t size) {
  void *at = a->base ? a->base + a->used : NULL;
  size_t bytes = (size_t)count * size;
  a->used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (a->used > a->peak)
    a->peak = a->used;
  return at;
}

// The largest that one pass needs.
typedef struct {
  int64_t rows, chunks; // N, and B * Hk * n
  int64_t width, query, qkv, up, mlp, kv_heads, heads;
  size_t act;
  bool layer_norm;
} sizes;

static sizes sizes_of(const nats_model *m) {
  const nats_model_config *c = &m->config;
  return (sizes){
      .rows = (int64_t)m->max_batch * m->max_length,
      .chunks = (int64_t)m->max_batch * c->kv_heads * nats_chunks(m->max_length, m->chunk),
      .width = c->width,
      .query = nats_query_size(c),
      .qkv = nats_qkv_size(c),
      .up = nats_up_size(c),
      .mlp = c->mlp_size,
      .kv_heads = c->kv_heads,
      .heads = c->heads,
      .act = nn_device_act_size(m->device),
      .layer_norm = c->norm == NN_NORM_LAYER,
  };
}

static void lay_norm_input(arena *a, const sizes *s, nats_norm_acts *norm) {
  norm->x = take(a, s->rows * s->width, s->act);
}

static void lay_norm_output(arena *a, const sizes *s, nats_norm_acts *norm) {
  norm->h = take(a, s->rows * s->width, s->act);
  norm->mean = s->layer_norm ? take(a, s->rows, sizeof *norm->mean) : NULL;
  norm->rstd = take(a, s->rows, sizeof *norm->rstd);
}

static void lay_norm(arena *a, const sizes *s, nats_norm_acts *norm) {
  lay_norm_input(a, s, norm);
  lay_norm_output(a, s, norm);
}

static void lay_attention(arena *a, const sizes *s, nats_layer_acts *acts) {
  acts->qkv = take(a, s->rows * s->qkv, s->act);
  acts->o = take(a, s->rows * s->query, s->act);
  acts->lse = take(a, s->rows * s->heads, sizeof *acts->lse);
}

static void lay_mlp(arena *a, const sizes *s, nats_layer_acts *acts) {
  acts->up = take(a, s->rows * s->up, s->act);
  acts->act = take(a, s->rows * s->mlp, s->act);
}

// Types and expiries are one and the same for all layers where they are fixed.
static void lay_types(nats_model *m, arena *a, const sizes *s) {
  bool learned = m->kind == NATS_ATTENTION_NATS;
  for (int32_t l = 0; l < m->config.layers; l++) {
    nats_layer_acts *acts = &m->layers[l];
    const nats_layer_acts *first = &m->layers[0];
    bool own_types = l == 0 || learned;
    bool own_expiry = l == 0 || (learned && m->training);
    acts->types = own_types ? take(a, s->chunks, sizeof *acts->types) : first->types;
    acts->expiry = own_expiry ? take(a, s->rows * s->kv_heads, sizeof *acts->expiry) : first->expiry;
    acts->y = learned && m->training ? take(a, s->chunks * NATS_TYPES, sizeof *acts->y) : NULL;
  }
}

static void share_attention(nats_layer_acts *acts, const nats_layer_acts *from) {
  nn_act *x = acts->attention_norm.x;
  acts->attention_norm = from->attention_norm;
  acts->attention_norm.x = x;
  acts->qkv = from->qkv;
  acts->o = from->o;
  acts->lse = from->lse;
}

static void share_mlp(nats_layer_acts *acts, const nats_layer_acts *from) {
  acts->mlp_norm = from->mlp_norm;
  acts->up = from->up;
  acts->act = from->act;
}

static void lay_training_layers(nats_model *m, arena *a, const sizes *s) {
  for (int32_t l = 0; l < m->config.layers; l++) {
    nats_layer_acts *acts = &m->layers[l];
    lay_norm_input(a, s, &acts->attention_norm);
    if (l > 0 && m->config.recompute != NATS_RECOMPUTE_NONE) {
      share_attention(acts, &m->layers[0]);
    } else {
      lay_norm_output(a, s, &acts->attention_norm);
      lay_attention(a, s, acts);
    }
    if (l > 0 && m->config.recompute == NATS_RECOMPUTE_BLOCK) {
      share_mlp(acts, &m->layers[0]);
    } else {
      lay_norm(a, s, &acts->mlp_norm);
      lay_mlp(a, s, acts);
    }
  }
  lay_norm(a, s, &m->final_norm);
  m->dx = m->final_norm.h; // the classifier is done with it when the first gradient of the stream is written
  m->dx_sums = take(a, m->config.width, sizeof *m->dx_sums);
  // Gradients of the MLP's inside and of attention's inside are never alive at the same time.
  size_t phase = a->used;
  m->dact = take(a, s->rows * s->mlp, s->act);
  a->used = phase;
  m->dqkv = take(a, s->rows * s->qkv, s->act);
  m->d_o = take(a, s->rows * s->query, s->act);
  m->dtypes = m->kind == NATS_ATTENTION_NATS ? take(a, s->chunks * NATS_TYPES, sizeof *m->dtypes) : NULL;
  a->used = a->peak;
}

static void lay_evaluation_layers(nats_model *m, arena *a, const sizes *s) {
  nats_layer_acts *first = &m->layers[0];
  lay_norm(a, s, &first->attention_norm);
  first->mlp_norm = m->final_norm = first->attention_norm;
  size_t phase = a->used;
  lay_attention(a, s, first);
  a->used = phase;
  lay_mlp(a, s, first);
  a->used = a->peak;
  for (int32_t l = 1; l < m->config.layers; l++) {
    nats_layer_acts own = m->layers[l];
    m->layers[l] = *first;
    m->layers[l].types = own.types;
    m->layers[l].expiry = own.expiry;
    m->layers[l].y = own.y;
  }
}

size_t nats_model_lay_out(nats_model *m, void *base) {
  const nats_model_config *c = &m->config;
  arena a = {.base = base};
  sizes s = sizes_of(m);
  m->rope = take(&a, (int64_t)m->positions * c->head_size, sizeof *m->rope);
  m->tokens = take(&a, s.rows, sizeof *m->tokens);
  m->targets = take(&a, s.rows, sizeof *m->targets);
  m->lengths = take(&a, m->max_batch, sizeof *m->lengths);
  m->sample = take(&a, m->max_batch, sizeof *m->sample);
  m->nll = take(&a, s.rows, sizeof *m->nll);
  m->sums = take(&a, 1, sizeof *m->sums);
  m->per_head = take(&a, (int64_t)c->layers * c->kv_heads * 2, sizeof *m->per_head);
  m->delta = take(&a, s.rows * s.width, s.act);
  m->logits =
      m->kind == NATS_ATTENTION_NATS ? take(&a, s.rows * s.kv_heads * NATS_TYPES, sizeof *m->logits) : NULL;
  lay_types(m, &a, &s);
  if (m->training)
    lay_training_layers(m, &a, &s);
  else
    lay_evaluation_layers(m, &a, &s);
  return a.peak;
}

nn_status nats_model_plan(const nats_model_config *config, nats_attention_kind kind, nn_device *device,
                          nats_model_size size, nats_model *out) {
  NN_TRY(nats_model_config_check(config));
  if (size.batch < 1 || size.length < 1 || size.positions < size.length)
    return NN_FAIL(NN_ERR_INTERNAL, "model: room for %d sequences of %d tokens and %d positions",
                   (int)size.batch, (int)size.length, (int)size.positions);
  *out = (nats_model){
      .config = *config,
      .kind = kind,
      .chunk = kind == NATS_ATTENTION_NATS ? config->type_chunk : 1,
      .max_batch = size.batch,
      .max_length = size.length,
      .positions = size.positions,
      .training = size.training,
      .device = device,
      .layers = calloc((size_t)config->layers, sizeof *out->layers),
  };
  if (!out->layers)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a plan of %d layers", (int)config->layers);
  return NN_OK;
}

// The largest workspace of an operator. Tensors are not looked at, only whether they are wanted.
static size_t workspace_of(const nats_model *m) {
  static float a_tensor;
  const nats_model_config *c = &m->config;
  nats_attention attention = {
      .batch = m->max_batch,
      .length = m->max_length,
      .heads = c->heads,
      .kv_heads = c->kv_heads,
      .head_size = c->head_size,
      .chunk = m->chunk,
      .window = c->window,
      .d_o = m->training ? &a_tensor : NULL,
      .dbias = m->training && c->bias ? &a_tensor : NULL,
      .dtypes = m->training && m->kind == NATS_ATTENTION_NATS ? &a_tensor : NULL,
  };
  nn_classifier classifier = {
      .rows = (int64_t)m->max_batch * m->max_length,
      .width = c->width,
      .vocab = c->vocab,
      .dx = m->training ? &a_tensor : NULL,
  };
  size_t of_attention = nats_attention_workspace(m->device, &attention);
  size_t of_classifier = nn_classifier_workspace(m->device, &classifier);
  return of_attention > of_classifier ? of_attention : of_classifier;
}

nn_status nats_model_measure(const nats_model_config *config, nn_device *device, int32_t batch,
                             int32_t length, bool training, nats_model_memory *out) {
  nats_model_size size = {batch, length, length, training};
  nats_model model;
  NN_TRY(nats_model_plan(config, config->attention, device, size, &model));
  out->activations = (int64_t)nats_model_lay_out(&model, NULL);
  out->workspace = (int64_t)workspace_of(&model);
  free(model.layers);
  return NN_OK;
}
