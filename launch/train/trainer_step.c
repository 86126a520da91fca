#include "launch/train/trainer.h"

// What the batch holds, where its samples differ in length or in the number of scored tokens.
static nn_status count_batch(launch_trainer *t) {
  int64_t count = t->learner.count, length = t->config.train.length;
  struct {
    int64_t scored, pairs, tokens;
  } all = {0};
  for (int64_t i = 0; i < count * length; i++)
    all.scored += t->targets[i] >= 0;
  for (int64_t i = 0; i < count; i++) {
    all.pairs += (int64_t)t->lengths[i] * (t->lengths[i] + 1) / 2;
    all.tokens += t->lengths[i];
  }
  NN_TRY(dist_allreduce(t->world, &all, 3, DIST_I64, DIST_SUM));
  t->counts = (launch_batch_counts){.scored = all.scored, .pairs = all.pairs};
  t->step_tokens = all.tokens;
  return NN_OK;
}

nn_status launch_trainer_next_batch(launch_trainer *t) {
  int64_t batch = t->config.train.batch, length = t->config.train.length, scored = 0;
  int32_t share = (int32_t)t->learner.count;
  launch_trainer_enter(t, LAUNCH_STEP);
  t->step_started = launch_seconds();
  t->waited_before = dist_waited_seconds(t->world);
  NN_TRY(dist_agree(t->world, data_loader_read(t->loader, t->samples + t->learner.first, share, t->tokens,
                                               t->targets, t->lengths, t->sample, NULL)));
  bool uniform = data_loader_uniform(t->loader, &scored);
  t->batch = (nats_batch){.batch = share,
                          .length = (int32_t)length,
                          .tokens = t->tokens,
                          .targets = t->targets,
                          .lengths = uniform ? NULL : t->lengths,
                          .sample = t->sample};
  if (!uniform)
    return count_batch(t);
  t->counts = (launch_batch_counts){.scored = batch * scored, .pairs = batch * (length * (length + 1) / 2)};
  t->step_tokens = batch * length;
  return NN_OK;
}

nn_status launch_trainer_count(launch_trainer *t) {
  int32_t slowest_rank = 0;
  double imbalance = 0;
  NN_TRY(launch_balance_finish(&t->balance, t->world, &slowest_rank, &imbalance));
  const nn_sums *sums = &t->result.sums;
  double seconds = launch_seconds() - t->step_started;
  t->step++;
  t->samples += t->config.train.batch;
  t->tokens_seen += t->step_tokens;
  t->seconds += seconds;
  t->skipped += t->left_out;
  t->skipped_in_a_row = t->left_out ? t->skipped_in_a_row + 1 : 0;
  t->line = (launch_metrics_line){
      .step = t->step,
      .tokens = t->tokens_seen,
      .loss = sums->nll / sums->scored,
      .kv_fraction = launch_kv_fraction(sums),
      .lambda = t->result.lambda,
      .lr = t->result.lr,
      .grad_norm = t->result.grad_norm,
      .skipped = t->skipped,
      .tokens_per_s = (double)t->step_tokens / seconds,
      .seconds = t->seconds,
      .comm_exposed_s = t->learner.exposed,
      .slowest_rank = slowest_rank,
      .imbalance = imbalance,
      .labelled = data_set_labelled(t->data),
      .accuracy = sums->correct / sums->scored,
  };
  return NN_OK;
}

void launch_trainer_record(launch_trainer *t) {
  if (dist_rank(t->world) != 0)
    return;
  launch_metrics_write(&t->metrics, &t->line);
  launch_progress_step(&t->progress, &t->line);
}

nn_status launch_trainer_check(launch_trainer *t) {
  if (t->skipped_in_a_row < t->config.train.max_skipped)
    return NN_OK;
  return NN_FAIL(NN_ERR_NUMERIC,
                 "step %lld: the gradient was not finite%s in %lld steps in a row (train.max_skipped); try a "
                 "lower optimizer.lr, or more optimizer.warmup",
                 (long long)t->step, t->config.train.skip_spikes > 0 ? ", or the loss too high," : "",
                 (long long)t->skipped_in_a_row);
}
