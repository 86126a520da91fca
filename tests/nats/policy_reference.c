#include "policy_reference.h"

#include <math.h>
#include <stdio.h>  // snprintf
#include <stdlib.h> // qsort

// ---- the model

static const float *parameter(const ref_decoder *r, int32_t layer, const char *what) {
  char name[64];
  if (layer < 0)
    snprintf(name, sizeof name, "%s", what);
  else
    snprintf(name, sizeof name, "layer.%d.%s", (int)layer, what);
  const nn_param *param = nn_param_find(&r->model->table, name);
  cr_assert(param, "%s", name);
  return r->model->params.master + param->offset;
}

enum { WIDEST = 128 };

static void multiply(const float *matrix, int32_t rows, int32_t columns, const double *x, double *y) {
  for (int32_t i = 0; i < rows; i++) {
    y[i] = 0;
    for (int32_t j = 0; j < columns; j++)
      y[i] += (double)matrix[i * columns + j] * x[j];
  }
}

static void normalize(const ref_decoder *r, const float *weight, const double *x, double *y) {
  double squares = 0;
  int32_t width = r->model->config.width;
  for (int32_t i = 0; i < width; i++)
    squares += x[i] * x[i];
  for (int32_t i = 0; i < width; i++)
    y[i] = x[i] / sqrt(squares / width + (double)r->model->config.norm_eps) * (double)weight[i];
}

// q . k with each turned to its position.
static double turned_product(const ref_decoder *r, const double *q, int32_t q_at, const double *k,
                             int32_t k_at) {
  int32_t size = r->model->config.head_size, half = size / 2;
  double sum = 0;
  for (int32_t i = 0; i < half; i++) {
    double angle = pow(r->model->config.rope_theta, -2.0 * i / size), a = q_at * angle, b = k_at * angle;
    double q0 = q[i] * cos(a) - q[half + i] * sin(a), q1 = q[i] * sin(a) + q[half + i] * cos(a);
    double k0 = k[i] * cos(b) - k[half + i] * sin(b), k1 = k[i] * sin(b) + k[half + i] * cos(b);
    sum += q0 * k0 + q1 * k1;
  }
  return sum;
}

static int32_t place_in_cache(const ref_list *list, int32_t slot) {
  int32_t place = 0;
  for (int32_t s = 0; s < list->length; s++)
    place += list->slot[s].position < list->slot[slot].position;
  return place;
}

static void attend(const ref_decoder *r, ref_list *list, const double *q, double *o) {
  double p[REF_TOKENS], sum = 0;
  int32_t size = r->model->config.head_size;
  for (int32_t s = 0; s < list->length; s++) {
    bool anew = r->rule->reassigns;
    int32_t q_at = anew ? list->length - 1 : r->position;
    int32_t k_at = anew ? place_in_cache(list, s) : list->slot[s].position;
    sum += p[s] = exp(turned_product(r, q, q_at, list->slot[s].k, k_at) / sqrt(size));
  }
  for (int32_t d = 0; d < size; d++)
    o[d] = 0;
  for (int32_t s = 0; s < list->length; s++) {
    list->slot[s].weight += p[s] / sum;
    for (int32_t d = 0; d < size; d++)
      o[d] += p[s] / sum * list->slot[s].v[d];
  }
}

static void mix(ref_decoder *r, int32_t layer, const double *qkv, double *o) {
  const nats_model_config *c = &r->model->config;
  int32_t size = c->head_size, group = c->heads / c->kv_heads;
  if (r->rule->before)
    r->rule->before(r, layer);
  for (int32_t head = 0; head < c->kv_heads; head++) {
    ref_list *list = &r->lists[layer][head];
    ref_token *token = &list->slot[list->length++];
    *token = (ref_token){.position = r->position};
    for (int32_t d = 0; d < size; d++) {
      token->k[d] = qkv[(c->heads + head) * size + d];
      token->v[d] = qkv[(c->heads + c->kv_heads + head) * size + d];
    }
    for (int32_t s = 0; s < list->length; s++)
      list->slot[s].weight = 0;
    for (int32_t h = head * group; h < (head + 1) * group; h++)
      attend(r, list, qkv + h * size, o + h * size);
  }
  if (r->rule->after)
    r->rule->after(r, layer);
}

static void add_block(double *x, const double *y, int32_t width) {
  for (int32_t i = 0; i < width; i++)
    x[i] += y[i];
}

void ref_step(ref_decoder *r, int32_t token) {
  const nats_model_config *c = &r->model->config;
  double x[WIDEST], h[WIDEST], y[WIDEST], z[WIDEST];
  for (int32_t i = 0; i < c->width; i++)
    x[i] = (double)parameter(r, -1, "embedding.weight")[token * c->width + i];
  for (int32_t l = 0; l < c->layers; l++) {
    normalize(r, parameter(r, l, "attention.norm.weight"), x, h);
    multiply(parameter(r, l, "attention.qkv.weight"), (c->heads + 2 * c->kv_heads) * c->head_size, c->width,
             h, y);
    mix(r, l, y, z);
    multiply(parameter(r, l, "attention.out.weight"), c->width, c->heads * c->head_size, z, y);
    add_block(x, y, c->width);
    normalize(r, parameter(r, l, "mlp.norm.weight"), x, h);
    multiply(parameter(r, l, "mlp.up.weight"), 2 * c->mlp_size, c->width, h, y);
    for (int32_t i = 0; i < c->mlp_size; i++)
      z[i] = y[i] / (1 + exp(-y[i])) * y[c->mlp_size + i];
    multiply(parameter(r, l, "mlp.down.weight"), c->width, c->mlp_size, z, y);
    add_block(x, y, c->width);
  }
  normalize(r, parameter(r, -1, "final_norm.weight"), x, h);
  multiply(parameter(r, -1, "head.weight"), c->vocab, c->width, h, r->logits);
  r->position++;
}

static int ascending(const void *a, const void *b) {
  return *(const int32_t *)a - *(const int32_t *)b;
}

int32_t ref_positions(const ref_decoder *r, int32_t layer, int32_t head, int32_t *positions) {
  const ref_list *list = &r->lists[layer][head];
  for (int32_t s = 0; s < list->length; s++)
    positions[s] = list->slot[s].position;
  qsort(positions, (size_t)list->length, sizeof *positions, ascending);
  return list->length;
}

// ---- the rules

static void drop(ref_list *list, int32_t slot) {
  list->slot[slot] = list->slot[--list->length];
}

static int32_t find_expired(const ref_decoder *r, const ref_list *list) {
  for (int32_t s = 0; s < list->length; s++)
    if (list->slot[s].position >= r->rule->sinks && r->position - list->slot[s].position >= r->rule->recent)
      return s;
  return -1;
}

static void keep_ends(ref_decoder *r, ref_list *list) {
  for (int32_t s; (s = find_expired(r, list)) >= 0;)
    drop(list, s);
}

void ref_streaming(ref_decoder *r, int32_t layer) {
  for (int32_t head = 0; head < r->model->config.kv_heads; head++)
    keep_ends(r, &r->lists[layer][head]);
}

// The newest `recent` - 1 tokens stay with the next one; of the others the one with the smallest sum goes.
void ref_heavy(ref_decoder *r, int32_t layer) {
  ref_sums(r, layer);
  for (int32_t head = 0; head < r->model->config.kv_heads; head++) {
    ref_list *list = &r->lists[layer][head];
    int32_t least = -1;
    for (int32_t s = 0; s < list->length; s++)
      if (list->slot[s].position <= r->position + 1 - r->rule->recent &&
          (least < 0 || list->slot[s].sum < list->slot[least].sum))
        least = s;
    if (list->length == r->rule->size)
      drop(list, least);
  }
}

void ref_last_query(ref_decoder *r, int32_t layer) {
  int32_t least = 0, heads = r->model->config.kv_heads;
  double smallest = INFINITY;
  ref_list *lists = r->lists[layer];
  if (lists[0].length < r->rule->size)
    return;
  for (int32_t s = 0; s < lists[0].length; s++) {
    double mean = 0;
    for (int32_t head = 0; head < heads; head++)
      for (int32_t t = 0; t < lists[head].length; t++)
        if (lists[head].slot[t].position == lists[0].slot[s].position)
          mean += lists[head].slot[t].weight / r->model->config.heads;
    least = mean < smallest ? s : least;
    smallest = fmin(smallest, mean);
  }
  int32_t position = lists[0].slot[least].position;
  for (int32_t head = 0; head < heads; head++)
    for (int32_t t = lists[head].length - 1; t >= 0; t--)
      if (lists[head].slot[t].position == position)
        drop(&lists[head], t);
}

// How many of `count` numbers are larger, or as large and earlier.
static int32_t rank_of(const double *x, int32_t count, int32_t i) {
  int32_t rank = 0;
  for (int32_t j = 0; j < count; j++)
    rank += x[j] > x[i] || (j < i && !(x[j] < x[i]));
  return rank;
}

// Slots are positions: nothing has left before the end of the prompt. `recent` tokens vote.
void ref_votes(ref_decoder *r, int32_t layer) {
  int32_t before = r->prompt - r->rule->recent, next = 0;
  if (r->position >= r->prompt || r->position < before || r->prompt <= r->rule->size + r->rule->recent)
    return;
  ref_sums(r, layer);
  for (int32_t head = 0; head < r->model->config.kv_heads && r->position == r->prompt - 1; head++, next = 0) {
    ref_list *list = &r->lists[layer][head];
    double smooth[REF_TOKENS] = {0};
    for (int32_t s = 0; s < before; s++)
      for (int32_t near = s - 2; near <= s + 2; near++)
        smooth[s] += near >= 0 && near < before ? list->slot[near].sum / 5 : 0;
    for (int32_t s = 0; s < list->length; s++)
      if (s >= before || rank_of(smooth, before, s) < r->rule->size)
        list->slot[next++] = list->slot[s];
    list->length = next;
  }
}

void ref_sums(ref_decoder *r, int32_t layer) {
  for (int32_t head = 0; head < r->model->config.kv_heads; head++)
    for (int32_t s = 0; s < r->lists[layer][head].length; s++)
      r->lists[layer][head].slot[s].sum += r->lists[layer][head].slot[s].weight;
}

static uint32_t draw(const ref_decoder *r, int32_t layer, int32_t head) {
  uint32_t bits[4];
  uint64_t list = ((uint64_t)layer << 32) + (uint64_t)head;
  nn_random_u32x4(nn_random_key_make(r->seed, NN_RANDOM_EVICTION, (uint64_t)r->sample, list), 0,
                  (uint64_t)r->position, bits);
  return bits[0];
}

// `size` tokens take a share of the value.
void ref_merge(ref_decoder *r, int32_t layer) {
  for (int32_t head = 0; head < r->model->config.kv_heads; head++) {
    ref_list *list = &r->lists[layer][head];
    int32_t gone = find_expired(r, list);
    double most = 0;
    for (int32_t s = 0; s < list->length; s++)
      most = fmax(most, list->slot[s].sum);
    if (gone < 0)
      continue;
    bool merges = (double)nn_random_uniform(draw(r, layer, head)) < list->slot[gone].sum / most;
    for (int32_t s = 0; merges && s < list->length; s++) {
      int32_t distance = list->slot[s].position - list->slot[gone].position;
      for (int32_t d = 0; d < REF_SIZE && distance >= 1 && distance <= r->rule->size; d++)
        list->slot[s].v[d] += list->slot[gone].v[d] / r->rule->size;
    }
    r->merges += merges;
    drop(list, gone);
  }
}

void ref_random(ref_decoder *r, int32_t layer) {
  for (int32_t head = 0; head < r->model->config.kv_heads; head++) {
    ref_list *list = &r->lists[layer][head];
    if (list->length == r->rule->size)
      drop(list, (int32_t)floor(draw(r, layer, head) / 4294967296.0 * list->length));
  }
}

// The `size` heads of all layers with the largest use keep everything.
void ref_static_heads(ref_decoder *r, int32_t layer) {
  int32_t heads = r->model->config.kv_heads;
  for (int32_t head = 0; head < heads; head++)
    if (rank_of(r->head_use, r->model->config.layers * heads, layer * heads + head) >= r->rule->size)
      keep_ends(r, &r->lists[layer][head]);
}
