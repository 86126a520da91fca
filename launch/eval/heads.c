#include "launch/eval/heads.h"

nn_status launch_eval_head_use(const launch_eval_task *task, double *use) {
  const nats_model_config *model = &task->run->model;
  nats_policy_choice own;
  launch_eval_result result;
  if (model->attention != NATS_ATTENTION_NATS)
    return NN_FAIL(
        NN_ERR_USAGE,
        "%s: its heads all use the cache alike; expected a model with token types (attention: nats) "
        "for a policy that treats heads apart",
        task->run->checkpoint.path);
  NN_TRY(nats_policy_choose(NULL, model, &own));
  launch_eval_task few = {.world = task->world,
                          .run = task->run,
                          .loader = task->loader,
                          .samples =
                              task->samples < LAUNCH_HEAD_SAMPLES ? task->samples : LAUNCH_HEAD_SAMPLES,
                          .length = task->length,
                          .batch = task->batch};
  nn_status status = launch_eval_score(&few, &own, NULL, &result);
  for (int32_t h = 0; status == NN_OK && h < model->layers * model->kv_heads; h++)
    use[h] = result.per_head[2 * h] / result.per_head[2 * h + 1];
  launch_eval_result_free(&result);
  return status;
}
