// What launch/cluster.sh wants to know of the program that it starts: it names a file in NATSFORMER_STARTED.
// Without the variable, on a machine without its folder, and on other ranks than the first these do nothing.
#pragma once

#include <stdint.h>

#include "dist/group.h"

// All ranks heed signals: makes the file. After dist_init, which no rank leaves before all have come to it.
void launch_started(const dist_group *world);

// The steps that this start has made: writes their number.
void launch_started_steps(const dist_group *world, int64_t steps);
