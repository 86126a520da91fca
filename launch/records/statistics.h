// Means with their uncertainty.
#pragma once

#include <stdint.h>

// The 97.5% quantile of Student's t with `freedom` degrees of freedom: half the width of a 95% interval is
// this many standard errors. NaN below 1.
double launch_student_t(int64_t freedom);

typedef struct {
  double mean, se; // se: NaN below two samples
  int64_t count;
} launch_mean;

// Half the width of the 95% interval; NaN where there is none.
double launch_mean_ci95(const launch_mean *mean);

// The sum of `values` over the sum of `weights` (NULL: all 1), and the standard error of that ratio over
// samples drawn independently: sqrt(n / (n - 1) * sum (value - ratio * weight)^2) / sum weight. `stride`:
// doubles between one sample and the next.
launch_mean launch_mean_of(const double *values, const double *weights, int64_t stride, int64_t count);
