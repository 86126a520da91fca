#include "launch/plot/files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"
#include "launch/plot/gnuplot.h"
#include "nn/log.h"

// Colours of Okabe and Ito, which colour-blind people tell apart; points and dashes say the same in grey.
static const char style[] =
    "# What all plots of this folder have in common. `gnuplot NAME.gp` draws NAME.png, then NAME.svg.\n"
    "reset\n"
    "if (!exists('width')) { width = 1050 }\n"
    "if (!exists('height')) { height = 800 }\n"
    "if (!exists('suffix')) { suffix = 'png' }\n"
    "# the terminals differ in what a point of type and a size of 1 are\n"
    "face(size) = sprintf('sans,%g', suffix eq 'svg' ? size * 1.2 : size)\n"
    "face14 = face(14); face16 = face(16); face17 = face(17)\n"
    "face18 = face(18); face20 = face(20); face22 = face(22)\n"
    "if (suffix eq 'svg') {\n"
    "  set terminal svg noenhanced size width,height font face22 linewidth 2 background 'white'\n"
    "  set pointsize 0.8\n"
    "  set key spacing 0.95\n"
    "  set xlabel offset 0,0.5\n"
    "} else {\n"
    "  if (strstrt(GPVAL_TERMINALS, 'pngcairo') > 0) {\n"
    "    set terminal pngcairo noenhanced size width,height font face22 linewidth 2\n"
    "  } else {\n"
    "    set terminal png noenhanced size width,height font face22 linewidth 2\n"
    "  }\n"
    "  set pointsize 1.6\n"
    "  set key spacing 1.1\n"
    "}\n"
    "set datafile separator '\\t'\n"
    "set datafile missing 'nan'\n"
    "set border 3 lc rgb '#404040'\n"
    "set tics nomirror out\n"
    "set grid lc rgb '#d8d8d8' lw 0.5 dt 1\n"
    "set key Left reverse samplen 3.5 font face17\n"
    "# viridis: as light as the number is large, in grey too\n"
    "set palette defined (0 '#440154', 1 '#472d7b', 2 '#3b528b', 3 '#2c728e', 4 '#21918c', 5 '#28ae80', \\\n"
    "                     6 '#5ec962', 7 '#addc30', 8 '#fde725')\n";

nn_status plot_style_write(const char *folder) {
  char path[1200];
  snprintf(path, sizeof path, "%s/style.gp", folder);
  return data_file_replace(path, style, sizeof style - 1);
}

static FILE *open_part(const char *folder, const char *name, const char *suffix) {
  char path[1200];
  snprintf(path, sizeof path, "%s/%s.%s", folder, name, suffix);
  return fopen(path, "we");
}

nn_status plot_files_open(const char *folder, const char *name, int width, int height, plot_files *out) {
  *out = (plot_files){.folder = folder};
  snprintf(out->name, sizeof out->name, "%s", name);
  out->data = open_part(folder, out->name, "tsv");
  out->script = out->data != NULL ? open_part(folder, out->name, "gp") : NULL;
  if (out->script == NULL) {
    nn_status status = NN_FAIL(NN_ERR_IO, "%s: cannot write %s.tsv and %s.gp: %s", folder, out->name,
                               out->name, strerror(errno));
    plot_files_discard(out);
    return status;
  }
  fprintf(out->script, "# Draws %s.png and %s.svg from %s.tsv\n", out->name, out->name, out->name);
  fprintf(out->script, "width = %d\nheight = %d\nload 'style.gp'\nset output '%s.'.suffix\ndata = '%s.tsv'\n",
          width, height, out->name, out->name);
  return NN_OK;
}

void plot_files_discard(plot_files *plot) {
  if (plot->data != NULL)
    fclose(plot->data);
  if (plot->script != NULL)
    fclose(plot->script);
  plot->data = plot->script = NULL;
}

static nn_status close_both(plot_files *plot) {
  bool fine = ferror(plot->data) == 0 && ferror(plot->script) == 0;
  fine = fclose(plot->data) == 0 && fine;
  fine = fclose(plot->script) == 0 && fine;
  plot->data = plot->script = NULL;
  return fine ? NN_OK
              : NN_FAIL(NN_ERR_IO, "%s: cannot write all of %s.tsv and %s.gp", plot->folder, plot->name,
                        plot->name);
}

nn_status plot_files_draw(plot_files *plot) {
  char script[80];
  pid_t process;
  // The same script again for the second picture.
  fprintf(plot->script,
          "unset output\nif (suffix eq 'png') {\n  suffix = 'svg'\n  load '%s.gp'\n"
          "  undefine suffix\n}\n",
          plot->name);
  NN_TRY(close_both(plot));
  snprintf(script, sizeof script, "%s.gp", plot->name);
  int failed = launch_gnuplot_start(plot->folder, script, &process);
  if (failed != 0)
    return NN_FAIL(NN_ERR_UNSUPPORTED, "%s: no plots, only their data: gnuplot: %s", plot->folder,
                   failed == ENOENT ? "not installed" : strerror(failed));
  if (!launch_gnuplot_finish(process))
    return NN_FAIL(NN_ERR_UNSUPPORTED, "%s: gnuplot failed; `gnuplot %s` in there tells why", plot->folder,
                   script);
  nn_info("plots: %s.png and .svg", plot->name);
  return NN_OK;
}

int plot_block(plot_files *plot, const char *about) {
  fprintf(plot->data, "%s# ", plot->blocks > 0 ? "\n\n" : "");
  for (; *about != '\0'; about++) // a name stays on its line
    putc((unsigned char)*about < ' ' ? ' ' : *about, plot->data);
  putc('\n', plot->data);
  return plot->blocks++;
}

void plot_quoted(FILE *script, const char *text) {
  putc('\'', script);
  for (; *text != '\0'; text++) {
    if (*text == '\'')
      putc('\'', script);
    putc((unsigned char)*text < ' ' ? ' ' : *text, script);
  }
  putc('\'', script);
}

// Sizes in pixels: the panels from the top, the axis, then the key and what is free below it.
enum { WIDTH = 1050, PANEL = 560, KEY_LINE = 30, AXIS = 140, TOP = 45, BETWEEN = 40, BOTTOM = 20 };

void plot_key_add(plot_key *key, const char *label) {
  int letters = (int)strlen(label);
  key->labels++;
  key->longest = letters > key->longest ? letters : key->longest;
}

nn_status plot_panels_open(const char *folder, const char *name, int panels, const plot_key *key,
                           const char *axis, plot_files *out) {
  int columns = key->longest <= 18 ? 3 : key->longest <= 34 ? 2 : 1; // what fits into the width
  int key_lines = (key->labels + columns - 1) / columns, foot = AXIS + key_lines * KEY_LINE + BOTTOM;
  int panel = panels == 1 ? PANEL : PANEL * 3 / 4;
  int height = TOP + panels * panel + (panels - 1) * BETWEEN + foot;
  NN_TRY(plot_files_open(folder, name, WIDTH, height, out));
  fprintf(
      out->script,
      "set multiplot\nset lmargin at screen 0.2\nset rmargin at screen 0.95\n"
      "panels = %d\npanel = %d / (1.0 * height)\nstep = %d / (1.0 * height)\ntop = 1 - %d / (1.0 * height)\n"
      "axis = '%s'\nkey_lines = %d\n",
      panels, panel, panel + BETWEEN, TOP, axis, key_lines);
  return NN_OK;
}

void plot_panel(plot_files *plot, int nth, bool last) {
  fprintf(plot->script,
          "set tmargin at screen top - %d * step\nset bmargin at screen top - %d * step - panel\n", nth, nth);
  if (last)
    fprintf(plot->script, "set format x '%%g'\nset xlabel axis\n"
                          "set key at screen 0.55,0.02 center bottom vertical maxrows key_lines\n");
  else
    fprintf(plot->script, "set format x ''\nunset key\n");
}

// Post hoc policies have open points and dotted lines; what a model was trained for has filled points.
void plot_look(FILE *script, const plot_row *row, bool points, int nth) {
  static const struct {
    const char *policy, *colour;
    int point; // open; the filled one is the next number
  } looks[] = {{"window", "#0072b2", 4}, {"streaming", "#e69f00", 8}, {"h2o", "#009e73", 6},
               {"tova", "#cc79a7", 10},  {"snapkv", "#56b4e9", 12},   {"cam", "#7b3fa0", 14},
               {"random", "#8c8c8c", 1}, {"duo", "#8b5a2b", 2},       {"nats", "#d55e00", 6},
               {"dense", "#000000", 4}};
  static const char *const lines[PLOT_ROLES] = {[PLOT_DENSE] = "lw 1.5",
                                                [PLOT_LEARNED] = "lw 2",
                                                [PLOT_CO_TRAINED] = "lw 1.4",
                                                [PLOT_POST_HOC] = "lw 1.2"};
  static const int dashes[] = {1, 2, 4, 5};
  enum { LOOKS = sizeof looks / sizeof *looks };
  unsigned look = 0, hash = 0;
  while (look < LOOKS && strcmp(looks[look].policy, row->policy) != 0)
    look++;
  for (const char *letter = row->policy; *letter != '\0'; letter++)
    hash = hash * 31 + (unsigned char)*letter;
  look = look < LOOKS ? look : hash % LOOKS; // a policy that came later
  bool trained = row->role != PLOT_POST_HOC;
  int point = looks[look].point, dash = row->role == PLOT_DENSE ? 2 : trained ? dashes[nth % 4] : 3;
  fprintf(script, " lc rgb '%s' dt %d %s", row->role == PLOT_LEARNED ? "#d55e00" : looks[look].colour, dash,
          lines[row->role]);
  if (points)
    fprintf(script, " pt %d", point + (point >= 4 && (trained || nth % 2 == 1)));
}
