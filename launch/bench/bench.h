// Measurements that the program makes of itself: one file each, one row each in launch/bench/bench.c.
#pragma once

#include "dist/group.h"
#include "nn/status.h"

typedef struct {
  const char *name;
  nn_status (*run)(dist_group *world, int argc, char **argv); // argv from the bench's own name on
  const char *summary;
} launch_bench_row;

extern const launch_bench_row launch_bench_train, launch_bench_attention, launch_bench_decode;
