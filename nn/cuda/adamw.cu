// AdamW over the whole arenas in one launch. What differs between parameters (group, decay, where the gaps
// are) reaches the kernel as a list of segments in its arguments: nothing is uploaded, and neighbours that
// are treated alike are one segment.
#include <math.h>

#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

enum { THREADS = 256, LOADS = 2, PACK = 4, CHUNK = THREADS * LOADS * PACK };
enum { SEGMENTS = 120, KINDS = 2 * NN_GROUPS }; // of one launch, whose arguments take 4 KiB at most

// A range of the arenas that is updated with one set of numbers. Its blocks take CHUNK elements each.
typedef struct {
  int64_t begin, count;
  int32_t first_block;
  int32_t kind; // 2 group + decay
} segment;

typedef struct {
  segment item[SEGMENTS];
  int32_t count;
  int32_t blocks;
} segment_list;

// The numbers of a kind, in device memory because step is.
typedef struct {
  float clip, beta1, beta2, eps;
  float correction1, correction2; // 1 / (1 - beta^t)
  float lr;                       // 0: leave the group as it is
  float decay;
} update;

__global__ static void make_updates(const nn_step *step, update *updates) { // [KINDS]
  int kind = (int)threadIdx.x, group = kind / 2;
  double t = (double)step->updates[group];
  update u;
  u.clip = step->clip_factor;
  u.beta1 = step->beta1;
  u.beta2 = step->beta2;
  u.eps = step->eps;
  u.correction1 = (float)(1.0 / (1.0 - pow((double)step->beta1, t)));
  u.correction2 = (float)(1.0 / (1.0 - pow((double)step->beta2, t)));
  u.lr = step->non_finite != 0 ? 0.0f : step->lr[group];
  u.decay = kind % 2 != 0 ? step->weight_decay : 0.0f;
  updates[kind] = u;
}

__device__ static inline segment find_segment(const segment_list &list, int32_t block) {
  int32_t low = 0, high = list.count; // the last one whose first block is not after this one
  while (high - low > 1) {
    int32_t middle = (low + high) / 2;
    if (list.item[middle].first_block <= block)
      low = middle;
    else
      high = middle;
  }
  return list.item[low];
}

__device__ static inline void update_element(const update &u, float grad, float &weight, float &moment1,
                                             float &moment2) {
  float g = grad * u.clip;
  moment1 = u.beta1 * moment1 + (1.0f - u.beta1) * g;
  moment2 = u.beta2 * moment2 + (1.0f - u.beta2) * g * g;
  weight -= u.lr * (moment1 * u.correction1 / (sqrtf(moment2 * u.correction2) + u.eps) + u.decay * weight);
}

// T: the compute type; where it is float32, `compute` is `master` itself and is not written a second time.
// Segments begin at multiples of NN_PARAM_ALIGN, and the arenas go on to the next multiple after their end:
// a pack may reach into the gap, whose zeros it leaves.
template <typename T>
__global__ static void __launch_bounds__(THREADS)
    update_segments(__grid_constant__ const segment_list list, const update *updates, const float *grad,
                    float *master, float *moment1, float *moment2, T *compute) {
  segment s = find_segment(list, (int32_t)blockIdx.x);
  update u = updates[s.kind];
  if (u.lr == 0.0f)
    return;
  int64_t first = (int64_t)((int32_t)blockIdx.x - s.first_block) * CHUNK + (int64_t)threadIdx.x * PACK;
  float g[LOADS][PACK], w[LOADS][PACK], m[LOADS][PACK], v[LOADS][PACK];
#pragma unroll
  for (int load = 0; load < LOADS; load++) {
    int64_t in_segment = first + load * THREADS * PACK, at = s.begin + in_segment;
    if (in_segment < s.count) {
      nn_load_floats(grad + at, g[load]);
      nn_load_floats(master + at, w[load]);
      nn_load_floats(moment1 + at, m[load]);
      nn_load_floats(moment2 + at, v[load]);
    }
  }
#pragma unroll
  for (int load = 0; load < LOADS; load++) {
    int64_t in_segment = first + load * THREADS * PACK, at = s.begin + in_segment;
    if (in_segment < s.count) {
#pragma unroll
      for (int i = 0; i < PACK; i++)
        if (in_segment + i < s.count)
          update_element(u, g[load][i], w[load][i], m[load][i], v[load][i]);
      nn_store_floats(master + at, w[load]);
      nn_store_floats(moment1 + at, m[load]);
      nn_store_floats(moment2 + at, v[load]);
      if constexpr (sizeof(T) < sizeof(float))
        nn_store_floats(compute + at, w[load]);
    }
  }
}

// Appends the parameters from *next on, as many as the list holds.
static void collect_segments(const nn_param_table *table, int32_t *next, segment_list *list) {
  list->count = list->blocks = 0;
  for (; *next < table->count; ++*next) {
    const nn_param *param = &table->items[*next];
    int32_t kind = 2 * (int32_t)param->group + (param->decay ? 1 : 0);
    segment *last = list->count > 0 ? &list->item[list->count - 1] : NULL;
    if (last != NULL && last->kind == kind && last->begin + last->count == param->offset) {
      last->count += param->count;
    } else if (list->count < SEGMENTS) {
      last = &list->item[list->count++];
      last->begin = param->offset;
      last->count = param->count;
      last->first_block = list->blocks;
      last->kind = kind;
    } else {
      return;
    }
    list->blocks = last->first_block + (int32_t)nn_ceil_div(last->count, (int64_t)CHUNK);
  }
}

template <typename T>
static nn_status update_all(nn_device *device, const nn_params *params, const update *updates) {
  segment_list list;
  for (int32_t next = 0; next < params->table->count;) {
    collect_segments(params->table, &next, &list);
    NN_TRY(NN_LAUNCH(device, update_segments<T>, dim3((unsigned)list.blocks), dim3(THREADS), 0, list, updates,
                     params->grad, params->master, params->moment1, params->moment2, params->compute));
  }
  return NN_OK;
}

extern "C" nn_status nn_cuda_adamw(nn_device *device, const nn_params *params, const nn_step *step) {
  void *workspace;
  NN_TRY(nn_device_workspace(device, KINDS * sizeof(update), &workspace));
  update *updates = static_cast<update *>(workspace);
  NN_TRY(NN_LAUNCH(device, make_updates, dim3(1), dim3(KINDS), 0, step, updates));
  return NN_CUDA_TYPED(device, update_all, device, params, updates);
}
