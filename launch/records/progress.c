#include "launch/records/progress.h"

#include <math.h> // isfinite
#include <stdio.h>
#include <time.h>   // clock_gettime
#include <unistd.h> // isatty

#include "launch/records/balance.h" // LAUNCH_IMBALANCE_TOLD
#include "nn/log.h"

double launch_seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void launch_progress_begin(launch_progress *progress, int64_t steps, int64_t every) {
  *progress = (launch_progress){.terminal = isatty(STDERR_FILENO) != 0, .steps = steps, .every = every};
}

const char *launch_duration(double seconds, char text[LAUNCH_DURATION]) {
  long long whole = isfinite(seconds) && seconds < 1e12 ? (long long)(seconds + 0.5) : 0;
  if (whole >= 3600)
    snprintf(text, LAUNCH_DURATION, "%lld h %02lld min", whole / 3600, whole / 60 % 60);
  else if (whole >= 60)
    snprintf(text, LAUNCH_DURATION, "%lld min %02lld s", whole / 60, whole % 60);
  else
    snprintf(text, LAUNCH_DURATION, "%lld s", whole);
  return text;
}

const char *launch_bytes(int64_t bytes, char text[LAUNCH_DURATION]) {
  double mib = (double)bytes / (1 << 20);
  if (mib < 1)
    snprintf(text, LAUNCH_DURATION, "%.1f KiB", 1024 * mib);
  else if (mib < 1024)
    snprintf(text, LAUNCH_DURATION, "%.1f MiB", mib);
  else
    snprintf(text, LAUNCH_DURATION, "%.2f GiB", mib / 1024);
  return text;
}

static void describe(const launch_progress *progress, const launch_metrics_line *line, char *text,
                     size_t space) {
  char left[LAUNCH_DURATION];
  char slow[48] = "";
  launch_duration((double)(progress->steps - line->step) * progress->step_seconds, left);
  if (progress->imbalance > LAUNCH_IMBALANCE_TOLD)
    snprintf(slow, sizeof slow, "  %.0f%% waiting for rank %.0f", 100 * progress->imbalance,
             line->slowest_rank);
  snprintf(text, space, "step %lld/%lld  loss %.4f  KV %.3f  %.0f tokens/s  %s left%s", (long long)line->step,
           (long long)progress->steps, line->loss, line->kv_fraction, line->tokens_per_s, left, slow);
}

void launch_progress_step(launch_progress *progress, const launch_metrics_line *line) {
  double seconds = line->tokens_per_s > 0 && line->step > 0
                       ? (double)line->tokens / (double)line->step / line->tokens_per_s
                       : progress->step_seconds;
  progress->step_seconds =
      progress->step_seconds > 0 ? 0.9 * progress->step_seconds + 0.1 * seconds : seconds;
  progress->imbalance = 0.9 * progress->imbalance + 0.1 * line->imbalance;
  bool last = line->step == progress->steps;
  char text[200];
  if (progress->terminal) {
    if (launch_seconds() - progress->drawn < 0.1 && !last)
      return;
    progress->drawn = launch_seconds();
    describe(progress, line, text, sizeof text);
    fprintf(stderr, "\r%s\033[K", text);
    fflush(stderr);
    nn_log_line_open();
  } else if (line->step % progress->every == 0 || last) {
    describe(progress, line, text, sizeof text);
    nn_info("%s", text);
  }
}
