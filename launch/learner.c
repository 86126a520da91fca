// For tests, the environment variable NATSFORMER_FAULT holds a comma-separated list of faults (data/
// checkpoint_writer.h has others); here
//   gradient:FIRST[-LAST]   the last rank's gradient holds a NaN in these steps (from 1, as in metrics)
//   loss:FIRST[-LAST]       the last rank's loss is ten times what it is, in these steps
//   slow:FIRST[-LAST]       the last rank takes 40 ms more for these steps
#include "launch/learner.h"

#include <math.h> // NAN
#include <stdio.h>
#include <stdlib.h> // getenv
#include <string.h>
#include <time.h> // nanosleep

int64_t launch_share_first(int64_t batch, int32_t rank, int32_t ranks) {
  return batch * rank / ranks;
}

static int64_t share_count(const launch_config *config, const dist_group *world) {
  int32_t rank = dist_rank(world), ranks = dist_size(world);
  return launch_share_first(config->train.batch, rank + 1, ranks) -
         launch_share_first(config->train.batch, rank, ranks);
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

// Steps that are spoilt on purpose, on the last rank.
static launch_fault read_fault(const dist_group *world, const char *name) {
  const char *faults = getenv("NATSFORMER_FAULT");
  const char *mine = faults != NULL ? strstr(faults, name) : NULL;
  long long first = 0, last = 0;
  int found = mine != NULL ? sscanf(mine + strlen(name), "%lld-%lld", &first, &last) : 0;
  if (found < 1 || dist_rank(world) != dist_size(world) - 1)
    return (launch_fault){0};
  return (launch_fault){.first = first, .last = found == 2 ? last : first};
}

static bool faulty(const launch_fault *fault, int64_t step) {
  return step + 1 >= fault->first && step + 1 <= fault->last;
}

static nn_status allocate(launch_learner *l) {
  const launch_config *config = l->config;
  NN_TRY(nats_model_params(&l->model_config, &l->table));
  NN_TRY(nn_params_create(l->device, &l->table, true, &l->params));
  NN_TRY(nn_params_init(&l->params, (uint64_t)config->seed));
  NN_TRY(
      nats_model_create(&l->model_config, &l->params, l->micro_batch, config->train.length, true, &l->model));
  void *numbers = NULL;
  NN_TRY(nn_device_alloc(l->device, sizeof *l->numbers, "the numbers of a step", &numbers));
  l->numbers = numbers;
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
  out->gradient_fault = read_fault(world, "gradient:");
  out->loss_fault = read_fault(world, "loss:");
  out->slow_fault = read_fault(world, "slow:");
  NN_TRY(dist_agree(world, allocate(out)));
  nn_dtype wire = strcmp(config->dist.gradients, "bf16") == 0 ? NN_BF16 : NN_F32;
  NN_TRY(dist_group_for_device(world, device, wire, &out->gradients));
  dist_set_deadline(out->gradients, config->dist.deadline);
  int64_t bucket = launch_learner_bucket_bytes(config, device);
  return dist_agree(world, dist_reducer_create(out->gradients, &out->params, bucket, &out->reducer));
}

void launch_learner_close(launch_learner *l) {
  dist_reducer_free(l->reducer);
  dist_group_free(l->gradients);
  nats_model_free(l->model);
  if (l->numbers != NULL)
    nn_device_free(l->device, l->numbers);
  nn_params_free(&l->params);
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
  l->spoil_loss = faulty(&l->loss_fault, step);
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
  return nn_device_zero(l->device, l->params.grad, (size_t)l->table.total * sizeof *l->params.grad);
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
  if (!faulty(&l->gradient_fault, step))
    return NN_OK;
  return nn_device_upload(l->device, l->params.grad, &nan, sizeof nan);
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
  };
  nn_grad_listener reduce = dist_reducer_listener(l->reducer);
  int64_t passes = (share->batch + l->micro_batch - 1) / l->micro_batch;
  NN_TRY(spoil_gradient(l, step));
  if (faulty(&l->slow_fault, step))
    nanosleep(&(struct timespec){.tv_nsec = 40 * 1000 * 1000}, NULL);
  dist_reducer_begin(l->reducer);
  for (int64_t i = 0; i < passes; i++) {
    nats_batch part = rows_of(share, i * share->batch / passes, (i + 1) * share->batch / passes);
    NN_TRY(nats_model_train(l->model, &part, &pass, i == passes - 1 ? &reduce : NULL));
  }
  return dist_reducer_finish(l->reducer);
}

nn_status launch_learner_agree(launch_learner *l, launch_step_result *result) {
  NN_TRY(nn_grad_norm(l->device, &l->params, &l->numbers->step));
  NN_TRY(nn_device_download(l->device, &l->host, l->numbers, sizeof l->host));
  NN_TRY(nn_device_sync(l->device));
  // One all-reduce for the sums and for the number of ranks whose gradient is not finite.
  struct {
    nn_sums sums;
    double not_finite;
  } all = {l->host.sums, l->host.step.non_finite != 0};
  if (l->spoil_loss)
    all.sums.nll *= 10;
  NN_TRY(dist_allreduce(l->world, &all, NN_SUMS_FIELDS + 1, DIST_F64, DIST_SUM));
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
  memcpy(l->updates, l->host.step.updates, sizeof l->updates);
  launch_phases_follow(&l->phases, step, launch_kv_fraction(&result->sums));
  return NN_OK;
}
