// Stopping in agreement: a signal reaches one or all ranks, or the time is up, and all leave at the same step
// boundary.
#pragma once

#include <stdbool.h>

#include "dist/group.h"

// Installs the handler of SIGUSR1 (save and stop, exit code 75), and of SIGTERM and SIGINT for the same end
// where the launcher leaves the time.
//
// A second signal ends the process at once, by that signal. What arrives within DIST_STOP_ECHO seconds of the
// first one is its echo and changes nothing: batch systems signal the ranks and the script, which passes it
// on to the ranks. Only a second SIGINT counts at once, since a person pressed the keys twice.
nn_status dist_stop_install(void);
enum { DIST_STOP_ECHO = 3 };

void dist_stop_after(double seconds); // from now on: as if a signal had arrived then
bool dist_stop_asked(void);           // this rank has seen a signal, or its time is up

nn_status dist_stop_agreed(dist_group *world, bool *stop); // collective: any rank was asked
