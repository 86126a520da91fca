// What the model promises beside right gradients (model_gradient_test.c).
#include <math.h>   // fabs, fabsf
#include <stdlib.h> // malloc, calloc, free
#include <string.h> // memcpy, strstr

#include "model_fixture.h"
#include "nats/model_internal.h"
#include "tests/nn/fresh_seed.h"

static nats_model_config typed_config(void) {
  nats_model_config config = small_config();
  config.attention = NATS_ATTENTION_NATS;
  return config;
}

// Parameter by parameter, relative to its largest entry.
static void expect_same_gradients(const fixture *f, const float *expected, double tolerance,
                                  const char *what) {
  for (int32_t p = 0; p < f->table.count; p++) {
    const nn_param *param = &f->table.items[p];
    double largest = 1e-6, difference = 0.0;
    for (int64_t i = param->offset; i < param->offset + param->count; i++) {
      largest = fmax(largest, fabs((double)expected[i]));
      difference = fmax(difference, fabs((double)expected[i] - (double)f->params.grad[i]));
    }
    cr_expect(difference <= tolerance * largest, "%s: %s differs by %g of %g", what, param->name, difference,
              largest);
  }
}

// ---- configuration and table

// An impossible shape ends with one line that names the key, not with a crash in some kernel.
Test(model, refuses_impossible_configurations) {
  struct {
    const char *key;
    nats_model_config config;
  } cases[12];
  for (int i = 0; i < 12; i++)
    cases[i].config = typed_config();
#define CASE(i, name, change) (cases[i].key = (name), (cases[i].config.change))
  CASE(0, "model.layers", layers = 0);
  CASE(1, "model.width", width = -8);
  CASE(2, "model.kv_heads", kv_heads = 3);
  CASE(3, "model.head_size", head_size = 5);
  CASE(4, "model.mlp_size", mlp_size = 0);
  CASE(5, "model.vocab", vocab = 0);
  CASE(6, "model.window", window = 0);
  CASE(7, "nats.type_chunk", type_chunk = 0);
  CASE(8, "nats.type_grad_clip", type_grad_clip = 0.5f);
  CASE(9, "nats.type_grad_rows", type_grad_rows = 0.0f);
  CASE(10, "nats.tau", type_tau = NAN);
  CASE(11, "model.norm_eps", norm_eps = 0.0f);
  for (int i = 0; i < 12; i++) {
    nn_error_clear();
    cr_expect_eq(nats_model_config_check(&cases[i].config), NN_ERR_USAGE, "%s was accepted", cases[i].key);
    cr_expect(strstr(nn_error_text(), cases[i].key), "'%s' does not name %s", nn_error_text(), cases[i].key);
  }
  nats_model_config good = typed_config();
  nn_error_clear();
  cr_expect_eq(nats_model_config_check(&good), NN_OK, "%s", nn_error_text());
}

// The table is the contract with checkpoints, importers and the reducer: names, order, shapes,
// initialisation.
Test(model, parameter_table) {
  static const char *const names[] = {
      "embedding.weight",
      "layer.0.attention.norm.weight",
      "layer.0.attention.norm.bias",
      "layer.0.attention.qkv.weight",
      "layer.0.attention.qkv.bias",
      "layer.0.attention.scorer.weight",
      "layer.0.attention.scorer.bias",
      "layer.0.attention.out.weight",
      "layer.0.attention.out.bias",
      "layer.0.mlp.norm.weight",
      "layer.0.mlp.norm.bias",
      "layer.0.mlp.up.weight",
      "layer.0.mlp.up.bias",
      "layer.0.mlp.down.weight",
      "layer.0.mlp.down.bias",
      "final_norm.weight",
      "final_norm.bias",
      "head.weight",
  };
  enum { NAMES = sizeof names / sizeof *names };
  nats_model_config config = typed_config();
  config.layers = 1;
  config.norm = NN_NORM_LAYER;
  config.bias = true;
  config.scorer_bias = 4.0f;
  nn_param_table table;
  MUST(nats_model_params(&config, &table));
  cr_assert_eq(table.count, NAMES);
  for (int i = 0; i < NAMES; i++) {
    const nn_param *param = &table.items[i];
    cr_expect_str_eq(param->name, names[i]);
    cr_expect_eq(param->decay, param->rank == 2, "%s", param->name);
    cr_expect_eq(param->group == NN_GROUP_SCORER, strstr(param->name, "scorer") != NULL, "%s", param->name);
  }
  const nn_param *up = nn_param_find(&table, "layer.0.mlp.up.weight");
  cr_expect(up->shape[0] == 2 * config.mlp_size && up->shape[1] == config.width);
  const nn_param *out = nn_param_find(&table, "layer.0.attention.out.weight");
  cr_expect_float_eq(out->init_value, config.init_std / sqrtf(2.0f), 1e-7f);
  const nn_param *bias = nn_param_find(&table, "layer.0.attention.scorer.bias");
  cr_expect(bias->init == NN_INIT_SCORER && bias->init_value == 4.0f && bias->shape[0] == 6);
  nn_param_table_free(&table);
  config.tied = true;
  config.bias = false;
  config.attention = NATS_ATTENTION_DENSE;
  MUST(nats_model_params(&config, &table));
  cr_expect_null(nn_param_find(&table, "head.weight"));
  cr_expect_null(nn_param_find(&table, "layer.0.attention.scorer.weight"));
  cr_expect_null(nn_param_find(&table, "final_norm.bias"));
  nn_param_table_free(&table);
}

// Parameters of another model are refused by name, instead of being read as something else.
Test(model, refuses_parameters_of_another_model) {
  nats_model_config config = typed_config(), other = config;
  fixture f;
  fixture_open(&f, &config, 1, 4, 0.1f, 1);
  other.mlp_size += 2;
  nats_model *model;
  cr_expect_eq(nats_model_create(&other, &f.params, 1, 4, false, &model), NN_ERR_INPUT);
  cr_expect(strstr(nn_error_text(), "layer.0.mlp.up.weight"), "%s", nn_error_text());
  cr_expect_null(model);
  nn_error_clear();
  fixture_close(&f);
}

// Tokens outside of the vocabulary (data of another tokenizer) would read past the embedding table.
Test(model, refuses_tokens_outside_the_vocabulary) {
  nats_model_config config = small_config();
  fixture f;
  fixture_open(&f, &config, 1, 4, 0.1f, 1);
  nats_batch batch = random_batch(1, 4, config.vocab, 1);
  ((int32_t *)batch.tokens)[2] = config.vocab;
  nats_pass pass = training_pass(&f, &batch, NATS_TYPES_FIXED, 0.0f);
  cr_expect_eq(nats_model_train(f.model, &batch, &pass, NULL), NN_ERR_INPUT);
  cr_expect(strstr(nn_error_text(), "token 37 at 2"), "%s", nn_error_text());
  nn_error_clear();
  ((int32_t *)batch.tokens)[2] = 0;
  ((int32_t *)batch.targets)[1] = -2;
  cr_expect_eq(nats_model_evaluate(f.model, &batch, &pass, NULL, NULL), NN_ERR_INPUT);
  nn_error_clear();
  batch_free(&batch);
  fixture_close(&f);
}

// ---- ready ranges

typedef struct {
  int64_t end; // where the next range has to end
  int32_t calls;
  const fixture *f;
  const float *expected; // gradients of a run without listener
} range_check;

// A range that is reported must hold its final values: the reducer sends it away at once.
static nn_status check_range(void *context, int64_t offset, int64_t count) {
  range_check *check = context;
  cr_expect_eq(offset + count, check->end, "the range [%lld, +%lld) leaves a hole below %lld",
               (long long)offset, (long long)count, (long long)check->end);
  cr_expect_gt(count, 0);
  for (int64_t i = offset; i < offset + count; i++)
    cr_assert_eq(check->f->params.grad[i], check->expected[i], "element %lld was reported too early",
                 (long long)i);
  check->end = offset;
  check->calls++;
  return NN_OK;
}

static nn_status refuse_range(void *context, int64_t offset, int64_t count) {
  (void)context, (void)offset, (void)count;
  return NN_ERR_COMM;
}

static void check_ready_ranges(bool tied) {
  nats_model_config config = typed_config();
  config.tied = tied;
  config.layers = 3;
  fixture f;
  fixture_open(&f, &config, 2, 9, 0.2f, 5);
  nats_batch batch = random_batch(2, 9, config.vocab, 5);
  nats_pass pass = training_pass(&f, &batch, NATS_TYPES_SAMPLED, 0.1f);
  MUST(nats_model_train(f.model, &batch, &pass, NULL));
  float *expected = copy_gradients(&f);
  zero_gradients(&f);
  range_check check = {.end = f.table.total, .f = &f, .expected = expected};
  MUST(nats_model_train(f.model, &batch, &pass, &(nn_grad_listener){check_range, &check}));
  cr_expect_eq(check.end, 0, "elements below %lld were never reported", (long long)check.end);
  cr_expect_geq(check.calls, 2 * config.layers);
  cr_expect_eq(nats_model_train(f.model, &batch, &pass, &(nn_grad_listener){refuse_range, NULL}),
               NN_ERR_COMM);
  free(expected);
  batch_free(&batch);
  fixture_close(&f);
}

// Ranges that overlap or miss a parameter would sum it twice over the ranks, or never.
Test(model, ready_ranges_cover_the_arena_once) {
  check_ready_ranges(false);
  check_ready_ranges(true);
}

// ---- batches

// The rows [first, first + count) of a batch.
static nats_batch part_of(const nats_batch *whole, int32_t first, int32_t count) {
  int64_t at = (int64_t)first * whole->length;
  return (nats_batch){
      .batch = count,
      .length = whole->length,
      .tokens = whole->tokens + at,
      .targets = whole->targets + at,
      .sample = whole->sample + first,
  };
}

// Accumulation over micro-batches is a matter of memory; it must not be another optimisation problem.
Test(model, micro_batches_equal_one_batch) {
  enum { BATCH = 5, LENGTH = 13 };
  uint64_t seed = fresh_seed();
  nats_model_config config = typed_config();
  fixture f;
  fixture_open(&f, &config, BATCH, LENGTH, 0.2f, seed);
  nats_batch batch = random_batch(BATCH, LENGTH, config.vocab, seed);
  nats_pass pass = training_pass(&f, &batch, NATS_TYPES_SAMPLED, 0.3f);
  MUST(nats_model_train(f.model, &batch, &pass, NULL));
  float *expected = copy_gradients(&f);
  nn_sums whole = *f.sums;
  zero_gradients(&f);
  MUST(nn_device_zero(f.device, f.sums, sizeof *f.sums));
  nats_batch first = part_of(&batch, 0, 2), second = part_of(&batch, 2, 3);
  MUST(nats_model_train(f.model, &first, &pass, NULL));
  MUST(nats_model_train(f.model, &second, &pass, NULL));
  expect_same_gradients(&f, expected, 2e-5, "two micro-batches");
  cr_expect_float_eq(f.sums->nll, whole.nll, 1e-5 * whole.nll);
  cr_expect(f.sums->scored == whole.scored && f.sums->correct == whole.correct);
  cr_expect(f.sums->visible == whole.visible && f.sums->causal == whole.causal,
            "types are keyed by the sample, whatever batch it comes in");
  free(expected);
  batch_free(&batch);
  fixture_close(&f);
}

// The same sequences in longer rows, the rest filled with tokens that are not scored.
static nats_batch pad(const nats_batch *batch, int32_t length, int32_t vocab) {
  nats_batch padded = random_batch(batch->batch, length, vocab, 77);
  int32_t *lengths = malloc((size_t)batch->batch * sizeof *lengths);
  cr_assert(lengths);
  for (int32_t b = 0; b < batch->batch; b++) {
    lengths[b] = batch->length;
    for (int32_t t = 0; t < length; t++) {
      bool inside = t < batch->length;
      if (inside)
        ((int32_t *)padded.tokens)[b * length + t] = batch->tokens[b * batch->length + t];
      ((int32_t *)padded.targets)[b * length + t] = inside ? batch->targets[b * batch->length + t] : -1;
    }
  }
  padded.lengths = lengths;
  return padded;
}

static void check_padding(nats_attention_kind kind, nats_type_mode types, int32_t chunk) {
  enum { LENGTH = 12, PADDED = 17 };
  uint64_t seed = fresh_seed();
  nats_model_config config = small_config();
  config.attention = kind;
  config.type_chunk = chunk;
  fixture f;
  fixture_open(&f, &config, 2, PADDED, 0.2f, seed);
  nats_batch batch = random_batch(2, LENGTH, config.vocab, seed);
  nats_batch padded = pad(&batch, PADDED, config.vocab);
  nats_pass pass = training_pass(&f, &batch, types, 0.3f);
  MUST(nats_model_train(f.model, &batch, &pass, NULL));
  float *expected = copy_gradients(&f);
  nn_sums plain = *f.sums;
  zero_gradients(&f);
  MUST(nn_device_zero(f.device, f.sums, sizeof *f.sums));
  MUST(nats_model_train(f.model, &padded, &pass, NULL));
  expect_same_gradients(&f, expected, 2e-5, "padding");
  cr_expect_float_eq(f.sums->nll, plain.nll, 1e-5 * plain.nll);
  cr_expect(f.sums->scored == plain.scored && f.sums->visible == plain.visible &&
            f.sums->causal == plain.causal);
  free(expected);
  free((void *)padded.lengths);
  batch_free(&padded);
  batch_free(&batch);
  fixture_close(&f);
}

// Recall tasks come in padded rows: what stands after a sample must change neither its loss, nor its share of
// the cache, nor any gradient.
Test(model, padding_changes_nothing) {
  check_padding(NATS_ATTENTION_DENSE, NATS_TYPES_FIXED, 1);
  check_padding(NATS_ATTENTION_WINDOW, NATS_TYPES_FIXED, 1);
  check_padding(NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 1);
  check_padding(NATS_ATTENTION_NATS, NATS_TYPES_SAMPLED, 4);
}

// ---- numbers

// A model for evaluation shares buffers between layers; its loss is that of the training model.
Test(model, evaluation_equals_the_training_pass) {
  enum { BATCH = 3, LENGTH = 15 };
  uint64_t seed = fresh_seed();
  nats_model_config config = typed_config();
  config.norm = NN_NORM_LAYER;
  fixture f;
  fixture_open(&f, &config, BATCH, LENGTH, 0.3f, seed);
  nats_batch batch = random_batch(BATCH, LENGTH, config.vocab, seed);
  nats_pass pass = training_pass(&f, &batch, NATS_TYPES_ARGMAX, 0.0f);
  double expected = mean_loss(&f, &batch, pass);
  nats_model *training = f.model, *small;
  MUST(nats_model_create(&config, &f.params, BATCH, LENGTH, false, &small));
  f.model = small;
  cr_expect_float_eq(mean_loss(&f, &batch, pass), expected, 1e-6);
  nn_sums sums = *f.sums;
  float nll[BATCH * LENGTH];
  double per_head[2 * 2 * 2] = {0}, total = 0.0, visible = 0.0, causal = 0.0;
  MUST(nats_model_evaluate(small, &batch, &pass, nll, per_head));
  for (int i = 0; i < BATCH * LENGTH; i++)
    total += (double)nll[i];
  for (int h = 0; h < 4; h++) {
    visible += per_head[2 * h];
    causal += per_head[2 * h + 1];
  }
  cr_expect_float_eq(total / (double)scored_tokens(&batch), expected, 1e-6);
  cr_expect(visible == sums.visible && causal == sums.causal && visible < causal);
  nats_model_free(training);
  batch_free(&batch);
  fixture_close(&f);
}

// In the dense warm-up the scorer must not move: it would drift before there is anything to choose.
Test(model, warm_up_leaves_the_scorer_alone) {
  nats_model_config config = typed_config();
  fixture f;
  fixture_open(&f, &config, 2, 9, 0.2f, 3);
  nats_batch batch = random_batch(2, 9, config.vocab, 3);
  nats_pass pass = training_pass(&f, &batch, NATS_TYPES_ALL_GLOBAL, 0.5f);
  MUST(nats_model_train(f.model, &batch, &pass, NULL));
  cr_expect_eq(f.sums->visible, f.sums->causal);
  for (int32_t p = 0; p < f.table.count; p++) {
    const nn_param *param = &f.table.items[p];
    double sum = 0.0;
    for (int64_t i = 0; i < param->count; i++)
      sum += fabs((double)f.params.grad[param->offset + i]);
    cr_expect_eq(sum > 0.0, param->group == NN_GROUP_WEIGHTS, "%s: %g", param->name, sum);
  }
  batch_free(&batch);
  fixture_close(&f);
}

// The table that `train` prints before it starts must be what it then takes.
Test(model, measured_memory_is_allocated_memory) {
  nats_model_config config = typed_config();
  config.layers = 6;
  for (int training = 0; training < 2; training++) {
    fixture f;
    nats_model *model;
    nats_model_memory memory;
    fixture_open(&f, &config, 4, 64, 0.1f, 1);
    MUST(nats_model_create(&config, &f.params, 4, 64, training, &model));
    MUST(nats_model_measure(&config, f.device, 4, 64, training, &memory));
    cr_expect_eq(memory.activations, (int64_t)nats_model_lay_out(model, model->memory));
    // by hand, the large tensors of a layer, floats a token: both norms' input and output, packed q, k, v,
    // attention's output, both sides of the activation
    int64_t layer =
        4 * config.width + nats_qkv_size(&config) + nats_query_size(&config) + 3 * config.mlp_size;
    int64_t least = 4 * 64 * 4 * layer * (training ? config.layers : 0);
    cr_expect(memory.activations > least && memory.activations < least + 4 * 64 * 4 * 4 * layer,
              "%lld bytes, expected a little over %lld", (long long)memory.activations, (long long)least);
    nats_batch batch = random_batch(4, 64, config.vocab, 1);
    nats_pass pass = training_pass(&f, &batch, training ? NATS_TYPES_SAMPLED : NATS_TYPES_ARGMAX, 0.1f);
    MUST(training ? nats_model_train(model, &batch, &pass, NULL)
                  : nats_model_evaluate(model, &batch, &pass, NULL, NULL));
    int64_t used = (int64_t)nn_device_workspace_bytes(f.device);
    cr_expect(memory.workspace >= used && memory.workspace <= used + used / 2,
              "operators took %lld bytes of workspace, %lld were announced", (long long)used,
              (long long)memory.workspace);
    batch_free(&batch);
    nats_model_free(model);
    fixture_close(&f);
  }
}
