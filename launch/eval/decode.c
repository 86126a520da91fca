// Token by token, with a cache that really evicts.
#include <math.h> // exp, log
#include <string.h>

#include "dist/stop.h"
#include "launch/eval/internal.h"
#include "launch/records/progress.h" // launch_seconds

// A decoder decodes a fixed number of sequences in lockstep; the last batch may have fewer.
static nn_status use_decoder(launch_scorer *s, int32_t sequences) {
  const launch_eval_task *task = s->task;
  if (s->decoder != NULL && s->sequences == sequences)
    return nats_decoder_reset(s->decoder);
  nats_decoder_free(s->decoder);
  s->decoder = NULL;
  s->sequences = sequences;
  nats_decoder_config config = {.sequences = sequences,
                                .max_length = task->length,
                                .page_tokens = task->page_tokens,
                                .seed = task->seed,
                                .policy = s->policy,
                                .head_use = task->head_use};
  return nats_decoder_create(&task->run->model, &task->run->params, &config, &s->decoder);
}

// ---- scores

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

static bool any_target(const launch_scorer *s) {
  for (int32_t i = 0; i < s->sequences; i++)
    if (s->target_row[i] >= 0)
      return true;
  return false;
}

// The rows of s->logits against the targets; those without one are left as they are.
static void score_rows(launch_scorer *s, int32_t begin) {
  int32_t vocab = s->task->run->model.vocab;
  launch_eval_sample *sample = s->result->sample;
  for (int32_t i = 0; i < s->sequences; i++) {
    bool correct = false;
    s->nll_row[i] = 0;
    if (s->target_row[i] < 0)
      continue;
    s->nll_row[i] = (float)score_logits(s->logits + (int64_t)i * vocab, vocab, s->target_row[i], &correct);
    s->result->sums.tokens.correct += correct;
    if (sample != NULL)
      sample[s->first + begin + i].correct += correct;
  }
}

// Adds the scores of position `t` to the sums.
static void add_scores(launch_scorer *s, int32_t begin, int32_t t) {
  launch_eval_sample *sample = s->result->sample;
  for (int32_t i = 0; i < s->sequences; i++) {
    s->nll[(int64_t)(begin + i) * s->task->length + t] = s->nll_row[i];
    if (s->target_row[i] < 0)
      continue;
    s->result->sums.tokens.nll += (double)s->nll_row[i];
    s->result->sums.tokens.scored++;
    if (sample != NULL) {
      sample[s->first + begin + i].nll += (double)s->nll_row[i];
      sample[s->first + begin + i].scored++;
    }
  }
}

// ---- positions of the sequences that begin at sample `begin` of the batch

// Tokens and targets of position `t`.
static void take_rows(launch_scorer *s, int32_t begin, int32_t t) {
  int32_t length = s->task->length;
  for (int32_t i = 0; i < s->sequences; i++) {
    s->token_row[i] = s->tokens[(int64_t)(begin + i) * length + t];
    s->target_row[i] = s->targets[(int64_t)(begin + i) * length + t];
  }
}

// How large the cache is now, at position `t`.
static nn_status trace_cache(launch_scorer *s, int32_t t) {
  launch_eval_trace *trace = s->task->trace;
  bool last = t + 1 == trace->length;
  if ((t + 1) % trace->stride != 0 && !last)
    return NN_OK;
  nats_cache_stats stats;
  NN_TRY(nats_decoder_stats(s->decoder, &stats));
  trace->seen[t] += s->sequences;
  trace->live[t] += (double)stats.live_tokens;
  trace->bytes[t] += (double)stats.bytes;
  return NN_OK;
}

// One token of every sequence. Of labelled data logits are fetched only where there is a label.
static nn_status feed(launch_scorer *s, int32_t begin) {
  if (!s->task->labelled)
    return nats_decoder_score(s->decoder, s->token_row, s->target_row, s->nll_row);
  bool any = any_target(s);
  NN_TRY(nats_decoder_step(s->decoder, s->token_row, any ? s->logits : NULL));
  if (any)
    score_rows(s, begin);
  else
    memset(s->nll_row, 0, (size_t)s->sequences * sizeof *s->nll_row);
  return s->task->trace != NULL && !any ? nn_device_sync(s->task->run->device) : NN_OK;
}

static nn_status step(launch_scorer *s, int32_t begin, int32_t t) {
  launch_eval_trace *trace = s->task->trace;
  take_rows(s, begin, t);
  double started = launch_seconds();
  NN_TRY(feed(s, begin));
  if (trace != NULL) {
    launch_eval_trace_step(trace, t, s->sequences == s->task->batch, launch_seconds() - started);
    NN_TRY(trace_cache(s, t));
  }
  add_scores(s, begin, t);
  return NN_OK;
}

// Positions 0 to `length` - 1 at once; the prediction of the last one is scored.
static nn_status feed_prompt(launch_scorer *s, int32_t begin, int32_t length) {
  launch_eval_trace *trace = s->task->trace;
  for (int32_t i = 0; i < s->sequences; i++)
    memcpy(s->prompts + (int64_t)i * length, s->tokens + (int64_t)(begin + i) * s->task->length,
           (size_t)length * sizeof *s->prompts);
  take_rows(s, begin, length - 1);
  bool any = any_target(s);
  double started = launch_seconds();
  NN_TRY(nats_decoder_prefill(s->decoder, s->prompts, length, any ? s->logits : NULL));
  if (trace != NULL) {
    NN_TRY(nn_device_sync(s->task->run->device));
    launch_eval_trace_prefill(trace, s->sequences == s->task->batch, launch_seconds() - started);
    NN_TRY(trace_cache(s, length - 1));
  }
  score_rows(s, begin);
  add_scores(s, begin, length - 1);
  return NN_OK;
}

// ---- sequences

static nn_status count_cache(launch_scorer *s) {
  launch_eval_sums *sums = &s->result->sums;
  nats_cache_stats stats;
  NN_TRY(nats_decoder_stats(s->decoder, &stats));
  NN_TRY(nats_decoder_per_head(s->decoder, s->per_head_row));
  for (size_t i = 0; i < launch_head_counts(s->task); i++)
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

// The sequences from `begin` on, all of one length.
static nn_status decode(launch_scorer *s, int32_t begin, int32_t sequences) {
  const launch_eval_task *task = s->task;
  int32_t length = s->lengths[begin], prompt = task->prompt < length ? task->prompt : length;
  NN_TRY(use_decoder(s, sequences));
  for (int32_t i = 0; i < sequences; i++)
    s->sample_row[i] = s->first + begin + i;
  nats_decoder_set_samples(s->decoder, s->sample_row);
  if (task->trace != NULL)
    launch_eval_trace_batch(task->trace);
  if (prompt > 0)
    NN_TRY(feed_prompt(s, begin, prompt));
  for (int32_t t = prompt; t < length; t++) {
    if (task->stops && dist_stop_asked())
      return NN_STOPPED;
    NN_TRY(step(s, begin, t));
  }
  return count_cache(s);
}

// Sequences of one length run in lockstep; padding is not fed.
nn_status launch_score_by_steps(launch_scorer *s, void *unused) {
  (void)unused;
  for (int32_t begin = 0, end; begin < s->count; begin = end) {
    for (end = begin + 1; end < s->count && s->lengths[end] == s->lengths[begin];)
      end++;
    if (s->lengths[begin] > 0)
      NN_TRY(decode(s, begin, end - begin));
  }
  return NN_OK;
}
