// The gradients of the whole model, parameter by parameter, against central differences of its loss.
#include <math.h>   // fabs, sqrt
#include <stdio.h>  // snprintf
#include <stdlib.h> // malloc, free
#include <string.h> // memcmp, memcpy

#include "model_fixture.h"
#include "tests/nn/fresh_seed.h"

enum { BATCH = 2, LENGTH = 11 };
static const double STEP = 3e-3, TOLERANCE = 3e-3, NOISE = 2e-4;

typedef struct {
  const char *name;
  nats_attention_kind attention;
  nats_type_mode types;
  int32_t chunk, kv_heads;
} mask;

static const mask masks[] = {
    {"dense", NATS_ATTENTION_DENSE, NATS_TYPES_FIXED, 1, 4},
    {"window", NATS_ATTENTION_WINDOW, NATS_TYPES_FIXED, 1, 2},
    {"warm-up", NATS_ATTENTION_NATS, NATS_TYPES_ALL_GLOBAL, 1, 2},
    {"types", NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 1, 1},
    {"types of chunks", NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 3, 2},
};
enum { MASKS = sizeof masks / sizeof *masks, PARTS = 16 };

typedef struct {
  char name[96];
  nn_norm_kind norm;
  nn_mlp_kind mlp;
  bool bias, tied;
  mask mask;
} variant;

// Every combination of parts, with a mask that goes around at another pace than any of them.
static variant variant_of(int parts) {
  variant v = {
      .norm = parts & 1 ? NN_NORM_LAYER : NN_NORM_RMS,
      .mlp = parts & 2 ? NN_MLP_GELU : NN_MLP_SWIGLU,
      .bias = parts & 4,
      .tied = parts & 8,
      .mask = masks[parts % MASKS],
  };
  snprintf(v.name, sizeof v.name, "%s, %s%s%s, %s", parts & 1 ? "layernorm" : "rmsnorm",
           parts & 2 ? "gelu" : "swiglu", v.bias ? ", bias" : "", v.tied ? ", tied" : "", v.mask.name);
  return v;
}

static nats_model_config config_of(const variant *v) {
  nats_model_config config = small_config();
  config.norm = v->norm;
  config.mlp = v->mlp;
  config.bias = v->bias;
  config.tied = v->tied;
  config.kv_heads = v->mask.kv_heads;
  config.attention = v->mask.attention;
  config.type_chunk = v->mask.chunk;
  config.scorer_detach = true; // the loss then depends on the scorers' input through nothing but the choice
  return config;
}

typedef struct {
  fixture f;
  nats_batch batch;
  nats_pass pass;
  float *direction, *original;  // [largest parameter]
  uint8_t *types, *moved_types; // [layers, BATCH, Hk, LENGTH]
} check;

static void read_all_types(check *c, uint8_t *types) {
  size_t layer_size = (size_t)BATCH * (size_t)c->f.config.kv_heads * LENGTH;
  for (int32_t l = 0; l < c->f.config.layers; l++)
    MUST(nats_model_read_types(c->f.model, l, types + (size_t)l * layer_size));
}

static void check_open(check *c, const variant *v, uint64_t seed) {
  nats_model_config config = config_of(v);
  fixture_open(&c->f, &config, BATCH, LENGTH, 0.25f, seed);
  c->batch = random_batch(BATCH, LENGTH, config.vocab, seed);
  c->pass = training_pass(&c->f, &c->batch, v->mask.types, 0.5f);
  size_t types = (size_t)config.layers * BATCH * (size_t)config.kv_heads * LENGTH;
  c->direction = malloc((size_t)c->f.table.total * sizeof(float));
  c->original = malloc((size_t)c->f.table.total * sizeof(float));
  c->types = calloc(1, types);
  c->moved_types = calloc(1, types);
  cr_assert(c->direction && c->original && c->types && c->moved_types);
}

static void check_close(check *c) {
  free(c->moved_types);
  free(c->types);
  free(c->original);
  free(c->direction);
  batch_free(&c->batch);
  fixture_close(&c->f);
}

// Half along the gradient, so that there is something to measure, and half at random, so that a gradient that
// is wrong across itself shows too. Unit length but for the angle between the halves.
static double choose_direction(check *c, const nn_param *param, uint64_t seed) {
  const float *grad = c->f.params.grad + param->offset;
  double grad_norm = 0.0, random_norm = 0.0, slope = 0.0;
  for (int64_t i = 0; i < param->count; i++) {
    c->direction[i] = random_normal(seed, (uint64_t)(param->offset + i));
    grad_norm += (double)grad[i] * (double)grad[i];
    random_norm += (double)c->direction[i] * (double)c->direction[i];
  }
  grad_norm = sqrt(grad_norm) + 1e-30;
  random_norm = sqrt(random_norm);
  for (int64_t i = 0; i < param->count; i++) {
    double d = (double)grad[i] / grad_norm + (double)c->direction[i] / random_norm;
    c->direction[i] = (float)(d * 0.7071);
    slope += (double)grad[i] * (double)c->direction[i];
  }
  return slope;
}

// Loss at `step` along the direction; false where a token changed its type, which no gradient knows of.
static bool loss_at(check *c, const nn_param *param, double step, double *loss) {
  float *weight = c->f.params.master + param->offset;
  for (int64_t i = 0; i < param->count; i++) {
    c->original[i] = weight[i];
    weight[i] += (float)(step * (double)c->direction[i]);
  }
  MUST(nn_params_refresh_compute(&c->f.params));
  *loss = mean_loss(&c->f, &c->batch, c->pass);
  memcpy(weight, c->original, (size_t)param->count * sizeof *weight);
  read_all_types(c, c->moved_types);
  size_t types = (size_t)c->f.config.layers * BATCH * (size_t)c->f.config.kv_heads * LENGTH;
  return memcmp(c->types, c->moved_types, types) == 0;
}

// Central difference; *same_types becomes false where the two sides do not have the types of the middle.
static double slope_at(check *c, const nn_param *param, double step, bool *same_types) {
  double up, down;
  bool same_up = loss_at(c, param, step, &up), same_down = loss_at(c, param, -step, &down);
  *same_types = *same_types && same_up && same_down;
  return (up - down) / (2.0 * step);
}

static bool check_parameter(check *c, const variant *v, const nn_param *param, uint64_t seed) {
  double expected = choose_direction(c, param, seed);
  double step = STEP / fmax(1.0, fabs(expected)); // shorter where it is steep, and so curved
  bool same_types = true;
  double near = slope_at(c, param, step, &same_types), far = slope_at(c, param, 2.0 * step, &same_types);
  if (!same_types)
    return false;
  double found = (4.0 * near - far) / 3.0; // Richardson: the error of order step^2 falls out
  cr_expect(fabs(found - expected) <= TOLERANCE * fabs(expected) + NOISE,
            "%s: %s: the loss rises by %.6g along a direction, its gradient says %.6g (NN_TEST_SEED=%llu)",
            v->name, param->name, found, expected, (unsigned long long)seed);
  return true;
}

static void check_variant(const variant *v, uint64_t seed) {
  check c;
  int32_t checked = 0;
  check_open(&c, v, seed);
  zero_gradients(&c.f);
  MUST(nats_model_train(c.f.model, &c.batch, &c.pass, NULL));
  read_all_types(&c, c.types);
  for (int32_t p = 0; p < c.f.table.count; p++) {
    const nn_param *param = &c.f.table.items[p];
    if (param->group == NN_GROUP_WEIGHTS)
      checked += check_parameter(&c, v, param, seed);
  }
  cr_expect(checked > 6, "%s: only %d parameters could be moved without a change of types", v->name, checked);
  check_close(&c);
}

// A wrong gradient anywhere (a swapped buffer, a missing addition, a wrong shape) trains to a worse model and
// says nothing.
Test(model_gradient, equals_finite_differences) {
  uint64_t seed = fresh_seed();
  for (int parts = 0; parts < PARTS; parts++) {
    variant v = variant_of(parts);
    check_variant(&v, seed + (uint64_t)parts);
  }
}
