#include "launch/eval_score.h"

#include <math.h> // exp, log
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // isatty

#include "launch/progress.h"
#include "nats/decoder.h"
#include "nn/log.h"

// What one rank works with.
typedef struct {
  const launch_eval_task *task;
  launch_eval_result *result;
  double started, shown;

  // the batch
  int64_t first; // sample
  int32_t count;
  int32_t *tokens, *targets; // [batch, T]
  int32_t *lengths;          // [batch]
  int64_t *bytes;            // [batch]
  float *nll;                // [batch, T]

  // token by token
  const char *policy;
  nats_decoder *decoder;
  int32_t sequences;    // of the decoder
  int32_t *token_row;   // [batch] one step
  int32_t *target_row;  // [batch]
  float *nll_row;       // [batch]
  float *logits;        // [batch, V], labelled data only
  double *per_head_row; // [layers, Hk, 2]
} scorer;

static size_t head_counts(const launch_eval_task *task) {
  return (size_t)task->run->model.layers * (size_t)task->run->model.kv_heads * 2;
}

// ---- batches

static nn_status read_batch(scorer *s, int64_t first) {
  const launch_eval_task *task = s->task;
  int64_t left = task->samples - first;
  s->first = first;
  s->count = (int32_t)(left < task->batch ? left : task->batch);
  NN_TRY(data_loader_read(task->loader, first, s->count, s->tokens, s->targets, s->lengths, NULL, s->bytes));
  for (int32_t b = 0; b < s->count; b++) {
    s->result->sums.inputs += s->lengths[b];
    s->result->sums.bytes += (double)s->bytes[b];
  }
  return NN_OK;
}

static void keep_nll(scorer *s) {
  if (s->result->nll == NULL)
    return;
  int64_t count = (int64_t)s->count * s->task->length;
  float *to = s->result->nll + s->first * s->task->length;
  for (int64_t i = 0; i < count; i++)
    to[i] = s->targets[i] >= 0 ? s->nll[i] : -1.0f;
}

static void show_progress(scorer *s) {
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
static nn_status for_batches(scorer *s, nn_status (*score)(scorer *s, void *context), void *context) {
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

static nn_status score_at_once(scorer *s, void *context) {
  const parallel_pass *parallel = context;
  nats_batch batch = {.batch = s->count,
                      .length = s->task->length,
                      .tokens = s->tokens,
                      .targets = s->targets,
                      .lengths = s->lengths};
  nats_pass pass = {.types = NATS_TYPES_ARGMAX, .sums = parallel->sums};
  return nats_model_evaluate(parallel->model, &batch, &pass, s->nll, s->result->per_head);
}

static nn_status score_parallel(scorer *s, const nats_policy_choice *choice) {
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

// ---- token by token

// A decoder decodes a fixed number of sequences in lockstep; the last batch may have fewer.
static nn_status use_decoder(scorer *s, int32_t sequences) {
  if (s->decoder != NULL && s->sequences == sequences)
    return nats_decoder_reset(s->decoder);
  nats_decoder_free(s->decoder);
  s->decoder = NULL;
  s->sequences = sequences;
  nats_decoder_config config = {.sequences = sequences, .max_length = s->task->length, .policy = s->policy};
  return nats_decoder_create(&s->task->run->model, &s->task->run->params, &config, &s->decoder);
}

// The negative log-likelihood of `target`, and whether it is the most likely token.
static double score_logits(const float *logits, int32_t vocab, int32_t target, bool *correct) {
  int32_t best = 0;
  double sum = 0;
  for (int32_t v = 1; v < vocab; v++)
    if (logits[v] > logits[best])
      best = v;
  for (int32_t v = 0; v < vocab; v++)
    sum += exp((double)logits[v] - (double)logits[best]);
  *correct = best == target;
  return log(sum) + (double)logits[best] - (double)logits[target];
}

// One position of labelled data: logits are fetched only where there is a label.
static nn_status step_with_labels(scorer *s) {
  int32_t vocab = s->task->run->model.vocab;
  bool any = false, correct;
  for (int32_t i = 0; i < s->sequences; i++)
    any = any || s->target_row[i] >= 0;
  NN_TRY(nats_decoder_step(s->decoder, s->token_row, any ? s->logits : NULL));
  for (int32_t i = 0; i < s->sequences; i++) {
    s->nll_row[i] = 0;
    if (s->target_row[i] < 0)
      continue;
    s->nll_row[i] = (float)score_logits(s->logits + (int64_t)i * vocab, vocab, s->target_row[i], &correct);
    s->result->sums.tokens.correct += correct;
  }
  return NN_OK;
}

// Position `t` of the sequences that begin at sample `begin` of the batch.
static nn_status step(scorer *s, int32_t begin, int32_t t) {
  int32_t length = s->task->length;
  for (int32_t i = 0; i < s->sequences; i++) {
    s->token_row[i] = s->tokens[(int64_t)(begin + i) * length + t];
    s->target_row[i] = s->targets[(int64_t)(begin + i) * length + t];
  }
  if (s->task->labelled)
    NN_TRY(step_with_labels(s));
  else
    NN_TRY(nats_decoder_score(s->decoder, s->token_row, s->target_row, s->nll_row));
  for (int32_t i = 0; i < s->sequences; i++) {
    s->nll[(int64_t)(begin + i) * length + t] = s->nll_row[i];
    if (s->target_row[i] < 0)
      continue;
    s->result->sums.tokens.nll += (double)s->nll_row[i];
    s->result->sums.tokens.scored++;
  }
  return NN_OK;
}

static nn_status count_cache(scorer *s) {
  launch_eval_sums *sums = &s->result->sums;
  nats_cache_stats stats;
  NN_TRY(nats_decoder_stats(s->decoder, &stats));
  NN_TRY(nats_decoder_per_head(s->decoder, s->per_head_row));
  for (size_t i = 0; i < head_counts(s->task); i++)
    s->result->per_head[i] += s->per_head_row[i];
  sums->tokens.visible += (double)stats.live_pairs;
  sums->tokens.causal += (double)stats.causal_pairs;
  sums->sequences += s->sequences;
  sums->stepmean += stats.stepmean * s->sequences;
  sums->bytes_peak += (double)stats.peak_bytes;
  sums->bytes_end += (double)stats.bytes;
  sums->bytes_dense += (double)stats.dense_bytes;
  sums->live_peak += (double)stats.peak_live_tokens;
  sums->live_end += (double)stats.live_tokens;
  return NN_OK;
}

// Sequences of one length run in lockstep; padding is not fed.
static nn_status score_by_steps(scorer *s, void *unused) {
  (void)unused;
  for (int32_t begin = 0, end; begin < s->count; begin = end) {
    for (end = begin + 1; end < s->count && s->lengths[end] == s->lengths[begin];)
      end++;
    if (s->lengths[begin] == 0)
      continue;
    NN_TRY(use_decoder(s, end - begin));
    for (int32_t t = 0; t < s->lengths[begin]; t++)
      NN_TRY(step(s, begin, t));
    NN_TRY(count_cache(s));
  }
  return NN_OK;
}

// ---- a rank's work, and all ranks' results

static nn_status allocate(scorer *s) {
  const launch_eval_task *task = s->task;
  size_t batch = (size_t)task->batch, tokens = batch * (size_t)task->length;
  size_t logits = task->decode && task->labelled ? batch * (size_t)task->run->model.vocab : 1;
  s->tokens = malloc(tokens * sizeof *s->tokens);
  s->targets = malloc(tokens * sizeof *s->targets);
  s->nll = calloc(tokens, sizeof *s->nll);
  s->lengths = malloc(batch * sizeof *s->lengths);
  s->bytes = malloc(batch * sizeof *s->bytes);
  s->token_row = malloc(batch * sizeof *s->token_row);
  s->target_row = malloc(batch * sizeof *s->target_row);
  s->nll_row = malloc(batch * sizeof *s->nll_row);
  s->logits = malloc(logits * sizeof *s->logits);
  s->per_head_row = malloc(head_counts(task) * sizeof *s->per_head_row);
  bool all = s->tokens != NULL && s->targets != NULL && s->nll != NULL && s->lengths != NULL &&
             s->bytes != NULL && s->token_row != NULL && s->target_row != NULL && s->nll_row != NULL &&
             s->logits != NULL && s->per_head_row != NULL;
  return all ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory for batches of %zu tokens", tokens);
}

static void scorer_free(scorer *s) {
  nats_decoder_free(s->decoder);
  free(s->per_head_row);
  free(s->logits);
  free(s->nll_row);
  free(s->target_row);
  free(s->token_row);
  free(s->bytes);
  free(s->lengths);
  free(s->nll);
  free(s->targets);
  free(s->tokens);
}

static nn_status allocate_result(const launch_eval_task *task, launch_eval_result *out) {
  size_t scores = task->wants_nll ? (size_t)task->samples * (size_t)task->length : 0;
  out->per_head = calloc(head_counts(task), sizeof *out->per_head);
  out->nll = scores > 0 ? calloc(scores, sizeof *out->nll) : NULL;
  if (out->per_head == NULL || (scores > 0 && out->nll == NULL))
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the scores of %zu tokens", scores);
  return NN_OK;
}

static nn_status score_share(const launch_eval_task *task, const nats_policy_choice *choice,
                             const char *policy, launch_eval_result *out) {
  scorer s = {.task = task, .result = out, .policy = policy};
  nn_status status = allocate_result(task, out);
  if (status == NN_OK)
    status = allocate(&s);
  if (status == NN_OK)
    status = task->decode ? for_batches(&s, score_by_steps, NULL) : score_parallel(&s, choice);
  scorer_free(&s);
  return status;
}

static nn_status merge(const launch_eval_task *task, launch_eval_result *result) {
  int64_t scores = result->nll != NULL ? task->samples * task->length : 0;
  NN_TRY(dist_allreduce(task->world, &result->sums, (int64_t)(sizeof result->sums / sizeof(double)), DIST_F64,
                        DIST_SUM));
  NN_TRY(dist_allreduce(task->world, result->per_head, (int64_t)head_counts(task), DIST_F64, DIST_SUM));
  NN_TRY(dist_allreduce(task->world, result->nll, scores, DIST_F32, DIST_SUM)); // 0 where it is not ours
  return dist_allreduce(task->world, &result->seconds, 1, DIST_F64, DIST_MAX);
}

nn_status launch_eval_score(const launch_eval_task *task, const nats_policy_choice *choice,
                            const char *policy, launch_eval_result *out) {
  *out = (launch_eval_result){0};
  nn_status status = dist_agree(task->world, score_share(task, choice, policy, out));
  return status == NN_OK ? merge(task, out) : status;
}

void launch_eval_result_free(launch_eval_result *result) {
  free(result->nll);
  free(result->per_head);
  *result = (launch_eval_result){0};
}
