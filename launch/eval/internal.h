// Private to launch/eval_*.c: what one rank works with while it scores.
#pragma once

#include "launch/eval/score.h"
#include "nats/decoder.h"

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
  int64_t *sample_row;  // [batch] which samples they are
  int32_t *token_row;   // [batch] one step
  int32_t *target_row;  // [batch]
  float *nll_row;       // [batch]
  float *logits;        // [batch, V], labelled data and prompts only
  int32_t *prompts;     // [batch, prompt]
  double *per_head_row; // [layers, Hk, 2]
} launch_scorer;

static inline size_t launch_head_counts(const launch_eval_task *task) {
  return (size_t)task->run->model.layers * (size_t)task->run->model.kv_heads * 2;
}

// The batch token by token: fills `nll` and adds to the result's sums.
nn_status launch_score_by_steps(launch_scorer *s, void *unused);
