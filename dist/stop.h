// Stopping in agreement: a signal reaches one or all ranks, and all leave at the same step boundary.
#pragma once

#include <stdbool.h>

#include "dist/group.h"

// Installs the handler of SIGUSR1 (save and stop, exit code 75), and of SIGTERM and SIGINT for the same end
// where the launcher leaves the time. A second SIGINT ends the process at once.
nn_status dist_stop_install(void);
bool dist_stop_asked(void);                                // this rank has seen a signal
nn_status dist_stop_agreed(dist_group *world, bool *stop); // collective: any rank has
