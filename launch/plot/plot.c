#include "launch/plot/plot.h"

#include <errno.h>
#include <jansson.h> // lines of metrics.jsonl
#include <math.h>    // NAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h> // mkdir
#include <sys/wait.h>

#include "launch/plot/gnuplot.h"
#include "nn/log.h"

static const char script[] =
    "# Draws loss.png and kv_fraction.png from metrics.tsv\n"
    "set terminal png size 960,600\n"
    "set datafile missing 'nan'\n"
    "set grid\n"
    "set xlabel 'step'\n"
    "set output 'loss.png'\n"
    "set ylabel 'loss (nats per token)'\n"
    "plot 'metrics.tsv' using 1:2 with lines lc rgb '#4477aa' title 'training', \\\n"
    "     'metrics.tsv' using 1:3 with linespoints lw 2 lc rgb '#cc3311' title 'validation'\n"
    "set output 'kv_fraction.png'\n"
    "set ylabel 'KV fraction'\n"
    "set yrange [0:1.05]\n"
    "set y2label 'lambda (nats)'\n"
    "set ytics nomirror\n"
    "set y2tics\n"
    "set y2range [0:*]\n"
    "plot 'metrics.tsv' using 1:4 with lines lc rgb '#4477aa' title 'training', \\\n"
    "     'metrics.tsv' using 1:5 with linespoints lw 2 lc rgb '#cc3311' title 'validation', \\\n"
    "     'metrics.tsv' using 1:6 axes x1y2 with lines dt 2 lc rgb '#888888' title 'lambda'\n";

static void tell(launch_plot *plot, const char *what, const char *why) {
  if (!plot->told)
    nn_warn("no plots: %s: %s", what, why);
  plot->told = true;
}

static double number(const json_t *line, const char *name) {
  const json_t *value = json_object_get(line, name);
  return json_is_number(value) ? json_number_value(value) : (double)NAN;
}

// One row a line: step, loss, val_loss, kv_fraction, val_kv_fraction, lambda; nan where there is none.
static bool write_table(FILE *metrics, FILE *table) {
  static const char *const columns[] = {"loss", "val_loss", "kv_fraction", "val_kv_fraction", "lambda"};
  char text[1024];
  fprintf(table, "# step\tloss\tval_loss\tkv_fraction\tval_kv_fraction\tlambda\n");
  while (fgets(text, sizeof text, metrics) != NULL) {
    json_t *line = json_loads(text, 0, NULL);
    if (line == NULL)
      continue; // the line that is being written
    fprintf(table, "%.0f", number(line, "step"));
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
      fprintf(table, "\t%.9g", number(line, columns[i]));
    fputc('\n', table);
    json_decref(line);
  }
  return !ferror(table);
}

static bool write_sources(launch_plot *plot, const char *run) {
  char folder[1100], path[1200];
  snprintf(folder, sizeof folder, "%s/plots", run);
  if (mkdir(folder, 0777) != 0 && errno != EEXIST) {
    tell(plot, folder, strerror(errno));
    return false;
  }
  snprintf(path, sizeof path, "%s/metrics.jsonl", run);
  FILE *metrics = fopen(path, "re");
  snprintf(path, sizeof path, "%s/metrics.tsv", folder);
  FILE *table = fopen(path, "we");
  snprintf(path, sizeof path, "%s/plots.gp", folder);
  FILE *program = fopen(path, "we");
  bool done = metrics != NULL && table != NULL && program != NULL;
  done = done && write_table(metrics, table) && fputs(script, program) >= 0;
  if (metrics != NULL)
    fclose(metrics);
  done = (table == NULL || fclose(table) == 0) && done;
  done = (program == NULL || fclose(program) == 0) && done;
  if (!done)
    tell(plot, folder, "cannot write metrics.tsv and plots.gp");
  return done;
}

void launch_plot_start(launch_plot *plot, const char *run) {
  if (plot->process != 0 && waitpid(plot->process, NULL, WNOHANG) == 0)
    return; // the next checkpoint draws again
  plot->process = 0;
  if (!write_sources(plot, run))
    return;
  char folder[1100];
  snprintf(folder, sizeof folder, "%s/plots", run);
  int failed = launch_gnuplot_start(folder, "plots.gp", &plot->process);
  if (failed == 0)
    return;
  plot->process = 0;
  tell(plot, "gnuplot", failed == ENOENT ? "not installed" : strerror(failed));
}

bool launch_plot_finish(launch_plot *plot) {
  if (plot->process == 0)
    return false;
  bool drawn = launch_gnuplot_finish(plot->process);
  plot->process = 0;
  if (!drawn)
    tell(plot, "gnuplot", "failed; `gnuplot plots.gp` in the plots folder tells why");
  return drawn;
}
