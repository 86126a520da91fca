// How large a policy has to be to take a number of bytes.
//
// What a list of tokens takes is known (nats_decoder_list_bytes); how many tokens a list has under a policy
// with a given size is that number and what the policy keeps besides (sinks, voters): a short decoding shows
// it.
#include <stdio.h>
#include <stdlib.h>

#include "launch/compare/choice.h"
#include "launch/compare/compare.h"
#include "nats/decoder.h"

// What one more token of size costs, for one policy and one model.
typedef struct {
  const nats_policy *policy;
  const nats_model_config *config;
  const nn_device *device;
  int32_t page_tokens, length;
  int64_t lists;
  // Tokens of a list at the peak that the size does not count; with a size in percent all of the others'.
  int32_t beside;
} pricing;

static int64_t list_bytes(const pricing *p, int64_t tokens) {
  int32_t fitting = tokens < p->length ? (int32_t)tokens : p->length;
  return nats_decoder_list_bytes(p->policy, p->config, p->device, p->page_tokens, fitting);
}

static int64_t bytes_at(const pricing *p, int32_t size) {
  if (!p->policy->size_is_percent)
    return p->lists * list_bytes(p, (int64_t)size + p->beside);
  int64_t whole = (size * p->lists + 99) / 100; // lists that keep everything
  return whole * list_bytes(p, p->length) + (p->lists - whole) * list_bytes(p, p->beside);
}

int64_t compare_dense_bytes(const comparison *c, int32_t length) {
  const nats_model_config *config = &c->run.model;
  return (int64_t)config->layers * config->kv_heads *
         nats_decoder_list_bytes(&nats_policy_dense, config, c->run.device, c->plan.page_tokens, length);
}

// ---- a short decoding

typedef struct {
  int32_t length, prompt;
} probe_shape;

static nn_status feed(nats_decoder *decoder, const probe_shape *shape) {
  int32_t *zeros = calloc((size_t)shape->length, sizeof *zeros); // any token will do
  if (zeros == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %d tokens", shape->length);
  nn_status status = NN_OK;
  if (shape->prompt > 0)
    status = nats_decoder_prefill(decoder, zeros, shape->prompt, NULL);
  for (int32_t t = shape->prompt; t < shape->length && status == NN_OK; t++)
    status = nats_decoder_step(decoder, zeros, NULL);
  free(zeros);
  return status;
}

static nn_status probe(comparison *c, const nats_policy_choice *choice, const probe_shape *shape,
                       nats_cache_stats *stats) {
  char text[COMPARE_CHOICE];
  const nats_model_config *model = &c->run.model;
  // Which heads use the cache most does not matter for the bytes.
  double *head_use = calloc((size_t)model->layers * (size_t)model->kv_heads, sizeof *head_use);
  if (head_use == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %d heads", model->kv_heads);
  nats_decoder *decoder = NULL;
  nats_decoder_config config = {.sequences = 1,
                                .max_length = shape->length,
                                .page_tokens = c->plan.page_tokens,
                                .policy = compare_choice_text(choice, text),
                                .head_use = head_use};
  nn_status status = nats_decoder_create(model, &c->run.params, &config, &decoder);
  free(head_use);
  NN_TRY(status);
  status = feed(decoder, shape);
  if (status == NN_OK)
    status = nats_decoder_stats(decoder, stats);
  nats_decoder_free(decoder);
  return status;
}

// Long enough that a list of `size` is full: all other parameters that count tokens count at most themselves.
static probe_shape short_shape(const compare_shape *shape, const nats_policy_choice *choice, int32_t at,
                               int32_t size) {
  const nats_policy *policy = choice->policy;
  int64_t enough = (int64_t)size + 16;
  for (int32_t p = 0; p < NATS_POLICY_PARAMETERS && policy->parameters[p].name != NULL; p++)
    enough += p == at ? 0 : choice->parameter[p];
  if (!policy->prompt_only)
    return (probe_shape){enough < shape->length ? (int32_t)enough : shape->length, 0};
  int32_t prompt = enough < shape->prompt ? (int32_t)enough : shape->prompt;
  return (probe_shape){prompt + shape->length - shape->prompt, prompt};
}

// The tokens of a list beside those that the size counts.
static nn_status find_beside(comparison *c, const compare_shape *shape, nats_policy_choice choice, int32_t at,
                             pricing *p, bool *bounded) {
  const nats_policy_parameter *parameter = &p->policy->parameters[at];
  int32_t size = shape->length / 4 < 8 ? shape->length / 4 : 8;
  size = p->policy->size_is_percent ? 0 : size > parameter->least ? size : parameter->least;
  choice.parameter[at] = size;
  probe_shape few = short_shape(shape, &choice, at, size);
  nats_cache_stats stats;
  NN_TRY(probe(c, &choice, &few, &stats));
  int64_t live = p->policy->prompt_only ? stats.live_tokens : stats.peak_live_tokens;
  int32_t tokens = (int32_t)((live + p->lists - 1) / p->lists);
  *bounded = tokens < few.length || few.length == shape->length;
  p->beside = (int32_t)(live / p->lists) - size;
  return NN_OK;
}

// ---- the size

// The largest size in low..high that takes at most `most` bytes; low where none does.
static int32_t largest_within(const pricing *p, int32_t low, int32_t high, int64_t most) {
  while (low < high) {
    int32_t middle = low + (high - low + 1) / 2;
    if (bytes_at(p, middle) <= most)
      low = middle;
    else
      high = middle - 1;
  }
  return low;
}

// Bytes come in steps of a page a list, so what is wanted may be far from any. Always staying below would
// handicap the policies that the model is compared with, always going above would help them.
static int32_t closest(const pricing *p, int32_t low, int32_t high, int64_t wanted) {
  int32_t below = largest_within(p, low, high, wanted);
  int64_t less = bytes_at(p, below);
  if (less >= wanted || below == high) // the least may take more; others may take the same
    return largest_within(p, below, high, less);
  int32_t above = largest_within(p, below + 1, high, bytes_at(p, below + 1));
  return (double)wanted / (double)less < (double)bytes_at(p, above) / (double)wanted ? below : above;
}

static void explain(const pricing *p, bool bounded, compare_row *row) {
  const nats_policy *policy = p->policy;
  if (!bounded)
    snprintf(row->note, COMPARE_NOTE, "not measured: %s keeps everything%s", policy->name,
             policy->prompt_only ? " where there is no longer prompt" : "");
  else if (!row->possible)
    snprintf(row->note, COMPARE_NOTE, "not measured: its least size takes %lld bytes",
             (long long)bytes_at(p, policy->parameters[compare_parameter_index(policy, policy->size)].least));
  else if (policy->prompt_only)
    snprintf(row->note, COMPARE_NOTE,
             "matched by the bytes at the last step: a prompt is held whole until its end");
}

nn_status compare_find_size(comparison *c, compare_row *row, nats_policy_choice *choice) {
  const nats_policy *policy = choice->policy;
  const compare_shape *shape = &row->shape;
  int32_t at = compare_parameter_index(policy, policy->size);
  int32_t low = policy->parameters[at].least, high = policy->parameters[at].most;
  pricing p = {.policy = policy,
               .config = &c->run.model,
               .device = c->run.device,
               .page_tokens = c->plan.page_tokens,
               .length = shape->length,
               .lists = (int64_t)c->run.model.layers * c->run.model.kv_heads};
  bool bounded = !policy->prompt_only || shape->prompt > 0;
  if (bounded)
    NN_TRY(find_beside(c, shape, *choice, at, &p, &bounded));
  double most = (1 + c->plan.tolerance) * (double)row->bytes_wanted;
  row->possible = bounded && (double)bytes_at(&p, low) <= most;
  explain(&p, bounded, row);
  if (!policy->size_is_percent && (high == 0 || high > shape->length))
    high = shape->length > low ? shape->length : low;
  if (row->possible)
    choice->parameter[at] = closest(&p, low, high, row->bytes_wanted);
  return NN_OK;
}
