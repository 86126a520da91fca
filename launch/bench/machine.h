// What benchmarks share: timing of work on a device, random tensors, and what the device can do at best,
// against which times are judged.
#pragma once

#include "nn/device.h"

double launch_median(double *values, int count); // sorts them

// Milliseconds of one call of `work`. After a warm-up, calls are issued many at a time with one wait at their
// end, so that what it costs to start and to wait is not counted; the median of `rounds` such times.
typedef nn_status (*launch_bench_work)(nn_device *device, const void *op);
nn_status launch_bench_time(nn_device *device, launch_bench_work work, const void *op, int rounds,
                            double *milliseconds);

// Takes device memory for `count` elements of the compute type, normal with the given standard deviation.
// (Zeros would flatter a GPU, whose clock depends on the power that it draws.)
nn_status launch_bench_normal(nn_device *device, int64_t count, float deviation, uint64_t seed, nn_act **out);

// The device's ceilings: operations per second of a large matrix product, bytes per second of a copy (read
// and written). What is given (in units of 1e12 and 1e9, 0: not given) is taken, the rest measured.
typedef struct {
  double operations, bytes;
} launch_ceilings;
nn_status launch_bench_ceilings(nn_device *device, double tflops, double gb_per_s, launch_ceilings *out);
