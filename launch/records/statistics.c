#include "launch/records/statistics.h"

#include <math.h>
#include <stddef.h> // NULL

double launch_student_t(int64_t freedom) {
  static const double exact[] = {12.706205, 4.302653, 3.182446, 2.776445, 2.570582,
                                 2.446912,  2.364624, 2.306004, 2.262157, 2.228139};
  enum { EXACT = sizeof exact / sizeof *exact };
  if (freedom < 1)
    return (double)NAN;
  if (freedom <= EXACT)
    return exact[freedom - 1];
  // The expansion of Cornish and Fisher around the normal quantile: right to 1e-5 from here on.
  double z = 1.9599639845400545, z2 = z * z, z3 = z2 * z, z5 = z3 * z2, z7 = z5 * z2, z9 = z7 * z2;
  double n = (double)freedom;
  return z + (z3 + z) / (4 * n) + (5 * z5 + 16 * z3 + 3 * z) / (96 * n * n) +
         (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * n * n * n) +
         (79 * z9 + 776 * z7 + 1482 * z5 - 1920 * z3 - 945 * z) / (92160 * n * n * n * n);
}

double launch_mean_ci95(const launch_mean *mean) {
  return launch_student_t(mean->count - 1) * mean->se;
}

launch_mean launch_mean_of(const double *values, const double *weights, int64_t stride, int64_t count) {
  double sum = 0, weight = 0, squares = 0;
  for (int64_t i = 0; i < count; i++) {
    sum += values[i * stride];
    weight += weights != NULL ? weights[i * stride] : 1;
  }
  launch_mean out = {.mean = weight > 0 ? sum / weight : (double)NAN, .se = (double)NAN, .count = count};
  if (count < 2 || !(weight > 0))
    return out;
  for (int64_t i = 0; i < count; i++) {
    double rest = values[i * stride] - out.mean * (weights != NULL ? weights[i * stride] : 1);
    squares += rest * rest;
  }
  out.se = sqrt((double)count / (double)(count - 1) * squares) / weight;
  return out;
}
