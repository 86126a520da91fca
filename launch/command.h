// The subcommands of the program: one file each, one row each in launch/main.c.
//
// A subcommand gets argv from its own name on. It returns a status that is the same on all ranks (dist_agree
// where ranks may differ); main reports it once, on rank 0, and turns it into the exit code. A failure that
// the other ranks cannot learn of is reported by the rank itself, which then calls launch_fail_alone.
#pragma once

#include "dist/group.h"
#include "nn/status.h"

typedef struct {
  const char *name;
  bool stops; // a signal asks it to save and stop (dist/stop.h), from its first moment on
  nn_status (*run)(dist_group *world, int argc, char **argv);
  const char *summary; // one line for the overview
  const char *usage;   // printed by `natsformer NAME --help`
} launch_command;

extern const launch_command launch_data;
extern const launch_command launch_train;
extern const launch_command launch_eval;
extern const launch_command launch_compare;
extern const launch_command launch_generate;
extern const launch_command launch_verify;
extern const launch_command launch_bench;
extern const launch_command launch_plot_again;

// Reports this rank's recorded failure and ends all ranks with its exit code.
_Noreturn void launch_fail_alone(dist_group *world, nn_status status);
