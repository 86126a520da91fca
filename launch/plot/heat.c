// Heat maps, a panel a row: KV fraction of every layer and head, and what is found of a needle.
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "launch/plot/files.h"
#include "nn/log.h"

// Pixels. A panel is its cells, with room for a title above and for numbers and the axis below.
enum { LEFT = 140, RIGHT = 200, TOP = 20, BOTTOM = 60, TITLE = 50, UNDER = 50, GAP = 40, COLUMNS = 3 };

// A figure of panels that share one scale of colours.
typedef struct {
  plot_files files;
  int panels, columns, rows;
  int cell_room;     // width and height of a panel's cells
  const char *x, *y; // titles of the axes
  bool downwards;    // rows of cells count from above
  int decimals;      // of the number in a cell
} figure;

static int figure_width(const figure *f) {
  return LEFT + f->columns * (f->cell_room + GAP) + RIGHT;
}

static int figure_height(const figure *f) {
  return TOP + f->rows * (TITLE + f->cell_room + UNDER) + BOTTOM;
}

// `scale`: gnuplot commands that set the range of colours and shade(v), the place of v in it from 0 to 1.
static nn_status figure_open(const char *folder, const char *name, const char *scale, figure *f) {
  f->columns = f->panels < COLUMNS ? f->panels : COLUMNS;
  f->rows = (f->panels + f->columns - 1) / f->columns;
  f->cell_room = f->columns == 1 ? 460 : f->columns == 2 ? 330 : 270;
  NN_TRY(plot_files_open(folder, name, figure_width(f), figure_height(f), &f->files));
  FILE *script = f->files.script;
  fprintf(script,
          "%s\nunset key\nunset grid\nset border 15\nset tics out scale 0.4 font face16\nset xtics offset "
          "0,0.3\n",
          scale);
  fprintf(script, "set style fill solid noborder\nset multiplot\n");
  fprintf(script, "set colorbox user origin screen %.4f, screen %.4f size screen %.4f, screen %.4f\n",
          1 - (double)(RIGHT - 10) / figure_width(f), (double)(BOTTOM + UNDER) / figure_height(f),
          30.0 / figure_width(f), 1 - (double)(TOP + TITLE + BOTTOM + UNDER) / figure_height(f));
  return NN_OK;
}

// The cells of panel `nth` are in the block written last: x, y and value, whole numbers from 0 in
// `across` columns and `down` rows.
static void figure_panel(figure *f, int nth, const char *title, int across, int down) {
  FILE *script = f->files.script;
  int column = nth % f->columns, row = nth / f->columns;
  double width = figure_width(f), height = figure_height(f);
  double left = LEFT + column * (f->cell_room + GAP),
         top = TOP + TITLE + row * (TITLE + f->cell_room + UNDER);
  fprintf(script, "set lmargin at screen %.4f\nset rmargin at screen %.4f\n", left / width,
          (left + f->cell_room) / width);
  fprintf(script, "set tmargin at screen %.4f\nset bmargin at screen %.4f\n", 1 - top / height,
          1 - (top + f->cell_room) / height);
  fprintf(script, "set format y '%s'\n", column == 0 ? "%g" : "");
  double edge = down - 0.5;
  fprintf(script, "set xrange [-0.5:%g]\nset yrange [%g:%g]\n", across - 0.5, f->downwards ? edge : -0.5,
          f->downwards ? -0.5 : edge);
  fprintf(script, "set title ");
  plot_quoted(script, title);
  fprintf(script,
          " offset 0,-0.6 font face18\nset xlabel '%s' offset 0,0.6 font face20\nset ylabel '%s' "
          "font face20\n",
          nth + f->columns >= f->panels ? f->x : "", column == 0 ? f->y : "");
  fprintf(script, "plot data index %d using 1:2:(0.505):(0.505):3 with boxxyerror fc palette",
          f->files.blocks - 1);
  if (f->cell_room / across >= 13 * (f->decimals + 2)) // it fits
    fprintf(
        script,
        ", \\\n     data index %d using 1:2:(sprintf('%%.%df', $3)):(shade($3) > 0.55 ? 0x000000 : 0xffffff) "
        "with labels font face14 tc rgb variable",
        f->files.blocks - 1, f->decimals);
  fprintf(script, "\nunset colorbox\n");
}

static nn_status figure_draw(figure *f) {
  fprintf(f->files.script, "unset multiplot\n");
  nn_status status = plot_files_draw(&f->files);
  plot_files_discard(&f->files);
  return status;
}

// ---- KV fraction per layer and head

static bool has_heads(const plot_row *row) {
  const json_t *layers = json_object_get(row->json, "per_head");
  return strcmp(row->measure, "text") == 0 &&
         (row->role == PLOT_LEARNED || strcmp(row->policy, "duo") == 0) &&
         json_array_size(json_array_get(layers, 0)) > 0;
}

// Writes one row's cells; *least is the smallest fraction above 0 so far.
static void write_heads(plot_files *files, const plot_row *row, int *layers, int *heads) {
  const json_t *fractions = json_object_get(row->json, "per_head");
  *layers = (int)json_array_size(fractions);
  *heads = (int)json_array_size(json_array_get(fractions, 0));
  plot_block(files, row->label);
  for (int layer = 0; layer < *layers; layer++)
    for (int head = 0; head < *heads; head++)
      fprintf(files->data, "%d\t%d\t%.6g\n", head, layer,
              json_number_value(json_array_get(json_array_get(fractions, (size_t)layer), (size_t)head)));
}

static double least_fraction(const plot_rows *rows) {
  double least = 1;
  for (int i = 0; i < rows->count; i++) {
    const json_t *layers = json_object_get(rows->items[i].json, "per_head"), *heads, *head;
    size_t l, h;
    if (has_heads(&rows->items[i]))
      json_array_foreach(layers, l, heads) json_array_foreach(heads, h, head) {
        double fraction = json_number_value(head);
        least = fraction > 0 && fraction < least ? fraction : least;
      }
  }
  return least;
}

nn_status plot_heads(const char *folder, const plot_rows *rows) {
  figure f = {.x = "kv head", .y = "layer", .decimals = 3};
  char scale[400];
  int layers, heads, nth = 0;
  for (int i = 0; i < rows->count; i++)
    f.panels += has_heads(&rows->items[i]);
  if (f.panels == 0) {
    nn_info("plots: no KV fraction of heads: no model with token types was measured on the text");
    return NN_OK;
  }
  // A share of 0.01 and one of 0.1 are as far apart as 0.1 and 1.
  snprintf(scale, sizeof scale,
           "low = %.3g\nset logscale cb\nset cbrange [low:1]\nset format cb '%%g'\nset cblabel 'KV fraction' "
           "offset -1,0 font face20\n"
           "shade(v) = v > low ? log(v / low) / log(1 / low) : 0\nset xtics 1\nset ytics 1",
           fmin(least_fraction(rows) * 0.98, 0.5));
  NN_TRY(figure_open(folder, "heads", scale, &f));
  for (int i = 0; i < rows->count; i++)
    if (has_heads(&rows->items[i])) {
      write_heads(&f.files, &rows->items[i], &layers, &heads);
      fprintf(f.files.script, "set xtics %d\nset ytics %d\n", (heads + 7) / 8, (layers + 7) / 8);
      figure_panel(&f, nth++, rows->items[i].label, heads, layers);
    }
  return figure_draw(&f);
}

// ---- needles

enum { MOST_PLACES = 64 };

// Different values in growing order.
typedef struct {
  double values[MOST_PLACES];
  int count;
} place_list;

static void add_place(place_list *places, double value) {
  int at = 0;
  while (at < places->count && places->values[at] < value)
    at++;
  if ((at < places->count && places->values[at] == value) || places->count == MOST_PLACES)
    return;
  memmove(places->values + at + 1, places->values + at, (size_t)(places->count - at) * sizeof(double));
  places->values[at] = value;
  places->count++;
}

static int place_of(const place_list *places, double value) {
  for (int i = 0; i < places->count; i++)
    if (places->values[i] == value)
      return i;
  return -1;
}

static double cell_number(const json_t *cell, const char *name) {
  const json_t *value = json_object_get(cell, name);
  return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

static bool is_needle(const plot_row *row) {
  return strcmp(row->measure, "needle") == 0 && json_array_size(json_object_get(row->json, "cells")) > 0 &&
         !isnan(row->length);
}

static bool same_series(const plot_row *a, const plot_row *b) {
  return is_needle(a) && is_needle(b) && strcmp(a->series, b->series) == 0;
}

static void write_needle(plot_files *files, const plot_rows *rows, const plot_row *like,
                         const place_list *lengths, const place_list *depths) {
  plot_block(files, like->series);
  for (int i = 0; i < rows->count; i++) {
    const json_t *cells = json_object_get(rows->items[i].json, "cells"), *cell;
    size_t c;
    if (!same_series(&rows->items[i], like))
      continue;
    json_array_foreach(cells, c, cell) {
      int row = place_of(depths, cell_number(cell, "depth"));
      if (row >= 0)
        fprintf(files->data, "%d\t%d\t%.6g\n", place_of(lengths, rows->items[i].length), row,
                cell_number(cell, "accuracy"));
    }
  }
}

// Lengths and depths stand evenly, whatever they are.
static void put_names(FILE *script, const char *axis, const place_list *places, bool percent, bool blank) {
  int step = (places->count + 9) / 10;
  fprintf(script, "set %s (", axis);
  for (int i = 0; i < places->count; i += step) {
    double value = places->values[i];
    fprintf(script, "%s'", i > 0 ? ", " : "");
    if (!blank && percent)
      fprintf(script, "%.3g%%%%", 100 * value); // a format, to gnuplot
    else if (!blank && value >= 1024 && fmod(value, 1024) == 0)
      fprintf(script, "%gk", value / 1024);
    else if (!blank)
      fprintf(script, "%g", value);
    fprintf(script, "' %d", i);
  }
  fprintf(script, ")\n");
}

static void find_places(const plot_rows *rows, place_list *lengths, place_list *depths) {
  for (int i = 0; i < rows->count; i++) {
    const json_t *cells = json_object_get(rows->items[i].json, "cells"), *cell;
    size_t c;
    if (!is_needle(&rows->items[i]))
      continue;
    add_place(lengths, rows->items[i].length);
    json_array_foreach(cells, c, cell) if (!isnan(cell_number(cell, "depth")))
        add_place(depths, cell_number(cell, "depth"));
  }
}

nn_status plot_needle(const char *folder, const plot_rows *rows) {
  figure f = {.x = "length (tokens)", .y = "depth", .decimals = 2, .downwards = true};
  place_list lengths = {.count = 0}, depths = {.count = 0};
  int nth = 0;
  find_places(rows, &lengths, &depths);
  for (int i = 0; i < rows->count; i++)
    f.panels += is_needle(&rows->items[i]) && plot_rows_first(rows, i, same_series);
  if (f.panels == 0) {
    nn_info("plots: no needle heat map: no needle was measured");
    return NN_OK;
  }
  NN_TRY(figure_open(folder, "needle",
                     "set cbrange [0:1]\nset cblabel 'accuracy' offset -1,0 font face20\nshade(v) = v", &f));
  for (int i = 0; i < rows->count; i++) {
    if (!is_needle(&rows->items[i]) || !plot_rows_first(rows, i, same_series))
      continue;
    write_needle(&f.files, rows, &rows->items[i], &lengths, &depths);
    put_names(f.files.script, "xtics", &lengths, false, false);
    put_names(f.files.script, "ytics", &depths, true, nth % f.columns != 0);
    figure_panel(&f, nth++, rows->items[i].label, lengths.count, depths.count);
  }
  return figure_draw(&f);
}
