// A plot on its way: NAME.tsv with its data, NAME.gp that draws NAME.png and NAME.svg, in one folder with
// style.gp, which all of them load.
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "launch/plot/rows.h"

typedef struct {
  const char *folder;
  char name[64];
  FILE *data, *script;
  int blocks; // of data so far; gnuplot calls them index 0, 1, ...
} plot_files;

// `width`, `height`: in pixels; 1050 is a column of a paper at 300 dots an inch.
nn_status plot_files_open(const char *folder, const char *name, int width, int height, plot_files *out);
// Closes and draws: one line says what was drawn. Errors: NN_ERR_IO; NN_ERR_UNSUPPORTED (gnuplot is not
// installed, or failed).
nn_status plot_files_draw(plot_files *plot);
void plot_files_discard(plot_files *plot); // after a failure; fine after draw

nn_status plot_style_write(const char *folder); // style.gp

// What the key of a plot has to hold.
typedef struct {
  int labels, longest; // letters
} plot_key;
void plot_key_add(plot_key *key, const char *label);

// The same for `panels` panels under each other that share the axis and the key below; plot_panel goes to the
// next one, "unset multiplot" ends them.
nn_status plot_panels_open(const char *folder, const char *name, int panels, const plot_key *key,
                           const char *axis, plot_files *out);
void plot_panel(plot_files *plot, int nth, bool last);

// Begins a block of data; returns its index. `about` says in the file what it is.
int plot_block(plot_files *plot, const char *about);
// Text as gnuplot has it in quotes: 'it''s'.
void plot_quoted(FILE *script, const char *text);
// How a row's line and points look, the same in all plots: " lc rgb '#0072b2' dt 3 lw 1.2 pt 4". `nth` tells
// lines of one policy apart, from 0.
void plot_look(FILE *script, const plot_row *row, bool points, int nth);

// ---- the plots. Each draws what its rows have, or says in one line what is missing.
nn_status plot_quality(const char *folder, const plot_rows *rows); // loss.*, accuracy-TASK.*
nn_status plot_curves(const char *folder, const plot_rows *rows);  // live.*, cost.*, length.*
nn_status plot_heads(const char *folder, const plot_rows *rows);   // heads.*
nn_status plot_needle(const char *folder, const plot_rows *rows);  // needle.*
