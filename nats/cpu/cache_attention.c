// One query per sequence and head over the pages of its list. Lists are shared out to threads; the query
// heads of a group read a page's keys and values while they are in the cache.
#include <omp.h>
#include <string.h> // memset

#include "nats/cpu/cache.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

NN_INLINE float dot(const float *a, const float *b, int32_t size) {
  nn_v16 sum = nn_v16_set(0.0f);
  int32_t d = 0;
  for (; d + NN_LANES <= size; d += NN_LANES)
    sum += nn_v16_load(a + d) * nn_v16_load(b + d);
  if (d < size)
    sum += nn_v16_load_n(a + d, size - d, 0.0f) * nn_v16_load_n(b + d, size - d, 0.0f);
  return nn_v16_sum(sum);
}

NN_INLINE void add_scaled(float *to, float factor, const float *from, int32_t size) {
  int32_t d = 0;
  for (; d + NN_LANES <= size; d += NN_LANES)
    nn_v16_store(to + d, nn_v16_load(to + d) + factor * nn_v16_load(from + d));
  for (; d < size; d++)
    to[d] += factor * from[d];
}

// e^(x - max) in place; returns their sum.
NN_INLINE float exponentials(float *x, int32_t count) {
  float max = x[0];
  for (int32_t i = 1; i < count; i++)
    max = x[i] > max ? x[i] : max;
  nn_v16 sum = nn_v16_set(0.0f);
  int32_t i = 0;
  for (; i + NN_LANES <= count; i += NN_LANES) {
    nn_v16 e = nn_v16_exp(nn_v16_load(x + i) - max);
    nn_v16_store(x + i, e);
    sum += e;
  }
  if (i < count) {
    nn_v16 e = nn_v16_exp(nn_v16_load_n(x + i, count - i, max - 200.0f) - max); // 0 in unused lanes
    nn_v16_store_n(x + i, e, count - i);
    sum += e;
  }
  return nn_v16_sum(sum);
}

typedef struct {
  const nats_cache_attention *op;
  int32_t list, length;
  const int32_t *turns; // [length] or NULL
  int32_t group;        // query heads
  const float *q;       // [group, D]
  float *o;             // [group, D]
  float *p;             // [group, longest] scratch: scores, then e^(score - max)
  float *turned;        // [D] scratch
  float *weights;       // [longest] or NULL
} job;

// A key as it looks `turn` positions further on: pairs (i, i + D/2) are turned as RoPE turns them.
NN_INLINE const float *turn_key(const job *j, const float *key, int32_t turn) {
  int32_t half = j->op->pages.head_size / 2;
  const float *table = j->op->rope + (int64_t)turn * 2 * half;
  for (int32_t i = 0; i < half; i++) {
    float a = key[i], b = key[half + i], c = table[2 * i], s = table[2 * i + 1];
    j->turned[i] = a * c - b * s;
    j->turned[half + i] = a * s + b * c;
  }
  return j->turned;
}

NN_INLINE void scores(const job *j) {
  const nats_cache_pages *pages = &j->op->pages;
  int32_t size = pages->head_size;
  for (int32_t t = 0; t < j->length; t++) {
    const float *k = nats_cpu_slot_of(pages, j->list, t).k;
    if (j->turns && j->turns[t] != 0)
      k = turn_key(j, k, j->turns[t]);
    for (int32_t g = 0; g < j->group; g++)
      j->p[(int64_t)g * j->op->longest + t] = j->op->scale * dot(j->q + (int64_t)g * size, k, size);
  }
}

NN_INLINE void mix(const job *j) {
  const nats_cache_pages *pages = &j->op->pages;
  int32_t size = pages->head_size;
  memset(j->o, 0, (size_t)j->group * (size_t)size * sizeof *j->o);
  for (int32_t t = 0; t < j->length; t++) {
    const float *v = nats_cpu_slot_of(pages, j->list, t).v;
    for (int32_t g = 0; g < j->group; g++)
      add_scaled(j->o + (int64_t)g * size, j->p[(int64_t)g * j->op->longest + t], v, size);
  }
}

NN_CLONES static void attend(const job *j) {
  int32_t length = j->length;
  scores(j);
  for (int32_t g = 0; g < j->group; g++) {
    float *p = j->p + (int64_t)g * j->op->longest;
    float inverse = 1.0f / exponentials(p, length);
    for (int32_t t = 0; t < length; t++)
      p[t] *= inverse;
  }
  mix(j);
  if (!j->weights)
    return;
  memset(j->weights, 0, (size_t)j->op->longest * sizeof *j->weights);
  for (int32_t g = 0; g < j->group; g++)
    add_scaled(j->weights, 1.0f, j->p + (int64_t)g * j->op->longest, length);
}

// A thread takes a whole list.
int32_t nats_cpu_cache_item_tokens(const nn_device *device, int64_t tokens) {
  (void)device;
  (void)tokens;
  return INT32_MAX;
}

enum { ROOM_STEP = 4096 }; // tokens

nn_status nats_cpu_cache_attention(nn_device *device, const nats_cache_attention *op) {
  int32_t group = op->heads / op->kv_heads, size = op->pages.head_size;
  int64_t per_thread = (int64_t)group * op->longest + size;
  int32_t lists = op->sequences * op->kv_heads;
  // Lists grow by a token a step: ask for room in coarse steps, or every step would allocate.
  int64_t room = (int64_t)group * ((op->longest + ROOM_STEP - 1) / ROOM_STEP * ROOM_STEP) + size;
  void *scratch;
  NN_TRY(nn_device_workspace(device, (size_t)(omp_get_max_threads() * room) * sizeof(float), &scratch));
  const float *q = op->q;
  float *o = op->o;
#pragma omp parallel for schedule(dynamic) if (nn_range_is_large(lists * per_thread * size))
  for (int32_t l = 0; l < lists; l++) {
    int32_t s = l / op->kv_heads, head = l % op->kv_heads * group;
    const nats_cache_row *list = &op->lists[l];
    float *own = (float *)scratch + omp_get_thread_num() * per_thread;
    attend(&(job){
        .op = op,
        .list = l,
        .length = list->length,
        .turns = list->turns >= 0 ? op->turns + list->turns : NULL,
        .group = group,
        .q = q + s * op->token_stride + (int64_t)head * size,
        .o = o + ((int64_t)s * op->heads + head) * size,
        .p = own,
        .turned = own + (int64_t)group * op->longest,
        .weights = op->weights ? op->weights + (int64_t)l * op->longest : NULL,
    });
  }
  return NN_OK;
}
