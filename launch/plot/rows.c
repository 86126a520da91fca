#include "launch/plot/rows.h"

#include <math.h> // NAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *text_of(const json_t *object, const char *name) {
  const char *text = json_string_value(json_object_get(object, name));
  return text != NULL ? text : "";
}

static double number_of(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static nn_status read_role(const char *path, int index, const char *text, plot_role *out) {
  static const char *const names[PLOT_ROLES] = {"dense", "learned", "co-trained", "post hoc"};
  for (int role = 0; role < PLOT_ROLES; role++)
    if (strcmp(text, names[role]) == 0) {
      *out = (plot_role)role;
      return NN_OK;
    }
  return NN_FAIL(NN_ERR_INPUT,
                 "%s: rows[%d].role: expected dense, learned, co-trained or post hoc, found '%s'", path,
                 index, text);
}

static nn_status read_row(const char *path, int index, const json_t *json, plot_row *row) {
  *row = (plot_row){.json = json,
                    .measure = text_of(json, "measure"),
                    .task = text_of(json, "task"),
                    .model = text_of(json, "model"),
                    .policy = text_of(json, "policy"),
                    .series = text_of(json, "name"),
                    .length = number_of(json, "length"),
                    .loss = number_of(json, "loss"),
                    .loss_se = number_of(json, "loss_se"),
                    .difference_ci95 = number_of(json_object_get(json, "difference"), "ci95"),
                    .accuracy = number_of(json, "accuracy"),
                    .accuracy_ci95 = number_of(json, "accuracy_ci95"),
                    .kv_fraction = number_of(json, "kv_fraction"),
                    .kv_bytes = number_of(json, "kv_bytes"),
                    .kv_share = number_of(json, "kv_share"),
                    .step_ms = number_of(json, "step_ms_p50")};
  const char *plus = strchr(row->series, '+');
  row->series = plus != NULL ? plus + 1 : row->series;
  plus = strchr(row->series, '+'); // MODEL+POLICY+BUDGET
  snprintf(row->variant, sizeof row->variant, "%.*s", (int)strcspn(plus != NULL ? plus + 1 : "", "+"),
           plus != NULL ? plus + 1 : "");
  if (row->variant[0] == '\0')
    snprintf(row->variant, sizeof row->variant, "%s", row->policy);
  return read_role(path, index, text_of(json, "role"), &row->role);
}

// Post hoc policies name their model, unless it is that of most of them: the first one's.
static const char *usual_model(const plot_rows *rows) {
  for (int i = 0; i < rows->count; i++)
    if (rows->items[i].role == PLOT_POST_HOC)
      return rows->items[i].model;
  return "";
}

// Which of a policy's sizes: what was asked for, since a size that is matched to a model has another share at
// every length; else what it takes.
static void name_size(const plot_row *row, char size[64]) {
  const json_t *budget = json_object_get(row->json, "budget");
  const char *match = text_of(budget, "match");
  double share = number_of(budget, "share");
  share = isnan(share) ? row->kv_share : share;
  size[0] = '\0';
  if (match[0] != '\0')
    snprintf(size, 64, " as %.50s", match);
  else if (!isnan(share))
    snprintf(size, 64, " %.3g%%", 100 * share);
}

static void name_row(plot_row *row, const char *usual) {
  bool other = strcmp(row->model, usual) != 0;
  const char *on = other ? " on " : "", *model = other ? row->model : "";
  char size[64];
  switch (row->role) {
  case PLOT_DENSE:
    snprintf(row->group, sizeof row->group, "%s", "dense");
    snprintf(row->label, sizeof row->label, "%s", row->model);
    break;
  case PLOT_LEARNED:
    snprintf(row->group, sizeof row->group, "%s", "NAtS (learned)");
    snprintf(row->label, sizeof row->label, "%s", row->model);
    break;
  case PLOT_CO_TRAINED:
    snprintf(row->group, sizeof row->group, "%.60s (co-trained)", row->policy);
    snprintf(row->label, sizeof row->label, "%.60s (co-trained)", row->model);
    break;
  default:
    snprintf(row->group, sizeof row->group, "%s%s%.40s", row->variant, on, model);
    name_size(row, size);
    snprintf(row->label, sizeof row->label, "%.40s%s%s%.30s", row->variant, size, on, model);
  }
}

nn_status plot_rows_read(const char *path, plot_rows *out) {
  json_error_t error;
  *out = (plot_rows){.json = json_load_file(path, JSON_REJECT_DUPLICATES, &error)};
  if (out->json == NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: expected the results of `natsformer compare`: %s", path, error.text);
  const json_t *rows = json_object_get(out->json, "rows");
  if (strcmp(text_of(out->json, "format"), "natsformer comparison") != 0 || !json_is_array(rows))
    return NN_FAIL(NN_ERR_INPUT, "%s: expected the results of `natsformer compare`, with a list of rows",
                   path);
  double version = number_of(out->json, "version");
  if (version != 1)
    return NN_FAIL(NN_ERR_INPUT, "%s: version: expected 1, found %g", path, version);
  out->items = calloc(json_array_size(rows) + 1, sizeof *out->items);
  if (out->items == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: out of memory for its rows", path);
  for (; out->count < (int)json_array_size(rows); out->count++)
    NN_TRY(read_row(path, out->count, json_array_get(rows, (size_t)out->count), &out->items[out->count]));
  const char *usual = usual_model(out);
  for (int i = 0; i < out->count; i++)
    name_row(&out->items[i], usual);
  return NN_OK;
}

void plot_rows_free(plot_rows *rows) {
  free(rows->items);
  json_decref(rows->json);
  *rows = (plot_rows){0};
}

const json_t *plot_row_curve(const plot_row *row, const char *list) {
  const json_t *curve = json_object_get(row->json, "curve"), *found = json_object_get(curve, list);
  size_t count = json_array_size(json_object_get(curve, "position"));
  bool any = false;
  for (size_t i = 0; i < json_array_size(found); i++)
    any = any || json_is_number(json_array_get(found, i));
  return any && json_array_size(found) == count ? found : NULL;
}

bool plot_rows_first(const plot_rows *rows, int index, bool (*same)(const plot_row *a, const plot_row *b)) {
  for (int i = 0; i < index; i++)
    if (same(&rows->items[i], &rows->items[index]))
      return false;
  return true;
}
