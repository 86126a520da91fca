// Steps whose loss is far above what it was lately, and which are better left out: one bad batch can undo
// days.
#pragma once

#include <stdbool.h>
#include <stdint.h>

enum {
  LAUNCH_SPIKES_WINDOW = 32, // losses that the median is of
  LAUNCH_SPIKES_LEAST = 16,  // without so many nothing is judged
};

typedef struct {
  double recent[LAUNCH_SPIKES_WINDOW]; // losses of the last steps, [count], the oldest first
  int32_t count;
} launch_spikes;

double launch_spikes_median(const launch_spikes *spikes); // NaN where there are too few

// Whether `loss` exceeds `factor` times the median of the losses before it, which it then joins: a loss that
// stays high is the new normal after half a window. One that is not finite is neither judged nor kept.
bool launch_spikes_judge(launch_spikes *spikes, double factor, double loss);

// What was usual counts no longer: `loss` is the first that does.
void launch_spikes_start_anew(launch_spikes *spikes, double loss);
