// natsformer train
#include <jansson.h> // --json
#include <math.h>    // exp, isfinite, NAN
#include <stdio.h>
#include <string.h>

#include "dist/stop.h"
#include "launch/command.h"
#include "launch/config/options.h"
#include "launch/records/output_file.h"
#include "launch/started.h"
#include "launch/train/trainer.h"
#include "nn/log.h"

// A failure inside a step cannot be told to ranks that wait for this one: it ends them all from here.
static void alone(launch_trainer *t, nn_status status) {
  if (status != NN_OK)
    launch_fail_alone(t->world, status);
}

static nn_status take_steps(launch_trainer *t) {
  bool stop = false;
  NN_TRY(launch_trainer_make_up(t));
  NN_TRY(dist_stop_agreed(t->world, &stop));
  while (t->step < t->config.train.steps && !stop) {
    NN_TRY(launch_trainer_rescue(t, launch_trainer_next_batch(t)));
    alone(t, launch_learner_begin(&t->learner, t->step, &t->counts)); // schedules, phases, scales
    alone(t, launch_learner_passes(&t->learner, t->step, &t->batch)); // forward, backward, sum over ranks
    alone(t, launch_learner_agree(&t->learner, &t->result));          // are all gradients finite?
    NN_TRY(launch_trainer_judge(t));                                  // is it a step to leave out?
    if (!t->left_out)
      alone(t, launch_learner_update(&t->learner, t->step, &t->result)); // clip, AdamW, lambda
    NN_TRY(launch_trainer_count(t));
    nn_status evaluated = launch_trainer_evaluate(t); // when due, as is saving
    launch_trainer_record(t);
    NN_TRY(launch_trainer_rescue(t, evaluated));
    NN_TRY(launch_trainer_check(t));
    NN_TRY(launch_trainer_save(t, false));
    NN_TRY(dist_stop_agreed(t->world, &stop));
  }
  NN_TRY(launch_trainer_save_end(t));
  return t->step < t->config.train.steps || t->owes_evaluation ? NN_STOPPED : NN_OK;
}

// After a failure that all ranks know of, the checkpoint under way is still completed.
static nn_status train(launch_trainer *t) {
  nn_status status = take_steps(t);
  if (status != NN_OK && status != NN_STOPPED && status != NN_ERR_COMM)
    NN_KEEP(status, data_checkpoint_poll(t->checkpoints, true));
  return status;
}

// ---- the report at the end ----

typedef struct {
  double tokens_per_s; // of this start; NaN without a step
  int64_t peak;        // bytes, of the rank that took most
  bool plots;
} train_report;

static nn_status make_report(launch_trainer *t, train_report *report) {
  double seconds = t->seconds - t->first_seconds;
  launch_trainer_enter(t, LAUNCH_END);
  *report = (train_report){
      .tokens_per_s = seconds > 0 ? (double)(t->tokens_seen - t->first_tokens) / seconds : (double)NAN,
      .peak = launch_memory_peak(),
  };
  NN_TRY(dist_allreduce(t->world, &report->peak, 1, DIST_I64, DIST_MAX));
  if (dist_rank(t->world) == 0 && t->step > t->first_step) {
    launch_plot_finish(&t->plot); // of an earlier checkpoint
    launch_plot_start(&t->plot, t->config.run);
    report->plots = launch_plot_finish(&t->plot);
  }
  return NN_OK;
}

static void print_report(const launch_trainer *t, const train_report *report, nn_status status) {
  const launch_metrics_line *line = &t->line;
  char text[LAUNCH_DURATION], planned[LAUNCH_DURATION];
  bool stopped = status == NN_STOPPED, nothing = t->step == t->first_step;
  nn_info("%s after step %lld of %lld in %s",
          stopped   ? "stopped"
          : nothing ? "nothing left to do"
                    : "done",
          (long long)t->step, (long long)t->config.train.steps, launch_duration(t->seconds, text));
  if (line->step > 0) { // else another start made the steps, and its metrics.jsonl is gone
    nn_info("  %-16s %.4f", "loss", line->loss);
    nn_info("  %-16s %.4f", "kv_fraction", line->kv_fraction);
  }
  if (line->evaluated) {
    nn_info("  %-16s %.4f (perplexity %.2f)", "val_loss", line->val_loss, exp(line->val_loss));
    nn_info("  %-16s %.4f", "val_kv_fraction", line->val_kv_fraction);
  }
  if (line->evaluated && line->labelled)
    nn_info("  %-16s %.4f", "val_accuracy", line->val_accuracy);
  if (t->skipped > 0)
    nn_info("  %-16s %lld steps%s", "skipped", (long long)t->skipped,
            t->config.train.skip_spikes > 0 ? "" : " with a non-finite gradient");
  if (!nothing)
    nn_info("  %-16s %.0f", "tokens_per_s", report->tokens_per_s);
  data_checkpoint_times saved = data_checkpointer_times(t->checkpoints);
  if (saved.count > 0)
    nn_info("  %-16s %d of %s: each %.2f s beside training, %.3f s of which it stood still", "checkpoints",
            saved.count, launch_bytes(saved.bytes, text), saved.seconds / saved.count,
            saved.stall / saved.count);
  char waiting[96];
  launch_balance_describe(&t->balance, t->world, waiting, sizeof waiting);
  if (waiting[0] != '\0')
    nn_info("  %-16s %s", "waiting", waiting);
  nn_info("  %-16s %s of %s planned", "peak memory", launch_bytes(report->peak, text),
          launch_bytes(launch_memory_total(&t->memory), planned));
  nn_info("  %-16s %s", "run", t->config.run);
  if (report->plots)
    nn_info("  %-16s %s/plots/loss.png, kv_fraction.png", "plots", t->config.run);
}

static void set_number(json_t *object, const char *name, double value) {
  json_object_set_new(object, name, isfinite(value) ? json_real(value) : json_null());
}

static nn_status print_json(const launch_trainer *t, const train_report *report) {
  const launch_metrics_line *line = &t->line;
  json_t *object = json_pack("{s:s, s:I, s:I, s:I}", "run", t->config.run, "step", (json_int_t)t->step,
                             "tokens", (json_int_t)t->tokens_seen, "skipped", (json_int_t)t->skipped);
  if (line->step > 0) {
    set_number(object, "loss", line->loss);
    set_number(object, "kv_fraction", line->kv_fraction);
  }
  if (line->evaluated) {
    set_number(object, "val_loss", line->val_loss);
    set_number(object, "val_kv_fraction", line->val_kv_fraction);
    set_number(object, "val_perplexity", exp(line->val_loss));
  }
  if (line->evaluated && line->labelled)
    set_number(object, "val_accuracy", line->val_accuracy);
  set_number(object, "tokens_per_s", report->tokens_per_s);
  set_number(object, "seconds", t->seconds);
  data_checkpoint_times saved = data_checkpointer_times(t->checkpoints);
  bool any = saved.count > 0;
  json_object_set_new(object, "checkpoints", json_integer(saved.count));
  json_object_set_new(object, "checkpoint_bytes", any ? json_integer((json_int_t)saved.bytes) : json_null());
  set_number(object, "checkpoint_s", saved.seconds / saved.count);
  set_number(object, "checkpoint_stall_s", saved.stall / saved.count);
  json_object_set_new(object, "memory_peak_bytes", json_integer((json_int_t)report->peak));
  json_object_set_new(object, "memory_planned_bytes",
                      json_integer((json_int_t)launch_memory_total(&t->memory)));
  if (nn_device_get_kind(t->device) != NN_DEVICE_CPU)
    json_object_set_new(object, "gpu_memory_planned_bytes",
                        json_integer((json_int_t)launch_memory_total(&t->gpu_memory)));
  return launch_print_json(object);
}

// ---- the command ----

typedef struct {
  launch_list operands; // the configuration, then key.path=value
  bool print_config, help_config, json;
} train_options;

// Operands are moved to the front of argv, where they stay.
static nn_status read_options(int argc, char **argv, train_options *o) {
  *o = (train_options){.operands = {.items = (const char **)argv}};
  const launch_option options[] = {
      {"--print-config", LAUNCH_OPTION_FLAG, &o->print_config, 0, 0},
      {"--help-config", LAUNCH_OPTION_FLAG, &o->help_config, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  NN_TRY(launch_options_read("train", options, sizeof options / sizeof *options, argc, argv, &o->operands));
  if (o->operands.count == 0 && !o->help_config)
    return NN_FAIL(NN_ERR_USAGE,
                   "train: expected a configuration, as in `natsformer train configs/quickstart.yaml`");
  return NN_OK;
}

static nn_status run(dist_group *world, int argc, char **argv) {
  train_options options;
  launch_config config;
  launch_trainer trainer;
  train_report report;
  bool first = dist_rank(world) == 0;
  NN_TRY(read_options(argc, argv, &options));
  if (options.help_config) {
    if (first)
      launch_config_help(stdout);
    return NN_OK;
  }
  const char **operands = options.operands.items;
  NN_TRY(launch_config_load(world, operands[0], operands + 1, (int)options.operands.count - 1, &config));
  NN_TRY(launch_config_check(&config, dist_size(world)));
  if (options.print_config) {
    if (first)
      launch_config_print(&config, stdout);
    return NN_OK;
  }
  nn_status status = launch_trainer_open(world, &config, &trainer);
  if (status == NN_OK)
    status = train(&trainer);
  if (status == NN_OK || status == NN_STOPPED) {
    launch_started_steps(world, trainer.step - trainer.first_step);
    nn_status reported = make_report(&trainer, &report);
    if (first && reported == NN_OK)
      print_report(&trainer, &report, status);
    if (first && reported == NN_OK && options.json)
      reported = print_json(&trainer, &report);
    status = reported == NN_OK ? status : reported;
  }
  if (status == NN_ERR_COMM) // closing would wait, once more, for the rank that is missing
    launch_fail_alone(world, status);
  launch_trainer_close(&trainer);
  return status;
}

const launch_command launch_train = {
    .name = "train",
    .run = run,
    .stops = true,
    .summary = "train a model, or go on with a run",
    .usage =
        "usage: natsformer train CONFIG.yaml [key.path=value ...] [--print-config] [--help-config] [--json]\n"
        "\n"
        "Trains on all ranks (mpirun -np N natsformer train ...). A run folder that holds a checkpoint is\n"
        "continued. USR1 saves and stops (exit code 75); a second one ends the ranks at once.\n"
        "\n"
        "  key.path=value   overrides a key of the file, as in model.layers=4\n"
        "  --print-config   print the effective configuration and stop\n"
        "  --help-config    list every key with its default and range\n"
        "  --json           print a summary as one JSON object on standard output\n",
};
