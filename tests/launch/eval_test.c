// `natsformer eval` from the outside.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access, readlink, symlink, truncate

#include "data/files.h"
#include "tests/launch/run_fixture.h"

TestSuite(eval, .init = run_fixture_open, .fini = run_fixture_close, .timeout = 240);

static void expect_close(const json_t *a, const json_t *b, const char *name, double relative) {
  double x = run_number(a, name), y = run_number(b, name);
  cr_expect(fabs(x - y) <= relative * fabs(x), "%s: %.12g and %.12g, seed %llu", name, x, y,
            (unsigned long long)run_seed);
}

// Largest difference of two files of --nll, which must score the same tokens; *lines is how many.
static double compare_nll(const char *a, const char *b, int64_t *lines) {
  FILE *x = fopen(a, "r"), *y = fopen(b, "r");
  cr_assert(x != NULL && y != NULL);
  char heading[64];
  cr_assert(fgets(heading, sizeof heading, x) && fgets(heading, sizeof heading, y));
  cr_assert_str_eq(heading, "sample,position,nll\n");
  double worst = 0, nll[2];
  long long at[4];
  int read;
  for (*lines = 0; (read = fscanf(x, "%lld,%lld,%lf\n", &at[0], &at[1], &nll[0])) == 3; ++*lines) {
    cr_assert_eq(fscanf(y, "%lld,%lld,%lf\n", &at[2], &at[3], &nll[1]), 3);
    cr_assert(at[0] == at[2] && at[1] == at[3]);
    worst = fmax(worst, fabs(nll[0] - nll[1]));
  }
  cr_assert(read == EOF && fgetc(y) == EOF);
  fclose(x);
  fclose(y);
  return worst;
}

// Both modes on one run: the same tokens, the same scores, the same pairs.
static void compare_modes(const char *run, const char *policy) {
  char command[256];
  int64_t lines;
  snprintf(command, sizeof command, "eval %s %s --nll parallel.csv --json", run, policy);
  json_t *parallel = run_json(0, command);
  snprintf(command, sizeof command, "eval %s %s --mode decode --nll decode.csv --json", run, policy);
  json_t *decode = run_json(0, command);
  double worst = compare_nll(run_path("parallel.csv"), run_path("decode.csv"), &lines);
  cr_expect_leq(worst, 1e-4, "%s %s: %g, seed %llu", run, policy, worst, (unsigned long long)run_seed);
  cr_expect_eq(lines, (int64_t)run_number(parallel, "scored"));
  expect_close(parallel, decode, "visible_pairs", 0);
  expect_close(parallel, decode, "causal_pairs", 0);
  expect_close(parallel, decode, "loss", 1e-5);
  if (json_object_get(parallel, "bits_per_byte") != NULL)
    expect_close(parallel, decode, "bits_per_byte", 1e-5);
  if (json_object_get(parallel, "accuracy") != NULL)
    expect_close(parallel, decode, "accuracy", 0);
  json_decref(decode);
  json_decref(parallel);
}

// Broken: the cache that is measured is not the one that the model was trained for.
Test(eval, decoding_equals_the_masked_pass) {
  run_make_text("data");
  const struct {
    const char *name, *attention;
    int32_t chunk;
  } runs[] = {{"dense", "dense", 1}, {"window", "window", 1}, {"nats", "nats", 1}, {"chunks", "nats", 5}};
  for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
    launch_config config = run_config("data", runs[i].attention, runs[i].chunk);
    run_make(runs[i].name, &config, 1, (double)NAN);
    compare_modes(runs[i].name, "");
  }
  compare_modes("nats", "--policy dense");
  compare_modes("nats", "--policy window:window=3");
}

// Broken: accuracy on recall tasks depends on how it is measured; padding is counted as cache.
Test(eval, labelled_documents_too) {
  run_make_mqar("data");
  launch_config config = run_config("data", "nats", 1);
  snprintf(config.data.sample, sizeof config.data.sample, "document");
  config.train.length = 70; // the documents have 64
  run_make("run", &config, 1, (double)NAN);
  compare_modes("run", "");
  json_t *report = run_json(0, "eval run --json");
  cr_expect_eq(run_number(report, "scored"), 9 * 6);
  cr_expect_eq(run_number(report, "tokens"), 9 * 64);
  cr_expect_eq(run_number(report, "causal_pairs"), 9 * 2 * 2 * 64 * 65 / 2);
  json_decref(report);
}

// Broken: more ranks give another perplexity.
Test(eval, any_number_of_ranks_says_the_same) {
  run_make_text("data");
  launch_config config = run_config("data", "nats", 1);
  run_make("run", &config, 1, (double)NAN);
  const char *modes[] = {"parallel", "decode"};
  for (int mode = 0; mode < 2; mode++) {
    char command[256];
    int64_t lines;
    snprintf(command, sizeof command, "eval run --mode %s --samples 13 --batch 2 --nll one.csv --json",
             modes[mode]);
    json_t *one = run_json(0, command);
    cr_expect_eq(run_number(one, "scored"), 13 * 64);
    for (int ranks = 2; ranks <= 3; ranks++) {
      snprintf(command, sizeof command, "eval run --mode %s --samples 13 --batch 2 --nll many.csv --json",
               modes[mode]);
      json_t *many = run_json(ranks, command);
      expect_close(one, many, "loss", 1e-9);
      expect_close(one, many, "visible_pairs", 0);
      expect_close(one, many, "tokens", 0);
      cr_expect_eq(compare_nll(run_path("one.csv"), run_path("many.csv"), &lines), 0);
      json_decref(many);
    }
    json_decref(one);
  }
}

// Broken: what was fed as a prompt counts as predicted, or what follows it depends on how it was fed.
Test(eval, prompts_are_not_scored) {
  run_make_text("data");
  launch_config config = run_config("data", "nats", 1);
  run_make("run", &config, 1, (double)NAN);
  compare_modes("run", "--samples 6 --prompt 20");
  json_t *report = run_json(0, "eval run --samples 6 --prompt 20 --json");
  cr_expect_eq(run_number(report, "scored"), 6 * (64 - 19));
  json_decref(report);
  report = run_json(0, "eval run --mode decode --samples 6 --batch 3 --prompt 60 "
                       "--policy snapkv:keep=8,observe=4 --policy dense --json");
  const json_t *snapkv = json_array_get(json_object_get(report, "policies"), 0);
  const json_t *dense = json_array_get(json_object_get(report, "policies"), 1);
  cr_expect_eq(run_number(snapkv, "live_tokens"), 8 + 4 + 4);
  cr_expect_eq(run_number(dense, "live_tokens"), 64);
  json_decref(report);
}

// Broken: a policy that draws scores differently in another batch or on other ranks; --seed does nothing.
Test(eval, draws_follow_the_seed_alone) {
  run_make_text("data");
  launch_config config = run_config("data", "nats", 1);
  run_make("run", &config, 1, (double)NAN);
  const struct {
    int ranks;
    const char *options;
  } cases[] = {
      {0, "--seed 5 --batch 1"}, {0, "--seed 5 --batch 4"}, {2, "--seed 5 --batch 2"}, {0, "--batch 4"}};
  double loss[4];
  for (int i = 0; i < 4; i++) {
    char command[256];
    snprintf(command, sizeof command, "eval run --mode decode --samples 7 --policy random:size=9 %s --json",
             cases[i].options);
    json_t *report = run_json(cases[i].ranks, command);
    cr_expect_eq(run_number(report, "live_tokens_peak"), 9);
    loss[i] = run_number(report, "loss");
    json_decref(report);
  }
  cr_expect_float_eq(loss[1], loss[0], 1e-6 * loss[0], "another batch: %.9g and %.9g", loss[1], loss[0]);
  cr_expect_float_eq(loss[2], loss[0], 1e-6 * loss[0], "two ranks: %.9g and %.9g", loss[2], loss[0]);
  cr_expect_gt(fabs(loss[3] - loss[0]), 1e-6 * loss[0], "another seed: %.9g and %.9g", loss[3], loss[0]);
}

// Broken: numbers of a report contradict each other.
Test(eval, the_report_adds_up) {
  run_make_text("data");
  launch_config config = run_config("data", "nats", 1);
  run_make("run", &config, 7, (double)NAN);
  json_t *report = run_json(0, "eval run --mode decode --per-head heads.csv --json");
  cr_expect_eq(run_number(report, "step"), 7);
  double loss = run_number(report, "loss"), kv = run_number(report, "kv_fraction");
  cr_expect_float_eq(run_number(report, "perplexity"), exp(loss), 1e-6 * exp(loss));
  cr_expect_float_eq(kv, run_number(report, "visible_pairs") / run_number(report, "causal_pairs"), 1e-8);
  cr_expect(kv > 0.02 && kv < 0.98, "all types occur: KV fraction %g, seed %llu", kv,
            (unsigned long long)run_seed);
  cr_expect_lt(run_number(report, "kv_bytes"), run_number(report, "kv_bytes_dense"));
  cr_expect_leq(run_number(report, "live_tokens"), run_number(report, "live_tokens_peak"));
  cr_expect_leq(run_number(report, "live_tokens_peak"), 64);

  double visible = 0, causal = 0, fields[3];
  int layer, head, rows = 0;
  FILE *heads = fopen(run_path("heads.csv"), "r");
  cr_assert_eq(fscanf(heads, "policy,layer,kv_head,visible,causal,kv_fraction\n"), 0);
  for (;
       fscanf(heads, "\"nats\",%d,%d,%lf,%lf,%lf\n", &layer, &head, &fields[0], &fields[1], &fields[2]) == 5;
       rows++) {
    cr_expect(layer == rows / 2 && head == rows % 2);
    cr_expect_float_eq(fields[2], fields[0] / fields[1], 1e-6);
    visible += fields[0];
    causal += fields[1];
  }
  fclose(heads);
  cr_expect_eq(rows, 4);
  cr_expect_eq(visible, run_number(report, "visible_pairs"));
  cr_expect_eq(causal, run_number(report, "causal_pairs"));
  json_decref(report);

  report = run_json(0, "eval run --mode decode --policy nats --policy dense --policy=window --json");
  json_t *policies = json_object_get(report, "policies");
  cr_assert_eq(json_array_size(policies), 3);
  cr_expect_eq(run_number(json_array_get(policies, 1), "kv_fraction"), 1);
  cr_expect_eq(run_number(json_array_get(policies, 1), "kv_bytes"),
               run_number(json_array_get(policies, 1), "kv_bytes_dense"));
  cr_expect_float_eq(run_number(json_array_get(policies, 0), "kv_fraction"), kv, 1e-12);
  json_decref(report);
}

// Broken: `eval` scores another checkpoint than the one that was asked for.
Test(eval, takes_the_checkpoint_that_was_asked_for) {
  run_make_text("data");
  launch_config config = run_config("data", "dense", 1);
  run_make("run", &config, 10, 1.0);
  run_make("run", &config, 20, 2.0);
  const struct {
    const char *which;
    double step;
  } cases[] = {{"run", 20},
               {"run --checkpoint best", 10},
               {"run --checkpoint last", 20},
               {"run/checkpoints/step-000000010", 10}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char command[256];
    snprintf(command, sizeof command, "eval %s --samples 1 --json", cases[i].which);
    json_t *report = run_json(0, command);
    cr_expect_eq(run_number(report, "step"), cases[i].step, "%s", cases[i].which);
    json_decref(report);
  }
}

// Returns whether FOLDER/name holds `text`.
static bool holds(const char *name, const char *text) {
  char *bytes;
  size_t count;
  cr_ok(data_file_read(run_path(name), &bytes, &count));
  bool same = strcmp(bytes, text) == 0;
  free(bytes);
  return same;
}

static bool exists(const char *name) {
  return access(run_path(name), F_OK) == 0;
}

// Broken: an evaluation that fails destroys the results of the one before, or leaves half of its own.
Test(eval, a_failure_leaves_the_files_of_before) {
  const char *before = "of before\n";
  const char *const fails[] = {"eval run --per-head heads.csv --nll nothing/nll.csv",
                               "eval run --per-head /dev/full --nll nll.csv"};
  run_make_text("data");
  launch_config config = run_config("data", "dense", 1);
  run_make("run", &config, 10, 1.0);
  cr_ok(data_file_write(run_path("heads.csv"), before, strlen(before)));
  cr_ok(data_file_write(run_path("nll.csv"), before, strlen(before)));
  for (size_t i = 0; i < sizeof fails / sizeof *fails; i++) {
    char *err;
    cr_expect_neq(run_program(0, fails[i], NULL, &err), 0, "%s", fails[i]);
    cr_expect(holds("heads.csv", before) && holds("nll.csv", before), "%s\n%s", fails[i], err);
    cr_expect_not(exists("heads.csv.tmp") || exists("nll.csv.tmp"), "%s leaves a part", fails[i]);
    free(err);
  }
  json_decref(run_json(2, "eval run --samples 2 --per-head heads.csv --nll nll.csv --json"));
  cr_expect_not(holds("heads.csv", before) || holds("nll.csv", before), "not replaced");
  cr_expect_not(exists("heads.csv.tmp") || exists("nll.csv.tmp"), "a part is left");
}

// Broken: `--nll /dev/stdout` makes a plain file of the device, or `--nll LINK` of the link.
Test(eval, writes_through_what_is_no_plain_file) {
  char *out;
  run_make_text("data");
  launch_config config = run_config("data", "dense", 1);
  run_make("run", &config, 10, 1.0);
  cr_assert_eq(symlink("target.csv", run_path("link.csv")), 0);
  cr_assert_eq(run_program(0, "eval run --samples 1 --nll link.csv", NULL, NULL), 0);
  cr_expect(exists("target.csv") && readlink(run_path("link.csv"), (char[16]){""}, 16) > 0);
  cr_assert_eq(run_program(0, "eval run --samples 1 --nll /dev/stdout | cat", &out, NULL), 0);
  cr_expect_not_null(strstr(out, "sample,position,nll\n0,"), "%s", out);
  free(out);
}

static void expect_failure(int ranks, const char *arguments, int code, const char *says) {
  char *out, *err;
  cr_expect_eq(run_program(ranks, arguments, &out, &err), code, "%s\n%s", arguments, err);
  cr_expect_not_null(strstr(err, says), "%s: expected '%s' in\n%s", arguments, says, err);
  int errors = 0;
  for (const char *at = err; (at = strstr(at, "error: ")) != NULL; at++)
    errors++;
  cr_expect_eq(errors, 1, "%s: one line, found\n%s", arguments, err);
  cr_expect_str_empty(out, "%s", arguments);
  free(out);
  free(err);
}

// Broken: whoever mistypes gets a wrong number, no message, or one per rank.
Test(eval, says_what_is_wrong) {
  run_make_text("data");
  run_make_mqar("recall");
  launch_config config = run_config("data", "dense", 1);
  run_make("run", &config, 10, 1.0);
  expect_failure(0, "eval", 2, "expected one run folder");
  expect_failure(0, "eval nothing", 1, "nothing: expected a run folder");
  expect_failure(0, "eval run --smaples 3", 2, "--smaples");
  expect_failure(0, "eval run --samples 3x", 2, "--samples: expected a whole number");
  expect_failure(0, "eval run --mode both", 2, "--mode: expected parallel or decode");
  expect_failure(0, "eval run --split test", 1, "test");
  expect_failure(0, "eval run --data nothing", 1, "nothing");
  expect_failure(0, "eval run --policy nats", 2, "needs a model with token types");
  expect_failure(0, "eval run --policy h3o", 2, "policy 'h3o'");
  expect_failure(0, "eval run --policy h2o:size=8", 2, "decode token by token");
  expect_failure(0, "eval run --mode decode --policy duo:recent=4", 2, "heads all use the cache alike");
  expect_failure(2, "eval run --prompt 64", 2, "--prompt: expected fewer than the 64 tokens");
  expect_failure(0, "eval run --checkpoint worst", 2, "expected last or best");
  expect_failure(0, "eval run --nll nothing/file.csv", 1, "nothing/file.csv: cannot create");
  expect_failure(0, "eval run --data recall", 1, "expected tokens of kind byte");
  expect_failure(3, "eval run --data recall", 1, "expected tokens of kind byte");
  cr_assert_eq(truncate(run_path("run/checkpoints/step-000000010/part-000.h5"), 5000), 0);
  expect_failure(2, "eval run", 1, "none of the 1 checkpoints verifies");
}
