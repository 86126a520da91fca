#include "data/progress.h"

#include <stdio.h>
#include <time.h>   // clock_gettime
#include <unistd.h> // isatty

#include "nn/log.h"

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

void data_progress_begin(data_progress *progress, int rank, const char *what, int64_t total) {
  double start = now();
  *progress = (data_progress){.what = rank == 0 ? what : NULL,
                              .terminal = isatty(STDERR_FILENO) != 0,
                              .total = total,
                              .started = start,
                              .shown = start};
}

static void show(const data_progress *progress, int64_t done, double seconds) {
  double rate = seconds > 0 ? (double)done / seconds : 0;
  double left = rate > 0 && progress->total > done ? (double)(progress->total - done) / rate : 0;
  char text[160];
  snprintf(text, sizeof text, "%s: %.1f of %.1f MB, %.1f MB/s, %d:%02d:%02d left", progress->what,
           1e-6 * (double)done, 1e-6 * (double)progress->total, 1e-6 * rate, (int)(left / 3600),
           (int)(left / 60) % 60, (int)left % 60);
  if (!progress->terminal) {
    nn_info("%s", text);
    return;
  }
  fprintf(stderr, "\r%s\033[K", text);
  fflush(stderr);
  nn_log_line_open();
}

void data_progress_show(data_progress *progress, int64_t done) {
  double time = now(), pause = progress->terminal ? 0.2 : 15;
  if (progress->what == NULL || time - progress->shown < pause)
    return;
  progress->shown = time;
  show(progress, done, time - progress->started);
}

void data_progress_end(data_progress *progress, int64_t done) {
  if (progress->what == NULL)
    return;
  double seconds = now() - progress->started;
  if (progress->terminal && progress->shown > progress->started) {
    fprintf(stderr, "\r\033[K");
    nn_log_line_closed();
  }
  nn_info("%s: %.1f MB in %.1f s, %.1f MB/s", progress->what, 1e-6 * (double)done, seconds,
          seconds > 0 ? 1e-6 * (double)done / seconds : 0);
}
