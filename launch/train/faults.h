// What goes wrong on a cluster, on purpose and at a step that a test chooses: the environment variable
// NATSFORMER_FAULT holds a comma-separated list (data/checkpoint_writer.h has others). All strike the last
// rank.
//   gradient:FIRST[-LAST]   its gradient holds a NaN in these steps (from 1, as in metrics)
//   loss:FIRST[-LAST]       its loss is ten times what it is
//   slow:FIRST[-LAST]       it takes 40 ms more for each of these steps
//   waits:STEP              in this step it waits until it is asked to stop, and says so
//   waits-evaluation:STEP   the same within the evaluation after this step
//   hangs:STEP              it stands still in this step, for good (SIGSTOP)
//   dies:STEP               it is killed in this step (SIGKILL)
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "dist/group.h"

typedef struct {
  int64_t first, last; // steps, from 1; 0: none
} launch_fault;

typedef struct {
  launch_fault gradient, loss, slow, waits, waits_evaluation, hangs, dies;
} launch_faults;

// Those of this rank.
launch_faults launch_faults_read(const dist_group *world);

static inline bool launch_fault_due(const launch_fault *fault, int64_t step) {
  return step >= fault->first && step <= fault->last;
}

// What befalls the process itself in this step, from 1; and in the evaluation after it.
void launch_faults_strike(const launch_faults *faults, int64_t step);
void launch_faults_strike_evaluation(const launch_faults *faults, int64_t step);
