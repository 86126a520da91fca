// What decoding took, step by step: times and the size of the cache over positions, of one rank.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/status.h"

typedef struct {
  int32_t length;  // T
  int64_t batches; // room for so many
  int32_t warm_up; // steps that are not timed, the first ones of all

  int64_t steps;     // made, timed or not
  int64_t begun;     // batches
  float *step_ms;    // [batches, T], NaN where not timed
  float *prefill_ms; // [batches], NaN
  // [T], sums over the sequences that were looked at: at every `stride` positions
  int32_t stride;
  double *seen, *live, *bytes; // sequences; tokens in their lists; bytes of their caches
} launch_eval_trace;

// `samples` in batches of `batch`; the curve has at most LAUNCH_TRACE_POINTS points.
enum { LAUNCH_TRACE_POINTS = 64 };
nn_status launch_eval_trace_create(int32_t length, int64_t samples, int32_t batch, int32_t warm_up,
                                   launch_eval_trace *out);
void launch_eval_trace_free(launch_eval_trace *trace);

// A batch begins (where lengths differ, a part of one: what has no room is not timed). A step at position `t`
// took `seconds`; `whole`: with as many sequences as batches have, else it says nothing about the others.
void launch_eval_trace_batch(launch_eval_trace *trace);
void launch_eval_trace_prefill(launch_eval_trace *trace, bool whole, double seconds);
void launch_eval_trace_step(launch_eval_trace *trace, int32_t t, bool whole, double seconds);

// The median and the 95th percentile of `count` numbers, NaN left out; returns how many are left. Reorders.
int64_t launch_eval_percentiles(float *numbers, int64_t count, double *p50, double *p95);
