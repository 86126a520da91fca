// metrics.jsonl: one JSON object a step, written by rank 0. Other programs read it, so names and meanings
// are part of the interface (docs/runs.md).
//
// Floating-point numbers are written with %.9g; one that is not finite is null. Every line is written whole
// or not at all, and is in the file when launch_metrics_write returns.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/status.h"

typedef struct {
  int64_t step;       // steps done, this one included
  int64_t tokens;     // input tokens so far
  double loss;        // mean cross-entropy of the step's scored tokens, nats
  double kv_fraction; // visible pairs over causal pairs
  double lambda, lr;
  double grad_norm;      // before clipping
  int64_t skipped;       // steps left out so far: their gradient was not finite, or their loss a spike
  double tokens_per_s;   // of this step
  double seconds;        // spent in steps since the run began, earlier starts included
  double comm_exposed_s; // of this step: waiting for gradients that backward did not hide
  double slowest_rank;   // of this step; a whole number
  double imbalance;      // of this step: share of the ranks' time spent waiting for it
  bool labelled;         // `accuracy` and `val_accuracy` mean something
  double accuracy;
  bool evaluated; // the validation split was scored after this step
  double val_loss, val_kv_fraction, val_accuracy;
} launch_metrics_line;

typedef struct {
  char path[1100];
  int file;      // -1: not open
  int64_t bytes; // of whole lines
  int64_t last;  // where the last of them begins
  bool failing;  // the last write failed and somebody was told
} launch_metrics;

// Opens RUN/metrics.jsonl for lines after `step`; later lines of an earlier start, and a line that was cut
// off, are dropped. Errors: NN_ERR_IO.
nn_status launch_metrics_open(launch_metrics *metrics, const char *run, int64_t step);
void launch_metrics_close(launch_metrics *metrics);

// A full disk costs lines, not the run: the first failure in a row is a warning.
void launch_metrics_write(launch_metrics *metrics, const launch_metrics_line *line);
// The same in the place of the last line, which must not be the longer one.
void launch_metrics_replace(launch_metrics *metrics, const launch_metrics_line *line);

// One line with its newline; returns its length.
enum { LAUNCH_METRICS_LINE = 768 };
int launch_metrics_format(const launch_metrics_line *line, char text[LAUNCH_METRICS_LINE]);

// The line of `step` in RUN/metrics.jsonl; false, and `line` as it was, where the file has none.
bool launch_metrics_read(const char *run, int64_t step, launch_metrics_line *line);
