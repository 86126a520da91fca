// AdamW over the arenas, or this rank's shard of them, in one launch. What differs between parameters (group,
// decay, where the gaps are) reaches the kernel as a list of segments in its arguments: nothing is uploaded,
// and neighbours that are treated alike are one segment.
#include <math.h>

#include "nn/cuda/operators.h"
#include "nn/cuda/segments.h"
#include "nn/cuda/vector.h"

enum { THREADS = 256, LOADS = 2, PACK = 4, CHUNK = THREADS * LOADS * PACK };
enum { KINDS = 2 * NN_GROUPS }; // of a segment: 2 group + decay

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

__device__ static inline void update_element(const update &u, float grad, float &weight, float &moment1,
                                             float &moment2) {
  float g = grad * u.clip;
  moment1 = u.beta1 * moment1 + (1.0f - u.beta1) * g;
  moment2 = u.beta2 * moment2 + (1.0f - u.beta2) * g * g;
  weight -= u.lr * (moment1 * u.correction1 / (sqrtf(moment2 * u.correction2) + u.eps) + u.decay * weight);
}

// Where a kernel finds the numbers of an element: each array as if it were a whole arena, or the shard's.
template <typename T> struct arrays {
  const float *grad;
  float *master, *moment1, *moment2;
  T *compute;
  bool grad_is_sharded, master_is_sharded;
};

// T: the compute type; where it is float32, `compute` is `master` itself and is not written a second time.
// Segments begin at multiples of NN_PARAM_ALIGN, and the arenas and pieces of a shard go on to the next
// multiple after their end: a pack may reach into the gap, whose zeros it leaves.
template <typename T>
__global__ static void __launch_bounds__(THREADS)
    update_segments(__grid_constant__ const nn_segment_list list, const update *updates, arrays<T> a) {
  nn_segment s = nn_segment_find(list, (int32_t)blockIdx.x);
  update u = updates[s.kind];
  if (u.lr == 0.0f)
    return;
  int64_t first = (int64_t)((int32_t)blockIdx.x - s.first_block) * CHUNK + (int64_t)threadIdx.x * PACK;
  const float *grad = a.grad + (a.grad_is_sharded ? s.at : s.begin);
  float *master = a.master + (a.master_is_sharded ? s.at : s.begin);
  float *moment1 = a.moment1 + s.at, *moment2 = a.moment2 + s.at;
  float g[LOADS][PACK], w[LOADS][PACK], m[LOADS][PACK], v[LOADS][PACK];
#pragma unroll
  for (int load = 0; load < LOADS; load++) {
    int64_t at = first + load * THREADS * PACK;
    if (at < s.count) {
      nn_load_floats(grad + at, g[load]);
      nn_load_floats(master + at, w[load]);
      nn_load_floats(moment1 + at, m[load]);
      nn_load_floats(moment2 + at, v[load]);
    }
  }
#pragma unroll
  for (int load = 0; load < LOADS; load++) {
    int64_t at = first + load * THREADS * PACK;
    if (at < s.count) {
#pragma unroll
      for (int i = 0; i < PACK; i++)
        if (at + i < s.count)
          update_element(u, g[load][i], w[load][i], m[load][i], v[load][i]);
      nn_store_floats(master + at, w[load]);
      nn_store_floats(moment1 + at, m[load]);
      nn_store_floats(moment2 + at, v[load]);
      if constexpr (sizeof(T) < sizeof(float))
        nn_store_floats(a.compute + s.begin + at, w[load]);
    }
  }
}

// How far the walk over the pieces of the shard, and over the parameters in each, has come.
typedef struct {
  int32_t piece, param;
} position;

// The part of the parameter that lies in the piece; `count` below 1: none.
static nn_segment part_of(const nn_param *param, nn_piece piece) {
  nn_segment s = {};
  int64_t end = param->offset + param->count, last = piece.offset + piece.count;
  s.begin = param->offset > piece.offset ? param->offset : piece.offset;
  s.count = (end < last ? end : last) - s.begin;
  s.at = piece.at + (s.begin - piece.offset);
  s.kind = 2 * (int32_t)param->group + (param->decay ? 1 : 0);
  return s;
}

// Makes `next` one with the list's last segment where it goes on without a gap and in kind.
static bool extend_last(nn_segment_list *list, const nn_segment *next) {
  nn_segment *last = list->count > 0 ? &list->item[list->count - 1] : NULL;
  if (last == NULL || last->kind != next->kind || last->begin + last->count != next->begin ||
      last->at + last->count != next->at)
    return false;
  last->count += next->count;
  list->blocks = last->first_block + (int32_t)nn_ceil_div(last->count, (int64_t)CHUNK);
  return true;
}

// Appends from *next on, as much as the list holds.
static void collect_segments(const nn_params *params, position *next, nn_segment_list *list) {
  list->count = list->blocks = 0;
  for (; next->piece < nn_params_pieces(params); next->piece++, next->param = 0) {
    nn_piece piece = nn_params_piece(params, next->piece);
    for (; next->param < params->table->count; next->param++) {
      nn_segment part = part_of(&params->table->items[next->param], piece);
      if (part.count > 0 && !extend_last(list, &part) && !nn_segment_append(list, part, CHUNK))
        return;
    }
  }
}

template <typename T>
static nn_status update_all(nn_device *device, const nn_params *params, const update *updates) {
  arrays<T> a = {params->sum != NULL ? params->sum : params->grad,
                 params->master,
                 params->moment1,
                 params->moment2,
                 static_cast<T *>(params->compute),
                 params->sum != NULL,
                 nn_params_master_sharded(params)};
  nn_segment_list list;
  for (position next = {0, 0}; next.piece < nn_params_pieces(params);) {
    collect_segments(params, &next, &list);
    if (list.count > 0)
      NN_TRY(NN_LAUNCH(device, update_segments<T>, dim3((unsigned)list.blocks), dim3(THREADS), 0, list,
                       updates, a));
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
