// What a person sees while a run goes on: on a terminal one line that is redrawn, elsewhere a line now and
// then.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "launch/records/metrics.h"

typedef struct {
  bool terminal;
  int64_t steps, every;
  double drawn;        // when the line was last drawn, seconds
  double step_seconds; // recent mean of a step, for the time left
  double imbalance;    // recent mean
} launch_progress;

// `every`: steps between lines where standard error is no terminal.
void launch_progress_begin(launch_progress *progress, int64_t steps, int64_t every);
void launch_progress_step(launch_progress *progress, const launch_metrics_line *line);

double launch_seconds(void); // a monotonic clock

// "1 h 05 min", "3 min 20 s", "12 s"
enum { LAUNCH_DURATION = 32 };
const char *launch_duration(double seconds, char text[LAUNCH_DURATION]);

// "512.0 KiB", "12.3 MiB", "1.20 GiB"
const char *launch_bytes(int64_t bytes, char text[LAUNCH_DURATION]);
