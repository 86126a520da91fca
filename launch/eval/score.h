// Scores samples of a data set with the model of a run, under one eviction policy: by the masked parallel
// pass, or token by token with a cache that really evicts. Both give the same numbers, to rounding.
//
// Batches of samples are dealt to the ranks in turn; sums over ranks merge the results.
#pragma once

#include "data/dataset.h"
#include "launch/eval/run_folder.h"
#include "launch/eval/trace.h"
#include "nats/policy.h"

typedef struct {
  dist_group *world;
  const launch_run *run;
  data_loader *loader;
  int64_t samples;       // the first ones of the split
  int32_t length, batch; // T; samples of a batch, at most
  bool labelled;         // accuracy means something
  bool decode;
  bool wants_nll;
  bool wants_samples; // decoding only
  bool stops;         // decoding only: a signal (dist/stop.h) ends it with NN_STOPPED
  int32_t prompt;     // tokens that decoding feeds at once; of their predictions the last alone is scored
  // decoding only
  int32_t page_tokens;      // 0: the decoder's own choice
  uint64_t seed;            // of policies that draw
  const double *head_use;   // [layers, Hk] as nats_decoder_config has it; may be NULL
  launch_eval_trace *trace; // gets what every step took on this rank; NULL: not wanted
  // Called now and then with the samples that this rank has behind it, instead of a progress line; may be
  // NULL.
  void (*progress)(void *context, int64_t samples);
  void *context;
} launch_eval_task;

// Over all ranks; one all-reduce merges it.
typedef struct {
  nn_sums tokens;       // nll, scored, correct; visible and causal pairs
  double inputs, bytes; // tokens read; UTF-8 bytes that the scored ones stand for
  // decoding only, sums over sequences
  double sequences, stepmean;
  double bytes_peak, bytes_end, bytes_dense; // of the cache
  double live_peak, live_end;                // tokens in the cache, over layers and kv heads
} launch_eval_sums;

// One sample.
typedef struct {
  double nll, scored, correct;
} launch_eval_sample;

typedef struct {
  launch_eval_sums sums;
  double seconds;             // of the slowest rank
  double *per_head;           // [layers, Hk, 2] visible and causal pairs
  float *nll;                 // [samples, T], -1 where not scored; NULL unless wanted
  launch_eval_sample *sample; // [samples]; NULL unless wanted
} launch_eval_result;

// Agreed: the same status and result on all ranks.
nn_status launch_eval_score(const launch_eval_task *task, const nats_policy_choice *choice,
                            const char *policy, launch_eval_result *out);
void launch_eval_result_free(launch_eval_result *result);
