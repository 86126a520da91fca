// How the cache and its cost grow: live tokens, time of a step and memory over positions; the same over
// lengths.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/plot/files.h"
#include "nn/log.h"

// One panel of a plot: a quantity by name, in what unit, from which list or number.
typedef struct {
  const char *list, *title;
  double unit;
  bool log;
} quantity;

static const quantity live = {"live", "live tokens of a layer and head", 1, true};
static const quantity costs[] = {{"step_ms", "decoding step (ms)", 1, false},
                                 {"kv_bytes", "cache of a sequence (MiB)", 1048576, true}};
static const char decoded[] = "tokens decoded";
enum { COSTS = sizeof costs / sizeof *costs };

// ---- which rows

static bool is_text(const plot_row *row) {
  return strcmp(row->measure, "text") == 0 && plot_row_curve(row, "position") != NULL;
}

static bool same_group(const plot_row *a, const plot_row *b) {
  return is_text(a) && is_text(b) && a->role == b->role && strcmp(a->group, b->group) == 0;
}

// A size that all have: the learned models', or that of the first post hoc row.
static double typical_bytes(const plot_rows *rows) {
  double found = (double)NAN;
  for (int i = rows->count - 1; i >= 0; i--)
    if (is_text(&rows->items[i]) && rows->items[i].role == PLOT_POST_HOC)
      found = rows->items[i].kv_bytes;
  for (int i = rows->count - 1; i >= 0; i--)
    if (is_text(&rows->items[i]) && rows->items[i].role == PLOT_LEARNED)
      found = rows->items[i].kv_bytes;
  return found;
}

// All trained models, and of each policy under them the size nearest to `bytes`.
static bool is_chosen(const plot_rows *rows, int index, double bytes) {
  const plot_row *row = &rows->items[index];
  if (!is_text(row) || row->role != PLOT_POST_HOC)
    return is_text(row);
  for (int i = 0; i < rows->count; i++) {
    double mine = fabs(row->kv_bytes - bytes), other = fabs(rows->items[i].kv_bytes - bytes);
    if (same_group(&rows->items[i], row) && (other < mine || (other == mine && i < index)))
      return false;
  }
  return true;
}

// ---- panels

static void write_curve(plot_files *plot, const plot_row *row, const quantity *panel) {
  const json_t *x = plot_row_curve(row, "position"), *y = plot_row_curve(row, panel->list);
  for (size_t i = 0; i < json_array_size(x); i++) {
    const json_t *value = json_array_get(y, i);
    fprintf(plot->data, "%.9g\t%.9g\n", json_number_value(json_array_get(x, i)) + 1,
            json_is_number(value) ? json_number_value(value) / panel->unit : (double)NAN); // warm-up: no time
  }
}

// `nth` of the plot; `like` lines of the same policy came before.
static void put_element(plot_files *plot, int nth, int like, int block, bool points, const plot_row *row) {
  fprintf(plot->script, "%sdata index %d using 1:2 with %s", nth > 0 ? ", \\\n     " : "plot ", block,
          points ? "linespoints" : "lines");
  plot_look(plot->script, row, points, like);
  fprintf(plot->script, " title ");
  plot_quoted(plot->script, row->label);
}

static void put_axes(plot_files *plot, const quantity *panel) {
  fprintf(plot->script, "set ylabel '%s' offset 1,0\n%s logscale y\n%s\n", panel->title,
          panel->log ? "set" : "unset", panel->log ? "set yrange [*:*]" : "set yrange [0:*]");
}

static int count_curves(const plot_rows *rows, const quantity *panel) {
  int count = 0;
  for (int i = 0; i < rows->count; i++)
    count += is_text(&rows->items[i]) && plot_row_curve(&rows->items[i], panel->list) != NULL;
  return count;
}

static bool same_policy(const plot_row *a, const plot_row *b) {
  return a->role == b->role && strcmp(a->policy, b->policy) == 0;
}

static void write_curves(plot_files *plot, const plot_rows *rows, const quantity *panel) {
  double bytes = typical_bytes(rows);
  int nth = 0;
  put_axes(plot, panel);
  for (int i = 0; i < rows->count; i++) {
    const plot_row *row = &rows->items[i];
    if (!is_chosen(rows, i, bytes) || plot_row_curve(row, panel->list) == NULL)
      continue;
    int block = plot_block(plot, row->label);
    write_curve(plot, row, panel);
    int like = 0;
    for (int k = 0; k < i; k++)
      like += is_chosen(rows, k, bytes) && same_policy(&rows->items[k], row);
    put_element(plot, nth++, like, block, false, row);
  }
  fprintf(plot->script, "\n");
}

static plot_key key_of(const plot_rows *rows) {
  plot_key key = {0, 0};
  for (int i = 0; i < rows->count; i++)
    if (is_chosen(rows, i, typical_bytes(rows)))
      plot_key_add(&key, rows->items[i].label);
  return key;
}

static nn_status draw_live(const char *folder, const plot_rows *rows) {
  plot_files plot;
  if (count_curves(rows, &live) == 0) {
    nn_info("plots: no live tokens over positions: no row of the text has a curve");
    return NN_OK;
  }
  plot_key key = key_of(rows);
  NN_TRY(plot_panels_open(folder, "live", 1, &key, decoded, &plot));
  fprintf(plot.script, "set autoscale xfix\n");
  plot_panel(&plot, 0, true);
  write_curves(&plot, rows, &live);
  fprintf(plot.script, "unset multiplot\n");
  nn_status status = plot_files_draw(&plot);
  plot_files_discard(&plot);
  return status;
}

static nn_status draw_costs(const char *folder, const plot_rows *rows) {
  plot_files plot;
  for (int i = 0; i < COSTS; i++)
    if (count_curves(rows, &costs[i]) == 0) {
      nn_info("plots: no cost over positions: no row of the text has a curve of %s", costs[i].list);
      return NN_OK;
    }
  plot_key key = key_of(rows);
  NN_TRY(plot_panels_open(folder, "cost", COSTS, &key, decoded, &plot));
  fprintf(plot.script, "set autoscale xfix\n");
  for (int i = 0; i < COSTS; i++) {
    plot_panel(&plot, i, i == COSTS - 1);
    write_curves(&plot, rows, &costs[i]);
  }
  fprintf(plot.script, "unset multiplot\n");
  nn_status status = plot_files_draw(&plot);
  plot_files_discard(&plot);
  return status;
}

// ---- lengths: rows of one model, policy and budget

static double cost_of(const plot_row *row, int cost) {
  return (cost == 0 ? row->step_ms : row->kv_bytes) / costs[cost].unit;
}

static bool same_series(const plot_row *a, const plot_row *b) {
  return strcmp(a->measure, b->measure) == 0 && strcmp(a->series, b->series) == 0;
}

// Rows of this series from the shortest on; returns their number of different lengths.
static int collect_lengths(const plot_rows *rows, const plot_row *like, const plot_row **out) {
  int count = 0;
  for (int i = 0; i < rows->count; i++) {
    const plot_row *row = &rows->items[i];
    if (!same_series(row, like) || isnan(cost_of(row, 0)) || isnan(cost_of(row, 1)) || isnan(row->length))
      continue;
    int at = count++;
    for (; at > 0 && out[at - 1]->length > row->length; at--)
      out[at] = out[at - 1];
    out[at] = row;
  }
  return count > 1 && out[count - 1]->length > out[0]->length ? count : 0;
}

static void write_lengths(plot_files *plot, const plot_rows *rows, const plot_row **room, int cost) {
  int nth = 0;
  put_axes(plot, &costs[cost]);
  for (int i = 0; i < rows->count; i++) {
    int count = plot_rows_first(rows, i, same_series) ? collect_lengths(rows, &rows->items[i], room) : 0;
    if (count == 0)
      continue;
    int block = plot_block(plot, room[0]->label);
    for (int k = 0; k < count; k++)
      fprintf(plot->data, "%.9g\t%.9g\n", room[k]->length, cost_of(room[k], cost));
    int like = 0;
    for (int k = 0; k < i; k++)
      like += same_policy(&rows->items[k], room[0]) &&
              strcmp(rows->items[k].measure, room[0]->measure) == 0 && plot_rows_first(rows, k, same_series);
    put_element(plot, nth++, like, block, true, room[0]);
  }
  fprintf(plot->script, "\n");
}

static plot_key key_of_lengths(const plot_rows *rows, const plot_row **room) {
  plot_key key = {0, 0};
  for (int i = 0; i < rows->count; i++)
    if (plot_rows_first(rows, i, same_series) && collect_lengths(rows, &rows->items[i], room) > 0)
      plot_key_add(&key, room[0]->label);
  return key;
}

static nn_status draw_lengths(const char *folder, const plot_rows *rows, const plot_row **room) {
  plot_files plot;
  plot_key key = key_of_lengths(rows, room);
  if (key.labels == 0) {
    nn_info("plots: no time and memory against length: nothing was measured at two lengths");
    return NN_OK;
  }
  NN_TRY(plot_panels_open(folder, "length", COSTS, &key, "length (tokens)", &plot));
  fprintf(plot.script, "set logscale x 2\n");
  for (int i = 0; i < COSTS; i++) {
    plot_panel(&plot, i, i == COSTS - 1);
    write_lengths(&plot, rows, room, i);
  }
  fprintf(plot.script, "unset multiplot\n");
  nn_status status = plot_files_draw(&plot);
  plot_files_discard(&plot);
  return status;
}

nn_status plot_curves(const char *folder, const plot_rows *rows) {
  const plot_row **room = calloc((size_t)rows->count + 1, sizeof *room);
  if (room == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the rows of a plot");
  nn_status status = draw_live(folder, rows);
  NN_KEEP(status, draw_costs(folder, rows));
  NN_KEEP(status, draw_lengths(folder, rows, room));
  free(room);
  return status;
}
