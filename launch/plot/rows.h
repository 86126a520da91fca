// The rows of a comparison as plots need them: read from results.json (docs/benchmarks.md).
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "nn/status.h"

typedef enum { PLOT_DENSE, PLOT_LEARNED, PLOT_CO_TRAINED, PLOT_POST_HOC, PLOT_ROLES } plot_role;

typedef struct {
  const json_t *json;
  const char *measure, *task, *model, *policy;
  const char *series; // the row's name without its task: the same measurement of another task or length
  plot_role role;
  char variant[40]; // the policy as the plan has it, its size left out
  char label[96];   // what a key calls this row
  char group[96];   // what a key calls rows that differ in nothing but their size
  // NAN where it was not measured
  double length, loss, loss_se, difference_ci95, accuracy, accuracy_ci95, kv_fraction, kv_bytes, kv_share,
      step_ms;
} plot_row;

typedef struct {
  json_t *json;
  plot_row *items;
  int count;
} plot_rows;

// Errors: NN_ERR_IO, NN_ERR_INPUT (no results of a comparison), NN_ERR_MEMORY. Free also after a failure.
nn_status plot_rows_read(const char *path, plot_rows *out);
void plot_rows_free(plot_rows *rows);

// A list in the row's `curve` as long as the list `position`, with numbers in it; else NULL.
const json_t *plot_row_curve(const plot_row *row, const char *list);

// Whether row `index` is the first of the rows for which `same` holds with it.
bool plot_rows_first(const plot_rows *rows, int index, bool (*same)(const plot_row *a, const plot_row *b));
