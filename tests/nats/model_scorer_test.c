// The scorer's gradient in a model of one layer, against the formulas of docs/method.md in float64, from the
// tensors that the pass left behind.
#include <math.h>   // exp, log, fmin, fabs
#include <stdlib.h> // calloc, free
#include <string.h> // memcpy

#include "model_fixture.h"
#include "nats/model_internal.h"
#include "tests/nn/fresh_seed.h"

enum { BATCH = 2, LENGTH = 19 };
static const float LAMBDA = 0.7f;

typedef struct {
  const fixture *f;
  const nats_model *m;
  int32_t b, h;             // sequence and kv head
  const uint8_t *types;     // [LENGTH]
  int32_t next[LENGTH];     // N(j), LENGTH where there is none
  double d[LENGTH][LENGTH]; // D_ij at [i][j]
  double dtypes[LENGTH][3];
} reference;

static double dot(const float *a, const float *b, int32_t size) {
  double sum = 0.0;
  for (int32_t d = 0; d < size; d++)
    sum += (double)a[d] * (double)b[d];
  return sum;
}

static int32_t last_row(const reference *r, int32_t j) {
  int32_t window = j + r->f->config.window;
  int32_t row = r->types[j] == NATS_LOCAL ? r->next[j] : r->types[j] == NATS_WINDOW ? window : LENGTH - 1;
  return row < LENGTH ? row : LENGTH - 1;
}

// D of one row for one query head, added to that of the group.
static void add_row(reference *r, int32_t head, int32_t i) {
  const nats_model_config *c = &r->f->config;
  int32_t size = c->head_size, stride = nats_qkv_size(c);
  const float *rows = (const float *)r->m->layers[0].qkv + (int64_t)r->b * LENGTH * stride;
  const float *q = rows + i * stride + head * size;
  int64_t out = ((int64_t)(r->b * LENGTH + i) * c->heads + head) * size;
  const float *o = (const float *)r->m->layers[0].o + out, *d_o = (const float *)r->m->d_o + out;
  double score[LENGTH], sum = 0.0;
  for (int32_t j = 0; j <= i; j++) {
    const float *k = rows + j * stride + (c->heads + r->h) * size;
    score[j] = dot(q, k, size) / sqrt(size);
    if (i <= last_row(r, j))
      sum += exp(score[j]);
  }
  for (int32_t j = 0; j <= i; j++) {
    const float *v = rows + j * stride + (c->heads + c->kv_heads + r->h) * size;
    double p = fmin(exp(score[j]) / sum, 1.0); // capped on hidden pairs; visible ones never exceed 1
    r->d[i][j] += p * (dot(d_o, v, size) - dot(d_o, o, size));
  }
}

static double column_sum(const reference *r, int32_t j, int32_t from, int32_t to) {
  double sum = 0.0;
  for (int32_t i = from; i <= to && i < LENGTH; i++)
    sum += r->d[i][j];
  return sum;
}

// What a global at j takes away from the local tokens since the global before it.
static double taken_away(const reference *r, int32_t j) {
  double sum = 0.0;
  for (int32_t m = j - 1; m >= 0 && r->types[m] != NATS_GLOBAL; m--)
    if (r->types[m] == NATS_LOCAL)
      sum += column_sum(r, m, j + 1, r->next[j]);
  return sum;
}

static double rows_held(const reference *r, int32_t j, int type) {
  int32_t end[3] = {LENGTH, r->next[j] + 1, j + r->f->config.window + 1};
  return (end[type] < LENGTH ? end[type] : LENGTH) - j;
}

static void compute(reference *r) {
  int32_t group = r->f->config.heads / r->f->config.kv_heads, next = LENGTH;
  for (int32_t j = LENGTH - 1; j >= 0; j--) {
    r->next[j] = next;
    next = r->types[j] == NATS_GLOBAL ? j : next;
  }
  for (int32_t i = 0; i < LENGTH; i++)
    for (int32_t head = r->h * group; head < (r->h + 1) * group; head++)
      add_row(r, head, i);
  for (int32_t j = 0; j < LENGTH; j++) {
    r->dtypes[j][NATS_GLOBAL] = column_sum(r, j, j, LENGTH - 1) - taken_away(r, j);
    r->dtypes[j][NATS_LOCAL] = column_sum(r, j, j, r->next[j]);
    r->dtypes[j][NATS_WINDOW] = column_sum(r, j, j, j + r->f->config.window);
    for (int type = 0; type < 3; type++)
      r->dtypes[j][type] += (double)LAMBDA * (double)r->f->numbers->pair_scale * rows_held(r, j, type);
  }
}

// Adds the part of one (sequence, head) to weight [3 Hk, C], bias [3 Hk] and the scorer's input [N, C].
static void add_gradients(const reference *r, double *weight, double *bias, double *input) {
  const nats_model_config *c = &r->f->config;
  const float *scorer = nn_params_weight(&r->f->params, r->m->index.layers[0].scorer.weight);
  const float *y = r->m->layers[0].y + (int64_t)(r->b * c->kv_heads + r->h) * LENGTH * 3;
  for (int32_t j = 1; j < LENGTH - 1; j++) { // the first and the last are forced
    double mean = 0.0;
    for (int type = 0; type < 3; type++)
      mean += (double)y[3 * j + type] * r->dtypes[j][type];
    for (int type = 0; type < 3; type++) {
      double dlogit = (double)y[3 * j + type] * (r->dtypes[j][type] - mean) / (double)c->type_tau;
      int32_t row = 3 * r->h + type;
      int64_t at = (int64_t)(r->b * LENGTH + j) * c->width;
      bias[row] += dlogit;
      for (int32_t i = 0; i < c->width; i++) {
        weight[row * c->width + i] +=
            dlogit * (double)((const float *)r->m->layers[0].attention_norm.h)[at + i];
        input[at + i] += dlogit * (double)scorer[row * c->width + i];
      }
    }
  }
}

static void expect_close(const float *found, const double *expected, int64_t count, const char *what,
                         uint64_t seed) {
  double largest = 0.0, difference = 0.0;
  for (int64_t i = 0; i < count; i++) {
    largest = fmax(largest, fabs(expected[i]));
    difference = fmax(difference, fabs(expected[i] - (double)found[i]));
  }
  cr_expect(largest > 0.0 && difference <= 1e-4 * largest, "%s differs by %g of %g (NN_TEST_SEED=%llu)", what,
            difference, largest, (unsigned long long)seed);
}

// A wrong gradient here still trains, to types that are no better than chance: the loss and the cache would
// both look plausible.
Test(model_scorer, gradient_is_straight_through) {
  uint64_t seed = fresh_seed();
  nats_model_config config = small_config();
  config.layers = 1;
  config.attention = NATS_ATTENTION_NATS;
  config.type_tau = 0.8f;
  fixture f;
  fixture_open(&f, &config, BATCH, LENGTH, 0.3f, seed);
  nats_batch batch = random_batch(BATCH, LENGTH, config.vocab, seed);
  nats_pass pass = training_pass(&f, &batch, NATS_TYPES_SAMPLED, LAMBDA);
  int32_t rows = 3 * config.kv_heads;
  int64_t weights = (int64_t)rows * config.width, inputs = (int64_t)BATCH * LENGTH * config.width;
  double *weight = calloc((size_t)weights, sizeof *weight), *bias = calloc((size_t)rows, sizeof *bias);
  double *input = calloc((size_t)inputs, sizeof *input);
  float *detached = calloc((size_t)inputs, sizeof *detached);
  cr_assert(weight && bias && input && detached);

  // detached first: the gradient of the norm's output without the scorer's part
  f.model->config.scorer_detach = true;
  MUST(nats_model_train(f.model, &batch, &pass, NULL));
  memcpy(detached, f.model->delta, (size_t)inputs * sizeof *detached);
  zero_gradients(&f);
  f.model->config.scorer_detach = false;
  MUST(nats_model_train(f.model, &batch, &pass, NULL));

  for (int32_t b = 0; b < BATCH; b++)
    for (int32_t h = 0; h < config.kv_heads; h++) {
      reference r = {.f = &f, .m = f.model, .b = b, .h = h};
      r.types = f.model->layers[0].types + (b * config.kv_heads + h) * LENGTH;
      compute(&r);
      add_gradients(&r, weight, bias, input);
    }
  nats_affine scorer = f.model->index.layers[0].scorer;
  expect_close(nn_params_grad(&f.params, scorer.weight), weight, weights, "the scorer's weight", seed);
  expect_close(nn_params_grad(&f.params, scorer.bias), bias, rows, "the scorer's bias", seed);
  for (int64_t i = 0; i < inputs; i++)
    detached[i] = ((float *)f.model->delta)[i] - detached[i];
  expect_close(detached, input, inputs, "the scorer's input", seed);
  free(detached);
  free(input);
  free(bias);
  free(weight);
  batch_free(&batch);
  fixture_close(&f);
}
