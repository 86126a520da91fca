#include "launch/train/spikes.h"

#include <math.h>   // isfinite, NAN
#include <stdlib.h> // qsort
#include <string.h>

static int ascending(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double launch_spikes_median(const launch_spikes *spikes) {
  double sorted[LAUNCH_SPIKES_WINDOW];
  int32_t count = spikes->count;
  if (count < LAUNCH_SPIKES_LEAST)
    return (double)NAN;
  memcpy(sorted, spikes->recent, sizeof sorted);
  qsort(sorted, (size_t)count, sizeof *sorted, ascending);
  return (sorted[(count - 1) / 2] + sorted[count / 2]) / 2;
}

bool launch_spikes_judge(launch_spikes *spikes, double factor, double loss) {
  if (!isfinite(loss))
    return false;
  bool spike = factor > 0 && loss > factor * launch_spikes_median(spikes); // never above NaN
  if (spikes->count == LAUNCH_SPIKES_WINDOW) {
    memmove(spikes->recent, spikes->recent + 1, (LAUNCH_SPIKES_WINDOW - 1) * sizeof *spikes->recent);
    spikes->count--;
  }
  spikes->recent[spikes->count++] = loss;
  return spike;
}

void launch_spikes_start_anew(launch_spikes *spikes, double loss) {
  *spikes = (launch_spikes){.recent = {loss}, .count = 1};
}
