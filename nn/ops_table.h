// Private: the table of operators that a device implements. One slot per function of nn/ops.h; dimensions and
// pointers have been checked by nn/ops.c before a slot is called.
#pragma once

#include "nn/ops.h"

typedef struct nn_ops_table {
  nn_status (*embedding_forward)(nn_device *, const nn_embedding *);
  nn_status (*embedding_backward)(nn_device *, const nn_embedding *);
  nn_status (*linear_forward)(nn_device *, const nn_linear *);
  nn_status (*linear_backward)(nn_device *, const nn_linear *);
  nn_status (*norm_forward)(nn_device *, const nn_norm *);
  nn_status (*norm_backward)(nn_device *, const nn_norm *);
  nn_status (*rope_forward)(nn_device *, const nn_rope *);
  nn_status (*rope_backward)(nn_device *, const nn_rope *);
  nn_status (*rope_table)(nn_device *, int32_t positions, int32_t head_size, double theta, float *table);
  nn_status (*activation_forward)(nn_device *, const nn_activation *);
  nn_status (*activation_backward)(nn_device *, const nn_activation *);
  nn_status (*classifier_run)(nn_device *, const nn_classifier *);
  size_t (*classifier_workspace)(const nn_device *, const nn_classifier *);
  nn_status (*logits_forward)(nn_device *, const nn_logits *);
  nn_status (*grad_norm)(nn_device *, const nn_params *, nn_step *);
  nn_status (*adamw)(nn_device *, const nn_params *, const nn_step *);
  nn_status (*accumulate)(nn_device *, float *to, const float *from, int64_t count);
  nn_status (*params_init)(nn_device *, nn_params *, uint64_t seed);
  nn_status (*params_refresh)(nn_device *, nn_params *);
} nn_ops_table;

extern const nn_ops_table nn_cpu_ops;
extern const nn_ops_table nn_cuda_ops; // in a build with CUDA
