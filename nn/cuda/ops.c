#include "nn/cuda/operators.h"

const nn_ops_table nn_cuda_ops = {
    .embedding_forward = nn_cuda_embedding_forward,
    .embedding_backward = nn_cuda_embedding_backward,
    .linear_forward = nn_cuda_linear_forward,
    .linear_backward = nn_cuda_linear_backward,
    .norm_forward = nn_cuda_norm_forward,
    .norm_backward = nn_cuda_norm_backward,
    .rope_forward = nn_cuda_rope_forward,
    .rope_backward = nn_cuda_rope_backward,
    .rope_table = nn_cuda_rope_table,
    .activation_forward = nn_cuda_activation_forward,
    .activation_backward = nn_cuda_activation_backward,
    .classifier_run = nn_cuda_classifier_run,
    .classifier_workspace = nn_cuda_classifier_workspace,
    .logits_forward = nn_cuda_logits_forward,
    .grad_norm = nn_cuda_grad_norm,
    .adamw = nn_cuda_adamw,
    .accumulate = nn_cuda_accumulate,
    .params_init = nn_cuda_params_init,
    .params_refresh = nn_cuda_params_refresh,
};
