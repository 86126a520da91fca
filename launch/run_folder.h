// A trained run, opened for evaluation and generation: configuration, parameters and tokenizer from the
// newest checkpoint that verifies.
#pragma once

#include "data/checkpoint.h"
#include "data/tokenizer.h"
#include "launch/config.h"
#include "nats/model.h"

typedef struct {
  launch_config config;
  nats_model_config model;
  data_checkpoint_loaded checkpoint;
  nn_device *device;
  nn_param_table table;
  nn_params params;          // no gradients, no moments
  data_tokenizer *tokenizer; // NULL for synthetic data
} launch_run;

// `run_folder`: a run folder. `device`: "auto", "cpu", "cuda". Collective over `world`.
nn_status launch_run_open(dist_group *world, const char *run_folder, const char *device, launch_run *out);
void launch_run_close(launch_run *run);
