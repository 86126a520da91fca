// Training that computes activations again instead of keeping them.
#include <stdlib.h> // malloc, free
#include <string.h> // memcmp

#include "model_fixture.h"
#include "tests/nn/fresh_seed.h"

enum { BATCH = 2, LENGTH = 13 };

static nats_model_config config_of(nats_attention_kind attention, int parts, nats_recompute recompute) {
  nats_model_config config = small_config();
  config.layers = 3; // a last one, of which everything is still there, and two others
  config.attention = attention;
  config.norm = parts & 1 ? NN_NORM_LAYER : NN_NORM_RMS;
  config.mlp = parts & 2 ? NN_MLP_GELU : NN_MLP_SWIGLU;
  config.bias = parts & 1;
  config.recompute = recompute;
  return config;
}

// The gradients of one pass; `sums` are those of its loss.
static float *gradients(const nats_model_config *config, uint64_t seed, nn_sums *sums, int64_t *count) {
  fixture f;
  fixture_open(&f, config, BATCH, LENGTH, 0.3f, seed);
  nats_batch batch = random_batch(BATCH, LENGTH, config->vocab, seed + 1);
  bool learned = config->attention == NATS_ATTENTION_NATS;
  nats_pass pass = training_pass(&f, &batch, learned ? NATS_TYPES_SAMPLED : NATS_TYPES_FIXED, 0.3f);
  nn_sums none = {0};
  zero_gradients(&f);
  MUST(nn_device_upload(f.device, f.sums, &none, sizeof none));
  pass.sums = f.sums;
  MUST(nats_model_train(f.model, &batch, &pass, NULL));
  *count = f.table.total;
  float *out = malloc((size_t)*count * sizeof *out);
  cr_assert_not_null(out);
  MUST(nn_device_download(f.device, out, f.params.grad, (size_t)*count * sizeof *out));
  MUST(nn_device_download(f.device, sums, f.sums, sizeof *sums));
  MUST(nn_device_sync(f.device));
  batch_free(&batch);
  fixture_close(&f);
  return out;
}

// Breaks: memory is saved and something else is learned, in one of the parts that a block may have.
Test(recompute, gradients_are_the_same_to_the_bit) {
  static const nats_attention_kind kinds[] = {NATS_ATTENTION_DENSE, NATS_ATTENTION_NATS,
                                              NATS_ATTENTION_WINDOW};
  uint64_t seed = fresh_seed();
  for (size_t kind = 0; kind < sizeof kinds / sizeof *kinds; kind++)
    for (int parts = 0; parts < 4; parts++) {
      nn_sums kept_sums, sums;
      int64_t count, other;
      nats_model_config config = config_of(kinds[kind], parts, NATS_RECOMPUTE_NONE);
      float *kept = gradients(&config, seed, &kept_sums, &count);
      for (nats_recompute again = NATS_RECOMPUTE_ATTENTION; again <= NATS_RECOMPUTE_BLOCK; again++) {
        config.recompute = again;
        float *found = gradients(&config, seed, &sums, &other);
        cr_assert_eq(count, other);
        cr_expect_eq(memcmp(kept, found, (size_t)count * sizeof *kept), 0, "kind %zu, parts %d, recompute %d",
                     kind, parts, (int)again);
        cr_expect_eq(memcmp(&kept_sums, &sums, sizeof sums), 0, "pairs are counted twice");
        free(found);
      }
      free(kept);
      seed += 2;
    }
}

static int64_t activations(nats_recompute recompute, int32_t layers) {
  nn_device *device;
  nats_model_memory memory;
  nats_model_config config = config_of(NATS_ATTENTION_NATS, 0, recompute);
  config.layers = layers;
  MUST(nn_device_open("cpu", "auto", 0, &device));
  MUST(nats_model_measure(&config, device, BATCH, LENGTH, true, &memory));
  nn_device_close(device);
  return memory.activations;
}

// Breaks: the option costs time and saves nothing.
Test(recompute, saves_memory_with_every_layer) {
  int64_t kept = activations(NATS_RECOMPUTE_NONE, 9) - activations(NATS_RECOMPUTE_NONE, 8);
  int64_t attention = activations(NATS_RECOMPUTE_ATTENTION, 9) - activations(NATS_RECOMPUTE_ATTENTION, 8);
  int64_t block = activations(NATS_RECOMPUTE_BLOCK, 9) - activations(NATS_RECOMPUTE_BLOCK, 8);
  cr_expect_lt(attention, kept);
  cr_expect_lt(3 * block, attention);
  cr_expect_eq(activations(NATS_RECOMPUTE_NONE, 1), activations(NATS_RECOMPUTE_BLOCK, 1));
}
