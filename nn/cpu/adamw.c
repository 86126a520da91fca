#include <math.h>

#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

typedef struct {
  float clip, beta1, beta2, eps;
  float correction1, correction2; // 1 / (1 - beta^t)
  float lr, decay;
} update;

static update make_update(const nn_step *step, const nn_param *param) {
  double t = (double)step->updates[param->group];
  return (update){
      .clip = step->clip_factor,
      .beta1 = step->beta1,
      .beta2 = step->beta2,
      .eps = step->eps,
      .correction1 = (float)(1.0 / (1.0 - pow((double)step->beta1, t))),
      .correction2 = (float)(1.0 / (1.0 - pow((double)step->beta2, t))),
      .lr = step->lr[param->group],
      .decay = param->decay ? step->weight_decay : 0.0f,
  };
}

NN_CLONES static void apply(update u, int64_t n, float *restrict weight, const float *restrict grad,
                            float *restrict moment1, float *restrict moment2) {
  for (int64_t i = 0; i < n; i++) {
    float g = grad[i] * u.clip;
    float m = u.beta1 * moment1[i] + (1.0f - u.beta1) * g;
    float v = u.beta2 * moment2[i] + (1.0f - u.beta2) * g * g;
    moment1[i] = m;
    moment2[i] = v;
    weight[i] -= u.lr * (m * u.correction1 / (sqrtf(v * u.correction2) + u.eps) + u.decay * weight[i]);
  }
}

// The part of every parameter that lies in `mine`, a range of the arenas.
static void update_range(const nn_params *params, const nn_step *step, nn_range mine) {
  for (int32_t i = 0; i < params->table->count; i++) {
    const nn_param *param = &params->table->items[i];
    int64_t begin = param->offset > mine.begin ? param->offset : mine.begin;
    int64_t end = param->offset + param->count < mine.end ? param->offset + param->count : mine.end;
    if (begin < end && step->lr[param->group] != 0.0f)
      apply(make_update(step, param), end - begin, params->master + begin, params->grad + begin,
            params->moment1 + begin, params->moment2 + begin);
  }
}

nn_status nn_cpu_adamw(nn_device *device, const nn_params *params, const nn_step *step) {
  (void)device;
  if (step->non_finite != 0)
    return NN_OK;
#pragma omp parallel if (nn_range_is_large(params->table->total))
  update_range(params, step, nn_range_mine(params->table->total, NN_PARAM_ALIGN));
  return NN_OK;
}
