// The parameter table of a configuration, in the order of the forward pass, and where each operator finds its
// rows. One walk builds both, so they cannot disagree.
#include <math.h>   // sqrt
#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free
#include <string.h> // strcmp

#include "nats/model_internal.h"

typedef struct {
  const nats_model_config *config;
  nn_param_table *table;
  nats_param_index *index;
  char prefix[32]; // "layer.3.", or ""
} walk;

static nn_status add(walk *w, const char *what, const char *part, int32_t rank, int64_t rows, int64_t columns,
                     nn_init init, float value, nn_param_group group, int32_t *index) {
  char name[sizeof w->table->items->name];
  snprintf(name, sizeof name, "%s%s.%s", w->prefix, what, part);
  bool decay = rank == 2; // matrices only: a norm or a bias at 0 is no simpler model
  return nn_param_add(w->table, name, rank, rows, columns, init, value, decay, group, index);
}

static nn_status add_norm(walk *w, const char *what, nats_affine *out) {
  const nats_model_config *c = w->config;
  *out = (nats_affine){NATS_NO_PARAM, NATS_NO_PARAM};
  NN_TRY(add(w, what, "weight", 1, c->width, 1, NN_INIT_ONE, 0.0f, NN_GROUP_WEIGHTS, &out->weight));
  if (c->norm == NN_NORM_LAYER && c->bias)
    NN_TRY(add(w, what, "bias", 1, c->width, 1, NN_INIT_ZERO, 0.0f, NN_GROUP_WEIGHTS, &out->bias));
  return NN_OK;
}

static nn_status add_linear(walk *w, const char *what, int32_t out_size, int32_t in_size, float std,
                            nats_affine *out) {
  *out = (nats_affine){NATS_NO_PARAM, NATS_NO_PARAM};
  NN_TRY(add(w, what, "weight", 2, out_size, in_size, NN_INIT_NORMAL, std, NN_GROUP_WEIGHTS, &out->weight));
  if (w->config->bias)
    NN_TRY(add(w, what, "bias", 1, out_size, 1, NN_INIT_ZERO, 0.0f, NN_GROUP_WEIGHTS, &out->bias));
  return NN_OK;
}

// Three rows a kv head, in the order of nats_type; the bias starts in favour of global.
static nn_status add_scorer(walk *w, nats_affine *out) {
  const nats_model_config *c = w->config;
  *out = (nats_affine){NATS_NO_PARAM, NATS_NO_PARAM};
  if (c->attention != NATS_ATTENTION_NATS)
    return NN_OK;
  const char *what = "attention.scorer";
  int32_t rows = NATS_TYPES * c->kv_heads;
  NN_TRY(
      add(w, what, "weight", 2, rows, c->width, NN_INIT_NORMAL, c->init_std, NN_GROUP_SCORER, &out->weight));
  return add(w, what, "bias", 1, rows, 1, NN_INIT_SCORER, c->scorer_bias, NN_GROUP_SCORER, &out->bias);
}

static nn_status add_layer(walk *w, int32_t layer, nats_layer_params *out) {
  const nats_model_config *c = w->config;
  // 2 projections a layer add to the residual stream: its variance should not grow with their number
  // (Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", 2.3).
  float into_residual = (float)(c->init_std / sqrt(2.0 * c->layers));
  snprintf(w->prefix, sizeof w->prefix, "layer.%d.", (int)layer);
  w->table->block++; // as backward tells its listener
  NN_TRY(add_norm(w, "attention.norm", &out->attention_norm));
  NN_TRY(add_linear(w, "attention.qkv", nats_qkv_size(c), c->width, c->init_std, &out->qkv));
  NN_TRY(add_scorer(w, &out->scorer));
  NN_TRY(add_linear(w, "attention.out", c->width, nats_query_size(c), into_residual, &out->out));
  w->table->block++;
  NN_TRY(add_norm(w, "mlp.norm", &out->mlp_norm));
  NN_TRY(add_linear(w, "mlp.up", nats_up_size(c), c->width, c->init_std, &out->up));
  NN_TRY(add_linear(w, "mlp.down", c->width, c->mlp_size, into_residual, &out->down));
  w->prefix[0] = '\0';
  return NN_OK;
}

static nn_status add_all(walk *w) {
  const nats_model_config *c = w->config;
  w->table->block = c->tied ? NN_BLOCK_KEPT : 0; // the head adds to it first, the embedding last
  NN_TRY(add(w, "embedding", "weight", 2, c->vocab, c->width, NN_INIT_NORMAL, c->init_std, NN_GROUP_WEIGHTS,
             &w->index->embedding));
  for (int32_t layer = 0; layer < c->layers; layer++)
    NN_TRY(add_layer(w, layer, &w->index->layers[layer]));
  w->table->block++;
  NN_TRY(add_norm(w, "final_norm", &w->index->final_norm));
  w->index->head = w->index->embedding;
  if (!c->tied)
    NN_TRY(add(w, "head", "weight", 2, c->vocab, c->width, NN_INIT_NORMAL, c->init_std, NN_GROUP_WEIGHTS,
               &w->index->head));
  return NN_OK;
}

// Builds table and index of a configuration; both are the caller's also after a failure.
static nn_status build(const nats_model_config *config, nn_param_table *table, nats_param_index *index) {
  NN_TRY(nats_model_config_check(config));
  index->layers = calloc((size_t)config->layers, sizeof *index->layers);
  if (!index->layers)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the parameter index of %d layers", (int)config->layers);
  walk w = {.config = config, .table = table, .index = index};
  return add_all(&w);
}

nn_status nats_model_params(const nats_model_config *config, nn_param_table *out) {
  nats_param_index index = {0};
  *out = (nn_param_table){0};
  nn_status status = build(config, out, &index);
  nats_param_index_free(&index);
  if (status != NN_OK)
    nn_param_table_free(out);
  return status;
}

static nn_status check_same(const nn_param_table *found, const nn_param_table *expected) {
  for (int32_t i = 0; i < expected->count; i++) {
    const nn_param *e = &expected->items[i];
    if (i >= found->count)
      return NN_FAIL(NN_ERR_INPUT, "parameter table: '%s' is missing", e->name);
    const nn_param *f = &found->items[i];
    if (strcmp(e->name, f->name) != 0)
      return NN_FAIL(NN_ERR_INPUT, "parameter table: expected '%s' in row %d, found '%s'", e->name, (int)i,
                     f->name);
    if (e->shape[0] != f->shape[0] || e->shape[1] != f->shape[1] || e->offset != f->offset)
      return NN_FAIL(NN_ERR_INPUT, "parameter '%s': expected shape [%lld, %lld], found [%lld, %lld]", e->name,
                     (long long)e->shape[0], (long long)e->shape[1], (long long)f->shape[0],
                     (long long)f->shape[1]);
  }
  if (found->count > expected->count)
    return NN_FAIL(NN_ERR_INPUT, "parameter table: '%s' is not part of this model",
                   found->items[expected->count].name);
  return NN_OK;
}

nn_status nats_param_index_create(const nats_model_config *config, const nn_param_table *table,
                                  nats_param_index *out) {
  nn_param_table expected = {0};
  nn_status status;
  *out = (nats_param_index){0};
  NN_GOTO(status, done, build(config, &expected, out));
  NN_GOTO(status, done, check_same(table, &expected));
done:
  nn_param_table_free(&expected);
  if (status != NN_OK)
    nats_param_index_free(out);
  return status;
}

void nats_param_index_free(nats_param_index *index) {
  free(index->layers);
  index->layers = NULL;
}
