#include "nn/cpu/operators.h"

const nn_ops_table nn_cpu_ops = {
    .embedding_forward = nn_cpu_embedding_forward,
    .embedding_backward = nn_cpu_embedding_backward,
    .linear_forward = nn_cpu_linear_forward,
    .linear_backward = nn_cpu_linear_backward,
    .norm_forward = nn_cpu_norm_forward,
    .norm_backward = nn_cpu_norm_backward,
    .rope_forward = nn_cpu_rope_forward,
    .rope_backward = nn_cpu_rope_backward,
    .rope_table = nn_cpu_rope_table,
    .activation_forward = nn_cpu_activation_forward,
    .activation_backward = nn_cpu_activation_backward,
    .classifier_run = nn_cpu_classifier_run,
    .classifier_workspace = nn_cpu_classifier_workspace,
    .logits_forward = nn_cpu_logits_forward,
    .grad_norm = nn_cpu_grad_norm,
    .adamw = nn_cpu_adamw,
    .accumulate = nn_cpu_accumulate,
    .params_init = nn_cpu_params_init,
    .params_refresh = nn_cpu_params_refresh,
};
