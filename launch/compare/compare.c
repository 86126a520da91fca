// natsformer compare
#include <omp.h> // omp_get_max_threads
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // isatty

#include "data/files.h"
#include "data/lock.h"
#include "data/manifest.h" // data_path_join
#include "dist/stop.h"
#include "launch/command.h"
#include "launch/compare/compare.h"
#include "launch/config/options.h"
#include "launch/machine/blas_core.h"
#include "launch/machine/device.h"
#include "launch/records/progress.h"
#include "nn/log.h"

typedef struct {
  const char *plan, *folder;
  const char **words; // [argc] room for the overrides
  launch_list operands;
  bool json;
} compare_options;

static nn_status read_options(int argc, char **argv, compare_options *o) {
  *o = (compare_options){.words = calloc((size_t)argc, sizeof *o->words)};
  if (o->words == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the command line");
  o->operands.items = o->words;
  const launch_option table[] = {
      {"--out", LAUNCH_OPTION_TEXT, &o->folder, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  NN_TRY(launch_options_read("compare", table, sizeof table / sizeof *table, argc, argv, &o->operands));
  if (o->operands.count < 1 || strchr(o->operands.items[0], '=') != NULL)
    return NN_FAIL(NN_ERR_USAGE,
                   "compare: expected a plan, as in `natsformer compare plan.yaml --out results`");
  if (o->folder == NULL)
    return NN_FAIL(NN_ERR_USAGE, "compare: --out is missing: the folder of the results");
  if (strlen(o->folder) >= COMPARE_PATH)
    return NN_FAIL(NN_ERR_USAGE, "compare: --out: expected less than %d characters", COMPARE_PATH);
  o->plan = o->operands.items[0];
  return NN_OK;
}

// ---- the same on all ranks

static nn_status load_plan(comparison *c, const compare_options *o) {
  nn_status status = NN_OK;
  if (dist_rank(c->world) == 0)
    status = compare_plan_read(o->plan, o->operands.items + 1, (int)o->operands.count - 1, &c->plan);
  NN_TRY(dist_agree(c->world, status));
  return dist_broadcast(c->world, &c->plan, (int64_t)sizeof c->plan, 0);
}

// One kind of device for all ranks, a GPU for each; every model is opened on it later.
static nn_status find_device(comparison *c) {
  nn_device *device = NULL;
  NN_TRY(launch_device_open(c->world, c->plan.device, c->plan.precision, false, &device));
  bool cpu = nn_device_get_kind(device) == NN_DEVICE_CPU;
  snprintf(c->device_text, sizeof c->device_text, "%s", nn_device_describe(device));
  snprintf(c->device, sizeof c->device, "%s", cpu ? "cpu" : "cuda");
  nn_device_close(device);
  return dist_group_alone(c->world, &c->alone);
}

static nn_status look(comparison *c) {
  NN_TRY(dist_agree(c->world, dist_rank(c->world) == 0 ? compare_look(c) : NN_OK));
  NN_TRY(dist_broadcast(c->world, c->models, (int64_t)sizeof c->models, 0));
  NN_TRY(dist_broadcast(c->world, c->device_text, (int64_t)sizeof c->device_text, 0)); // rank 0's for all
  return dist_broadcast(c->world, c->precision, (int64_t)sizeof c->precision, 0);
}

// ---- progress

typedef struct {
  comparison *c;
  const compare_row *row;
  double shown;
} showing;

// All ranks' rows, by their files; what they cost says how long the rest will take.
static void show(void *context, double share) {
  showing *s = context;
  const comparison *c = s->c;
  double now = launch_seconds();
  bool terminal = isatty(STDERR_FILENO) != 0;
  if (dist_rank(c->world) != 0 || now - s->shown < (terminal ? 0.5 : 30))
    return;
  s->shown = now;
  int32_t done = 0;
  double cost_done = share * s->row->cost, cost_left = (1 - share) * s->row->cost;
  for (int32_t r = 0; r < c->row_count; r++) {
    const compare_row *row = &c->rows[r];
    bool written = compare_row_measured(c, row);
    done += written;
    if (row == s->row || row->done)
      continue;
    *(written ? &cost_done : &cost_left) += row->cost;
  }
  char left[LAUNCH_DURATION];
  launch_duration((now - c->started) * cost_left / cost_done, left);
  if (!terminal) {
    nn_info("compare: %d of %d rows, now %s, about %s left", done, c->row_count, s->row->name, left);
    return;
  }
  fprintf(stderr, "\rcompare: %d of %d rows, now %s, about %s left\033[K", done, c->row_count, s->row->name,
          left);
  fflush(stderr);
  nn_log_line_open();
}

// ---- rows

static nn_status measure_row(comparison *c, const compare_row *row) {
  if (dist_stop_asked())
    return NN_STOPPED;
  showing s = {.c = c, .row = row, .shown = launch_seconds()};
  return compare_measure_row(c, row, show, &s);
}

// The rows of this rank that one model has at one budget.
static nn_status measure_budget(comparison *c, int32_t phase, int32_t model, int32_t budget) {
  for (int32_t r = 0; r < c->row_count; r++) {
    const compare_row *row = &c->rows[r];
    if (row->model == model && row->budget == budget && compare_row_phase(row) == phase && !row->done &&
        row->rank == dist_rank(c->world))
      NN_TRY(measure_row(c, row));
  }
  return NN_OK;
}

// All policies at one budget before those at the next: a comparison that is stopped has something of each.
// First those without a budget and those that are matched to a model.
static nn_status measure_own(comparison *c, int32_t phase) {
  int32_t shares = c->plan.budgets_count, budgets = shares + c->plan.match.count;
  for (int32_t m = 0; m < c->plan.models_count; m++) {
    NN_TRY(measure_budget(c, phase, m, -1));
    for (int32_t b = 0; b < budgets; b++)
      NN_TRY(measure_budget(c, phase, m, (b + shares) % budgets));
  }
  return NN_OK;
}

static nn_status measure_phase(comparison *c, int32_t phase) {
  NN_TRY(dist_agree(c->world, dist_rank(c->world) == 0 ? compare_prepare(c, phase) : NN_OK));
  NN_TRY(dist_broadcast(c->world, c->rows, (int64_t)sizeof *c->rows * c->row_count, 0));
  nn_status status = measure_own(c, phase);
  // The others would learn of it only when they are done themselves.
  if (status != NN_OK && status != NN_STOPPED)
    nn_warn("rank %d measures no more: %s", dist_rank(c->world), nn_error_text());
  return dist_agree(c->world, status);
}

// Tables of the rows that there are so far.
static nn_status report_stopped(const comparison *c) {
  int32_t done = 0;
  if (dist_rank(c->world) != 0)
    return NN_STOPPED;
  for (int32_t r = 0; r < c->row_count; r++)
    done += compare_row_measured(c, &c->rows[r]);
  nn_info("compare: stopped with %d of %d rows measured; the same command measures the others", done,
          c->row_count);
  NN_TRY(compare_report(c, true, false));
  return NN_STOPPED;
}

// ---- the command

static nn_status make_folders(const comparison *c, int *lock) {
  char path[COMPARE_PATH + 16];
  if (dist_rank(c->world) != 0)
    return NN_OK;
  NN_TRY(data_path_join(path, sizeof path, c->folder, "rows"));
  NN_TRY(data_folder_create(path));
  return data_lock_take(c->folder, "lock", "measuring here", lock);
}

static nn_status compare(comparison *c, const compare_options *o, int *lock) {
  c->folder = o->folder;
  c->open = -1;
  dist_set_deadline(c->world, 0); // ranks wait for each other as long as a row takes
  NN_TRY(load_plan(c, o));
  NN_TRY(launch_set_threads(c->world, c->plan.threads));
  c->threads = omp_get_max_threads();
  NN_TRY(find_device(c));
  NN_TRY(dist_agree(c->world, make_folders(c, lock)));
  NN_TRY(look(c));
  NN_TRY(compare_rows_list(c));
  NN_TRY(compare_make_needles(c));
  c->started = launch_seconds();
  for (int32_t phase = 0; phase < 2; phase++) {
    nn_status status = measure_phase(c, phase);
    if (status != NN_OK)
      return status == NN_STOPPED ? dist_agree(c->world, report_stopped(c)) : status;
  }
  return dist_agree(c->world, dist_rank(c->world) == 0 ? compare_report(c, false, o->json) : NN_OK);
}

static nn_status run(dist_group *world, int argc, char **argv) {
  static comparison c; // too large for some stacks
  c = (comparison){.world = world};
  compare_options options;
  int lock = -1;
  nn_status status = read_options(argc, argv, &options);
  if (status == NN_OK)
    status = compare(&c, &options, &lock);
  launch_run_close(&c.run);
  dist_group_free(c.alone);
  data_lock_free(lock);
  free(c.rows);
  free(options.words);
  return status;
}

const launch_command launch_compare = {
    .name = "compare",
    .run = run,
    .stops = true,
    .summary = "compare KV cache policies on text, recall tasks and needles",
    .usage =
        "usage: natsformer compare PLAN.yaml --out DIR [key=value ...]\n"
        "\n"
        "Decodes the same samples with every model and every eviction policy of the plan, and writes tables "
        "and\n"
        "plots into DIR: results.md, results.csv, results.json, rows/. Keys of the plan: "
        "docs/benchmarks.md.\n"
        "With several ranks (mpirun -np N natsformer compare ...) each measures whole rows.\n"
        "USR1 stops it, with tables of what was measured; the same command goes on where it stopped, and "
        "measures\n"
        "again what has changed.\n"
        "\n"
        "  --out DIR    folder of the results\n"
        "  --json       print results.json on standard output, not the table\n"
        "  key=value    replaces a key of the plan, as in samples=8 or budgets=[0.1,0.2] or "
        "needle.samples=4\n",
};
