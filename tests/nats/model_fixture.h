// A small model with random parameters, a random batch, and the numbers that a training pass reads.
#pragma once

#include <criterion/criterion.h>

#include "nats/model.h"
#include "nn/random.h"

#define MUST(expression) cr_assert_eq((expression), NN_OK, "%s (%s)", nn_error_text(), nn_error_place())

typedef struct {
  float grad_scale, pair_scale, lambda;
} pass_numbers;

typedef struct {
  nn_device *device;
  bool owns_device;
  nats_model_config config;
  nn_param_table table;
  nn_params params;
  nats_model *model;
  nn_sums *sums;
  pass_numbers *numbers;
} fixture;

// 2 layers, width 24, 4 heads over 2 kv heads of size 6, RMSNorm, SwiGLU, dense.
nats_model_config small_config(void);

// Opens a CPU device, creates parameters (random: matrices and biases of standard deviation `std`, norms
// around 1) and a model with gradients.
void fixture_open(fixture *f, const nats_model_config *config, int32_t batch, int32_t length, float std,
                  uint64_t seed);
// The same on a device of the caller.
void fixture_open_on(fixture *f, nn_device *device, const nats_model_config *config, int32_t batch,
                     int32_t length, float std, uint64_t seed);
void fixture_close(fixture *f);

// Gradients and sums in host memory. The gradients belong to the caller.
float *copy_gradients(const fixture *f);
nn_sums read_sums(const fixture *f);

// Random tokens and targets (every fifth not scored), samples from 100 on. Freed by batch_free.
nats_batch random_batch(int32_t batch, int32_t length, int32_t vocab, uint64_t seed);
void batch_free(nats_batch *batch);
int64_t scored_tokens(const nats_batch *batch);

// A training pass whose scales belong to `batch` alone.
nats_pass training_pass(fixture *f, const nats_batch *batch, nats_type_mode types, float lambda);

void zero_gradients(fixture *f);

// Mean nll of the batch by evaluation with the same types.
double mean_loss(fixture *f, const nats_batch *batch, nats_pass pass);

float random_normal(uint64_t seed, uint64_t index);
