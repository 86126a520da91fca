// Where the ranks run and with what: the first thing to look at when a run is slower than another one.
#pragma once

#include "dist/group.h"
#include "nn/device.h"

// Rank 0 prints the versions of the libraries and one line a machine: its ranks, the cores that each of them
// may use, their threads, their devices. Warns of more threads than cores, and of a machine whose libraries
// are others than rank 0's. Collective; agreed.
nn_status launch_hosts_print(dist_group *world, const nn_device *device);
