#include "model_fixture.h"

#include <stdlib.h> // malloc, free
#include <string.h> // memcpy

float random_normal(uint64_t seed, uint64_t index) {
  uint32_t bits[4];
  float normal[2];
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, 1, 0), 0, index, bits);
  nn_random_normal2(bits[0], bits[1], normal);
  return normal[0];
}

static int32_t random_below(uint64_t seed, uint64_t stream, uint64_t index, int32_t limit) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, 2, stream), 0, index, bits);
  return (int32_t)(bits[0] % (uint32_t)limit);
}

nats_model_config small_config(void) {
  return (nats_model_config){
      .layers = 2,
      .width = 24,
      .heads = 4,
      .kv_heads = 2,
      .head_size = 6,
      .mlp_size = 20,
      .vocab = 37,
      .norm = NN_NORM_RMS,
      .mlp = NN_MLP_SWIGLU,
      .rope_theta = 10000.0,
      .norm_eps = 1e-5f,
      .init_std = 0.02f,
      .attention = NATS_ATTENTION_DENSE,
      .window = 3,
      .type_chunk = 1,
      .type_tau = 1.0f,
      .type_grad_clip = 1.0f,
      .type_grad_rows = 1.0f,
      .scorer_bias = 0.0f,
  };
}

static void fill_parameters(fixture *f, float std, uint64_t seed) {
  float *master = calloc((size_t)f->table.total, sizeof *master); // gaps are zero
  cr_assert(master);
  for (int32_t p = 0; p < f->table.count; p++) {
    const nn_param *param = &f->table.items[p];
    float middle = param->init == NN_INIT_ONE ? 1.0f : 0.0f;
    for (int64_t i = 0; i < param->count; i++)
      master[param->offset + i] = middle + std * random_normal(seed, (uint64_t)(param->offset + i));
  }
  MUST(nn_device_upload(f->device, f->params.master, master, (size_t)f->table.total * sizeof *master));
  MUST(nn_params_refresh_compute(&f->params));
  free(master);
}

void fixture_open(fixture *f, const nats_model_config *config, int32_t batch, int32_t length, float std,
                  uint64_t seed) {
  nn_device *device;
  MUST(nn_device_open("cpu", "auto", 0, &device));
  fixture_open_on(f, device, config, batch, length, std, seed);
  f->owns_device = true;
}

void fixture_open_on(fixture *f, nn_device *device, const nats_model_config *config, int32_t batch,
                     int32_t length, float std, uint64_t seed) {
  *f = (fixture){.device = device, .config = *config};
  MUST(nats_model_params(config, &f->table));
  MUST(nn_params_create(f->device, &f->table, true, &f->params));
  fill_parameters(f, std, seed);
  MUST(nats_model_create(config, &f->params, batch, length, true, &f->model));
  MUST(nn_device_alloc(f->device, sizeof *f->sums, "sums", (void **)&f->sums));
  MUST(nn_device_alloc(f->device, sizeof *f->numbers, "numbers", (void **)&f->numbers));
}

void fixture_close(fixture *f) {
  nn_device_free(f->device, f->numbers);
  nn_device_free(f->device, f->sums);
  nats_model_free(f->model);
  nn_params_free(&f->params);
  nn_param_table_free(&f->table);
  if (f->owns_device)
    nn_device_close(f->device);
}

nats_batch random_batch(int32_t batch, int32_t length, int32_t vocab, uint64_t seed) {
  size_t count = (size_t)batch * (size_t)length;
  int32_t *tokens = malloc(count * sizeof *tokens), *targets = malloc(count * sizeof *targets);
  int64_t *sample = malloc((size_t)batch * sizeof *sample);
  cr_assert(tokens && targets && sample);
  for (size_t i = 0; i < count; i++) {
    tokens[i] = random_below(seed, 0, i, vocab);
    targets[i] = i % 5 == 4 ? -1 : random_below(seed, 1, i, vocab);
  }
  for (int32_t b = 0; b < batch; b++)
    sample[b] = 100 + b;
  return (nats_batch){
      .batch = batch, .length = length, .tokens = tokens, .targets = targets, .sample = sample};
}

void batch_free(nats_batch *batch) {
  free((void *)batch->tokens);
  free((void *)batch->targets);
  free((void *)batch->sample);
}

int64_t scored_tokens(const nats_batch *batch) {
  int64_t scored = 0;
  for (int64_t i = 0; i < (int64_t)batch->batch * batch->length; i++)
    scored += batch->targets[i] >= 0;
  return scored;
}

static double causal_pairs(const fixture *f, const nats_batch *batch) {
  double pairs = 0.0;
  for (int32_t b = 0; b < batch->batch; b++) {
    double length = batch->lengths ? batch->lengths[b] : batch->length;
    pairs += length * (length + 1.0) / 2.0;
  }
  return pairs * f->config.layers * f->config.kv_heads;
}

nats_pass training_pass(fixture *f, const nats_batch *batch, nats_type_mode types, float lambda) {
  pass_numbers numbers = {
      .grad_scale = (float)(1.0 / (double)scored_tokens(batch)),
      .pair_scale = (float)(1.0 / causal_pairs(f, batch)),
      .lambda = lambda,
  };
  MUST(nn_device_upload(f->device, f->numbers, &numbers, sizeof numbers));
  return (nats_pass){
      .types = types,
      .seed = 11,
      .step = 3,
      .grad_scale = &f->numbers->grad_scale,
      .pair_scale = &f->numbers->pair_scale,
      .lambda = &f->numbers->lambda,
      .sums = f->sums,
  };
}

void zero_gradients(fixture *f) {
  MUST(nn_device_zero(f->device, f->params.grad, (size_t)f->table.total * sizeof(float)));
}

float *copy_gradients(const fixture *f) {
  size_t bytes = (size_t)f->table.total * sizeof(float);
  float *copy = malloc(bytes);
  cr_assert(copy);
  MUST(nn_device_download(f->device, copy, f->params.grad, bytes));
  MUST(nn_device_sync(f->device));
  return copy;
}

nn_sums read_sums(const fixture *f) {
  nn_sums sums;
  MUST(nn_device_download(f->device, &sums, f->sums, sizeof sums));
  MUST(nn_device_sync(f->device));
  return sums;
}

double mean_loss(fixture *f, const nats_batch *batch, nats_pass pass) {
  nn_sums sums;
  pass.sums = f->sums;
  MUST(nn_device_zero(f->device, f->sums, sizeof sums));
  MUST(nats_model_evaluate(f->model, batch, &pass, NULL, NULL));
  sums = read_sums(f);
  return sums.nll / sums.scored;
}
