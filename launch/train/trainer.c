#include "launch/train/trainer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"
#include "launch/machine/blas_core.h"
#include "launch/machine/device.h"
#include "launch/machine/hosts.h"
#include "launch/train/time_limit.h"
#include "nn/gpus.h"
#include "nn/log.h"

// ---- data ----

static data_sample_kind sample_kind(const launch_config *config) {
  return strcmp(config->data.sample, "document") == 0 ? DATA_SAMPLE_DOCUMENT : DATA_SAMPLE_STREAM;
}

// A split that is missing or too short for one sample costs the evaluation, not the run.
static nn_status open_validation(launch_trainer *t) {
  const launch_config *config = &t->config;
  bool found = false;
  NN_TRY(data_set_has_split_shared(t->world, config->data.path, "val", &found));
  if (!found) {
    nn_info("%s has no validation split: val_loss will not be reported", config->data.path);
    return NN_OK;
  }
  NN_TRY(data_set_open_shared(t->world, config->data.path, "val", &t->val_data));
  // Shuffled by a seed that is no key: eval.samples of them speak for the whole split, the same in every run.
  nn_status status = dist_agree(t->world, data_loader_create(t->val_data, sample_kind(config),
                                                             config->train.length, 0, true, &t->val_loader));
  if (status == NN_ERR_INPUT) {
    nn_info("the validation split is not used: %s", nn_error_text());
    nn_error_clear();
    return NN_OK;
  }
  NN_TRY(status);
  int64_t all = data_loader_samples(t->val_loader), wanted = config->eval.samples;
  t->val_samples = wanted > 0 && wanted < all ? wanted : all;
  return NN_OK;
}

// Agreed.
static nn_status open_data(launch_trainer *t) {
  const launch_config *config = &t->config;
  NN_TRY(data_set_open_shared(t->world, config->data.path, "train", &t->data));
  NN_TRY(dist_agree(t->world, data_loader_create(t->data, sample_kind(config), config->train.length,
                                                 (uint64_t)config->seed, true, &t->loader)));
  return open_validation(t);
}

// What a run must not change: the fixed keys, and what it learns from.
static nn_status make_model_key(launch_trainer *t) {
  char *fixed = launch_config_fixed_text(&t->config);
  int length = fixed == NULL ? -1
                             : asprintf(&t->model_key,
                                        "%sdata.tokens: %" PRId64 "\ndata.tokenizer: %s %016" PRIx64
                                        "\ndata.hash: %016" PRIx64 "\n",
                                        fixed, data_set_tokens(t->data), data_set_tokenizer_kind(t->data),
                                        data_set_tokenizer_hash(t->data), data_set_hash(t->data));
  free(fixed);
  if (length >= 0)
    return NN_OK;
  t->model_key = NULL;
  return NN_FAIL(NN_ERR_MEMORY, "out of memory for the configuration");
}

static nn_status make_batch(launch_trainer *t) {
  size_t share = (size_t)t->learner.count, tokens = share * (size_t)t->config.train.length;
  t->tokens = calloc(tokens, sizeof *t->tokens);
  t->targets = calloc(tokens, sizeof *t->targets);
  t->lengths = calloc(share, sizeof *t->lengths);
  t->sample = calloc(share, sizeof *t->sample);
  if (t->tokens == NULL || t->targets == NULL || t->lengths == NULL || t->sample == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a batch of %zu sequences", share);
  return NN_OK;
}

// ---- memory ----

// What Open MPI takes beside a copy of every bucket under way, as measured with 2 and 3 ranks of one machine.
enum { TRANSPORT = 16 << 20 };

// The totals that other values of dist.shard would have.
static nn_status print_other_shards(const launch_trainer *t, const launch_memory_table *printed,
                                    const nn_param_table *params) {
  static const char *const kinds[] = {"none", "optimizer", "gradients"};
  const launch_config *config = &t->config;
  int32_t ranks = dist_size(t->world);
  launch_arenas here, there;
  char name[64], text[LAUNCH_DURATION];
  NN_TRY(launch_learner_arenas(config, t->device, params, ranks, config->dist.shard, &here));
  for (int kind = 0; kind < 3 && ranks > 1; kind++) {
    if (strcmp(kinds[kind], config->dist.shard) == 0)
      continue;
    NN_TRY(launch_learner_arenas(config, t->device, params, ranks, kinds[kind], &there));
    int64_t more = there.parameters + there.gradients + there.moments -
                   (here.parameters + here.gradients + here.moments);
    snprintf(name, sizeof name, "with dist.shard=%s", kinds[kind]);
    nn_info("  %-28s %12s", name, launch_bytes(launch_memory_total(printed) + more, text));
  }
  return NN_OK;
}

static nn_status print_plan(const launch_trainer *t, const nn_param_table *params) {
  char text[LAUNCH_DURATION];
  int64_t available = 0, all = 0, wanted = launch_memory_total(&t->gpu_memory);
  if (wanted == 0) {
    launch_memory_print(&t->memory, "memory of a rank, as planned");
    return print_other_shards(t, &t->memory, params);
  }
  NN_TRY(nn_device_memory(t->device, &available, &all));
  launch_memory_print(&t->gpu_memory, "GPU memory of a rank, as planned");
  NN_TRY(print_other_shards(t, &t->gpu_memory, params));
  nn_info("  %-28s %12s", "free now", launch_bytes(available, text));
  if (wanted > available)
    nn_warn("this rank's GPU has less memory free than planned: a smaller train.micro_batch takes less");
  launch_memory_print(&t->memory, "host memory of a rank, as planned");
  return NN_OK;
}

// Printed before any of it is taken: whoever runs out of memory wants to have seen it. What CUDA and NCCL
// take on a GPU for themselves is not in it.
static nn_status plan_with(launch_trainer *t, const nats_model_config *model, const nn_param_table *params) {
  const launch_config *config = &t->config;
  bool gpu = nn_device_get_kind(t->device) != NN_DEVICE_CPU;
  launch_memory_table *table = gpu ? &t->gpu_memory : &t->memory;
  nats_model_memory passes;
  launch_arenas arenas;
  int32_t micro_batch = launch_learner_micro_batch(config, t->world), ranks = dist_size(t->world);
  NN_TRY(nats_model_measure(model, t->device, micro_batch, config->train.length, true, &passes));
  NN_TRY(launch_learner_arenas(config, t->device, params, ranks, config->dist.shard, &arenas));
  int64_t arena = params->total * (int64_t)sizeof(float);
  int64_t share = (config->train.batch + ranks - 1) / ranks;
  int64_t writers = config->checkpoint.writers < ranks ? config->checkpoint.writers : ranks;
  int64_t bucket = launch_learner_bucket_bytes(config, t->device);
  bool packed = gpu && ranks > 1 && strcmp(config->dist.gradients, "bf16") == 0;

  launch_memory_add(table, "parameters", arenas.parameters);
  launch_memory_add(table, "gradients", arenas.gradients);
  launch_memory_add(table, "moments", arenas.moments);
  launch_memory_add(table, "activations", passes.activations);
  launch_memory_add(table, "workspace", passes.workspace);
  if (packed)
    launch_memory_add(table, "gradients as bf16", (arena < bucket ? arena : bucket) / 2);
  table = &t->memory;
  launch_memory_add(table, "data", share * config->train.length * 2 * (int64_t)sizeof(int32_t));
  if (ranks > 1 && !gpu)
    launch_memory_add(table, "messages between ranks", TRANSPORT + (arena < 3 * bucket ? arena : 3 * bucket));
  launch_memory_add(table, "checkpoint snapshot", 3 * arena / writers);
  launch_memory_add(table, "program and libraries", launch_memory_resident());
  return print_plan(t, params);
}

static nn_status plan_memory(launch_trainer *t, const nats_model_config *model) {
  nn_param_table params = {0};
  NN_TRY(nats_model_params(model, &params));
  nn_status status = plan_with(t, model, &params);
  nn_param_table_free(&params);
  return status;
}

// ---- the run folder ----

static void list_arena(const nn_param_table *table, const char *prefix, const dist_shards *shards,
                       float *memory, data_tensor *out) {
  if (shards != NULL)
    data_tensors_of_shard(table, prefix, shards, memory, out);
  else
    data_tensors_of(table, prefix, memory, out);
}

static nn_status list_tensors(launch_trainer *t) {
  const nn_param_table *table = &t->learner.table;
  const nn_params *params = &t->learner.params;
  t->tensors = calloc(3 * (size_t)table->count, sizeof *t->tensors);
  if (t->tensors == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a list of tensors");
  const dist_shards *shards = t->learner.sharded ? &t->learner.shards : NULL;
  const dist_shards *masters = nn_params_master_sharded(params) ? shards : NULL;
  list_arena(table, "param", masters, params->master, t->tensors);
  list_arena(table, "moment1", shards, params->moment1, t->tensors + table->count);
  list_arena(table, "moment2", shards, params->moment2, t->tensors + 2 * table->count);
  return NN_OK;
}

static nn_status open_checkpoints(launch_trainer *t) {
  char folder[1100];
  snprintf(folder, sizeof folder, "%s/checkpoints", t->config.run);
  data_checkpoint_config config = {.folder = folder,
                                   .keep = t->config.checkpoint.keep,
                                   .keep_best = t->config.checkpoint.keep_best,
                                   .writers = t->config.checkpoint.writers};
  NN_TRY(dist_agree(t->world, list_tensors(t)));
  return data_checkpointer_create(t->world, t->device, &config, t->tensors, 3 * t->learner.table.count,
                                  &t->checkpoints);
}

// What rank 0 writes when all else is ready.
static nn_status write_folder(launch_trainer *t) {
  if (dist_rank(t->world) != 0)
    return NN_OK;
  char path[1100];
  snprintf(path, sizeof path, "%s/config.yaml", t->config.run);
  char *text = launch_config_text(&t->config);
  nn_status status = text != NULL ? data_file_replace(path, text, strlen(text))
                                  : NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", path);
  free(text);
  NN_TRY(status);
  NN_TRY(launch_metrics_open(&t->metrics, t->config.run, t->step));
  launch_progress_begin(&t->progress, t->config.train.steps, t->config.log.every);
  return NN_OK;
}

// ---- opening and closing ----

static nn_status require_paths(const launch_config *config) {
  if (config->run[0] == '\0')
    return NN_FAIL(NN_ERR_USAGE, "run: expected the name of the run folder, found nothing");
  if (config->data.path[0] == '\0')
    return NN_FAIL(NN_ERR_USAGE, "data.path: expected the folder of a data set, found nothing");
  return NN_OK;
}

static nn_status open_trainer(launch_trainer *t) {
  nats_model_config model;
  NN_TRY(require_paths(&t->config));
  NN_TRY(open_data(t));
  NN_TRY(dist_agree(t->world, launch_config_model(&t->config, data_set_vocab(t->data), &model)));
  NN_TRY(launch_set_threads(t->world, t->config.threads));
  NN_TRY(launch_device_open(t->world, t->config.device, t->config.precision, true, &t->device));
  NN_TRY(launch_learner_check(&t->config, t->device));
  NN_TRY(launch_hosts_print(t->world, t->device));
  NN_TRY(launch_trainer_claim(t));
  NN_TRY(dist_agree(t->world, plan_memory(t, &model)));
  NN_TRY(launch_learner_open(t->world, t->device, &t->config, &model, &t->learner));
  NN_TRY(dist_agree(t->world, make_batch(t)));
  NN_TRY(dist_agree(t->world, make_model_key(t)));
  NN_TRY(open_checkpoints(t));
  NN_TRY(launch_trainer_resume(t));
  NN_TRY(dist_agree(t->world, write_folder(t)));
  t->first_step = t->step;
  t->first_tokens = t->tokens_seen;
  t->first_seconds = t->seconds;
  return NN_OK;
}

nn_status launch_trainer_open(dist_group *world, const launch_config *config, launch_trainer *out) {
  *out = (launch_trainer){
      .config = *config, .world = world, .lock = -1, .saved_step = -1, .metrics = {.file = -1}};
  launch_trainer_enter(out, LAUNCH_SETUP);
  NN_TRY(dist_agree(world, launch_balance_open(world, &out->balance)));
  NN_TRY(launch_time_limit_set(world, config));
  return open_trainer(out);
}

void launch_trainer_close(launch_trainer *t) {
  launch_balance_close(&t->balance);
  launch_metrics_close(&t->metrics);
  data_checkpointer_free(t->checkpoints);
  free(t->tensors);
  free(t->model_key);
  free(t->sample);
  free(t->lengths);
  free(t->targets);
  free(t->tokens);
  launch_learner_close(&t->learner);
  nn_device_close(t->device);
  data_run_unlock(t->lock);
  data_loader_free(t->val_loader);
  data_set_close(t->val_data);
  data_loader_free(t->loader);
  data_set_close(t->data);
}
