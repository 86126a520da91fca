// A model of one position per sequence whose attention reads a cache.
#include "nats/decoder.h"

#include <stdlib.h> // calloc, free
#include <string.h> // memcmp

#include "nats/decoder_internal.h"
#include "nats/model_internal.h"
#include "nn/graph.h"

enum { STANDARD_PAGE_TOKENS = 16 };
enum { PASS_TOKENS = 1 << 16 }; // of a prompt, computed at a time: enough to keep a GPU busy

// What else is computed in a step.
enum { WANTS_NOTHING, WANTS_LOGITS, WANTS_NLL };

// What the launches of a step depend on; no gaps, so that it can be compared by bytes.
typedef struct {
  nats_cache_launches cache;
  const void *workspace;
  size_t workspace_bytes;
  int64_t wants;
} launches;

struct nats_decoder {
  nats_model_config config;
  nats_policy_choice choice;
  nats_model *model; // room for [S, 1]; its RoPE table has one row, that of the position
  nats_cache *cache;
  const nn_params *params;
  nn_device *device;
  int32_t sequences, max_length;
  int32_t position;  // of the next token
  int32_t prompt;    // tokens of the prompt that is being stepped through, or 0
  float *logits;     // [S, V] device
  float *rope;       // [max_length, D/2, 2] device
  int64_t wants;     // of the step that runs
  launches launched; // by the step before
  nn_graph *graph;   // of that step, NULL where it was not recorded
};

// The mask that the policy's kept tokens stand for; without one the model runs as dense, since its attention
// is the cache's anyway. Scorers run where the policy reads types.
static nats_attention_kind kind_of(const nats_policy *policy) {
  if (policy->needs_scorer)
    return NATS_ATTENTION_NATS;
  return policy->mask == NATS_NO_MASK ? NATS_ATTENTION_DENSE : (nats_attention_kind)policy->mask;
}

static int32_t page_tokens_of(int32_t page_tokens) {
  return page_tokens > 0 ? page_tokens : STANDARD_PAGE_TOKENS;
}

int64_t nats_decoder_list_bytes(const nats_policy *policy, const nats_model_config *config,
                                const nn_device *device, int32_t page_tokens, int32_t tokens) {
  int32_t page = page_tokens_of(page_tokens);
  int64_t token = 2 * config->head_size * (int64_t)nn_device_act_size(device); // key and value
  return nats_cache_list_bytes(policy, page, page * token, tokens);
}

static nn_status create_cache(nats_decoder *d, const nats_decoder_config *decoder) {
  const nats_model_config *c = &d->config;
  nats_cache_shape shape = {
      .sequences = d->sequences,
      .layers = c->layers,
      .heads = c->heads,
      .kv_heads = c->kv_heads,
      .head_size = c->head_size,
      .page_tokens = page_tokens_of(decoder->page_tokens),
      .positions = d->max_length,
      .chunk = d->choice.policy->needs_scorer ? c->type_chunk : 1,
      .scale = nats_scale(c),
      .seed = decoder->seed,
      .head_use = decoder->head_use,
  };
  return nats_cache_create(d->device, &shape, &d->choice, &d->cache);
}

static nn_status create_parts(nats_decoder *d, const nats_decoder_config *decoder) {
  nats_model_size size = {d->sequences, 1, 1, false};
  NN_TRY(nats_model_create_as(&d->config, kind_of(d->choice.policy), d->params, size, &d->model));
  NN_TRY(create_cache(d, decoder));
  size_t logits = (size_t)d->sequences * (size_t)d->config.vocab * sizeof *d->logits;
  void *memory;
  NN_TRY(nn_device_alloc(d->device, logits, "logits", &memory));
  d->logits = memory;
  size_t rope = (size_t)d->max_length * (size_t)d->config.head_size * sizeof *d->rope;
  NN_TRY(nn_device_alloc(d->device, rope, "angles of positions", &memory));
  d->rope = memory;
  return nn_rope_table(d->device, d->max_length, d->config.head_size, d->config.rope_theta, d->rope);
}

nn_status nats_decoder_create_with(const nats_model_config *config, const nn_params *params,
                                   const nats_decoder_config *decoder, const nats_policy_choice *choice,
                                   nats_decoder **out) {
  *out = NULL;
  if (decoder->sequences < 1 || decoder->max_length < 1)
    return NN_FAIL(NN_ERR_USAGE, "decoder: %d sequences of at most %d tokens: expected at least 1",
                   (int)decoder->sequences, (int)decoder->max_length);
  nats_decoder *d = calloc(1, sizeof *d);
  if (!d)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a decoder");
  d->config = *config;
  d->choice = *choice;
  d->params = params;
  d->device = params->device;
  d->sequences = decoder->sequences;
  d->max_length = decoder->max_length;
  nn_status status = create_parts(d, decoder);
  if (status != NN_OK)
    nats_decoder_free(d);
  else
    *out = d;
  return status;
}

nn_status nats_decoder_create(const nats_model_config *config, const nn_params *params,
                              const nats_decoder_config *decoder, nats_decoder **out) {
  nats_policy_choice choice;
  *out = NULL;
  NN_TRY(nats_policy_choose(decoder->policy, config, &choice));
  return nats_decoder_create_with(config, params, decoder, &choice, out);
}

void nats_decoder_free(nats_decoder *d) {
  if (!d)
    return;
  nn_graph_free(d->graph);
  nn_device_free(d->device, d->rope);
  nn_device_free(d->device, d->logits);
  nats_cache_free(d->cache);
  nats_model_free(d->model);
  free(d);
}

nn_status nats_decoder_reset(nats_decoder *d) {
  nats_cache_reset(d->cache);
  d->position = 0;
  return NN_OK;
}

void nats_decoder_set_samples(nats_decoder *d, const int64_t *sample) {
  nats_cache_set_samples(d->cache, sample);
}

const nats_cache *nats_decoder_cache(const nats_decoder *d) {
  return d->cache;
}

// ---- one position

// q, k and v of a layer as the cache takes them, of a model that has just computed them.
static nats_cache_tokens tokens_of(const nats_decoder *d, const nats_model *m, int32_t layer) {
  nats_attention op = nats_attention_op(m, layer);
  return (nats_cache_tokens){
      .token_stride = op.token_stride,
      .q = op.q,
      .k = op.k,
      .v = op.v,
      .logits = m->kind == NATS_ATTENTION_NATS ? m->logits : NULL,
      .types = m->kind == NATS_ATTENTION_NATS ? m->layers[layer].types : NULL,
      .o = op.o,
      .rope = d->rope,
      .positions = d->max_length,
  };
}

// The next layer's scorers write elsewhere: the cache reads them after the step.
static nn_status mix_with_cache(void *context, nats_model *m, int32_t layer) {
  nats_decoder *d = context;
  nats_cache_tokens tokens = tokens_of(d, m, layer);
  m->logits = nats_cache_logits(d->cache, layer + 1);
  return nats_cache_layer(d->cache, layer, &tokens);
}

// Logits of `count` rows of the final norm's output, from `row` on, into the decoder's from sequence `to` on.
static nn_status compute_logits(nats_decoder *d, const nats_model *m, int64_t row, int32_t count,
                                int32_t to) {
  int32_t width = d->config.width, vocab = d->config.vocab;
  return nn_logits_forward(d->device, &(nn_logits){
                                          .rows = count,
                                          .width = width,
                                          .vocab = vocab,
                                          .x = nn_act_at(d->device, m->final_norm.h, row * width),
                                          .weight = nn_params_weight(&m->params, m->index.head),
                                          .y = d->logits + (int64_t)to * vocab,
                                      });
}

static nn_status compute_nll(nats_decoder *d) {
  nn_classifier op = nats_classifier_op(d->model);
  op.nll = d->model->nll;
  return nn_classifier_run(d->device, &op);
}

// All that the device computes in a step, on addresses that stay.
static nn_status compute_step(void *context) {
  nats_decoder *d = context;
  d->model->logits = nats_cache_logits(d->cache, 0);
  NN_TRY(nats_model_forward(d->model, (nats_mixer){mix_with_cache, d}));
  if (d->wants == WANTS_LOGITS)
    return compute_logits(d, d->model, 0, d->sequences, 0);
  return d->wants == WANTS_NLL ? compute_nll(d) : NN_OK;
}

// As of now: other work may let the workspace grow, or lose it where there is no memory for that.
static nn_status find_launches(nats_decoder *d, launches *out) {
  void *workspace;
  NN_TRY(nn_device_workspace(d->device, 0, &workspace));
  *out = (launches){
      .cache = nats_cache_get_launches(d->cache),
      .workspace = workspace,
      .workspace_bytes = nn_device_workspace_bytes(d->device),
      .wants = d->wants,
  };
  return NN_OK;
}

// The second of equal steps is recorded: what a first one needs is allocated then.
static nn_status run_step(nats_decoder *d) {
  launches now;
  NN_TRY(find_launches(d, &now));
  if (memcmp(&now, &d->launched, sizeof now) == 0)
    return d->graph ? nn_graph_launch(d->graph) : nn_graph_record(d->device, compute_step, d, &d->graph);
  nn_graph_free(d->graph);
  d->graph = NULL;
  d->launched = (launches){0};
  NN_TRY(compute_step(d));
  if (now.workspace_bytes == nn_device_workspace_bytes(d->device))
    d->launched = now;
  return NN_OK;
}

// Types are the cache's business; ARGMAX says that scorers run and draw no noise.
static const nats_pass decoding = {.types = NATS_TYPES_ARGMAX};

static nn_status begin_step(nats_decoder *d, const int32_t *tokens, const int32_t *targets, int64_t wants) {
  if (d->position >= d->max_length)
    return NN_FAIL(NN_ERR_USAGE, "decoder: position %d is past its %d positions", (int)d->position,
                   (int)d->max_length);
  nats_batch batch = {.batch = d->sequences, .length = 1, .tokens = tokens, .targets = targets};
  int32_t row = d->config.head_size; // of the RoPE table
  NN_TRY(nats_model_begin(d->model, &batch, &decoding));
  NN_TRY(nats_cache_begin(d->cache, d->position, d->prompt));
  NN_TRY(nn_device_copy(d->device, d->model->rope, d->rope + (int64_t)d->position * row,
                        (size_t)row * sizeof *d->rope));
  d->wants = wants;
  return run_step(d);
}

// `results` on their way to the host while the cache does what the policy says: that needs only what
// nats_cache_fetch has brought before.
static nn_status end_step(nats_decoder *d, void *results, const void *from, size_t bytes) {
  NN_TRY(nats_cache_fetch(d->cache));
  if (results)
    NN_TRY(nn_device_download(d->device, results, from, bytes));
  NN_TRY(nats_cache_end(d->cache));
  nats_cache_advance(d->cache, 1);
  d->position++;
  return results ? nn_device_sync(d->device) : NN_OK;
}

static size_t logit_bytes(const nats_decoder *d) {
  return (size_t)d->sequences * (size_t)d->config.vocab * sizeof *d->logits;
}

nn_status nats_decoder_step(nats_decoder *d, const int32_t *tokens, float *logits) {
  NN_TRY(begin_step(d, tokens, NULL, logits ? WANTS_LOGITS : WANTS_NOTHING));
  return end_step(d, logits, d->logits, logit_bytes(d));
}

nn_status nats_decoder_score(nats_decoder *d, const int32_t *tokens, const int32_t *targets, float *nll) {
  NN_TRY(begin_step(d, tokens, targets, WANTS_NLL));
  return end_step(d, nll, d->model->nll, (size_t)d->sequences * sizeof *nll);
}

// ---- a prompt

typedef struct {
  nats_decoder *decoder;
  nats_cache_prompt prompt;
} fill_target;

static nn_status mix_and_fill(void *context, nats_model *m, int32_t layer) {
  const fill_target *target = context;
  NN_TRY(nats_mix_parallel(NULL, m, layer));
  nats_cache_tokens tokens = tokens_of(target->decoder, m, layer);
  return nats_cache_fill(target->decoder->cache, layer, &target->prompt, &tokens);
}

// Some sequences of a prompt; tokens: [count, length] of them.
static nn_status prefill_some(nats_decoder *d, nats_model *m, const int32_t *tokens, nats_cache_prompt prompt,
                              bool wants_logits) {
  nats_batch batch = {.batch = prompt.count, .length = prompt.length, .tokens = tokens};
  fill_target target = {d, prompt};
  NN_TRY(nats_model_begin(m, &batch, &decoding));
  NN_TRY(nats_model_forward(m, (nats_mixer){mix_and_fill, &target}));
  for (int32_t s = 0; wants_logits && s < prompt.count; s++)
    NN_TRY(compute_logits(d, m, (int64_t)(s + 1) * prompt.length - 1, 1, prompt.first + s));
  return NN_OK;
}

// A few sequences after the other: what a pass needs beside the cache does not grow with their number.
static nn_status prefill_parallel(nats_decoder *d, const int32_t *tokens, int32_t length, float *logits) {
  int32_t at_once = length < PASS_TOKENS ? PASS_TOKENS / length : 1;
  at_once = at_once < d->sequences ? at_once : d->sequences;
  nats_model *m;
  nn_status status = NN_OK;
  NN_TRY(nats_policy_model(&d->choice, &d->config, d->params, at_once, length, &m));
  for (int32_t first = 0; first < d->sequences; first += at_once) {
    int32_t left = d->sequences - first;
    nats_cache_prompt some = {first, left < at_once ? left : at_once, length};
    NN_GOTO(status, done, prefill_some(d, m, tokens + (int64_t)first * length, some, logits != NULL));
  }
  nats_cache_advance(d->cache, length);
  d->position = length;
  if (logits) {
    NN_GOTO(status, done, nn_device_download(d->device, logits, d->logits, logit_bytes(d)));
    NN_GOTO(status, done, nn_device_sync(d->device));
  }
done:
  nats_model_free(m);
  return status;
}

static nn_status prefill_by_steps(nats_decoder *d, const int32_t *tokens, int32_t length, float *logits) {
  int32_t *column = calloc((size_t)d->sequences, sizeof *column);
  if (!column)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a step of %d sequences", (int)d->sequences);
  nn_status status = NN_OK;
  d->prompt = length;
  for (int32_t i = 0; i < length && status == NN_OK; i++) {
    for (int32_t s = 0; s < d->sequences; s++)
      column[s] = tokens[(int64_t)s * length + i];
    status = nats_decoder_step(d, column, i == length - 1 ? logits : NULL);
  }
  d->prompt = 0;
  free(column);
  return status;
}

nn_status nats_decoder_prefill(nats_decoder *d, const int32_t *tokens, int32_t length, float *logits) {
  if (d->position != 0)
    return NN_FAIL(NN_ERR_INTERNAL, "decoder: a prompt needs an empty cache, found %d positions in it",
                   (int)d->position);
  if (length < 1 || length > d->max_length)
    return NN_FAIL(NN_ERR_USAGE, "decoder: a prompt of %d tokens: expected 1 to %d", (int)length,
                   (int)d->max_length);
  if (d->choice.policy->mask == NATS_NO_MASK)
    return prefill_by_steps(d, tokens, length, logits);
  return prefill_parallel(d, tokens, length, logits);
}

// ---- counts

nn_status nats_decoder_stats(nats_decoder *d, nats_cache_stats *stats) {
  nats_cache_stats_read(d->cache, stats);
  return NN_OK;
}

nn_status nats_decoder_per_head(nats_decoder *d, double *per_head) {
  nats_cache_per_head(d->cache, per_head);
  return NN_OK;
}
