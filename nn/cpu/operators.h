// The operators of the CPU, one file each (nn/ops.h says what they compute). Pointers to nn_act are to
// float32 here. Dimensions and pointers have been checked by nn/ops.c.
#pragma once

#include "nn/ops_table.h"

nn_status nn_cpu_embedding_forward(nn_device *device, const nn_embedding *op);
nn_status nn_cpu_embedding_backward(nn_device *device, const nn_embedding *op);
nn_status nn_cpu_linear_forward(nn_device *device, const nn_linear *op);
nn_status nn_cpu_linear_backward(nn_device *device, const nn_linear *op);
nn_status nn_cpu_norm_forward(nn_device *device, const nn_norm *op);
nn_status nn_cpu_norm_backward(nn_device *device, const nn_norm *op);
nn_status nn_cpu_rope_forward(nn_device *device, const nn_rope *op);
nn_status nn_cpu_rope_backward(nn_device *device, const nn_rope *op);
nn_status nn_cpu_rope_table(nn_device *device, int32_t positions, int32_t head_size, double theta,
                            float *table);
nn_status nn_cpu_activation_forward(nn_device *device, const nn_activation *op);
nn_status nn_cpu_activation_backward(nn_device *device, const nn_activation *op);
nn_status nn_cpu_classifier_run(nn_device *device, const nn_classifier *op);
size_t nn_cpu_classifier_workspace(const nn_device *device, const nn_classifier *op);
nn_status nn_cpu_logits_forward(nn_device *device, const nn_logits *op);
nn_status nn_cpu_grad_norm(nn_device *device, const nn_params *params, nn_step *step);
nn_status nn_cpu_adamw(nn_device *device, const nn_params *params, const nn_step *step);
nn_status nn_cpu_accumulate(nn_device *device, float *to, const float *from, int64_t count);
nn_status nn_cpu_params_init(nn_device *device, nn_params *params, uint64_t seed);
nn_status nn_cpu_params_refresh(nn_device *device, nn_params *params);
