// Who is slow: how evenly the ranks are busy, step by step.
//
// A step ends for all ranks when the slowest is there, so each tells how long it was busy: reading,
// computing, not waiting for others. The sums over ranks travel while the optimizer works.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "dist/group.h"

typedef struct {
  // of the step under way
  int64_t slowest; // microseconds and rank in one number, so that one maximum finds both
  int64_t total;   // microseconds of all ranks
  dist_request *requests[2];
  // of the steps of this start, on all ranks
  int32_t *often; // [ranks] steps in which each was the slowest
  double sum;     // of imbalances
  int64_t steps;
} launch_balance;

nn_status launch_balance_open(dist_group *world, launch_balance *out);
void launch_balance_close(launch_balance *balance);

// Collective, the two of them once a step and in this order; other collectives may come between.
nn_status launch_balance_start(launch_balance *balance, dist_group *world, double busy_seconds);
// `imbalance`: 1 - mean / slowest, the share of the ranks' time that goes into waiting for the slowest one.
nn_status launch_balance_finish(launch_balance *balance, dist_group *world, int32_t *slowest_rank,
                                double *imbalance);

// Imbalance above which a person is told.
#define LAUNCH_IMBALANCE_TOLD 0.1
// "14% of the time of 8 ranks, for rank 3 in 97% of the steps"; "" where there is nothing to tell.
void launch_balance_describe(const launch_balance *balance, const dist_group *world, char *text, size_t size);
