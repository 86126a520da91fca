// Quality against the size of the cache: a line per policy, a curve of the learned models, a level for dense.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/plot/files.h"
#include "nn/log.h"

// What is drawn against the KV fraction.
typedef struct {
  const char *task, *title; // of the vertical axis
  bool accuracy;
  bool paired; // bars tell of differences
} quality;

typedef struct {
  double x, y, bar;
} point;

static double value_of(const plot_row *row) {
  return strcmp(row->measure, "task") == 0 ? row->accuracy : row->loss;
}

// Rows of a budget that no size reaches have no numbers.
static bool has_point(const plot_row *row) {
  return strcmp(row->measure, "needle") != 0 && !isnan(value_of(row)) && row->kv_fraction > 0;
}

static bool belongs(const quality *q, const plot_row *row) {
  return strcmp(row->task, q->task) == 0 && has_point(row);
}

static bool same_task(const plot_row *a, const plot_row *b) {
  return has_point(a) && has_point(b) && strcmp(a->task, b->task) == 0;
}

static bool same_line(const plot_row *a, const plot_row *b) {
  return same_task(a, b) && a->role == b->role && strcmp(a->group, b->group) == 0;
}

// Half the height of a row's bar: of the difference to the reference, sample by sample, where that is known,
// because it leaves out what is hard about the text for all of them.
static double bar_of(const quality *q, const plot_row *row) {
  double bar = q->accuracy ? row->accuracy_ci95 : q->paired ? row->difference_ci95 : row->loss_se;
  return isnan(bar) ? 0 : bar;
}

static int compare_points(const void *a, const void *b) {
  const point *p = a, *q = b;
  return (p->x > q->x) - (p->x < q->x);
}

// The rows of one line by growing cache; returns how many.
static int collect(const quality *q, const plot_rows *rows, const plot_row *like, point *out) {
  int count = 0;
  for (int i = 0; i < rows->count; i++) {
    const plot_row *row = &rows->items[i];
    if (same_line(row, like) && belongs(q, row))
      out[count++] = (point){row->kv_fraction, value_of(row), bar_of(q, row)};
  }
  qsort(out, (size_t)count, sizeof *out, compare_points);
  return count;
}

static int compare_numbers(const void *a, const void *b) {
  double p = *(const double *)a, q = *(const double *)b;
  return (p > q) - (p < q);
}

// A policy that fails has losses that would press all others into one line. The axis ends at three times the
// distance from the best loss to the median or to the worst of the trained models, whichever is more, and the
// plot says how many points lie above.
static void limit_axis(const quality *q, const plot_rows *rows, double *values, FILE *script) {
  int count = 0, above = 0;
  double trained = 0;
  for (int i = 0; i < rows->count; i++) {
    const plot_row *row = &rows->items[i];
    if (!belongs(q, row))
      continue;
    values[count++] = value_of(row);
    trained = row->role != PLOT_POST_HOC ? fmax(trained, value_of(row)) : trained;
  }
  qsort(values, (size_t)count, sizeof *values, compare_numbers);
  double top = values[0] + 3 * (fmax(values[count / 2], trained) - values[0]);
  for (int i = 0; i < count; i++)
    above += values[i] > top;
  if (above == 0 || top <= values[0])
    return;
  fprintf(script, "set yrange [*:%.9g]\n", top);
  fprintf(script, "set label '%d %s above this range' at graph 1,1.035 right font face17\n", above,
          above == 1 ? "point" : "points");
}

// Lines of the same role and policy before this one: variants of a policy, or the models under it.
static int rank_of(const quality *q, const plot_rows *rows, const plot_row *like) {
  int rank = 0;
  for (int i = 0; &rows->items[i] != like; i++)
    rank += belongs(q, &rows->items[i]) && rows->items[i].role == like->role &&
            strcmp(rows->items[i].policy, like->policy) == 0 && plot_rows_first(rows, i, same_line);
  return rank;
}

static void write_line(plot_files *plot, const quality *q, const plot_rows *rows, const plot_row *like,
                       point *points) {
  int count = collect(q, rows, like, points), block = plot_block(plot, like->group);
  for (int i = 0; i < count; i++)
    fprintf(plot->data, "%.9g\t%.9g\t%.9g\n", points[i].x, points[i].y, points[i].bar);
  fprintf(plot->script, "%s", block > 0 ? ", \\\n     " : "plot ");
  if (like->role == PLOT_DENSE) // a level to compare with, whatever its own fraction
    fprintf(plot->script, "%.9g with lines", points[0].y);
  else
    fprintf(plot->script, "data index %d using 1:2:3 with yerrorlines", block);
  plot_look(plot->script, like, like->role != PLOT_DENSE, rank_of(q, rows, like));
  fprintf(plot->script, " title ");
  plot_quoted(plot->script, like->group);
}

static double least_fraction(const quality *q, const plot_rows *rows) {
  double least = 1;
  for (int i = 0; i < rows->count; i++)
    if (belongs(q, &rows->items[i]))
      least = fmin(least, rows->items[i].kv_fraction);
  return least;
}

static plot_key key_of(const quality *q, const plot_rows *rows) {
  plot_key key = {0, 0};
  for (int i = 0; i < rows->count; i++)
    if (belongs(q, &rows->items[i]) && plot_rows_first(rows, i, same_line))
      plot_key_add(&key, rows->items[i].group);
  return key;
}

static void write_plot(plot_files *plot, const quality *q, const plot_rows *rows, point *points) {
  plot_panel(plot, 0, true);
  fprintf(plot->script, "set ylabel ");
  plot_quoted(plot->script, q->title);
  fprintf(plot->script,
          "\nset logscale x\nset xrange [%.6g:1.1]\nset bars 0.6\nset xtics (0.001, 0.002, 0.005, 0.01, "
          "0.02, 0.05, 0.1, 0.2, 0.5, 1)\n",
          0.8 * least_fraction(q, rows));
  fprintf(plot->script, "set label 'bars: %s' at graph 0,1.035 left font face17\n",
          q->accuracy ? "95% interval"
          : q->paired ? "95% of the paired difference"
                      : "one standard error");
  if (q->accuracy)
    fprintf(plot->script, "set yrange [0:1.04]\n");
  else
    limit_axis(q, rows, (double *)points, plot->script);
  for (int role = PLOT_ROLES - 1; role >= 0; role--) // learned over post hoc
    for (int i = 0; i < rows->count; i++)
      if (belongs(q, &rows->items[i]) && rows->items[i].role == (plot_role)role &&
          plot_rows_first(rows, i, same_line))
        write_line(plot, q, rows, &rows->items[i], points);
  fprintf(plot->script, "\nunset multiplot\n");
}

static nn_status draw(const char *folder, const plot_rows *rows, const quality *q) {
  char name[64];
  plot_files plot;
  point *points = calloc((size_t)rows->count, sizeof *points);
  if (points == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the points of a plot");
  snprintf(name, sizeof name, "%s%s%s", q->accuracy ? "accuracy" : "loss",
           strcmp(q->task, "text") == 0 ? "" : "-", strcmp(q->task, "text") == 0 ? "" : q->task);
  plot_key key = key_of(q, rows);
  nn_status status =
      plot_panels_open(folder, name, 1, &key, "KV fraction (live pairs over causal pairs)", &plot);
  if (status == NN_OK) {
    write_plot(&plot, q, rows, points);
    status = plot_files_draw(&plot);
    plot_files_discard(&plot);
  }
  free(points);
  return status;
}

nn_status plot_quality(const char *folder, const plot_rows *rows) {
  bool any = false;
  for (int i = 0; i < rows->count; i++) {
    const plot_row *row = &rows->items[i];
    if (!has_point(row) || !plot_rows_first(rows, i, same_task))
      continue;
    bool accuracy = strcmp(row->measure, "task") == 0;
    quality q = {
        .task = row->task, .title = accuracy ? "accuracy" : "loss (nats per token)", .accuracy = accuracy};
    for (int k = 0; k < rows->count; k++)
      q.paired = q.paired || (belongs(&q, &rows->items[k]) && !isnan(rows->items[k].difference_ci95));
    any = true;
    NN_TRY(draw(folder, rows, &q));
  }
  if (!any)
    nn_info("plots: no loss against KV fraction: no text or task was measured");
  return NN_OK;
}
