// Private to this room: how far a long piece of work is, with rate and time left, on standard error. Rank 0
// speaks, of its own share; on a terminal one line is redrawn, elsewhere there is a line now and then.
#pragma once

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  const char *what; // "reading"; NULL: say nothing
  bool terminal;
  int64_t total; // bytes
  double started, shown;
} data_progress;

void data_progress_begin(data_progress *progress, int rank, const char *what, int64_t total);
void data_progress_show(data_progress *progress, int64_t done);
void data_progress_end(data_progress *progress, int64_t done); // says how long it took
