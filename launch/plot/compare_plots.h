// Plots of a comparison, drawn by gnuplot from DIR/results.json into DIR/plots: for each NAME.tsv, NAME.gp,
// NAME.png and NAME.svg. `cd DIR/plots && gnuplot NAME.gp` draws one again.
#pragma once

#include "nn/status.h"

// Says which plots are drawn and which are left out because nothing was measured for them. Errors: those of
// reading and writing; NN_ERR_UNSUPPORTED where gnuplot is not installed or failed (the data are there then).
nn_status launch_compare_plots(const char *folder);
