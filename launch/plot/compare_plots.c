#include "launch/plot/compare_plots.h"

#include <stdio.h>
#include <string.h>

#include "data/files.h"
#include "launch/plot/files.h"

// The first failure is kept; a plot that fails does not cost the others.
static nn_status draw_all(const char *folder, const plot_rows *rows) {
  nn_status status = plot_style_write(folder);
  if (status != NN_OK)
    return status;
  NN_KEEP(status, plot_quality(folder, rows));
  NN_KEEP(status, plot_heads(folder, rows));
  NN_KEEP(status, plot_curves(folder, rows));
  NN_KEEP(status, plot_needle(folder, rows));
  return status;
}

nn_status launch_compare_plots(const char *folder) {
  char path[1100];
  plot_rows rows = {0};
  if (strlen(folder) > 1000)
    return NN_FAIL(NN_ERR_USAGE, "%.80s...: the name of the folder is too long", folder);
  snprintf(path, sizeof path, "%s/results.json", folder);
  nn_status status = plot_rows_read(path, &rows);
  if (status == NN_OK) {
    snprintf(path, sizeof path, "%s/plots", folder);
    status = data_folder_create(path);
  }
  if (status == NN_OK)
    status = draw_all(path, &rows);
  plot_rows_free(&rows);
  return status;
}
