#include "launch/eval/trace.h"

#include <math.h>   // NAN, isnan
#include <stdlib.h> // calloc, qsort

static void blank(float *numbers, int64_t count) {
  for (int64_t i = 0; i < count; i++)
    numbers[i] = NAN;
}

nn_status launch_eval_trace_create(int32_t length, int64_t samples, int32_t batch, int32_t warm_up,
                                   launch_eval_trace *out) {
  int64_t batches = (samples + batch - 1) / batch;
  size_t positions = (size_t)length;
  *out = (launch_eval_trace){.length = length,
                             .batches = batches,
                             .warm_up = warm_up,
                             .stride = (length + LAUNCH_TRACE_POINTS - 1) / LAUNCH_TRACE_POINTS};
  out->step_ms = malloc((size_t)batches * positions * sizeof *out->step_ms);
  out->prefill_ms = malloc((size_t)batches * sizeof *out->prefill_ms);
  out->seen = calloc(positions, sizeof *out->seen);
  out->live = calloc(positions, sizeof *out->live);
  out->bytes = calloc(positions, sizeof *out->bytes);
  if (out->step_ms == NULL || out->prefill_ms == NULL || out->seen == NULL || out->live == NULL ||
      out->bytes == NULL) {
    launch_eval_trace_free(out);
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the times of %lld steps", (long long)batches * length);
  }
  blank(out->step_ms, batches * length);
  blank(out->prefill_ms, batches);
  return NN_OK;
}

void launch_eval_trace_free(launch_eval_trace *trace) {
  free(trace->step_ms);
  free(trace->prefill_ms);
  free(trace->seen);
  free(trace->live);
  free(trace->bytes);
  *trace = (launch_eval_trace){0};
}

void launch_eval_trace_batch(launch_eval_trace *trace) {
  trace->begun++;
}

void launch_eval_trace_prefill(launch_eval_trace *trace, bool whole, double seconds) {
  if (whole && trace->begun > 1 && trace->begun <= trace->batches) // the first one also warms up
    trace->prefill_ms[trace->begun - 1] = (float)(1000 * seconds);
}

void launch_eval_trace_step(launch_eval_trace *trace, int32_t t, bool whole, double seconds) {
  if (whole && trace->steps >= trace->warm_up && trace->begun <= trace->batches)
    trace->step_ms[(trace->begun - 1) * trace->length + t] = (float)(1000 * seconds);
  trace->steps++;
}

static int by_size(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return (x > y) - (x < y);
}

int64_t launch_eval_percentiles(float *numbers, int64_t count, double *p50, double *p95) {
  int64_t kept = 0;
  for (int64_t i = 0; i < count; i++)
    if (!isnan(numbers[i]))
      numbers[kept++] = numbers[i];
  qsort(numbers, (size_t)kept, sizeof *numbers, by_size);
  *p50 = kept > 0 ? (double)numbers[kept / 2] : (double)NAN;
  *p95 = kept > 0 ? (double)numbers[kept * 95 / 100] : (double)NAN;
  return kept;
}
