#include "launch/trainer.h"

static bool due(const launch_trainer *t) {
  int64_t every = t->config.eval.every;
  return t->step == t->config.train.steps || (every > 0 && t->step % every == 0);
}

// Adds this rank's samples to the sums on the device. The batch's buffers are free between steps.
static nn_status score_share(launch_trainer *t) {
  launch_learner *learner = &t->learner;
  int32_t rank = dist_rank(t->world), ranks = dist_size(t->world);
  int64_t at = launch_share_first(t->val_samples, rank, ranks);
  int64_t end = launch_share_first(t->val_samples, rank + 1, ranks);
  nats_pass pass = {.types = NATS_TYPES_ARGMAX,
                    .sums = &learner->numbers->sums,
                    .source = launch_learner_source(learner)};
  NN_TRY(nn_device_zero(t->device, &learner->numbers->sums, sizeof learner->numbers->sums));
  for (int32_t count = 0; at < end; at += count) {
    count = (int32_t)(end - at < learner->micro_batch ? end - at : learner->micro_batch);
    NN_TRY(data_loader_read(t->val_loader, at, count, t->tokens, t->targets, t->lengths, t->sample, NULL));
    nats_batch batch = {.batch = count,
                        .length = t->config.train.length,
                        .tokens = t->tokens,
                        .targets = t->targets,
                        .lengths = t->lengths,
                        .sample = t->sample};
    NN_TRY(nats_model_evaluate(learner->model, &batch, &pass, NULL, NULL));
  }
  NN_TRY(
      nn_device_download(t->device, &learner->host.sums, &learner->numbers->sums, sizeof learner->host.sums));
  return nn_device_sync(t->device);
}

nn_status launch_trainer_evaluate(launch_trainer *t) {
  if (t->val_loader == NULL || !due(t))
    return NN_OK;
  launch_trainer_enter(t, LAUNCH_EVALUATION);
  NN_TRY(dist_agree(t->world, score_share(t)));
  nn_sums sums = t->learner.host.sums;
  NN_TRY(dist_allreduce(t->world, &sums, NN_SUMS_FIELDS, DIST_F64, DIST_SUM));
  t->line.evaluated = true;
  t->line.val_loss = sums.nll / sums.scored;
  t->line.val_kv_fraction = launch_kv_fraction(&sums);
  t->line.val_accuracy = sums.correct / sums.scored;
  return NN_OK;
}
