// Runs gnuplot on a script that stands in a folder beside its data, so that people can change and draw it
// again.
#pragma once

#include <stdbool.h>
#include <sys/types.h> // pid_t

// Starts `gnuplot SCRIPT` in `folder`; what it says is lost. Returns 0, or an errno (ENOENT: not installed).
int launch_gnuplot_start(const char *folder, const char *script, pid_t *process);
// Waits some seconds at most, then kills it. Returns whether it drew everything.
bool launch_gnuplot_finish(pid_t process);
