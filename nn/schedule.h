// Learning-rate schedules and ramps: pure functions of the step.
#pragma once

#include <stdint.h>

typedef enum {
  NN_SCHEDULE_COSINE, // linear warm-up, then half a cosine from lr to lr_min at the last step
  NN_SCHEDULE_WSD,    // linear warm-up, constant, then a linear decay to lr_min over the last `decay` steps
  NN_SCHEDULE_CONSTANT,
} nn_schedule_kind;

typedef struct {
  nn_schedule_kind kind;
  double lr, lr_min;
  int64_t steps;  // of the whole run
  int64_t warmup; // steps of linear warm-up from 0; step s of it has lr * (s + 1) / warmup
  int64_t decay;  // WSD only
} nn_schedule;

double nn_schedule_lr(const nn_schedule *schedule, int64_t step); // step counts from 0

// 0 before `begin`, 1 from `begin + length` on, linear between.
double nn_ramp(int64_t step, int64_t begin, int64_t length);
