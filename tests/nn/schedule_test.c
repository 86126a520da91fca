#include <criterion/criterion.h>

#include "nn/schedule.h"

// A wrong learning rate trains worse and says nothing: the ends and middles of every schedule, by hand.
Test(schedule, learning_rates) {
  const nn_schedule cosine = {NN_SCHEDULE_COSINE, .lr = 1.0, .lr_min = 0.1, .steps = 111, .warmup = 10};
  const nn_schedule wsd = {NN_SCHEDULE_WSD, .lr = 1.0, .lr_min = 0.0, .steps = 100, .warmup = 4, .decay = 20};
  const nn_schedule constant = {NN_SCHEDULE_CONSTANT, .lr = 0.5, .lr_min = 0.1, .steps = 100, .warmup = 2};
  const nn_schedule bare = {NN_SCHEDULE_COSINE, .lr = 1.0, .lr_min = 0.2, .steps = 1};
  static const struct {
    char kind;
    int64_t step;
    double lr;
  } cases[] = {
      {'c', 0, 0.1},   {'c', 4, 0.5},   {'c', 9, 1.0},  {'c', 10, 1.0}, {'c', 60, 0.55},
      {'c', 110, 0.1}, {'c', 999, 0.1}, {'w', 0, 0.25}, {'w', 3, 1.0},  {'w', 50, 1.0},
      {'w', 79, 1.0},  {'w', 80, 0.95}, {'w', 89, 0.5}, {'w', 99, 0.0}, {'w', 500, 0.0},
      {'k', 0, 0.25},  {'k', 1, 0.5},   {'k', 99, 0.5}, {'b', 0, 0.2},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const nn_schedule *schedule = cases[i].kind == 'c'   ? &cosine
                                  : cases[i].kind == 'w' ? &wsd
                                  : cases[i].kind == 'k' ? &constant
                                                         : &bare;
    double found = nn_schedule_lr(schedule, cases[i].step);
    cr_expect_float_eq(found, cases[i].lr, 1e-12, "%c, step %lld: %g", cases[i].kind,
                       (long long)cases[i].step, found);
  }
}

// After the warm-up a schedule never rises: a jump up late in a run shows as a spike of the loss.
Test(schedule, falls_after_warmup) {
  for (int kind = NN_SCHEDULE_COSINE; kind <= NN_SCHEDULE_CONSTANT; kind++) {
    nn_schedule schedule = {(nn_schedule_kind)kind, .lr = 3e-4,   .lr_min = 3e-5,
                            .steps = 1000,          .warmup = 50, .decay = 200};
    for (int64_t step = 50; step < 1010; step++)
      cr_assert_leq(nn_schedule_lr(&schedule, step), nn_schedule_lr(&schedule, step - 1));
  }
}

// Lambda is ramped by this: outside its bounds it must be exactly 0 and exactly 1.
Test(schedule, ramp) {
  cr_expect_eq(nn_ramp(9, 10, 20), 0.0);
  cr_expect_eq(nn_ramp(10, 10, 20), 0.0);
  cr_expect_float_eq(nn_ramp(15, 10, 20), 0.25, 1e-12);
  cr_expect_eq(nn_ramp(30, 10, 20), 1.0);
  cr_expect_eq(nn_ramp(1000, 10, 20), 1.0);
  cr_expect_eq(nn_ramp(9, 10, 0), 0.0);
  cr_expect_eq(nn_ramp(10, 10, 0), 1.0);
}
