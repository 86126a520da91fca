// How much of the cache every head of a trained model uses, for policies that treat heads apart.
#pragma once

#include "launch/eval/score.h"

enum { LAUNCH_HEAD_SAMPLES = 8 };

// KV fraction of every layer and kv head under the model's own types, [layers, Hk] into `use`, by a parallel
// pass over the first LAUNCH_HEAD_SAMPLES samples of the task. Agreed. Errors: NN_ERR_USAGE (the model has no
// types: its heads are all alike).
nn_status launch_eval_head_use(const launch_eval_task *task, double *use);
