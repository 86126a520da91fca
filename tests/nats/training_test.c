// The same training on a device as on the CPU: losses, gradients, types, and what twenty steps make of them.
#include <math.h>   // fabs, fmax
#include <stdlib.h> // free
#include <string.h> // strstr

#include "model_fixture.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"

enum { BATCH = 2, LENGTH = 37, STEPS = 20 };

typedef struct {
  const char *name;
  nats_attention_kind attention;
  nats_type_mode types;
  int32_t chunk, heads, kv_heads, head_size;
  nn_norm_kind norm;
  nn_mlp_kind mlp;
  bool bias, tied;
} variant;

static const variant VARIANTS[] = {
    {"dense", NATS_ATTENTION_DENSE, NATS_TYPES_FIXED, 1, 2, 2, 64, NN_NORM_LAYER, NN_MLP_GELU, true, true},
    {"window", NATS_ATTENTION_WINDOW, NATS_TYPES_FIXED, 1, 4, 2, 6, NN_NORM_RMS, NN_MLP_SWIGLU, false, false},
    {"warm-up", NATS_ATTENTION_NATS, NATS_TYPES_ALL_GLOBAL, 1, 2, 1, 64, NN_NORM_RMS, NN_MLP_SWIGLU, false,
     true},
    {"types", NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 1, 4, 2, 8, NN_NORM_LAYER, NN_MLP_GELU, true, false},
    {"types, head size 64", NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 1, 2, 1, 64, NN_NORM_RMS, NN_MLP_SWIGLU,
     false, true},
    {"types of chunks", NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 3, 1, 1, 128, NN_NORM_RMS, NN_MLP_GELU, true,
     true},
};
enum { VARIANT_COUNT = sizeof VARIANTS / sizeof *VARIANTS };

static nats_model_config config_of(const variant *v) {
  nats_model_config config = small_config();
  config.width = 32;
  config.mlp_size = 48;
  config.vocab = 64;
  config.attention = v->attention;
  config.type_chunk = v->chunk;
  config.heads = v->heads;
  config.kv_heads = v->kv_heads;
  config.head_size = v->head_size;
  config.norm = v->norm;
  config.mlp = v->mlp;
  config.bias = v->bias;
  config.tied = v->tied;
  return config;
}

static void one_pass(fixture *f, const variant *v, nn_device *device, const nats_batch *batch,
                     uint64_t seed) {
  nats_model_config config = config_of(v);
  fixture_open_on(f, device, &config, BATCH, LENGTH, 0.1f, seed);
  nats_pass pass = training_pass(f, batch, v->types, 0.3f);
  MUST(nats_model_train(f->model, batch, &pass, NULL));
}

static int32_t different_types(fixture *a, fixture *b) {
  uint8_t of_a[BATCH * 4 * LENGTH] = {0}, of_b[BATCH * 4 * LENGTH] = {0};
  int32_t different = 0;
  for (int32_t layer = 0; layer < a->config.layers; layer++) {
    MUST(nats_model_read_types(a->model, layer, of_a));
    MUST(nats_model_read_types(b->model, layer, of_b));
    for (int i = 0; i < BATCH * 4 * LENGTH; i++)
      different += of_a[i] != of_b[i];
  }
  return different;
}

// Parameter by parameter, relative to its largest entry. What types are scored with learns from sums whose
// terms cancel, while their rounding in bf16 does not.
static void expect_close_gradients(const variant *v, const fixture *f, const float *found,
                                   const float *expected, double tolerance, uint64_t seed) {
  for (int32_t p = 0; p < f->table.count; p++) {
    const nn_param *param = &f->table.items[p];
    double largest = 1e-6, difference = 0.0;
    for (int64_t i = param->offset; i < param->offset + param->count; i++) {
      double off = fabs((double)expected[i] - (double)found[i]);
      largest = fmax(largest, fabs((double)expected[i]));
      difference = off <= difference ? difference : isnan(off) ? INFINITY : off;
    }
    const bool cancels = test_is_bf16(f->device) && strstr(param->name, "scorer") != NULL;
    const double allowed = cancels ? 3 * tolerance : tolerance;
    cr_expect(difference <= allowed * largest, "%s: %s differs by %g of %g (NN_TEST_SEED=%llu)", v->name,
              param->name, difference, largest, (unsigned long long)seed);
  }
}

// What breaks: a model trained on a GPU is another model than one trained on a CPU.
DEVICE_TEST(training, a_pass_is_that_of_the_cpu) {
  uint64_t seed = fresh_seed();
  for (int i = 0; i < VARIANT_COUNT; i++) {
    const variant *v = &VARIANTS[i];
    nats_batch batch = random_batch(BATCH, LENGTH, 64, seed);
    fixture here, there;
    one_pass(&here, v, device, &batch, seed);
    one_pass(&there, v, test_open_cpu(), &batch, seed);
    nn_sums found = read_sums(&here), expected = read_sums(&there);
    cr_expect_float_eq(found.nll / expected.nll, 1.0, test_tolerance(device, 1e-5, 5e-3),
                       "%s: nll %g, expected %g", v->name, found.nll, expected.nll);
    cr_expect(found.scored == expected.scored && found.causal == expected.causal, "%s", v->name);
    int32_t flipped = different_types(&here, &there);
    cr_expect_leq(flipped, test_is_bf16(device) ? 8 : 0, "%s: %d types differ (NN_TEST_SEED=%llu)", v->name,
                  (int)flipped, (unsigned long long)seed);
    float *a = copy_gradients(&here), *b = copy_gradients(&there);
    if (flipped == 0) { // else some parameters have another gradient, and rightly so
      cr_expect_float_eq(found.visible, expected.visible, 1e-9);
      expect_close_gradients(v, &here, a, b, test_tolerance(device, 1e-4, 6e-2), seed);
    }
    free(a);
    free(b);
    fixture_close(&here);
    fixture_close(&there);
    batch_free(&batch);
  }
}

// One update of all parameters; returns the mean loss before it.
static double train_step(fixture *f, const variant *v, const nats_batch *batch, int32_t step) {
  nats_pass pass = training_pass(f, batch, v->types, 0.1f);
  pass.step = step;
  nn_step update = {.lr = {3e-3f, 3e-3f},
                    .beta1 = 0.9f,
                    .beta2 = 0.95f,
                    .eps = 1e-8f,
                    .weight_decay = 0.1f,
                    .max_norm = 1.0f,
                    .updates = {step + 1, step + 1}};
  nn_step *on_device = test_bytes(f->device, &update, sizeof update);
  zero_gradients(f);
  MUST(nn_device_zero(f->device, f->sums, sizeof *f->sums));
  MUST(nats_model_train(f->model, batch, &pass, NULL));
  MUST(nn_grad_norm(f->device, &f->params, on_device));
  MUST(nn_adamw(f->device, &f->params, on_device));
  nn_sums sums = read_sums(f);
  return sums.nll / sums.scored;
}

// What breaks: the loss curve of a run depends on the device that it runs on.
DEVICE_TEST(training, twenty_steps_are_those_of_the_cpu) {
  const variant *v = &VARIANTS[4]; // types, head size 64
  uint64_t seed = fresh_seed();
  nats_model_config config = config_of(v);
  nats_batch batch = random_batch(BATCH, LENGTH, config.vocab, seed);
  fixture here, there;
  fixture_open_on(&here, device, &config, BATCH, LENGTH, 0.02f, seed);
  fixture_open_on(&there, test_open_cpu(), &config, BATCH, LENGTH, 0.02f, seed);
  double first = 0.0, last = 0.0;
  for (int32_t step = 0; step < STEPS; step++) {
    double found = train_step(&here, v, &batch, step), expected = train_step(&there, v, &batch, step);
    cr_expect_float_eq(found, expected, test_tolerance(device, 1e-3, 1e-2),
                       "step %d: loss %g, expected %g (NN_TEST_SEED=%llu)", (int)step, found, expected,
                       (unsigned long long)seed);
    first = step == 0 ? found : first;
    last = found;
  }
  cr_expect_lt(last, first - 0.3);
  fixture_close(&here);
  fixture_close(&there);
  batch_free(&batch);
}
