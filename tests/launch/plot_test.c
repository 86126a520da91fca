// `natsformer plot`: pictures of a comparison, from results as docs/benchmarks.md describes them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/files.h"
#include "tests/launch/run_fixture.h"

TestSuite(plot, .init = run_fixture_open, .fini = run_fixture_close, .timeout = 120);

static json_t *new_row(const char *task, const char *measure, const char *model, const char *policy,
                       const char *role, double fraction) {
  char name[160];
  bool post_hoc = strcmp(role, "post hoc") == 0;
  snprintf(name, sizeof name, "%s+%s+%s%s", task, model, policy, post_hoc ? "+share" : "");
  return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:i, s:f}", "name", name, "task", task,
                   "measure", measure, "model", model, "policy", policy, "role", role, "kv_fraction",
                   fraction, "kv_bytes", 1e6 * fraction, "kv_share", fraction, "length", 64, "step_ms_p50",
                   2.0);
}

static json_t *text_row(const char *model, const char *policy, const char *role, double fraction,
                        double loss) {
  json_t *row = new_row("text", "text", model, policy, role, fraction);
  json_object_set_new(row, "loss", json_real(loss));
  json_object_set_new(row, "loss_se", json_real(0.01));
  return row;
}

static json_t *needle_row(const char *model, const char *policy, const char *role, int length) {
  char task[40];
  snprintf(task, sizeof task, "needle-%d", length);
  json_t *row = new_row(task, "needle", model, policy, role, 0.1);
  json_object_set_new(row, "length", json_integer(length));
  json_object_set_new(
      row, "cells",
      json_pack("[{s:f, s:f}, {s:f, s:n}]", "depth", 0.05, "accuracy", 0.25, "depth", 0.95, "accuracy"));
  return row;
}

static json_t *text_rows(void) {
  json_t *rows = json_array(), *learned = text_row("nats", "nats", "learned", 0.03, 1.75);
  json_object_set_new(learned, "per_head", json_pack("[[f, f], [f, f]]", 0.01, 0.02, 0.03, 0.5));
  json_object_set_new(learned, "curve",
                      json_pack("{s:[i, i], s:[f, f], s:[f, f], s:[n, f]}", "position", 31, 63, "live", 3.0,
                                4.0, "kv_bytes", 1048576.0, 2097152.0, "step_ms", 1.5));
  json_array_append_new(rows, text_row("dense", "dense", "dense", 1, 1.5));
  json_array_append_new(rows, learned);
  json_array_append_new(rows, text_row("nats-2", "nats", "learned", 0.01, 2));
  json_object_set_new(json_array_get(rows, 0), "curve", // all of it within the warm-up
                      json_pack("{s:[i], s:[n]}", "position", 3, "step_ms"));
  json_array_append_new(rows, text_row("trained", "window", "co-trained", 0.05, 2.25));
  json_t *unreached = text_row("dense", "h2o", "post hoc", 0.01, 1);
  json_object_del(unreached, "loss"); // a budget that no size reaches
  json_object_del(unreached, "kv_fraction");
  json_array_append_new(rows, unreached);
  for (int i = 1; i <= 3; i++) // one cache that fails
    json_array_append_new(rows, text_row("dense", "h2o", "post hoc", 0.25 / i, i < 3 ? 1.5 + 0.1 * i : 90));
  return rows;
}

static void write_results(const char *folder, json_t *rows) {
  char path[300];
  cr_ok(data_folder_create(run_path(folder)));
  snprintf(path, sizeof path, "%s/results.json", run_path(folder));
  json_t *results =
      json_pack("{s:s, s:i, s:o}", "format", "natsformer comparison", "version", 1, "rows", rows);
  cr_assert_eq(json_dump_file(results, path, 0), 0);
  json_decref(results);
}

static char *read_file(const char *path) {
  char *text;
  size_t bytes;
  cr_ok(data_file_read(run_path(path), &text, &bytes));
  return text;
}

static void expect_part(const char *path, const char *part) {
  char *text = read_file(path);
  cr_expect_not_null(strstr(text, part), "%s: expected '%s' in\n%s", path, part, text);
  free(text);
}

// Both pictures of a plot are there and are pictures.
static void expect_pictures(const char *name) {
  char path[100];
  snprintf(path, sizeof path, "out/plots/%s.png", name);
  char *png = read_file(path);
  cr_expect_eq(memcmp(png, "\x89PNG\r\n", 6), 0, "%s", path);
  free(png);
  snprintf(path, sizeof path, "out/plots/%s.svg", name);
  expect_part(path, "</svg>");
}

static char *plot(void) {
  char *err;
  cr_expect_eq(run_program(0, "plot out", NULL, &err), 0, "%s", err);
  return err;
}

// Broken: a paper's figures are missing, or show other numbers than the table.
Test(plot, draws_what_was_measured) {
  json_t *rows = text_rows(), *task = new_row("mqar", "task", "nats", "nats", "learned", 0.1);
  json_object_set_new(task, "accuracy", json_real(0.75));
  json_array_append_new(rows, task);
  for (int length = 1024; length <= 2048; length *= 2) {
    json_array_append_new(rows, needle_row("dense", "dense", "dense", length));
    json_array_append_new(rows, needle_row("dense", "h2o", "post hoc", length));
  }
  write_results("out", rows);
  free(plot());
  static const char *const names[] = {"loss", "accuracy-mqar", "heads", "live", "cost", "length", "needle"};
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    expect_pictures(names[i]);
  // Learned models are one line from the smallest cache on; a policy under one model needs no "on".
  expect_part("out/plots/loss.tsv", "# NAtS (learned)\n0.01\t2\t0.01\n0.03\t1.75\t0.01\n");
  expect_part("out/plots/loss.gp", "title 'h2o'");
  expect_part("out/plots/loss.tsv", "# h2o\n0.0833333333\t90\t0.01\n0.125\t1.7\t0.01\n0.25\t1.6\t0.01\n");
  expect_part("out/plots/loss.gp", "title 'window (co-trained)'");
  expect_part("out/plots/loss.gp", "set label '1 point above this range'");
  expect_part("out/plots/accuracy-mqar.tsv", "0.1\t0.75\t0\n");
  expect_part("out/plots/heads.tsv", "0\t0\t0.01\n1\t0\t0.02\n0\t1\t0.03\n1\t1\t0.5\n");
  expect_part("out/plots/live.tsv", "# nats\n32\t3\n64\t4\n");
  expect_part("out/plots/cost.tsv", "32\tnan\n64\t1.5\n\n\n# nats\n32\t1\n64\t2\n");
  expect_part("out/plots/length.tsv", "# dense\n1024\t2\n2048\t2\n");
  expect_part("out/plots/needle.tsv", "0\t0\t0.25\n0\t1\tnan\n1\t0\t0.25\n");
}

// Broken: a comparison without needles draws nothing, or people look for a plot that cannot be there.
Test(plot, says_what_is_left_out) {
  json_t *rows = json_array();
  json_array_append_new(rows, text_row("it's <a>\n%d", "dense", "dense", 1, 1.5));
  json_array_append_new(rows, text_row("it's <a>\n%d", "new 'policy'", "post hoc", 0.5, 1.75));
  json_array_append_new(rows, text_row("b & c", "new 'policy'", "post hoc", 0.5, 1.75));
  write_results("out", rows);
  char *err = plot();
  static const char *const lines[] = {"no KV fraction of heads", "no live tokens", "no cost over positions",
                                      "no time and memory against length", "no needle heat map"};
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++)
    cr_expect_not_null(strstr(err, lines[i]), "expected '%s' in\n%s", lines[i], err);
  free(err);
  expect_pictures("loss"); // whatever the names are
  expect_part("out/plots/loss.gp", "title 'new ''policy'' on b & c'");
  cr_expect_neq(access(run_path("out/plots/needle.png"), F_OK), 0);
}

static void expect_refusal(const char *arguments, int code, const char *says) {
  char *err;
  cr_expect_eq(run_program(0, arguments, NULL, &err), code, "%s\n%s", arguments, err);
  cr_expect_not_null(strstr(err, says), "%s: expected '%s' in\n%s", arguments, says, err);
  free(err);
}

// Broken: plots of something else, or a failure that nobody can place.
Test(plot, says_what_is_wrong) {
  json_t *rows = json_array();
  json_array_append_new(rows, text_row("dense", "dense", "best", 1, 1.5));
  write_results("out", rows);
  expect_refusal("plot out", 1,
                 "rows[0].role: expected dense, learned, co-trained or post hoc, found 'best'");
  cr_ok(data_file_write(run_path("out/results.json"), "{\"version\": 1}", 14));
  expect_refusal("plot out", 1, "out/results.json: expected the results of `natsformer compare`");
  expect_refusal("plot nothing", 1, "nothing/results.json");
  expect_refusal("plot out/results.json", 1, "out/results.json/results.json");
  expect_refusal("plot", 2, "plot: expected one folder");
  expect_refusal("plot out out", 2, "plot: expected one folder");
}
