#include "launch/train/learner.h"

#include <math.h> // NAN
#include <stdio.h>
#include <stdlib.h> // free
#include <string.h>

int64_t launch_share_first(int64_t batch, int32_t rank, int32_t ranks) {
  return batch * rank / ranks;
}

static int64_t share_count(const launch_config *config, const dist_group *world) {
  int32_t rank = dist_rank(world), ranks = dist_size(world);
  return launch_share_first(config->train.batch, rank + 1, ranks) -
         launch_share_first(config->train.batch, rank, ranks);
}

static int64_t passes_of(int64_t sequences, int64_t micro_batch) {
  return (sequences + micro_batch - 1) / micro_batch;
}

int32_t launch_learner_micro_batch(const launch_config *config, const dist_group *world) {
  int64_t count = share_count(config, world);
  return (int32_t)(count < config->train.micro_batch ? count : config->train.micro_batch);
}

int64_t launch_learner_bucket_bytes(const launch_config *config, const nn_device *device) {
  double mib = config->dist.bucket_mib;
  if (mib == 0)
    mib = nn_device_get_kind(device) == NN_DEVICE_CPU ? 4 : 32;
  return (int64_t)(mib * (1 << 20));
}

// How `ranks` ranks share the optimizer's work; false where each does it all. `total`: elements of an arena.
static bool find_shards(const launch_config *config, const nn_device *device, const char *shard,
                        int64_t total, int32_t rank, int32_t ranks, dist_shards *out) {
  return ranks > 1 && strcmp(shard, "none") != 0 &&
         dist_shards_make(total, launch_learner_bucket_bytes(config, device), rank, ranks, out) == NN_OK;
}

nn_status launch_learner_arenas(const launch_config *config, const nn_device *device,
                                const nn_param_table *table, int32_t ranks, const char *shard,
                                launch_arenas *out) {
  const int64_t one = sizeof(float), act = (int64_t)nn_device_act_size(device);
  dist_shards shards;
  nn_shard mine = {.total = table->total};
  bool sharded = find_shards(config, device, shard, table->total, ranks - 1, ranks, &shards);
  if (sharded)
    NN_TRY(dist_shards_own(&shards, &mine)); // the last rank has what remains when pieces are uneven
  free(mine.items);
  *out = (launch_arenas){
      .parameters = act == one ? table->total * one : table->total * act + mine.total * one,
      .gradients = table->total * one,
      .moments = 2 * mine.total * one,
  };
  if (sharded && strcmp(shard, "gradients") == 0)
    out->gradients = (nn_params_window(table) + mine.total) * one + dist_reducer_window_bytes(&shards);
  return NN_OK;
}

nn_status launch_learner_check(const launch_config *config, const nn_device *device) {
  if (nn_device_get_kind(device) == NN_DEVICE_CPU && strcmp(config->dist.gradients, "float32") != 0)
    return NN_FAIL(NN_ERR_USAGE, "dist.gradients: %s needs GPUs; CPUs sum gradients in float32",
                   config->dist.gradients);
  return NN_OK;
}

static nn_schedule schedule_of(const launch_config *config) {
  return (nn_schedule){
      .kind = strcmp(config->optimizer.schedule, "wsd") == 0        ? NN_SCHEDULE_WSD
              : strcmp(config->optimizer.schedule, "constant") == 0 ? NN_SCHEDULE_CONSTANT
                                                                    : NN_SCHEDULE_COSINE,
      .lr = config->optimizer.lr,
      .lr_min = config->optimizer.lr_min,
      .steps = config->train.steps,
      .warmup = config->optimizer.warmup,
      .decay = config->optimizer.decay,
  };
}

static nn_status allocate_params(launch_learner *l) {
  const launch_config *config = l->config;
  bool gradients = strcmp(config->dist.shard, "gradients") == 0;
  NN_TRY(nats_model_params(&l->model_config, &l->table));
  l->sharded = find_shards(config, l->device, config->dist.shard, l->table.total, dist_rank(l->world),
                           dist_size(l->world), &l->shards);
  if (l->sharded)
    NN_TRY(dist_shards_own(&l->shards, &l->shard));
  return nn_params_create_shard(l->device, &l->table, l->sharded ? &l->shard : NULL,
                                gradients ? NN_SHARD_GRADIENTS : NN_SHARD_OPTIMIZER, &l->params);
}

static nn_status allocate(launch_learner *l) {
  const launch_config *config = l->config;
  NN_TRY(allocate_params(l));
  NN_TRY(nn_params_init(&l->params, (uint64_t)config->seed));
  NN_TRY(
      nats_model_create(&l->model_config, &l->params, l->micro_batch, config->train.length, true, &l->model));
  void *numbers = NULL;
  NN_TRY(nn_device_alloc(l->device, sizeof *l->numbers, "the numbers of a step", &numbers));
  l->numbers = numbers;
  return NN_OK;
}

static nn_status create_reducer(launch_learner *l) {
  if (!l->sharded)
    return dist_reducer_create(l->gradients, &l->params, launch_learner_bucket_bytes(l->config, l->device),
                               &l->reducer);
  NN_TRY(dist_reducer_create_sharded(l->gradients, &l->params, &l->shards, &l->reducer));
  NN_TRY(dist_gatherer_create(l->gradients, &l->params, &l->shards, &l->gatherer));
  l->params_source = dist_gatherer_source(l->gatherer);
  return NN_OK;
}

nn_status launch_learner_open(dist_group *world, nn_device *device, const launch_config *config,
                              const nats_model_config *model, launch_learner *out) {
  *out = (launch_learner){
      .config = config,
      .model_config = *model,
      .world = world,
      .device = device,
      .phases = launch_phases_make(config),
      .first = launch_share_first(config->train.batch, dist_rank(world), dist_size(world)),
      .count = share_count(config, world),
      .micro_batch = launch_learner_micro_batch(config, world),
  };
  int64_t ranks = dist_size(world), largest = (config->train.batch + ranks - 1) / ranks;
  out->most_passes = passes_of(largest, config->train.micro_batch);
  out->faults = launch_faults_read(world);
  NN_TRY(dist_agree(world, allocate(out)));
  nn_dtype wire = strcmp(config->dist.gradients, "bf16") == 0 ? NN_BF16 : NN_F32;
  NN_TRY(dist_group_for_device(world, device, wire, &out->gradients));
  dist_set_deadline(out->gradients, config->dist.deadline);
  NN_TRY(dist_agree(world, create_reducer(out)));
  return launch_learner_refresh(out);
}

nn_status launch_learner_refresh(launch_learner *l) {
  NN_TRY(nn_params_refresh_compute(&l->params));
  if (!nn_params_master_sharded(&l->params))
    return NN_OK;
  NN_TRY(dist_gatherer_start(l->gatherer));
  return dist_gatherer_finish(l->gatherer);
}

nn_status launch_learner_settle(launch_learner *l) {
  return l->sharded ? dist_gatherer_finish(l->gatherer) : NN_OK;
}

void launch_learner_close(launch_learner *l) {
  dist_gatherer_free(l->gatherer);
  dist_reducer_free(l->reducer);
  dist_group_free(l->gradients);
  nats_model_free(l->model);
  if (l->numbers != NULL)
    nn_device_free(l->device, l->numbers);
  nn_params_free(&l->params);
  free(l->shard.items);
  nn_param_table_free(&l->table);
  *l = (launch_learner){0};
}

// ---- a step ----

static float inverse(double count) {
  return count > 0 ? (float)(1 / count) : 0;
}

nn_status launch_learner_begin(launch_learner *l, int64_t step, const launch_batch_counts *counts) {
  const launch_config *config = l->config;
  nn_schedule schedule = schedule_of(config);
  double lr = nn_schedule_lr(&schedule, step);
  bool dense = launch_phases_dense(&l->phases, step);
  l->spoil_loss = launch_fault_due(&l->faults.loss, step + 1);
  double heads = (double)l->model_config.layers * l->model_config.kv_heads;
  l->host = (launch_numbers){
      .step =
          {
              .lr = {[NN_GROUP_WEIGHTS] = (float)lr,
                     [NN_GROUP_SCORER] = dense ? 0 : (float)(lr * config->nats.scorer_lr)},
              .beta1 = (float)config->optimizer.beta1,
              .beta2 = (float)config->optimizer.beta2,
              .eps = (float)config->optimizer.eps,
              .weight_decay = (float)config->optimizer.weight_decay,
              .max_norm = (float)config->optimizer.clip,
              .grad_scale = inverse((double)counts->scored),
          },
      .lambda = (float)launch_phases_lambda(&l->phases, step),
      .pair_scale = inverse((double)counts->pairs * heads),
  };
  for (int group = 0; group < NN_GROUPS; group++)
    l->host.step.updates[group] = l->updates[group] + (l->host.step.lr[group] != 0);
  NN_TRY(nn_device_upload(l->device, l->numbers, &l->host, sizeof l->host));
  if (l->params.sum != NULL)
    NN_TRY(nn_device_zero(l->device, l->params.sum, (size_t)l->shard.total * sizeof *l->params.sum));
  return nn_device_zero(l->device, l->params.grad, (size_t)l->params.grad_total * sizeof *l->params.grad);
}

// Rows [from, to) of a batch.
static nats_batch rows_of(const nats_batch *batch, int64_t from, int64_t to) {
  int64_t tokens = from * batch->length;
  return (nats_batch){
      .batch = (int32_t)(to - from),
      .length = batch->length,
      .tokens = batch->tokens + tokens,
      .targets = batch->targets + tokens,
      .lengths = batch->lengths != NULL ? batch->lengths + from : NULL,
      .sample = batch->sample + from,
  };
}

static nn_status spoil_gradient(launch_learner *l, int64_t step) {
  const float nan = NAN;
  if (!launch_fault_due(&l->faults.gradient, step + 1))
    return NN_OK;
  return nn_device_upload(l->device, l->params.grad, &nan, sizeof nan);
}

// Whole arenas collect the gradients of all passes and are reduced in the last; a window holds one pass only.
static nn_status take_pass(launch_learner *l, const nats_batch *part, const nats_pass *pass, bool last) {
  if (!last && l->params.sum == NULL)
    return nats_model_train(l->model, part, pass, NULL);
  nn_grad_listener reduce = dist_reducer_listener(l->reducer);
  dist_reducer_begin(l->reducer);
  NN_TRY(nats_model_train(l->model, part, pass, &reduce));
  NN_TRY(dist_reducer_finish(l->reducer));
  l->exposed += dist_reducer_exposed_seconds(l->reducer);
  return NN_OK;
}

// This rank has no sequence left while another one takes a pass: it adds nothing to the sums.
static nn_status add_nothing(launch_learner *l) {
  nn_grad_listener reduce = dist_reducer_listener(l->reducer);
  const nn_param *rows = l->table.items;
  int64_t end = l->table.total;
  dist_reducer_begin(l->reducer);
  for (int32_t i = l->table.count - 1; i >= 0; i--)
    if (i == 0 || rows[i - 1].block != rows[i].block) {
      NN_TRY(reduce.ready(reduce.context, rows[i].offset, end - rows[i].offset));
      end = rows[i].offset;
    }
  return dist_reducer_finish(l->reducer);
}

nn_status launch_learner_passes(launch_learner *l, int64_t step, const nats_batch *share) {
  nats_pass pass = {
      .types = launch_phases_dense(&l->phases, step) ? NATS_TYPES_ALL_GLOBAL : NATS_TYPES_SAMPLED,
      .seed = (uint64_t)l->config->seed,
      .step = step,
      .grad_scale = &l->numbers->step.grad_scale,
      .pair_scale = &l->numbers->pair_scale,
      .lambda = &l->numbers->lambda,
      .sums = &l->numbers->sums,
      .source = launch_learner_source(l),
  };
  int64_t passes = passes_of(share->batch, l->micro_batch);
  double before = l->sharded ? dist_gatherer_exposed_seconds(l->gatherer) : 0;
  l->exposed = 0;
  NN_TRY(spoil_gradient(l, step));
  launch_faults_strike(&l->faults, step + 1);
  for (int64_t i = 0; i < passes; i++) {
    nats_batch part = rows_of(share, i * share->batch / passes, (i + 1) * share->batch / passes);
    NN_TRY(take_pass(l, &part, &pass, i == passes - 1));
  }
  if (l->params.sum != NULL && passes < l->most_passes)
    NN_TRY(add_nothing(l));
  if (l->sharded)
    l->exposed += dist_gatherer_exposed_seconds(l->gatherer) - before;
  return NN_OK;
}

nn_status launch_learner_agree(launch_learner *l, launch_step_result *result) {
  NN_TRY(nn_grad_norm(l->device, &l->params, &l->numbers->step));
  NN_TRY(nn_device_download(l->device, &l->host, l->numbers, sizeof l->host));
  NN_TRY(nn_device_sync(l->device));
  // One all-reduce for the sums, the number of ranks whose gradient is not finite, and parts of the norm.
  struct {
    nn_sums sums;
    double not_finite, squares;
  } all = {l->host.sums, l->host.step.non_finite != 0, l->host.step.squares};
  if (l->spoil_loss)
    all.sums.nll *= 10;
  NN_TRY(dist_allreduce(l->world, &all, NN_SUMS_FIELDS + 2, DIST_F64, DIST_SUM));
  if (l->sharded) {
    nn_step_set_norm(&l->host.step, all.squares);
    NN_TRY(nn_device_upload(l->device, &l->numbers->step, &l->host.step, sizeof l->host.step));
  }
  *result = (launch_step_result){
      .sums = all.sums,
      .finite = all.not_finite == 0,
      .grad_norm = l->host.step.grad_norm,
      .lr = l->host.step.lr[NN_GROUP_WEIGHTS],
      .lambda = l->host.lambda,
  };
  return NN_OK;
}

nn_status launch_learner_update(launch_learner *l, int64_t step, const launch_step_result *result) {
  NN_TRY(nn_adamw(l->device, &l->params, &l->numbers->step));
  if (l->sharded)
    NN_TRY(dist_gatherer_start(l->gatherer));
  memcpy(l->updates, l->host.step.updates, sizeof l->updates);
  launch_phases_follow(&l->phases, step, launch_kv_fraction(&result->sums));
  return NN_OK;
}
