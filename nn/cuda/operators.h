// The operators of CUDA devices, one file each (nn/ops.h says what they compute). Pointers to nn_act are to
// the compute type of the device. Dimensions and pointers have been checked by nn/ops.c.
#pragma once

#ifdef __cplusplus
extern "C" {
#endif

#include "nn/ops_table.h"

nn_status nn_cuda_embedding_forward(nn_device *device, const nn_embedding *op);
nn_status nn_cuda_embedding_backward(nn_device *device, const nn_embedding *op);
nn_status nn_cuda_linear_forward(nn_device *device, const nn_linear *op);
nn_status nn_cuda_linear_backward(nn_device *device, const nn_linear *op);
nn_status nn_cuda_norm_forward(nn_device *device, const nn_norm *op);
nn_status nn_cuda_norm_backward(nn_device *device, const nn_norm *op);
nn_status nn_cuda_rope_forward(nn_device *device, const nn_rope *op);
nn_status nn_cuda_rope_backward(nn_device *device, const nn_rope *op);
nn_status nn_cuda_rope_table(nn_device *device, int32_t positions, int32_t head_size, double theta,
                             float *table);
nn_status nn_cuda_activation_forward(nn_device *device, const nn_activation *op);
nn_status nn_cuda_activation_backward(nn_device *device, const nn_activation *op);
nn_status nn_cuda_classifier_run(nn_device *device, const nn_classifier *op);
size_t nn_cuda_classifier_workspace(const nn_device *device, const nn_classifier *op);
nn_status nn_cuda_logits_forward(nn_device *device, const nn_logits *op);
nn_status nn_cuda_grad_norm(nn_device *device, const nn_params *params, nn_step *step);
nn_status nn_cuda_adamw(nn_device *device, const nn_params *params, const nn_step *step);
nn_status nn_cuda_accumulate(nn_device *device, float *to, const float *from, int64_t count);
nn_status nn_cuda_params_init(nn_device *device, nn_params *params, uint64_t seed);
nn_status nn_cuda_params_refresh(nn_device *device, nn_params *params);

#ifdef __cplusplus
}
#endif
