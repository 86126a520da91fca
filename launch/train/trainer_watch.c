#include <math.h> // isnan
#include <stdio.h>

#include "launch/train/trainer.h"
#include "nn/log.h"

// ---- phases ----

void launch_trainer_enter(launch_trainer *t, launch_phase phase) {
  const launch_config *config = &t->config;
  const struct {
    const char *name;
    double deadline;
    int64_t step;
  } phases[] = {
      [LAUNCH_SETUP] = {"set-up", config->dist.deadline_setup, -1},
      [LAUNCH_STEP] = {"training", config->dist.deadline, t->step + 1},
      [LAUNCH_EVALUATION] = {"evaluation", config->dist.deadline_evaluation, t->step},
      [LAUNCH_CHECKPOINT] = {"checkpoint", config->dist.deadline_checkpoint, t->step},
      [LAUNCH_END] = {"end of the run", config->dist.deadline_checkpoint, t->step},
  };
  dist_enter(t->world, phases[phase].name, phases[phase].step, phases[phase].deadline);
}

// ---- between the agreement and the update ----

static void warn_of_spike(const launch_trainer *t, double median, double loss, bool accepted) {
  if (dist_rank(t->world) == 0)
    nn_warn("step %lld: the loss of %.4f is %.2f times the median of the last steps: %s",
            (long long)t->step + 1, loss, loss / median,
            accepted ? "it stays high and is accepted (train.max_skipped)" : "left out (train.skip_spikes)");
}

// A loss that stays high is no spike: before train.max_skipped ends the run, it is the new normal.
static bool stays_high(const launch_trainer *t) {
  return t->skipped_in_a_row > 0 && t->skipped_in_a_row >= t->config.train.max_skipped - 1;
}

// All ranks know the same losses, and so agree.
nn_status launch_trainer_judge(launch_trainer *t) {
  const nn_sums *sums = &t->result.sums;
  double loss = sums->nll / sums->scored, median = launch_spikes_median(&t->spikes);
  bool spike = launch_spikes_judge(&t->spikes, t->config.train.skip_spikes, loss);
  bool accepted = spike && t->result.finite && stays_high(t);
  t->left_out = !t->result.finite || (spike && !accepted);
  if (spike && t->result.finite)
    warn_of_spike(t, median, loss, accepted);
  if (accepted)
    launch_spikes_start_anew(&t->spikes, loss);
  // What this rank did not spend waiting: for others, or for gradients.
  double waited = dist_waited_seconds(t->world) - t->waited_before;
  double busy = launch_seconds() - t->step_started - waited - t->learner.exposed;
  return launch_balance_start(&t->balance, t->world, busy);
}

// ---- failures between two steps ----

nn_status launch_trainer_rescue(launch_trainer *t, nn_status status) {
  if (status == NN_OK || status == NN_STOPPED || status == NN_ERR_COMM || t->step == t->first_step)
    return status;
  char text[1024], place[128];
  snprintf(text, sizeof text, "%s", nn_error_text());
  snprintf(place, sizeof place, "%s", nn_error_place());
  nn_error_clear();
  nn_info("step %lld is the last one before a failure: saving it", (long long)t->step);
  nn_status saved = launch_trainer_save(t, true);
  if (saved == NN_ERR_COMM)
    return saved;
  nn_error_set(place, text);
  return status;
}
