// The results: all rows read back, set beside the dense model's, and written as JSON, CSV and Markdown.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"
#include "data/manifest.h" // data_path_join
#include "launch/compare/choice.h"
#include "launch/compare/compare.h"
#include "launch/plot/compare_plots.h"
#include "launch/records/output_file.h"
#include "launch/records/statistics.h"
#include "nn/log.h"

const char *const compare_protocol[] = {
    "Every row decodes the same samples token by token with a cache that really evicts; the next token is "
    "given, not sampled. Samples are drawn from the whole split by a permutation that nothing in the plan "
    "changes.",
    "loss: nats per scored token; perplexity exp(loss); bits per byte of source text. +-: standard error "
    "over samples. Predictions inside of a prompt are not scored.",
    "against dense: mean of this row's loss minus that of the dense model under its own policy, sample by "
    "sample, and its 95% interval (Student t). Rows differ where it leaves out 0.",
    "role: dense (the yardstick); learned (token types decide, trained with them); co-trained (trained "
    "from scratch under this very policy, with its own tokens); post hoc (an eviction policy on a model "
    "that was trained without it).",
    "KV fraction: live pairs over causal pairs, over all steps, layers and kv heads; step mean: mean over "
    "steps of live over seen tokens.",
    "bytes: what the cache has allocated for a sequence at its peak, with the rest of pages, page tables, "
    "positions and scores; share: of what the dense policy allocates at that length. Sizes of post-hoc "
    "policies are those whose bytes come closest to the bytes wanted, above or below, as a ratio; of wanted: "
    "that ratio, with a note where it is off by more than the plan's tolerance.",
    "live: tokens in the cache of a layer and kv head, mean over them. read: keys and values that a step "
    "attends to, of a sequence; scores and tables that a policy looks at are not counted.",
    "step: time of a decoding step of a whole batch until its result is on the host, median and 95th "
    "percentile; the first 16 steps of a row are not timed. Ranks that measure rows at the same time "
    "share the machine. prefill: a prompt, at once; policies that no parallel pass can stand for (h2o, tova "
    "and others) take it token by token.",
    "Policies that draw random numbers are measured with every seed. Intervals of tasks are over samples, "
    "those of needles over seeds; both use Student t. Where all samples agree it is 0, which is not "
    "certainty.",
    NULL,
};

// ---- columns

typedef struct {
  const char *path;   // of the value in a row's object: "difference.loss"
  const char *title;  // in the table; NULL: in the CSV alone
  const char *format; // of a number in the table; "bytes": KiB; "text"
  const char *spread; // path of what stands behind +-; NULL: nothing
} column;

static const column columns[] = {
    {"task", "task", "text", NULL},
    {"model", "model", "text", NULL},
    {"choice", "policy", "text", NULL},
    {"role", "role", "text", NULL},
    {"budget.share", NULL, NULL, NULL},
    {"budget.match", NULL, NULL, NULL},
    {"budget.bytes_wanted", "wanted KiB", "bytes", NULL},
    {"kv_bytes", "KiB at peak", "bytes", NULL},
    {"budget.achieved", "of wanted", "%.3f", NULL},
    {"kv_share", "share", "%.4f", NULL},
    {"loss", "loss", "%.4f", "loss_se"},
    {"loss_se", NULL, NULL, NULL},
    {"difference.loss", "against dense", "%+.4f", "difference.ci95"},
    {"difference.ci95", NULL, NULL, NULL},
    {"perplexity", "perplexity", "%.3f", NULL},
    {"bits_per_byte", "bits/byte", "%.4f", NULL},
    {"accuracy", "accuracy", "%.4f", "accuracy_ci95"},
    {"accuracy_ci95", NULL, NULL, NULL},
    {"kv_fraction", "KV fraction", "%.4f", NULL},
    {"kv_fraction_stepmean", "step mean", "%.4f", NULL},
    {"live_tokens_peak", "live at peak", "%.1f", NULL},
    {"live_tokens", "live at end", "%.1f", NULL},
    {"kv_bytes_end", NULL, NULL, NULL},
    {"kv_bytes_dense", NULL, NULL, NULL},
    {"bytes_read", "read KiB/step", "bytes", NULL},
    {"step_ms_p50", "step ms p50", "%.3f", NULL},
    {"step_ms_p95", "p95", "%.3f", NULL},
    {"prefill_ms", "prefill ms", "%.1f", NULL},
    {"tokens_per_s", NULL, NULL, NULL},
    {"length", NULL, NULL, NULL},
    {"prompt", NULL, NULL, NULL},
    {"samples", NULL, NULL, NULL},
    {"batch", NULL, NULL, NULL},
    {"page_tokens", NULL, NULL, NULL},
    {"note", "note", "text", NULL},
    {"name", NULL, NULL, NULL},
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static const json_t *value_at(const json_t *row, const char *path) {
  char first[64];
  const char *dot = strchr(path, '.');
  if (dot == NULL)
    return json_object_get(row, path);
  snprintf(first, sizeof first, "%.*s", (int)(dot - path), path);
  return json_object_get(json_object_get(row, first), dot + 1);
}

// ---- what rows say beside each other

static double number_of(const json_t *list, size_t index) {
  return json_number_value(json_array_get(list, index));
}

// The mean of a row's loss minus the reference's over the same samples, and its interval.
static json_t *difference_json(const json_t *row, const json_t *reference) {
  const json_t *nll = json_object_get(row, "sample_nll"), *scored = json_object_get(row, "sample_scored");
  const json_t *other = json_object_get(reference, "sample_nll"),
               *weights = json_object_get(reference, "sample_scored");
  size_t count = json_array_size(nll);
  double *values = calloc(2 * count + 1, sizeof *values);
  if (count == 0 || count != json_array_size(other) || values == NULL) {
    free(values);
    return NULL;
  }
  for (size_t s = 0; s < count; s++) { // a policy that draws has its sums over all seeds
    double own = number_of(scored, s), theirs = number_of(weights, s);
    values[2 * s + 1] = theirs;
    values[2 * s] = own > 0 ? number_of(nll, s) * theirs / own - number_of(other, s) : 0;
  }
  launch_mean mean = launch_mean_of(values, values + 1, 2, (int64_t)count);
  double ci95 = launch_mean_ci95(&mean);
  free(values);
  json_t *object = json_pack("{s:O, s:f, s:I}", "reference", json_object_get(reference, "name"), "loss",
                             mean.mean, "samples", (json_int_t)count);
  if (object != NULL && !isnan(ci95))
    json_object_set_new(object, "ci95", json_real(ci95));
  return object;
}

// The row of the first model trained as dense, on the same task.
static const compare_row *reference_of(const comparison *c, const compare_row *row) {
  for (int32_t m = 0; m < c->plan.models_count; m++) {
    const compare_row *own = compare_row_own(c, row, m);
    if (own != NULL && c->models[m].config.attention == NATS_ATTENTION_DENSE)
      return own;
  }
  return NULL;
}

// What the cache took beside what it should: sizes come in pages, and heads are few.
static void set_achieved(const comparison *c, const compare_row *row, json_t *object) {
  const nats_policy *policy = compare_find_policy(row->choice);
  const json_t *bytes = json_object_get(object, policy->prompt_only ? "kv_bytes_end" : "kv_bytes");
  char note[2 * COMPARE_NOTE];
  if (row->budget < 0 || bytes == NULL)
    return;
  double ratio = json_number_value(bytes) / (double)row->bytes_wanted;
  json_object_set_new(json_object_get(object, "budget"), "achieved", json_real(ratio));
  if (fabs(ratio - 1) <= c->plan.tolerance)
    return;
  snprintf(note, sizeof note, "%s%stakes %.2f of the bytes wanted", row->note,
           row->note[0] != '\0' ? "; " : "", ratio);
  json_object_set_new(object, "note", json_string(note));
}

static nn_status finished_row(const comparison *c, const compare_row *row, json_t **out) {
  const compare_row *reference = reference_of(c, row);
  *out = compare_row_read(c, row);
  if (*out == NULL)
    return NN_FAIL(NN_ERR_IO, "%s: its results are not in %s/rows", row->name, c->folder);
  json_t *other = reference != NULL && reference != row ? compare_row_read(c, reference) : NULL;
  json_t *difference = other != NULL ? difference_json(*out, other) : NULL;
  if (difference != NULL)
    json_object_set_new(*out, "difference", difference);
  json_decref(other);
  set_achieved(c, row, *out);
  json_object_del(*out, "sample_nll");
  json_object_del(*out, "sample_scored");
  return NN_OK;
}

// ---- the whole object

static json_t *model_json(const comparison *c, int32_t model) {
  const compare_model *plan = &c->plan.models[model];
  const compare_model_info *info = &c->models[model];
  const nats_model_config *config = &info->config;
  char hash[DATA_HASH_DIGITS + 1];
  data_hash_format(info->hash, hash);
  json_t *object =
      json_pack("{s:s, s:s, s:s, s:I, s:s, s:s, s:I, s:I}", "name", plan->name, "run", plan->run,
                "checkpoint", info->checkpoint, "step", (json_int_t)info->step, "hash", hash, "trained",
                config->attention == NATS_ATTENTION_NATS     ? "nats"
                : config->attention == NATS_ATTENTION_WINDOW ? "window"
                                                             : "dense",
                "tokens", (json_int_t)info->tokens, "seed", (json_int_t)info->seed);
  json_object_update_new(object, json_pack("{s:f, s:f, s:i, s:I}", "lambda", info->lambda, "kv_target",
                                           info->kv_target, "window", config->window, "parameters",
                                           (json_int_t)info->parameters));
  json_object_update_new(object, json_pack("{s:i, s:i, s:i, s:i, s:i}", "layers", config->layers, "width",
                                           config->width, "heads", config->heads, "kv_heads",
                                           config->kv_heads, "head_size", config->head_size));
  return object;
}

static json_t *protocol_json(void) {
  json_t *lines = json_array();
  for (int i = 0; compare_protocol[i] != NULL; i++)
    json_array_append_new(lines, json_string(compare_protocol[i]));
  return lines;
}

static nn_status results_json(const comparison *c, bool stopped, json_t **out) {
  json_t *models = json_array(), *rows = json_array();
  for (int32_t m = 0; m < c->plan.models_count; m++)
    json_array_append_new(models, model_json(c, m));
  nn_status status = NN_OK;
  int32_t missing = 0;
  for (int32_t r = 0; r < c->row_count && status == NN_OK; r++) {
    json_t *row = NULL;
    if (stopped && !compare_row_measured(c, &c->rows[r])) {
      missing++;
      continue;
    }
    status = finished_row(c, &c->rows[r], &row);
    json_array_append_new(rows, row);
  }
  *out =
      json_pack("{s:s, s:i, s:s, s:s, s:s, s:i, s:i, s:o, s:o, s:o, s:o}", "format", "natsformer comparison",
                "version", 1, "program", NATSFORMER_VERSION, "device", c->device_text, "precision",
                c->precision, "ranks", dist_size(c->world), "threads", c->threads, "plan",
                compare_plan_json(&c->plan), "protocol", protocol_json(), "models", models, "rows", rows);
  if (status == NN_OK && *out == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "out of memory for the results");
  if (missing > 0)
    json_object_set_new(*out, "rows_missing", json_integer(missing));
  return status;
}

// ---- CSV

static void print_csv_value(FILE *file, const json_t *value) {
  if (json_is_string(value)) { // "" inside of quotes is a quote
    fputc('"', file);
    for (const char *letter = json_string_value(value); *letter != '\0'; letter++)
      fprintf(file, *letter == '"' ? "\"\"" : "%c", *letter);
    fputc('"', file);
  } else if (json_is_integer(value)) {
    fprintf(file, "%lld", (long long)json_integer_value(value));
  } else if (json_is_real(value)) {
    fprintf(file, "%.9g", json_real_value(value));
  }
}

static void print_csv(FILE *file, const json_t *results) {
  size_t r;
  const json_t *row, *rows = json_object_get(results, "rows");
  for (int i = 0; i < COLUMNS; i++)
    fprintf(file, "%s%s", columns[i].path, i + 1 < COLUMNS ? "," : "\n");
  json_array_foreach(rows, r, row) for (int i = 0; i < COLUMNS; i++) {
    print_csv_value(file, value_at(row, columns[i].path));
    fputc(i + 1 < COLUMNS ? ',' : '\n', file);
  }
}

// ---- Markdown

// Rows of an earlier command stay, and times are of where they were taken.
static void print_measured_elsewhere(FILE *file, const comparison *c, const json_t *results) {
  size_t r, others = 0;
  const json_t *row;
  json_array_foreach(json_object_get(results, "rows"), r, row) {
    const json_t *by = json_object_get(row, "measured_by");
    const char *device = json_string_value(json_object_get(by, "device"));
    others += device == NULL || strcmp(device, c->device_text) != 0 ||
              json_integer_value(json_object_get(by, "ranks")) != dist_size(c->world) ||
              json_integer_value(json_object_get(by, "threads")) != c->threads;
  }
  if (others > 0)
    fprintf(
        file,
        "- %zu rows were measured by an earlier command, on another device or with other ranks or threads: "
        "do not compare their times (measured_by in results.json).\n",
        others);
}

static void format_number(char *text, size_t space, const char *format, double value) {
  if (strcmp(format, "bytes") == 0)
    snprintf(text, space, "%.1f", value / 1024);
  else
    snprintf(text, space, format, value); // of the table above
}

static void print_cell(FILE *file, const json_t *row, const column *shown) {
  const json_t *value = value_at(row, shown->path);
  const json_t *spread = shown->spread != NULL ? value_at(row, shown->spread) : NULL;
  char text[64];
  if (json_is_string(value)) {
    fprintf(file, " %s |", json_string_value(value));
  } else if (json_is_number(value)) {
    format_number(text, sizeof text, shown->format, json_number_value(value));
    fprintf(file, " %s", text);
    if (json_is_number(spread)) {
      format_number(text, sizeof text, "%.4f", json_number_value(spread));
      fprintf(file, " +- %s", text);
    }
    fputs(" |", file);
  } else {
    fputs(" |", file);
  }
}

// Columns that no row has a value for are left out.
static bool is_used(const json_t *rows, const char *task, const column *shown) {
  size_t r;
  const json_t *row;
  if (shown->title == NULL)
    return false;
  json_array_foreach(rows, r, row) if (strcmp(json_string_value(json_object_get(row, "task")), task) == 0 &&
                                       value_at(row, shown->path) != NULL) return true;
  return false;
}

static void print_table(FILE *file, const json_t *rows, const char *task) {
  bool used[COLUMNS];
  size_t r;
  const json_t *row;
  fprintf(file, "\n## %s\n\n|", task);
  for (int i = 1; i < COLUMNS; i++) {
    used[i] = is_used(rows, task, &columns[i]);
    if (used[i])
      fprintf(file, " %s |", columns[i].title);
  }
  fputs("\n|", file);
  for (int i = 1; i < COLUMNS; i++)
    if (used[i])
      fputs("---|", file);
  fputc('\n', file);
  json_array_foreach(rows, r, row) {
    if (strcmp(json_string_value(json_object_get(row, "task")), task) != 0)
      continue;
    fputc('|', file);
    for (int i = 1; i < COLUMNS; i++)
      if (used[i])
        print_cell(file, row, &columns[i]);
    fputc('\n', file);
  }
}

// Retrieval at every depth, a line for each row that has needles of one length.
static void print_needles(FILE *file, const json_t *rows, const char *task) {
  size_t r, d;
  const json_t *row, *cell;
  bool headed = false;
  json_array_foreach(rows, r, row) {
    const json_t *cells = json_object_get(row, "cells");
    if (cells == NULL || strcmp(json_string_value(json_object_get(row, "task")), task) != 0)
      continue;
    if (!headed) {
      fputs("\nAccuracy by depth (0: first position).\n\n| model | policy |", file);
      json_array_foreach(cells, d, cell)
          fprintf(file, " %g |", json_number_value(json_object_get(cell, "depth")));
      fputs("\n|---|---|", file);
      for (d = 0; d < json_array_size(cells); d++)
        fputs("---|", file);
      fputc('\n', file);
      headed = true;
    }
    fprintf(file, "| %s | %s |", json_string_value(json_object_get(row, "model")),
            json_string_value(json_object_get(row, "choice")));
    json_array_foreach(cells, d, cell)
        fprintf(file, " %.3f +- %.3f |", json_number_value(json_object_get(cell, "accuracy")),
                json_number_value(json_object_get(cell, "accuracy_ci95")));
    fputc('\n', file);
  }
}

static void print_markdown(FILE *file, const comparison *c, const json_t *results) {
  const json_t *rows = json_object_get(results, "rows"), *row;
  const char *last = "";
  size_t r;
  fprintf(file, "# KV caches compared\n\nnatsformer %s, %s, %s, ranks: %d, threads of each: %d, seeds:",
          NATSFORMER_VERSION, c->device_text, c->precision, dist_size(c->world), c->threads);
  for (int32_t s = 0; s < c->plan.seeds_count; s++)
    fprintf(file, " %lld", (long long)c->plan.seeds[s]);
  fputs(".\n\n", file);
  for (int i = 0; compare_protocol[i] != NULL; i++)
    fprintf(file, "- %s\n", compare_protocol[i]);
  print_measured_elsewhere(file, c, results);
  long long missing = (long long)json_integer_value(json_object_get(results, "rows_missing"));
  if (missing > 0)
    fprintf(file, "- Stopped: %lld more rows of the plan have not been measured yet.\n", missing);
  json_array_foreach(rows, r, row) {
    const char *task = json_string_value(json_object_get(row, "task"));
    if (strcmp(task, last) == 0)
      continue;
    last = task;
    print_table(file, rows, task);
    print_needles(file, rows, task);
    fprintf(file, "\n%lld of %lld samples (%s), %lld tokens each, batch %lld, pages of %lld tokens.\n",
            (long long)json_integer_value(json_object_get(row, "samples")),
            (long long)json_integer_value(json_object_get(row, "samples_available")),
            json_string_value(json_object_get(row, "sample")),
            (long long)json_integer_value(json_object_get(row, "length")),
            (long long)json_integer_value(json_object_get(row, "batch")),
            (long long)json_integer_value(json_object_get(row, "page_tokens")));
  }
}

// ---- files

typedef void (*printer)(FILE *file, const comparison *c, const json_t *results);

static void print_json(FILE *file, const comparison *c, const json_t *results) {
  (void)c;
  json_dumpf(results, file, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
  fputc('\n', file);
}

static void print_csv_file(FILE *file, const comparison *c, const json_t *results) {
  (void)c;
  print_csv(file, results);
}

static nn_status write_file(const comparison *c, const char *name, printer print, const json_t *results) {
  char path[COMPARE_PATH + 32];
  launch_output output;
  NN_TRY(data_path_join(path, sizeof path, c->folder, name));
  NN_TRY(launch_output_open(path, &output));
  print(output.file, c, results);
  return launch_output_keep(&output);
}

// Without gnuplot the numbers are still all there.
static void draw_plots(const comparison *c) {
  if (launch_compare_plots(c->folder) == NN_OK)
    return;
  nn_warn("no plots: %s", nn_error_text());
  nn_error_clear();
}

nn_status compare_report(const comparison *c, bool stopped, bool json) {
  json_t *results = NULL;
  nn_status status = results_json(c, stopped, &results);
  if (status == NN_OK)
    status = write_file(c, "results.csv", print_csv_file, results);
  if (status == NN_OK)
    status = write_file(c, "results.md", print_markdown, results);
  if (status == NN_OK) // last: a folder with it is complete
    status = write_file(c, "results.json", print_json, results);
  if (status == NN_OK)
    draw_plots(c);
  if (status == NN_OK && !stopped)
    json ? print_json(stdout, c, results) : print_markdown(stdout, c, results);
  json_decref(results);
  return status;
}
