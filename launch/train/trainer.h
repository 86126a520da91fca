// A training run on this rank: what learns, what it learns from, and the run folder that remembers it.
//
//   trainer.c          opening and closing, in the order in which things can go wrong
//   trainer_step.c     the parts of a step
//   trainer_eval.c     the validation split
//   trainer_save.c     checkpoints, resuming, and whose folder it is
//   time_limit.c       when to stop without a signal
//   trainer_watch.c    phases and deadlines, slow ranks, steps to leave out, saving what a failure would cost
//   train.c            the loop, the command and its report
//
// Functions marked "agreed" return the same status on all ranks.
#pragma once

#include "data/checkpoint.h"
#include "data/dataset.h"
#include "launch/plot/plot.h"
#include "launch/records/balance.h"
#include "launch/records/memory_table.h"
#include "launch/records/metrics.h"
#include "launch/records/progress.h"
#include "launch/train/learner.h"
#include "launch/train/spikes.h"

typedef struct {
  launch_config config;
  dist_group *world;
  nn_device *device;
  launch_learner learner;

  data_set *data, *val_data; // val_data NULL: no validation split
  data_loader *loader, *val_loader;
  int64_t val_samples; // of an evaluation, over all ranks
  int32_t *tokens;     // [share, T] this rank's samples of a step
  int32_t *targets;    // [share, T]
  int32_t *lengths;    // [share]
  int64_t *sample;     // [share]

  int lock; // of the run folder, rank 0; -1: none
  data_tensor *tensors;
  data_checkpointer *checkpoints;
  char *model_key; // what must not change on resume
  launch_metrics metrics;
  launch_progress progress;
  launch_plot plot;
  launch_balance balance;
  launch_memory_table memory;     // of the host
  launch_memory_table gpu_memory; // empty where the CPU computes

  // The run so far; in every checkpoint.
  int64_t step; // steps done
  int64_t tokens_seen;
  int64_t samples; // the loader's whole state
  int64_t skipped, skipped_in_a_row;
  launch_spikes spikes;
  double seconds;

  // This start and this step.
  int64_t first_step, first_tokens; // where this start began
  double first_seconds;
  int64_t saved_step;                 // the last one that a checkpoint was begun of, -1: none
  double step_started, waited_before; // seconds; waited: for collectives of the world, so far
  int64_t step_tokens;
  nats_batch batch; // this rank's share
  launch_batch_counts counts;
  launch_step_result result;
  bool left_out;            // this step changes nothing: its gradient is not finite, or its loss a spike
  launch_metrics_line line; // after resuming, on rank 0: that of the last step of the start before
  bool owes_evaluation;     // a stop cut short the one that was due after this step
} launch_trainer;

// Agreed. `config` has been checked.
nn_status launch_trainer_open(dist_group *world, const launch_config *config, launch_trainer *out);
void launch_trainer_close(launch_trainer *trainer);

// The parts of a step that launch/train/learner.h has not.
nn_status launch_trainer_next_batch(launch_trainer *trainer); // agreed; fills `batch` and `counts`
nn_status launch_trainer_judge(launch_trainer *trainer);      // after the agreement: fills `left_out`
nn_status launch_trainer_count(launch_trainer *trainer);      // after the update: one more step is done
void launch_trainer_record(launch_trainer *trainer);          // metrics and progress
nn_status launch_trainer_check(launch_trainer *trainer);      // agreed; too many steps left out in a row

// Agreed. Scores the validation split when that is due. A stop ends it between two batches; nothing of it is
// kept then, and the next start makes up for it before its first step.
nn_status launch_trainer_evaluate(launch_trainer *trainer);
nn_status launch_trainer_make_up(launch_trainer *trainer);

// Agreed. Begins a checkpoint when one is due, or `now`; finishes an earlier one that is written.
nn_status launch_trainer_save(launch_trainer *trainer, bool now);
// Agreed. Waits for the checkpoint of the current step; a run that ends without it has failed (NN_ERR_IO).
nn_status launch_trainer_save_end(launch_trainer *trainer);

// What the ranks do from now on, and how long they wait for each other meanwhile.
typedef enum { LAUNCH_SETUP, LAUNCH_STEP, LAUNCH_EVALUATION, LAUNCH_CHECKPOINT, LAUNCH_END } launch_phase;
void launch_trainer_enter(launch_trainer *trainer, launch_phase phase);

// Agreed. Returns `status`, which all ranks share, of a failure between two steps: data that cannot be read.
// What was learned since the last checkpoint is saved first.
nn_status launch_trainer_rescue(launch_trainer *trainer, nn_status status);

// ---- used by launch_trainer_open

// Agreed. Creates and locks the run folder, and refuses one of another configuration.
nn_status launch_trainer_claim(launch_trainer *trainer);
// Agreed. Continues from the newest checkpoint that verifies, if there is one, else with the weights of
// train.from, if that is given.
nn_status launch_trainer_resume(launch_trainer *trainer);
