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

// What is updated in one call: elements [begin, end) of the arenas, which lie `shift` elements earlier in
// memory that holds the shard only.
typedef struct {
  int64_t begin, end, shift;
} part;

static void update_part(const nn_params *params, const nn_step *step, part p) {
  float *master = params->master - (nn_params_master_sharded(params) ? p.shift : 0);
  const float *grad = params->sum != NULL ? params->sum - p.shift : params->grad;
  float *moment1 = params->moment1 - p.shift, *moment2 = params->moment2 - p.shift;
  for (int32_t i = 0; i < params->table->count; i++) {
    const nn_param *param = &params->table->items[i];
    int64_t begin = param->offset > p.begin ? param->offset : p.begin;
    int64_t end = param->offset + param->count < p.end ? param->offset + param->count : p.end;
    if (begin < end && step->lr[param->group] != 0.0f)
      apply(make_update(step, param), end - begin, master + begin, grad + begin, moment1 + begin,
            moment2 + begin);
  }
}

// `mine`: a range of the shard as it is stored.
static void update_range(const nn_params *params, const nn_step *step, nn_range mine) {
  for (int32_t i = 0; i < nn_params_pieces(params); i++) {
    nn_piece piece = nn_params_piece(params, i);
    int64_t begin = piece.at > mine.begin ? piece.at : mine.begin;
    int64_t end = piece.at + piece.count < mine.end ? piece.at + piece.count : mine.end;
    int64_t shift = piece.offset - piece.at;
    if (begin < end)
      update_part(params, step, (part){begin + shift, end + shift, shift});
  }
}

nn_status nn_cpu_adamw(nn_device *device, const nn_params *params, const nn_step *step) {
  (void)device;
  if (step->non_finite != 0)
    return NN_OK;
  int64_t owned = nn_params_owned(params);
#pragma omp parallel if (nn_range_is_large(owned))
  update_range(params, step, nn_range_mine(owned, NN_PARAM_ALIGN));
  return NN_OK;
}
