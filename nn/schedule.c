#include "nn/schedule.h"

#include <math.h> // cos

double nn_ramp(int64_t step, int64_t begin, int64_t length) {
  if (step < begin)
    return 0.0;
  if (step >= begin + length)
    return 1.0;
  return (double)(step - begin) / (double)length;
}

// lr_min is reached at the last step, which has number steps - 1.
static double cosine(const nn_schedule *schedule, int64_t step) {
  const double pi = 3.14159265358979323846;
  double progress = nn_ramp(step, schedule->warmup, schedule->steps - 1 - schedule->warmup);
  return schedule->lr_min + 0.5 * (schedule->lr - schedule->lr_min) * (1.0 + cos(pi * progress));
}

// The first step of the decay is already below lr, and the last step has lr_min.
static double stable_then_decay(const nn_schedule *schedule, int64_t step) {
  double progress = nn_ramp(step, schedule->steps - 1 - schedule->decay, schedule->decay);
  return schedule->lr + progress * (schedule->lr_min - schedule->lr);
}

double nn_schedule_lr(const nn_schedule *schedule, int64_t step) {
  if (step < schedule->warmup)
    return schedule->lr * (double)(step + 1) / (double)schedule->warmup;
  switch (schedule->kind) {
  case NN_SCHEDULE_COSINE:
    return cosine(schedule, step);
  case NN_SCHEDULE_WSD:
    return schedule->decay > 0 ? stable_then_decay(schedule, step) : schedule->lr;
  case NN_SCHEDULE_CONSTANT:
    break;
  }
  return schedule->lr;
}
