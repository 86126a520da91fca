#include "launch/eval/types.h"

#include <jansson.h> // --json
#include <stdio.h>
#include <stdlib.h>

#include "launch/eval/text_tokens.h"
#include "launch/eval/types_page.h"
#include "launch/records/output_file.h"

typedef struct {
  const launch_types_request *request;
  data_tokens tokens; // of the text, or [T] of the sample
  int32_t length;     // T
  uint8_t *types;     // [layers, Hk, n]
  double pairs[2];    // visible and causal, of all heads
  launch_output page;
} typed_text;

static nn_status check(const launch_types_request *r) {
  if (r->run->model.attention != NATS_ATTENTION_NATS)
    return NN_FAIL(NN_ERR_USAGE, "eval: --types: expected a model with token types, %s is a %s one", r->name,
                   r->run->config.model.attention);
  if (r->text != NULL && r->run->tokenizer == NULL)
    return NN_FAIL(NN_ERR_USAGE, "eval: --text: %s was trained on synthetic tokens, which are no text",
                   r->name);
  return NN_OK;
}

// ---- tokens

static nn_status read_text(typed_text *t) {
  const launch_types_request *r = t->request;
  NN_TRY(launch_text_read(r->run->tokenizer, r->text, &t->tokens));
  if (t->tokens.count == 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: expected a text, found none", r->text);
  t->length = t->tokens.count < r->length ? (int32_t)t->tokens.count : r->length;
  return NN_OK;
}

static nn_status read_sample(typed_text *t) {
  const launch_types_request *r = t->request;
  int64_t samples = data_loader_samples(r->loader);
  if (r->sample >= samples)
    return NN_FAIL(NN_ERR_USAGE, "eval: --sample: expected 0 to %lld, found %lld", (long long)samples - 1,
                   (long long)r->sample);
  t->tokens.items = malloc((size_t)r->length * sizeof *t->tokens.items);
  int32_t *targets = malloc((size_t)r->length * sizeof *targets);
  nn_status status =
      t->tokens.items == NULL || targets == NULL
          ? NN_FAIL(NN_ERR_MEMORY, "out of memory for %d tokens", r->length)
          : data_loader_read(r->loader, r->sample, 1, t->tokens.items, targets, &t->length, NULL, NULL);
  free(targets);
  if (status == NN_OK && t->length == 0)
    status = NN_FAIL(NN_ERR_INPUT, "%s: sample %lld has no tokens", r->data, (long long)r->sample);
  return status;
}

// ---- types

static nn_status read_types(typed_text *t, nats_model *model) {
  const nats_model_config *config = &t->request->run->model;
  size_t layer_types = (size_t)config->kv_heads * (size_t)nats_chunks(t->length, config->type_chunk);
  t->types = malloc((size_t)config->layers * layer_types);
  if (t->types == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the types of %d tokens", t->length);
  for (int32_t layer = 0; layer < config->layers; layer++)
    NN_TRY(nats_model_read_types(model, layer, t->types + (size_t)layer * layer_types));
  return NN_OK;
}

// One pass; per_head: [layers, Hk, 2], zeros.
static nn_status pass(typed_text *t, nats_model *model, double *per_head) {
  const nats_model_config *config = &t->request->run->model;
  int32_t *targets = malloc((size_t)t->length * sizeof *targets);
  if (targets == NULL || per_head == NULL) {
    free(targets);
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %d tokens", t->length);
  }
  for (int32_t i = 0; i < t->length; i++)
    targets[i] = -1;
  nats_batch batch = {.batch = 1, .length = t->length, .tokens = t->tokens.items, .targets = targets};
  nn_status status =
      nats_model_evaluate(model, &batch, &(nats_pass){.types = NATS_TYPES_ARGMAX}, NULL, per_head);
  for (int32_t i = 0; i < 2 * config->layers * config->kv_heads; i++)
    t->pairs[i % 2] += per_head[i];
  free(targets);
  return status;
}

static nn_status find_types(typed_text *t) {
  const launch_run *run = t->request->run;
  nats_model *model = NULL;
  NN_TRY(nats_model_create(&run->model, &run->params, 1, t->length, false, &model));
  double *per_head = calloc(2 * (size_t)run->model.layers * (size_t)run->model.kv_heads, sizeof *per_head);
  nn_status status = pass(t, model, per_head);
  if (status == NN_OK)
    status = read_types(t, model);
  free(per_head);
  nats_model_free(model);
  return status;
}

// ---- what is written

static nn_status write_page(typed_text *t) {
  const launch_types_request *r = t->request;
  char source[1200];
  if (r->text != NULL)
    snprintf(source, sizeof source, "%s", r->text);
  else
    snprintf(source, sizeof source, "%s, %s, sample %lld", r->data, r->split, (long long)r->sample);
  launch_types_page page = {.run = r->run,
                            .name = r->name,
                            .source = source,
                            .length = t->length,
                            .tokens = t->tokens.items,
                            .types = t->types};
  NN_TRY(launch_types_page_write(t->page.file, &page));
  return launch_output_keep(&t->page);
}

static nn_status report(const typed_text *t) {
  const launch_types_request *r = t->request;
  double fraction = t->pairs[0] / t->pairs[1];
  if (!r->json) {
    printf("%s: %d tokens, KV fraction %.4f\n", r->file, t->length, fraction);
    return NN_OK;
  }
  json_t *object =
      json_pack("{s:s, s:I, s:s, s:i, s:f, s:I, s:I}", "checkpoint", r->run->checkpoint.path, "step",
                (json_int_t)r->run->checkpoint.step, "types", r->file, "tokens", t->length, "kv_fraction",
                fraction, "visible_pairs", (json_int_t)t->pairs[0], "causal_pairs", (json_int_t)t->pairs[1]);
  return launch_print_json(object);
}

nn_status launch_eval_types(const launch_types_request *request) {
  typed_text t = {.request = request};
  nn_status status;
  NN_TRY(check(request));
  NN_TRY(launch_output_open(request->file, &t.page));
  NN_GOTO(status, done, request->text != NULL ? read_text(&t) : read_sample(&t));
  NN_GOTO(status, done, find_types(&t));
  NN_GOTO(status, done, write_page(&t));
  status = report(&t);
done:
  launch_output_discard(&t.page);
  free(t.types);
  free(t.tokens.items);
  return status;
}
