// natsformer bench train: the time of a training step, on random tokens. It runs the steps of `train` without
// data set and run folder, and says how far the time is from what arithmetic and memory would allow.
#include <jansson.h> // --json
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/bench/bench.h"
#include "launch/bench/machine.h"
#include "launch/command.h" // launch_fail_alone
#include "launch/config/options.h"
#include "launch/machine/blas_core.h"
#include "launch/machine/device.h"
#include "launch/records/output_file.h"
#include "launch/records/progress.h" // launch_seconds
#include "launch/train/learner.h"
#include "nn/log.h"
#include "nn/random.h"

enum { WARM_UP = 3, MOST_STEPS = 10000 };

// How tokens are typed: by attention and by the scorer's bias for global, under which the noise decides.
typedef struct {
  const char *name;
  const char *attention;
  bool sets_bias;
  double bias;
  bool standard; // measured unless --types names another one
} variant;

static const variant variants[] = {
    {"dense", "dense", false, 0, true},
    {"random", "nats", true, 0, true},
    {"sparse", "nats", true, -2.5, true},
    {"learned", "nats", false, 0, false},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

typedef struct {
  const char *path, *types;
  launch_list settings; // key.path=value
  int32_t steps;
  double tflops, gb_per_s; // ceilings of one device, 0: measure them
  bool json;
} bench_options;

typedef struct {
  double milliseconds; // median of a step
  double tokens_per_s;
  double kv_fraction; // of the last step
  // What a step cannot be faster than, where the ceilings are those of the machine.
  double arithmetic_ms, bytes_ms;
  double flops_per_token; // model_flops
} measurement;

// ---- one variant ----

static void random_batch(const launch_learner *l, int64_t step, int32_t *tokens, int32_t *targets,
                         int64_t *sample) {
  int64_t count = l->count * l->config->train.length;
  nn_random_key key =
      nn_random_key_make((uint64_t)l->config->seed, NN_RANDOM_TEST, (uint64_t)step, (uint64_t)l->first);
  uint32_t vocab = (uint32_t)l->model_config.vocab;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits[4];
    nn_random_u32x4(key, 0, (uint64_t)i, bits);
    tokens[i] = (int32_t)(bits[0] % vocab);
    targets[i] = (int32_t)(bits[1] % vocab);
  }
  for (int64_t i = 0; i < l->count; i++)
    sample[i] = step * l->config->train.batch + l->first + i;
}

static nn_status time_steps(launch_learner *l, const nats_batch *share, int32_t *tokens, int32_t *targets,
                            int64_t *sample, double *seconds, int steps, double *kv_fraction) {
  int64_t batch = l->config->train.batch, length = l->config->train.length;
  launch_batch_counts counts = {.scored = batch * length, .pairs = batch * (length * (length + 1) / 2)};
  for (int64_t step = 0; step < steps + WARM_UP; step++) {
    launch_step_result result;
    random_batch(l, step, tokens, targets, sample);
    NN_TRY(dist_barrier(l->world));
    double started = launch_seconds();
    NN_TRY(launch_learner_begin(l, step, &counts));
    NN_TRY(launch_learner_passes(l, step, share));
    NN_TRY(launch_learner_agree(l, &result));
    NN_TRY(launch_learner_update(l, step, &result));
    NN_TRY(nn_device_sync(l->device));
    if (step >= WARM_UP)
      seconds[step - WARM_UP] = launch_seconds() - started;
    *kv_fraction = launch_kv_fraction(&result.sums);
  }
  return NN_OK;
}

static nn_status measure(launch_learner *l, int steps, measurement *out) {
  nn_status status = NN_OK;
  int32_t length = l->config->train.length;
  size_t count = (size_t)l->count * (size_t)length;
  int32_t *tokens = calloc(count, sizeof *tokens), *targets = calloc(count, sizeof *targets);
  int64_t *sample = calloc((size_t)l->count, sizeof *sample);
  double *seconds = calloc((size_t)steps, sizeof *seconds);
  if (tokens == NULL || targets == NULL || sample == NULL || seconds == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "out of memory for %d steps", steps));
  nats_batch share = {
      .batch = (int32_t)l->count, .length = length, .tokens = tokens, .targets = targets, .sample = sample};
  status = time_steps(l, &share, tokens, targets, sample, seconds, steps, &out->kv_fraction);
  if (status != NN_OK) // other ranks wait inside a step
    launch_fail_alone(l->world, status);
  double median = launch_median(seconds, steps);
  out->milliseconds = 1000 * median;
  out->tokens_per_s = (double)l->config->train.batch * length / median;
done:
  free(seconds);
  free(sample);
  free(targets);
  free(tokens);
  return status;
}

// ---- what a step costs at least ----

// The usual count (Chowdhery et al., "PaLM", 2022, appendix B): 6 operations a parameter, and 12 layers H D T
// for attention, hidden pairs included. It compares programs: it is the same for all who train this model.
static double model_flops(const launch_learner *l) {
  const nats_model_config *c = &l->model_config;
  double attention = 12.0 * c->layers * c->heads * c->head_size * l->config->train.length;
  return 6.0 * (double)nn_param_values(&l->table) + attention;
}

// Operations that a step has to make: matrix products with every matrix but the table that is only looked up;
// of attention 14 D for each visible pair (two products forward, five backward), and 4 D for each hidden one
// that tells the types what it would have been worth.
static double least_operations(const launch_learner *l, double kv_fraction) {
  const nats_model_config *c = &l->model_config;
  double length = l->config->train.length, batch = l->config->train.batch, matrices = 0;
  for (int32_t i = 0; i < l->table.count; i++)
    matrices += l->table.items[i].rank == 2 ? (double)l->table.items[i].count : 0;
  if (!c->tied)
    matrices -= (double)c->vocab * c->width;
  double pairs = batch * c->layers * c->heads * length * (length + 1) / 2;
  double hidden = c->attention == NATS_ATTENTION_NATS ? (1 - kv_fraction) * c->type_grad_rows : 0;
  return 6 * matrices * batch * length + pairs * c->head_size * (14 * kv_fraction + 4 * hidden);
}

// Bytes that this rank has to move: activations written once and read once in each micro-batch; of every
// parameter the copy that forward and backward read, the gradient (zeroed, written, read by norm and update),
// master and moments (read and written), and the copy written again where it is not the master.
static nn_status least_bytes(const launch_learner *l, double *bytes) {
  nats_model_memory memory;
  NN_TRY(nats_model_measure(&l->model_config, l->device, l->micro_batch, l->config->train.length, true,
                            &memory));
  double passes = (double)((l->count + l->micro_batch - 1) / l->micro_batch);
  double copy = (double)nn_device_act_size(l->device);
  double of_parameter = 2 * copy * passes + 4 * 4 + 6 * 4 + (copy < 4 ? copy : 0);
  *bytes = 2 * passes * (double)memory.activations + of_parameter * (double)nn_param_values(&l->table);
  return NN_OK;
}

static nn_status find_floors(const launch_learner *l, const launch_ceilings *ceilings, measurement *out) {
  double bytes, ranks = dist_size(l->world);
  NN_TRY(least_bytes(l, &bytes));
  out->flops_per_token = model_flops(l);
  out->arithmetic_ms = 1000 * least_operations(l, out->kv_fraction) / ranks / ceilings->operations;
  out->bytes_ms = 1000 * bytes / ceilings->bytes;
  return NN_OK;
}

// ---- one variant, continued ----

static nn_status run_variant(dist_group *world, nn_device *device, const launch_config *base,
                             const variant *v, int steps, const launch_ceilings *ceilings, measurement *out) {
  launch_config config = *base;
  nats_model_config model;
  launch_learner learner = {0};
  NN_TRY(launch_learner_check(base, device));
  snprintf(config.model.attention, sizeof config.model.attention, "%s", v->attention);
  if (v->sets_bias)
    config.nats.scorer_bias = v->bias;
  config.nats.type_warmup = config.nats.lambda_ramp = 0;
  config.nats.scorer_lr = 0; // gradients are computed, types stay as they are
  NN_TRY(launch_config_check(&config, dist_size(world)));
  NN_TRY(launch_config_model(&config, config.model.vocab, &model));
  nn_status status = launch_learner_open(world, device, &config, &model, &learner);
  if (status == NN_OK)
    status = dist_agree(world, measure(&learner, steps, out));
  if (status == NN_OK)
    status = find_floors(&learner, ceilings, out);
  launch_learner_close(&learner);
  return status;
}

// ---- the command ----

// Operands are moved to the front of argv, where they stay: those with a value are settings.
static nn_status read_operands(launch_list operands, bench_options *o) {
  o->settings = (launch_list){.items = operands.items};
  for (int64_t i = 0; i < operands.count; i++) {
    if (strchr(operands.items[i], '=') != NULL)
      o->settings.items[o->settings.count++] = operands.items[i];
    else if (o->path == NULL)
      o->path = operands.items[i];
    else
      return NN_FAIL(NN_ERR_USAGE, "bench train: expected key.path=value, found '%s'", operands.items[i]);
  }
  return NN_OK;
}

static nn_status read_options(int argc, char **argv, bench_options *o) {
  const launch_option options[] = {
      {"--types", LAUNCH_OPTION_TEXT, &o->types, 0, 0},
      {"--steps", LAUNCH_OPTION_INT32, &o->steps, 1, MOST_STEPS},
      {"--tflops", LAUNCH_OPTION_REAL, &o->tflops, 1e-3, 1e6},
      {"--gb-per-s", LAUNCH_OPTION_REAL, &o->gb_per_s, 1e-3, 1e6},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  launch_list operands = {.items = (const char **)argv};
  *o = (bench_options){.steps = 10};
  NN_TRY(
      launch_options_read("bench train", options, sizeof options / sizeof *options, argc, argv, &operands));
  NN_TRY(read_operands(operands, o));
  bool known = o->types == NULL;
  for (int i = 0; i < VARIANTS; i++)
    known = known || strcmp(o->types, variants[i].name) == 0;
  if (!known)
    return NN_FAIL(NN_ERR_USAGE,
                   "bench train: --types: expected dense, random, sparse or learned, found '%s'", o->types);
  return NN_OK;
}

// Without a file, what PyTorch is measured with, too: benchmarks/peers/torch_train_step.py.
static nn_status load_config(dist_group *world, const bench_options *o, launch_config *config) {
  static const char *const shape[] = {"model.width=256",    "model.layers=6",   "model.heads=4",
                                      "model.vocab=4096",   "train.length=512", "train.batch=4",
                                      "train.micro_batch=4"};
  if (o->path != NULL) {
    NN_TRY(launch_config_load(world, o->path, o->settings.items, (int)o->settings.count, config));
  } else {
    NN_TRY(launch_config_load(world, NULL, shape, sizeof shape / sizeof *shape, config));
    for (int64_t i = 0; i < o->settings.count; i++) // of the command line: the same on all ranks
      NN_TRY(launch_config_override(config, o->settings.items[i]));
  }
  if (config->model.vocab == 0)
    return NN_FAIL(NN_ERR_USAGE, "bench train: model.vocab: expected a number, there is no data set to ask");
  return NN_OK;
}

static void report(const variant *v, const measurement *m, json_t *rows) {
  double tflops = 1e-12 * m->tokens_per_s * m->flops_per_token;
  json_object_set_new(rows, v->name,
                      json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "step_ms", m->milliseconds, "tokens_per_s",
                                m->tokens_per_s, "kv_fraction", m->kv_fraction, "model_tflops_per_s", tflops,
                                "arithmetic_floor_ms", m->arithmetic_ms, "bytes_floor_ms", m->bytes_ms));
  nn_info("%-8s %9.1f ms/step %9.0f tokens/s %8.4g TFLOP/s  KV fraction %.3f  floors: arithmetic %.1f ms, "
          "bytes %.1f ms",
          v->name, m->milliseconds, m->tokens_per_s, tflops, m->kv_fraction, m->arithmetic_ms, m->bytes_ms);
}

static void report_shape(dist_group *world, const nn_device *device, const launch_config *config,
                         const launch_ceilings *ceilings, json_t *rows) {
  json_object_set_new(rows, "machine",
                      json_pack("{s:s, s:i, s:f, s:f}", "device", nn_device_describe(device), "ranks",
                                dist_size(world), "product_tflops_per_s", 1e-12 * ceilings->operations,
                                "copy_gb_per_s", 1e-9 * ceilings->bytes));
  json_object_set_new(rows, "shape",
                      json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "width", config->model.width, "layers",
                                config->model.layers, "heads", config->model.heads, "vocab",
                                config->model.vocab, "length", config->train.length, "batch",
                                config->train.batch, "micro_batch", config->train.micro_batch));
  nn_info("%d rank%s of %s; a product reaches %.4g TFLOP/s, a copy %.1f GB/s", dist_size(world),
          dist_size(world) > 1 ? "s" : "", nn_device_describe(device), 1e-12 * ceilings->operations,
          1e-9 * ceilings->bytes);
  nn_info("width %d, %d layers, %d heads, vocabulary %d, %d tokens, batch %d in micro-batches of %d; TFLOP/s "
          "count 6 N + 12 layers H D T a token",
          config->model.width, config->model.layers, config->model.heads, config->model.vocab,
          config->train.length, config->train.batch, config->train.micro_batch);
}

static nn_status run_variants(dist_group *world, nn_device *device, const launch_config *config,
                              const bench_options *o, json_t *rows) {
  launch_ceilings ceilings = {0};
  NN_TRY(dist_agree(world, launch_bench_ceilings(device, o->tflops, o->gb_per_s, &ceilings)));
  report_shape(world, device, config, &ceilings, rows);
  for (int i = 0; i < VARIANTS; i++) {
    measurement m = {0};
    if (o->types != NULL ? strcmp(o->types, variants[i].name) != 0 : !variants[i].standard)
      continue;
    NN_TRY(run_variant(world, device, config, &variants[i], o->steps, &ceilings, &m));
    report(&variants[i], &m, rows);
  }
  return NN_OK;
}

static nn_status run(dist_group *world, int argc, char **argv) {
  bench_options o;
  launch_config config;
  nn_device *device = NULL;
  NN_TRY(read_options(argc, argv, &o));
  NN_TRY(load_config(world, &o, &config));
  NN_TRY(launch_set_threads(world, config.threads));
  NN_TRY(launch_device_open(world, config.device, config.precision, true, &device));
  json_t *rows = json_object();
  nn_status status = run_variants(world, device, &config, &o, rows);
  if (status == NN_OK && o.json && dist_rank(world) == 0)
    status = launch_print_json(json_incref(rows));
  json_decref(rows);
  nn_device_close(device);
  return status;
}

const launch_bench_row launch_bench_train = {
    .name = "train", .run = run, .summary = "time of a training step"};
