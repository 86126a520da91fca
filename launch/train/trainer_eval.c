#include "dist/stop.h"
#include "launch/train/trainer.h"
#include "nn/log.h"

static bool due(const launch_trainer *t) {
  int64_t every = t->config.eval.every;
  return t->step == t->config.train.steps || (every > 0 && t->step % every == 0);
}

// Adds `count` of this rank's samples to the sums on the device. The batch's buffers are free between steps.
static nn_status score(launch_trainer *t, int64_t first, int32_t count) {
  launch_learner *learner = &t->learner;
  nats_pass pass = {
      .types = NATS_TYPES_ARGMAX, .sums = &learner->numbers->sums, .source = launch_learner_source(learner)};
  NN_TRY(data_loader_read(t->val_loader, first, count, t->tokens, t->targets, t->lengths, t->sample, NULL));
  nats_batch batch = {.batch = count,
                      .length = t->config.train.length,
                      .tokens = t->tokens,
                      .targets = t->targets,
                      .lengths = t->lengths,
                      .sample = t->sample};
  return nats_model_evaluate(learner->model, &batch, &pass, NULL, NULL);
}

// Batches of the rank that has most of them.
static nn_status count_rounds(const launch_trainer *t, int64_t samples, int64_t *rounds) {
  int64_t batch = t->learner.micro_batch;
  *rounds = (samples + batch - 1) / batch;
  return dist_allreduce(t->world, rounds, 1, DIST_I64, DIST_MAX);
}

// Agreed. A batch on every rank, then a word among them: a signal that reached one rank ends a long
// evaluation on all, with NN_STOPPED.
static nn_status score_share(launch_trainer *t) {
  launch_learner *learner = &t->learner;
  int32_t rank = dist_rank(t->world), ranks = dist_size(t->world);
  int64_t at = launch_share_first(t->val_samples, rank, ranks), rounds = 0;
  int64_t end = launch_share_first(t->val_samples, rank + 1, ranks);
  NN_TRY(count_rounds(t, end - at, &rounds));
  nn_status status = nn_device_zero(t->device, &learner->numbers->sums, sizeof learner->numbers->sums);
  for (int64_t round = 0; round < rounds; round++) {
    int32_t count = (int32_t)(end - at < learner->micro_batch ? end - at : learner->micro_batch);
    if (status == NN_OK && count > 0)
      status = score(t, at, count);
    if (round == 0)
      launch_faults_strike_evaluation(&learner->faults, t->step);
    if (status == NN_OK && dist_stop_asked())
      status = NN_STOPPED;
    NN_TRY(dist_agree(t->world, status));
    at += count;
  }
  NN_KEEP(status, nn_device_download(t->device, &learner->host.sums, &learner->numbers->sums,
                                     sizeof learner->host.sums));
  NN_KEEP(status, nn_device_sync(t->device));
  return dist_agree(t->world, status);
}

nn_status launch_trainer_evaluate(launch_trainer *t) {
  if (t->val_loader == NULL || !due(t))
    return NN_OK;
  launch_trainer_enter(t, LAUNCH_EVALUATION);
  nn_status status = score_share(t);
  t->owes_evaluation = status == NN_STOPPED;
  if (t->owes_evaluation) {
    nn_info("step %lld: asked to stop; the next start evaluates it", (long long)t->step);
    return NN_OK;
  }
  NN_TRY(status);
  nn_sums sums = t->learner.host.sums;
  NN_TRY(dist_allreduce(t->world, &sums, NN_SUMS_FIELDS, DIST_F64, DIST_SUM));
  t->line.evaluated = true;
  t->line.val_loss = sums.nll / sums.scored;
  t->line.val_kv_fraction = launch_kv_fraction(&sums);
  t->line.val_accuracy = sums.correct / sums.scored;
  return NN_OK;
}

// The line of the step is there without the evaluation, and so is its checkpoint: both get it now.
nn_status launch_trainer_make_up(launch_trainer *t) {
  bool first = dist_rank(t->world) == 0, there = t->line.step > 0 && t->line.step == t->step;
  int32_t owed = first && there && t->val_loader != NULL && due(t) && !t->line.evaluated;
  NN_TRY(dist_broadcast(t->world, &owed, sizeof owed, 0));
  if (!owed)
    return NN_OK;
  nn_info("step %lld: evaluating it first", (long long)t->step);
  NN_TRY(launch_trainer_evaluate(t));
  if (t->owes_evaluation)
    return NN_OK;
  if (first)
    launch_metrics_replace(&t->metrics, &t->line);
  t->saved_step = -1;
  return launch_trainer_save(t, true);
}
