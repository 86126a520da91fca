#include "attention_case.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "nn/random.h"

static void random_bits(uint64_t seed, uint64_t index, uint32_t bits[4]) {
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, 0, 0), 0, index, bits);
}

float random_normal(uint64_t seed, uint64_t index) {
  uint32_t bits[4];
  float pair[2];
  random_bits(seed, index, bits);
  nn_random_normal2(bits[0], bits[1], pair);
  return pair[0];
}

double random_uniform(uint64_t seed, uint64_t index) {
  uint32_t bits[4];
  random_bits(seed, index, bits);
  return (double)nn_random_uniform(bits[2]);
}

static int64_t type_count(const attention_case *c) {
  return (int64_t)c->spec.batch * c->spec.kv_heads * c->chunks;
}

static int64_t key_count(const attention_case *c) {
  return (int64_t)c->spec.batch * c->spec.kv_heads * c->spec.length;
}

static int64_t row_count(const attention_case *c) {
  return (int64_t)c->spec.batch * c->spec.heads * c->spec.length;
}

// Host memory that is freed after the test.
static float *random_floats(const attention_case *c, int64_t count, uint64_t seed) {
  float *values = test_host((size_t)count * sizeof *values);
  for (int64_t i = 0; i < count; i++)
    values[i] = test_round(c->device, random_normal(seed, (uint64_t)i));
  return values;
}

static void choose_types(attention_case *c, uint64_t seed) {
  const attention_spec *s = &c->spec;
  float *logits = test_host((size_t)key_count(c) * 3 * sizeof *logits);
  for (int32_t b = 0; b < s->batch; b++)
    for (int32_t t = 0; t < s->length; t++)
      for (int32_t h = 0; h < s->kv_heads; h++) {
        const double u = random_uniform(seed, (uint64_t)((b * s->kv_heads + h) * c->chunks + t / s->chunk));
        const int type = u < s->global ? NATS_GLOBAL : u < s->global + s->local ? NATS_LOCAL : NATS_WINDOW;
        logits[(((int64_t)b * s->length + t) * s->kv_heads + h) * 3 + type] = 1;
      }
  const size_t types = (size_t)type_count(c), expiries = (size_t)key_count(c) * sizeof(int32_t);
  c->types = (nats_types){.batch = s->batch,
                          .length = s->length,
                          .kv_heads = s->kv_heads,
                          .chunk = s->chunk,
                          .window = s->window,
                          .kind = NATS_ATTENTION_NATS,
                          .mode = NATS_TYPES_ARGMAX,
                          .logits = test_floats(c->device, logits, key_count(c) * 3),
                          .types = test_bytes(c->device, NULL, types),
                          .expiry = test_bytes(c->device, NULL, expiries)};
  MUST(nats_types_forward(c->device, &c->types));
  c->type = test_read_bytes(c->device, c->types.types, types);
  c->expiry = test_read_bytes(c->device, c->types.expiry, expiries);
}

bool case_is_large(const nn_device *device, const attention_spec *s) {
  const double products = (double)s->batch * s->heads * s->length * s->length * s->head_size;
  return test_is_emulated(device) && products > 5e6;
}

void case_open(attention_case *c, nn_device *device, const attention_spec *spec, uint64_t seed) {
  *c = (attention_case){.spec = *spec, .device = device, .chunks = nats_chunks(spec->length, spec->chunk)};
  if (spec->threads > 0)
    omp_set_num_threads(spec->threads);
  choose_types(c, seed + 1);
  const int64_t tokens = (int64_t)spec->batch * spec->length, q = (int64_t)spec->heads * spec->head_size;
  const int64_t kv = (int64_t)spec->kv_heads * spec->head_size, stride = q + 2 * kv + spec->gap;
  c->qkv_count = tokens * stride;
  c->qkv = random_floats(c, c->qkv_count, seed + 2);
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t d = 0; d < q; d++)
      c->qkv[t * stride + d] = test_round(device, c->qkv[t * stride + d] * (spec->gain > 0 ? spec->gain : 2));
  c->d_o = random_floats(c, tokens * q, seed + 3);
  nn_act *qkv = test_acts(device, c->qkv, c->qkv_count), *d_qkv = test_acts(device, NULL, c->qkv_count);
  c->op = (nats_attention){.batch = spec->batch,
                           .length = spec->length,
                           .heads = spec->heads,
                           .kv_heads = spec->kv_heads,
                           .head_size = spec->head_size,
                           .scale = (float)(1 / sqrt(spec->head_size)),
                           .q = qkv,
                           .k = nn_act_at(device, qkv, q),
                           .v = nn_act_at(device, qkv, q + kv),
                           .token_stride = stride,
                           .expiry = c->types.expiry,
                           .o = test_acts(device, NULL, tokens * q),
                           .lse = test_floats(device, NULL, row_count(c)),
                           .d_o = test_acts(device, c->d_o, tokens * q),
                           .dq = d_qkv,
                           .dk = nn_act_at(device, d_qkv, q),
                           .dv = nn_act_at(device, d_qkv, q + kv),
                           .chunk = spec->chunk,
                           .window = spec->window,
                           .types = c->types.types,
                           .dtypes = test_floats(device, NULL, type_count(c) * 3),
                           .type_grad_clip = spec->clip,
                           .type_grad_rows = spec->rows > 0 ? spec->rows : 1,
                           .seed = seed};
}

float *case_read_dtypes(const attention_case *c) {
  return test_read_floats(c->device, c->op.dtypes, type_count(c) * 3);
}

void case_read(attention_case *c) {
  c->o = test_read_acts(c->device, c->op.o, row_count(c) * c->spec.head_size);
  c->lse = test_read_floats(c->device, c->op.lse, row_count(c));
  c->d_qkv = test_read_acts(c->device, c->op.dq, c->qkv_count);
  c->dtypes = case_read_dtypes(c);
}

void case_run(attention_case *c, bool want_types) {
  nats_attention op = c->op;
  if (!want_types)
    op.dtypes = NULL;
  MUST(nats_attention_forward(c->device, &op));
  MUST(nats_attention_backward(c->device, &op));
  case_read(c);
}

// [T, heads, D] of one sequence in float64
static double *widen(const attention_case *c, const float *from, int64_t stride, int32_t heads) {
  const int64_t row = (int64_t)heads * c->spec.head_size;
  double *to = malloc((size_t)(c->spec.length * row) * sizeof *to);
  for (int64_t t = 0; t < c->spec.length; t++)
    for (int64_t d = 0; d < row; d++)
      to[t * row + d] = (double)from[t * stride + d];
  return to;
}

reference case_reference(const attention_case *c, int32_t batch) {
  const attention_spec *s = &c->spec;
  const int64_t stride = c->op.token_stride;
  const int64_t dense = (int64_t)s->heads * s->head_size, kv = (int64_t)s->kv_heads * s->head_size;
  const float *qkv = c->qkv + (int64_t)batch * s->length * stride;
  const size_t queries = (size_t)(s->length * dense);
  const size_t keys = (size_t)s->length * (size_t)s->kv_heads * (size_t)s->head_size;
  const int64_t chunks = (int64_t)s->kv_heads * c->chunks;
  double *weights = calloc((size_t)chunks * 3, sizeof *weights);
  for (int64_t a = 0; a < chunks; a++)
    weights[a * 3 + c->type[batch * chunks + a]] = 1;
  reference r = {.heads = s->heads,
                 .kv_heads = s->kv_heads,
                 .length = s->length,
                 .head_size = s->head_size,
                 .chunk = s->chunk,
                 .window = s->window,
                 .clip = (double)s->clip,
                 .q = widen(c, qkv, stride, s->heads),
                 .k = widen(c, qkv + dense, stride, s->kv_heads),
                 .v = widen(c, qkv + dense + kv, stride, s->kv_heads),
                 .d_o = widen(c, c->d_o + batch * s->length * dense, dense, s->heads),
                 .weights = weights,
                 .o = malloc(queries * sizeof(double)),
                 .dq = malloc(queries * sizeof(double)),
                 .lse = malloc((size_t)s->heads * (size_t)s->length * sizeof(double)),
                 .dk = malloc(keys * sizeof(double)),
                 .dv = malloc(keys * sizeof(double)),
                 .dtypes = malloc((size_t)chunks * 3 * sizeof(double))};
  reference_forward(&r);
  reference_backward(&r);
  return r;
}

void reference_free(reference *r) {
  const void *all[] = {r->q, r->k, r->v, r->d_o, r->weights, r->o, r->dq, r->lse, r->dk, r->dv, r->dtypes};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free((void *)all[i]);
}

float *case_results(const attention_case *c, size_t *bytes) {
  const int64_t counts[] = {row_count(c) * c->spec.head_size, row_count(c), c->qkv_count, type_count(c) * 3};
  const float *parts[] = {c->o, c->lse, c->d_qkv, c->dtypes};
  *bytes = (size_t)(counts[0] + counts[1] + counts[2] + counts[3]) * sizeof(float);
  float *all = test_host(*bytes), *to = all;
  for (int i = 0; i < 4; i++) {
    memcpy(to, parts[i], (size_t)counts[i] * sizeof(float));
    to += counts[i];
  }
  return all;
}
