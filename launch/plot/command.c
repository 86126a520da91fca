// natsformer plot
#include <stdio.h>
#include <unistd.h> // access

#include "launch/command.h"
#include "launch/plot/compare_plots.h"
#include "launch/plot/plot.h"
#include "nn/log.h"

static nn_status plot_run(const char *folder) {
  launch_plot plot = {0};
  launch_plot_start(&plot, folder);
  if (!launch_plot_finish(&plot))
    return NN_FAIL(NN_ERR_UNSUPPORTED, "%s: no plots were drawn", folder);
  nn_info("plots: loss.png, kv_fraction.png");
  return NN_OK;
}

static nn_status run(dist_group *world, int argc, char **argv) {
  char metrics[1100];
  if (argc != 2 || argv[1][0] == '-')
    return NN_FAIL(NN_ERR_USAGE, "plot: expected one folder, as in `natsformer plot runs/quickstart`");
  if (dist_size(world) > 1)
    return NN_FAIL(NN_ERR_USAGE, "plot: expected one rank, found %d: start it without mpirun",
                   dist_size(world));
  snprintf(metrics, sizeof metrics, "%s/metrics.jsonl", argv[1]);
  return access(metrics, F_OK) == 0 ? plot_run(argv[1]) : launch_compare_plots(argv[1]);
}

const launch_command launch_plot_again = {
    .name = "plot",
    .run = run,
    .summary = "draw the plots of a comparison or of a run again",
    .usage =
        "usage: natsformer plot DIR\n"
        "\n"
        "DIR is what `natsformer compare` wrote, or a run folder. The plots are in DIR/plots, each with the\n"
        "gnuplot script and the table that it is drawn from. Plots of a comparison are PNG and SVG; what "
        "was\n"
        "not measured is left out.\n",
};
