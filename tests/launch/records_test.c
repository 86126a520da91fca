// What a run writes and computes beside the model: lines of metrics, phases, sizes and durations.
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch/records/memory_table.h"
#include "launch/records/metrics.h"
#include "launch/records/phases.h"
#include "launch/records/progress.h"
#include "launch/train/learner.h"
#include "launch/train/spikes.h"

// ---- metrics ----

static char folder[] = "/tmp/natsformer-records-XXXXXX";

static void make_folder(void) {
  cr_assert_not_null(mkdtemp(folder));
}

static void remove_folder(void) {
  char path[1100];
  snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
  unlink(path);
  rmdir(folder);
}

TestSuite(metrics, .init = make_folder, .fini = remove_folder);

static launch_metrics_line line_of(int64_t step) {
  return (launch_metrics_line){
      .step = step, .tokens = 32 * step, .loss = 1.0 / (double)step, .kv_fraction = 1};
}

static void write_steps(int64_t from, int64_t to) {
  launch_metrics metrics;
  cr_assert_eq(launch_metrics_open(&metrics, folder, from - 1), NN_OK, "%s", nn_error_text());
  for (int64_t step = from; step <= to; step++) {
    launch_metrics_line line = line_of(step);
    launch_metrics_write(&metrics, &line);
  }
  launch_metrics_close(&metrics);
}

static void append(const char *text) {
  char path[1100];
  snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
  FILE *file = fopen(path, "a");
  cr_assert_not_null(file);
  fputs(text, file);
  fclose(file);
}

// Steps in the file, which must be 1, 2, ... without gaps.
static int64_t count_steps(void) {
  char path[1100], text[LAUNCH_METRICS_LINE + 8];
  int64_t steps = 0;
  snprintf(path, sizeof path, "%s/metrics.jsonl", folder);
  FILE *file = fopen(path, "r");
  cr_assert_not_null(file);
  while (fgets(text, sizeof text, file) != NULL) {
    json_t *line = json_loads(text, 0, NULL);
    cr_assert_not_null(line, "no JSON: %s", text);
    cr_assert_eq(json_integer_value(json_object_get(line, "step")), ++steps);
    json_decref(line);
  }
  fclose(file);
  return steps;
}

// Two lines for one step would show a loss that no run had.
Test(metrics, lines_after_the_checkpoint_are_dropped) {
  write_steps(1, 12);
  cr_expect_eq(count_steps(), 12);
  write_steps(8, 9); // continued from a checkpoint of step 7
  cr_expect_eq(count_steps(), 9);
  write_steps(1, 3); // no checkpoint was left
  cr_expect_eq(count_steps(), 3);
}

// kill -9 in the middle of a line must not spoil the file for other programs.
Test(metrics, a_line_that_was_cut_off_is_dropped) {
  write_steps(1, 5);
  append("{\"step\": 6, \"tokens\": 19");
  write_steps(6, 7);
  cr_expect_eq(count_steps(), 7);
}

// json.loads of other programs refuses NaN; nine digits give float32 back exactly.
Test(metrics, numbers_are_json_and_exact) {
  float loss = nextafterf(3.0f, 4.0f);
  launch_metrics_line line = line_of(4);
  char text[LAUNCH_METRICS_LINE];
  line.loss = loss;
  line.grad_norm = NAN;
  line.lr = INFINITY;
  line.evaluated = line.labelled = true;
  line.val_accuracy = 0.5;
  int length = launch_metrics_format(&line, text);
  cr_expect_eq(length, (int)strlen(text));
  json_t *object = json_loads(text, 0, NULL);
  cr_assert_not_null(object, "%s", text);
  cr_expect_eq((float)json_number_value(json_object_get(object, "loss")), loss);
  cr_expect(json_is_null(json_object_get(object, "grad_norm")));
  cr_expect(json_is_null(json_object_get(object, "lr")));
  cr_expect_eq(json_number_value(json_object_get(object, "val_accuracy")), 0.5);
  json_decref(object);
  line.evaluated = false;
  launch_metrics_format(&line, text);
  cr_expect_null(strstr(text, "val_"), "a step without evaluation has no val_*: %s", text);
}

// The summary of a run that is complete is that of its last step: another line would be another run's result.
Test(metrics, a_line_is_read_back) {
  launch_metrics metrics;
  launch_metrics_line read = {.step = -1}, line = line_of(4);
  cr_expect_not(launch_metrics_read(folder, 4, &read), "no file");
  line.evaluated = line.labelled = true;
  line.grad_norm = NAN;
  line.val_loss = 0.25;
  line.val_accuracy = 0.125;
  line.skipped = 3;
  write_steps(1, 3);
  cr_assert_eq(launch_metrics_open(&metrics, folder, 3), NN_OK, "%s", nn_error_text());
  launch_metrics_write(&metrics, &line);
  launch_metrics_close(&metrics);
  write_steps(5, 6);
  cr_expect_not(launch_metrics_read(folder, 7, &read), "no such step");
  cr_expect_eq(read.step, -1);
  char ours[LAUNCH_METRICS_LINE], theirs[LAUNCH_METRICS_LINE];
  cr_assert(launch_metrics_read(folder, 4, &read));
  launch_metrics_format(&line, ours);
  launch_metrics_format(&read, theirs);
  cr_expect_str_eq(theirs, ours);
  cr_assert(launch_metrics_read(folder, 6, &read));
  cr_expect_eq(read.step, 6);
  cr_expect_not(read.evaluated || read.labelled);
}

// The longest line must fit, or a run of many tokens loses its metrics.
Test(metrics, the_longest_line_fits) {
  double longest = -1.23456789e-300;
  launch_metrics_line line = {INT64_MIN, INT64_MIN, longest, longest, longest, longest, longest,
                              INT64_MIN, longest,   longest, longest, longest, longest, true,
                              longest,   true,      longest, longest, longest};
  char text[LAUNCH_METRICS_LINE];
  int length = launch_metrics_format(&line, text);
  cr_assert_lt(length, LAUNCH_METRICS_LINE);
  cr_expect_eq(text[length - 1], '\n');
}

// ---- loss spikes ----

// Too few losses to know what is usual: judging them would leave out the start of training.
Test(spikes, nothing_is_judged_at_first) {
  launch_spikes spikes = {0};
  for (int i = 0; i < LAUNCH_SPIKES_LEAST; i++)
    cr_expect_not(launch_spikes_judge(&spikes, 1.5, i % 2 == 0 ? 1 : 100));
  cr_expect(launch_spikes_judge(&spikes, 1.5, 100));
}

// A median, not a mean: one spike must not hide the next.
Test(spikes, a_spike_does_not_hide_the_next) {
  launch_spikes spikes = {0};
  for (int i = 0; i < 3 * LAUNCH_SPIKES_WINDOW; i++)
    cr_expect_not(launch_spikes_judge(&spikes, 2, 3 + 0.1 * (i % 7)));
  cr_expect_float_eq(launch_spikes_median(&spikes), 3.3, 0.051);
  for (int i = 0; i < 5; i++)
    cr_expect(launch_spikes_judge(&spikes, 2, 1000));
  cr_expect_not(launch_spikes_judge(&spikes, 2, 6));
  cr_expect_not(launch_spikes_judge(&spikes, 2, (double)NAN));
  cr_expect_not(launch_spikes_judge(&spikes, 0, 1000), "0 turns it off");
}

// A loss that stays high is what training has come to; leaving out every step would never end.
Test(spikes, a_new_level_is_accepted) {
  launch_spikes spikes = {0};
  int left_out = 0;
  for (int i = 0; i < LAUNCH_SPIKES_WINDOW; i++)
    launch_spikes_judge(&spikes, 2, 1);
  for (int i = 0; i < LAUNCH_SPIKES_WINDOW; i++)
    left_out += launch_spikes_judge(&spikes, 2, 5);
  cr_expect_geq(left_out, LAUNCH_SPIKES_WINDOW / 2 - 1);
  cr_expect_leq(left_out, LAUNCH_SPIKES_WINDOW / 2 + 1);
}

// ---- phases ----

static launch_config search(void) {
  launch_config config;
  launch_config_defaults(&config);
  config.train.steps = 100;
  config.nats.type_warmup = 0.4;
  config.nats.lambda_ramp = 0.2;
  config.nats.lambda = 0.5;
  return config;
}

// A search that starts too early collapses (docs/method.md).
Test(phases, warm_up_then_ramp_then_constant) {
  launch_config config = search();
  launch_phases phases = launch_phases_make(&config);
  cr_expect(launch_phases_dense(&phases, 0) && launch_phases_dense(&phases, 39));
  cr_expect_not(launch_phases_dense(&phases, 40));
  cr_expect_eq(launch_phases_lambda(&phases, 39), 0);
  cr_expect_eq(launch_phases_lambda(&phases, 40), 0);
  cr_expect_float_eq(launch_phases_lambda(&phases, 50), 0.25, 1e-12);
  cr_expect_float_eq(launch_phases_lambda(&phases, 60), 0.5, 1e-12);
  cr_expect_float_eq(launch_phases_lambda(&phases, 99), 0.5, 1e-12);
}

Test(phases, no_phases_cost_nothing) {
  launch_config config = search();
  config.nats.type_warmup = config.nats.lambda_ramp = 0;
  launch_phases phases = launch_phases_make(&config);
  cr_expect_not(launch_phases_dense(&phases, 0));
  cr_expect_float_eq(launch_phases_lambda(&phases, 0), 0.5, 1e-12);
}

// Dual ascent: above the budget the price rises, below it falls, never under 0, and not during the warm-up.
Test(phases, kv_target_drives_lambda) {
  launch_config config = search();
  config.nats.kv_target = 0.25;
  config.nats.kv_eta = 0.5;
  launch_phases phases = launch_phases_make(&config);
  launch_phases_follow(&phases, 10, 1.0);
  cr_expect_eq(launch_phases_lambda(&phases, 11), 0);
  launch_phases_follow(&phases, 40, 0.75);
  cr_expect_float_eq(launch_phases_lambda(&phases, 41), 0.25, 1e-12);
  launch_phases_follow(&phases, 41, 0.05);
  cr_expect_float_eq(launch_phases_lambda(&phases, 42), 0.15, 1e-12);
  launch_phases_follow(&phases, 42, -10);
  cr_expect_eq(launch_phases_lambda(&phases, 43), 0);
}

// A dense model has no types to wait for and no price.
Test(phases, dense_attention_has_none) {
  launch_config config = search();
  strcpy(config.model.attention, "dense");
  launch_phases phases = launch_phases_make(&config);
  cr_expect_not(launch_phases_dense(&phases, 0));
  cr_expect_eq(launch_phases_lambda(&phases, 99), 0);
}

// ---- shares, memory, words ----

// Every sample of a batch belongs to exactly one rank, and ranks differ by one at most.
Test(shares, cover_the_batch_evenly) {
  for (int32_t ranks = 1; ranks <= 17; ranks++)
    for (int64_t batch = ranks; batch < 50; batch++) {
      cr_assert_eq(launch_share_first(batch, 0, ranks), 0);
      cr_assert_eq(launch_share_first(batch, ranks, ranks), batch);
      for (int32_t rank = 0; rank < ranks; rank++) {
        int64_t count = launch_share_first(batch, rank + 1, ranks) - launch_share_first(batch, rank, ranks);
        cr_assert(count == batch / ranks || count == batch / ranks + 1);
      }
    }
}

Test(memory, adds_up_and_sees_what_is_taken) {
  enum { TAKEN = 64 << 20 };
  launch_memory_table table = {0};
  launch_memory_add(&table, "a", 3 << 20);
  launch_memory_add(&table, "nothing", 0);
  launch_memory_add(&table, "b", 4 << 20);
  cr_expect_eq(table.count, 2);
  cr_expect_eq(launch_memory_total(&table), 7 << 20);

  int64_t before = launch_memory_resident();
  char *block = malloc(TAKEN);
  cr_assert_not_null(block);
  memset(block, 1, TAKEN);
  int64_t with = launch_memory_resident();
  cr_expect_gt(with - before, TAKEN - (4 << 20));
  cr_expect_geq(launch_memory_peak(), with);
  cr_expect_eq(block[TAKEN / 2], 1);
  free(block);
}

Test(words, durations_and_sizes) {
  char text[LAUNCH_DURATION];
  cr_expect_str_eq(launch_duration(59.4, text), "59 s");
  cr_expect_str_eq(launch_duration(200, text), "3 min 20 s");
  cr_expect_str_eq(launch_duration(3900, text), "1 h 05 min");
  cr_expect_str_eq(launch_duration(NAN, text), "0 s");
  cr_expect_str_eq(launch_bytes((int64_t)12 << 20, text), "12.0 MiB");
  cr_expect_str_eq(launch_bytes((int64_t)3 << 30, text), "3.00 GiB");
}
