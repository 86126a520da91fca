// The device of every rank: a GPU of its own, or the CPU.
#pragma once

#include <stdbool.h>

#include "dist/group.h"
#include "nn/device.h"

// Opens the device that `name` (auto, cpu, cuda) and `precision` ask for, of the same kind on all ranks.
// Local rank n takes GPU n of those that its process sees, or the only one, as where Slurm gives each task
// its own. `trains`: gradients will be summed over the ranks.
//
// Ranks that would share a GPU, or do without, are an error with `cuda`; with `auto` all ranks then compute
// on the CPUs, and a warning says why. Collective; agreed.
nn_status launch_device_open(dist_group *world, const char *name, const char *precision, bool trains,
                             nn_device **out);
