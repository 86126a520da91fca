// RUN/plots/loss.png and kv_fraction.png, drawn by gnuplot from metrics.jsonl while training goes on.
//
// plots/metrics.tsv and plots/plots.gp stay there: `cd RUN/plots && gnuplot plots.gp` draws them again.
#pragma once

#include <stdbool.h>
#include <sys/types.h> // pid_t

typedef struct {
  pid_t process; // gnuplot at work; 0: none
  bool told;     // somebody was told that plots fail
} launch_plot;

// Starts drawing, unless it is still at work. A failure (no gnuplot, full disk) is one warning.
void launch_plot_start(launch_plot *plot, const char *run);
// Waits for what was started, at most some seconds. Returns whether the last plots were drawn.
bool launch_plot_finish(launch_plot *plot);
