#include "launch/eval/run_folder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "launch/machine/device.h"
#include "nn/log.h"

// The folder of a checkpoint has a manifest of its own. Rank 0 looks, all know.
static nn_status is_checkpoint(dist_group *world, const char *path, bool *answer) {
  char manifest[1100];
  uint8_t found = 0;
  if (dist_rank(world) == 0) {
    snprintf(manifest, sizeof manifest, "%s/manifest.json", path);
    found = access(manifest, F_OK) == 0;
  }
  NN_TRY(dist_broadcast(world, &found, 1, 0));
  *answer = found;
  return NN_OK;
}

static nn_status find_checkpoint(dist_group *world, const char *path, const char *which,
                                 data_checkpoint_loaded *out) {
  char folder[1100];
  bool single, found, best = which != NULL && strcmp(which, "best") == 0;
  if (which != NULL && !best && strcmp(which, "last") != 0)
    return NN_FAIL(NN_ERR_USAGE, "checkpoint: expected last or best, found '%s'", which);
  if (strlen(path) >= sizeof out->path - 64)
    return NN_FAIL(NN_ERR_USAGE, "%.80s...: the name of the run folder is too long", path);
  NN_TRY(is_checkpoint(world, path, &single));
  if (single)
    return data_checkpoint_open(world, path, out);
  snprintf(folder, sizeof folder, "%s/checkpoints", path);
  NN_TRY(best ? data_checkpoint_find_best(world, folder, &found, out)
              : data_checkpoint_find(world, folder, &found, out));
  return found ? NN_OK
               : NN_FAIL(NN_ERR_INPUT, "%s: expected a run folder with a checkpoint in it, found none", path);
}

// The configuration as the run had it. The vocabulary follows from the data where it is not given, so it is
// read off the embedding table.
static nn_status read_config(launch_run *run) {
  char name[1100];
  int64_t vocab, width;
  snprintf(name, sizeof name, "%s: config", run->checkpoint.path);
  launch_config_defaults(&run->config);
  NN_TRY(launch_config_parse(&run->config, run->checkpoint.config_yaml, name));
  NN_TRY(data_checkpoint_shape(&run->checkpoint, "param/embedding.weight", &vocab, &width));
  run->config.model.vocab = (int32_t)vocab;
  return launch_config_model(&run->config, (int32_t)vocab, &run->model);
}

static nn_status read_params(launch_run *run) {
  NN_TRY(nats_model_params(&run->model, &run->table));
  NN_TRY(nn_params_create(run->device, &run->table, false, &run->params));
  data_tensor *tensors = calloc((size_t)run->table.count, sizeof *tensors);
  if (tensors == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: out of memory for a list of tensors", run->checkpoint.path);
  data_tensors_of(&run->table, "param", run->params.master, tensors);
  nn_status status = data_checkpoint_read(&run->checkpoint, run->device, tensors, run->table.count);
  free(tensors);
  NN_TRY(status);
  return nn_params_refresh_compute(&run->params);
}

static nn_status read_description(launch_run *run) {
  const data_checkpoint_loaded *checkpoint = &run->checkpoint;
  NN_TRY(read_config(run));
  if (strcmp(checkpoint->tokenizer_kind, "none") == 0)
    return NN_OK;
  return data_tokenizer_restore(checkpoint->tokenizer_kind, checkpoint->tokenizer_blob,
                                checkpoint->tokenizer_bytes, &run->tokenizer);
}

nn_status launch_run_open(dist_group *world, const char *path, const char *which, const char *device,
                          const char *precision, launch_run *out) {
  *out = (launch_run){0};
  NN_TRY(find_checkpoint(world, path, which, &out->checkpoint));
  NN_TRY(dist_agree(world, read_description(out)));
  NN_TRY(launch_device_open(world, device, precision, false, &out->device));
  return dist_agree(world, read_params(out));
}

nn_status launch_run_check_data(const launch_run *run, const data_set *data, const char *folder) {
  const char *kind = data_set_tokenizer_kind(data), *own = run->checkpoint.tokenizer_kind;
  if (strcmp(kind, own) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: expected tokens of kind %s, as in %s, found %s", folder, own,
                   run->checkpoint.path, kind);
  if (run->tokenizer != NULL && data_set_tokenizer_hash(data) != data_tokenizer_hash(run->tokenizer))
    return NN_FAIL(NN_ERR_INPUT, "%s: its %s tokenizer is not the one of %s (another vocabulary)", folder,
                   kind, run->checkpoint.path);
  if (data_set_vocab(data) > run->model.vocab)
    return NN_FAIL(NN_ERR_INPUT, "%s: has a vocabulary of %d tokens, the model of %s one of %d", folder,
                   data_set_vocab(data), run->checkpoint.path, run->model.vocab);
  return NN_OK;
}

void launch_run_close(launch_run *run) {
  data_tokenizer_free(run->tokenizer);
  nn_params_free(&run->params);
  nn_param_table_free(&run->table);
  nn_device_close(run->device);
  data_checkpoint_loaded_free(&run->checkpoint);
  *run = (launch_run){0};
}
