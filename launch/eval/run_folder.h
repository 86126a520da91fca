// A trained run, opened for evaluation and generation: configuration, parameters and tokenizer from a
// checkpoint that verifies.
#pragma once

#include "data/checkpoint.h"
#include "data/dataset.h"
#include "data/tokenizer.h"
#include "launch/config/config.h"
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

// `path`: a run folder, or the folder of one checkpoint. `which` (of a run folder): "last" or NULL, the
// newest checkpoint; "best", the one with the lowest validation loss. `device` and `precision`: as
// nn_device_open takes them, whatever the run was trained on.
// Collective over `world`. `out` must stay where it is until launch_run_close. Errors: NN_ERR_INPUT (no
// checkpoint, or none that verifies), NN_ERR_USAGE (`which`, `device`, `precision`), and those of reading.
nn_status launch_run_open(dist_group *world, const char *path, const char *which, const char *device,
                          const char *precision, launch_run *out);
void launch_run_close(launch_run *run); // also after an open that failed

// Whether tokens mean the same to the data and to the model. `folder`: of the data, for messages. Errors:
// NN_ERR_INPUT.
nn_status launch_run_check_data(const launch_run *run, const data_set *data, const char *folder);
