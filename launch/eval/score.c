#include "launch/eval/score.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // isatty

#include "launch/eval/internal.h"
#include "launch/records/progress.h"
#include "nn/log.h"

// ---- batches

// Predictions inside of a prompt are not scored, nor the bytes that they stand for.
static void leave_out_prompt(launch_scorer *s, int32_t b) {
  const launch_eval_task *task = s->task;
  int32_t *targets = s->targets + (int64_t)b * task->length;
  for (int32_t t = 0; t < task->prompt - 1 && t < s->lengths[b]; t++) {
    size_t bytes = 0;
    if (targets[t] >= 0 && task->run->tokenizer != NULL)
      data_tokenizer_piece(task->run->tokenizer, targets[t], &bytes);
    s->bytes[b] -= (int64_t)bytes;
    targets[t] = -1;
  }
}

static nn_status read_batch(launch_scorer *s, int64_t first) {
  const launch_eval_task *task = s->task;
  int64_t left = task->samples - first;
  s->first = first;
  s->count = (int32_t)(left < task->batch ? left : task->batch);
  NN_TRY(data_loader_read(task->loader, first, s->count, s->tokens, s->targets, s->lengths, NULL, s->bytes));
  for (int32_t b = 0; b < s->count; b++) {
    leave_out_prompt(s, b);
    s->result->sums.inputs += s->lengths[b];
    s->result->sums.bytes += (double)s->bytes[b];
  }
  return NN_OK;
}

static void keep_nll(launch_scorer *s) {
  if (s->result->nll == NULL)
    return;
  int64_t count = (int64_t)s->count * s->task->length;
  float *to = s->result->nll + s->first * s->task->length;
  for (int64_t i = 0; i < count; i++)
    to[i] = s->targets[i] >= 0 ? s->nll[i] : -1.0f;
}

static void show_progress(launch_scorer *s) {
  if (s->task->progress != NULL) {
    s->task->progress(s->task->context, s->first + s->count);
    return;
  }
  double now = launch_seconds(), seconds = now - s->started;
  bool terminal = isatty(STDERR_FILENO);
  if (dist_rank(s->task->world) != 0 || now - s->shown < (terminal ? 0.5 : 30))
    return;
  s->shown = now;
  int64_t done = s->first + s->count;
  char left[LAUNCH_DURATION];
  launch_duration(seconds * (double)(s->task->samples - done) / (double)done, left);
  if (!terminal) {
    nn_info("eval: %lld of %lld samples, %s left", (long long)done, (long long)s->task->samples, left);
    return;
  }
  fprintf(stderr, "\reval: %lld of %lld samples, %s left\033[K", (long long)done, (long long)s->task->samples,
          left);
  fflush(stderr);
  nn_log_line_open();
}

// This rank's batches, each through `score`.
static nn_status for_batches(launch_scorer *s, nn_status (*score)(launch_scorer *s, void *context),
                             void *context) {
  const launch_eval_task *task = s->task;
  int64_t stride = (int64_t)task->batch * dist_size(task->world);
  s->started = s->shown = launch_seconds();
  for (int64_t first = (int64_t)task->batch * dist_rank(task->world); first < task->samples;
       first += stride) {
    NN_TRY(read_batch(s, first));
    NN_TRY(score(s, context));
    keep_nll(s);
    show_progress(s);
  }
  s->result->seconds = launch_seconds() - s->started;
  if (s->shown > s->started && isatty(STDERR_FILENO)) {
    fprintf(stderr, "\r\033[K");
    nn_log_line_closed();
  }
  return NN_OK;
}

// ---- the parallel pass

typedef struct {
  nats_model *model;
  nn_sums *sums; // device memory
} parallel_pass;

static nn_status score_at_once(launch_scorer *s, void *context) {
  const parallel_pass *parallel = context;
  nats_batch batch = {.batch = s->count,
                      .length = s->task->length,
                      .tokens = s->tokens,
                      .targets = s->targets,
                      .lengths = s->lengths};
  nats_pass pass = {.types = NATS_TYPES_ARGMAX, .sums = parallel->sums};
  return nats_model_evaluate(parallel->model, &batch, &pass, s->nll, s->result->per_head);
}

static nn_status score_parallel(launch_scorer *s, const nats_policy_choice *choice) {
  const launch_eval_task *task = s->task;
  nn_device *device = task->run->device;
  parallel_pass parallel = {NULL, NULL};
  nn_status status;
  void *sums = NULL;
  NN_GOTO(status, done,
          nats_policy_model(choice, &task->run->model, &task->run->params, task->batch, task->length,
                            &parallel.model));
  NN_GOTO(status, done, nn_device_alloc(device, sizeof *parallel.sums, "sums", &sums));
  parallel.sums = sums;
  NN_GOTO(status, done, for_batches(s, score_at_once, &parallel));
  NN_GOTO(status, done, nn_device_download(device, &s->result->sums.tokens, sums, sizeof *parallel.sums));
  status = nn_device_sync(device);
done:
  nn_device_free(device, sums);
  nats_model_free(parallel.model);
  return status;
}

// ---- a rank's work, and all ranks' results

static nn_status allocate(launch_scorer *s) {
  const launch_eval_task *task = s->task;
  size_t batch = (size_t)task->batch, tokens = batch * (size_t)task->length;
  bool wants_logits = task->decode && (task->labelled || task->prompt > 0);
  size_t logits = wants_logits ? batch * (size_t)task->run->model.vocab : 1;
  size_t prompts = batch * (size_t)task->prompt + 1;
  s->tokens = malloc(tokens * sizeof *s->tokens);
  s->targets = malloc(tokens * sizeof *s->targets);
  s->nll = calloc(tokens, sizeof *s->nll);
  s->lengths = malloc(batch * sizeof *s->lengths);
  s->bytes = malloc(batch * sizeof *s->bytes);
  s->sample_row = malloc(batch * sizeof *s->sample_row);
  s->prompts = malloc(prompts * sizeof *s->prompts);
  s->token_row = malloc(batch * sizeof *s->token_row);
  s->target_row = malloc(batch * sizeof *s->target_row);
  s->nll_row = malloc(batch * sizeof *s->nll_row);
  s->logits = malloc(logits * sizeof *s->logits);
  s->per_head_row = malloc(launch_head_counts(task) * sizeof *s->per_head_row);
  bool all = s->tokens != NULL && s->targets != NULL && s->nll != NULL && s->lengths != NULL &&
             s->bytes != NULL && s->token_row != NULL && s->target_row != NULL && s->nll_row != NULL &&
             s->logits != NULL && s->per_head_row != NULL && s->sample_row != NULL && s->prompts != NULL;
  return all ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory for batches of %zu tokens", tokens);
}

static void scorer_free(launch_scorer *s) {
  nats_decoder_free(s->decoder);
  free(s->per_head_row);
  free(s->logits);
  free(s->nll_row);
  free(s->target_row);
  free(s->token_row);
  free(s->prompts);
  free(s->sample_row);
  free(s->bytes);
  free(s->lengths);
  free(s->nll);
  free(s->targets);
  free(s->tokens);
}

static nn_status allocate_result(const launch_eval_task *task, launch_eval_result *out) {
  size_t scores = task->wants_nll ? (size_t)task->samples * (size_t)task->length : 0;
  out->per_head = calloc(launch_head_counts(task), sizeof *out->per_head);
  out->nll = scores > 0 ? calloc(scores, sizeof *out->nll) : NULL;
  size_t samples = task->wants_samples ? (size_t)task->samples : 0;
  out->sample = samples > 0 ? calloc(samples, sizeof *out->sample) : NULL;
  if (out->per_head == NULL || (scores > 0 && out->nll == NULL) || (samples > 0 && out->sample == NULL))
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the scores of %zu tokens", scores);
  return NN_OK;
}

static nn_status score_share(const launch_eval_task *task, const nats_policy_choice *choice,
                             const char *policy, launch_eval_result *out) {
  launch_scorer s = {.task = task, .result = out, .policy = policy};
  nn_status status = allocate_result(task, out);
  if (status == NN_OK)
    status = allocate(&s);
  if (status == NN_OK)
    status = task->decode ? for_batches(&s, launch_score_by_steps, NULL) : score_parallel(&s, choice);
  scorer_free(&s);
  return status;
}

static nn_status merge(const launch_eval_task *task, launch_eval_result *result) {
  int64_t scores = result->nll != NULL ? task->samples * task->length : 0;
  NN_TRY(dist_allreduce(task->world, &result->sums, (int64_t)(sizeof result->sums / sizeof(double)), DIST_F64,
                        DIST_SUM));
  NN_TRY(
      dist_allreduce(task->world, result->per_head, (int64_t)launch_head_counts(task), DIST_F64, DIST_SUM));
  NN_TRY(dist_allreduce(task->world, result->nll, scores, DIST_F32, DIST_SUM)); // 0 where it is not ours
  int64_t samples = result->sample != NULL ? task->samples : 0;
  NN_TRY(dist_allreduce(task->world, result->sample,
                        samples * (int64_t)(sizeof *result->sample / sizeof(double)), DIST_F64, DIST_SUM));
  return dist_allreduce(task->world, &result->seconds, 1, DIST_F64, DIST_MAX);
}

nn_status launch_eval_score(const launch_eval_task *task, const nats_policy_choice *choice,
                            const char *policy, launch_eval_result *out) {
  *out = (launch_eval_result){0};
  nn_status status = dist_agree(task->world, score_share(task, choice, policy, out));
  return status == NN_OK ? merge(task, out) : status;
}

void launch_eval_result_free(launch_eval_result *result) {
  free(result->sample);
  free(result->nll);
  free(result->per_head);
  *result = (launch_eval_result){0};
}
