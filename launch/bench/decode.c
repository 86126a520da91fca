// natsformer bench decode: the time of a decoding step after a long context, on random tokens and random
// weights. The scorers are made wide, so that types are drawn evenly over the tokens, and nats.scorer_bias
// says how many are global: what the cache keeps is then a matter of that one number.
#include <jansson.h> // --json
#include <math.h>    // sqrt
#include <stdio.h>
#include <stdlib.h> // qsort
#include <string.h>

#include "launch/bench/bench.h"
#include "launch/config/config.h"
#include "launch/config/options.h"
#include "launch/machine/blas_core.h"
#include "launch/records/output_file.h"
#include "launch/records/progress.h" // launch_seconds
#include "nats/decoder.h"
#include "nn/log.h"
#include "nn/random.h"

enum { WARM_UP = 5, MOST_STEPS = 100000 };

static const char *const policies[] = {"dense", "nats"};
enum { POLICIES = sizeof policies / sizeof *policies };

typedef struct {
  launch_list settings; // key.path=value
  int32_t context, batch, steps, page_tokens;
  const char *cache; // one of `policies`, NULL: all
  bool json;
} bench_options;

typedef struct {
  double prefill_ms;
  double p50_ms, p95_ms;  // of a step, synchronised
  double kv_fraction;     // live over seen tokens, at the last step
  double bytes_read;      // keys and values of a step
  nats_cache_stats cache; // after the last step
} measurement;

// ---- a model whose types are random ----

// Scorer weights such that every logit has standard deviation 1 over tokens: their input is normalised.
static nn_status widen_scorers(nn_device *device, const nn_param_table *table, const nats_model_config *model,
                               nn_params *params, uint64_t seed) {
  const float wanted = (float)(1 / sqrt(model->width));
  nn_status status = NN_OK;
  for (int32_t p = 0; p < table->count && status == NN_OK; p++) {
    nn_param param = table->items[p];
    if (param.group != NN_GROUP_SCORER || param.rank != 2)
      continue;
    param.init_value = wanted;
    float *values = malloc((size_t)param.count * sizeof *values);
    if (values == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "out of memory for %s", param.name);
    nn_param_initial(&param, seed, 0, param.count, values);
    status =
        nn_device_upload(device, params->master + param.offset, values, (size_t)param.count * sizeof *values);
    free(values);
  }
  NN_TRY(status);
  return nn_params_refresh_compute(params);
}

// ---- one policy ----

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static void random_tokens(uint64_t seed, uint64_t stream, int64_t count, int32_t vocab, int32_t *tokens) {
  nn_random_key key = nn_random_key_make(seed, NN_RANDOM_TEST, stream, 0);
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits[4];
    nn_random_u32x4(key, 0, (uint64_t)i, bits);
    tokens[i] = (int32_t)(bits[0] % (uint32_t)vocab);
  }
}

// `tokens`: [batch, context], then a column of `batch` for every step. The logits of a step come to the host,
// which waits for them: that is what a reader of the text waits for.
static nn_status time_steps(nats_decoder *decoder, const bench_options *o, const int32_t *tokens,
                            float *logits, double *seconds, measurement *out) {
  double started = launch_seconds();
  NN_TRY(nats_decoder_prefill(decoder, tokens, o->context, logits));
  out->prefill_ms = 1000 * (launch_seconds() - started);
  const int32_t *column = tokens + (int64_t)o->batch * o->context;
  for (int32_t step = 0; step < o->steps + WARM_UP; step++, column += o->batch) {
    started = launch_seconds();
    NN_TRY(nats_decoder_step(decoder, column, logits));
    if (step >= WARM_UP)
      seconds[step - WARM_UP] = launch_seconds() - started;
  }
  return nats_decoder_stats(decoder, &out->cache);
}

static nn_status run_policy(const nats_model_config *model, const nn_params *params, const bench_options *o,
                            const char *policy, uint64_t seed, measurement *out) {
  nn_status status = NN_OK;
  const int32_t positions = o->context + WARM_UP + o->steps;
  const nats_decoder_config config = {
      .sequences = o->batch, .max_length = positions, .page_tokens = o->page_tokens, .policy = policy};
  const int64_t count = (int64_t)o->batch * positions;
  nats_decoder *decoder = NULL;
  int32_t *tokens = malloc((size_t)count * sizeof *tokens);
  void *logits = NULL;
  double *seconds = malloc((size_t)o->steps * sizeof *seconds);
  if (tokens == NULL || seconds == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "out of memory for %d sequences", o->batch));
  const size_t logit_bytes = (size_t)o->batch * (size_t)model->vocab * sizeof(float);
  NN_GOTO(status, done, nn_device_host_alloc(params->device, logit_bytes, "logits", &logits));
  random_tokens(seed, 0, count, model->vocab, tokens);
  NN_GOTO(status, done, nats_decoder_create(model, params, &config, &decoder));
  NN_GOTO(status, done, time_steps(decoder, o, tokens, logits, seconds, out));

  qsort(seconds, (size_t)o->steps, sizeof *seconds, by_size);
  out->p50_ms = 1000 * seconds[o->steps / 2];
  out->p95_ms = 1000 * seconds[(o->steps * 95) / 100];
  const double lists = (double)o->batch * model->layers * model->kv_heads;
  out->kv_fraction = (double)out->cache.live_tokens / (lists * positions);
  out->bytes_read =
      (double)out->cache.live_tokens * 2 * model->head_size * (double)nn_device_act_size(params->device);
done:
  nats_decoder_free(decoder);
  nn_device_host_free(params->device, logits);
  free(seconds);
  free(tokens);
  return status;
}

// ---- the command ----

static nn_status read_options(int argc, char **argv, bench_options *o) {
  const launch_option options[] = {
      {"--context", LAUNCH_OPTION_INT32, &o->context, 1, 1 << 24},
      {"--batch", LAUNCH_OPTION_INT32, &o->batch, 1, 1 << 16},
      {"--steps", LAUNCH_OPTION_INT32, &o->steps, 1, MOST_STEPS},
      {"--page-tokens", LAUNCH_OPTION_INT32, &o->page_tokens, 1, 1 << 16},
      {"--cache", LAUNCH_OPTION_TEXT, &o->cache, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  *o = (bench_options){.context = 4096,
                       .batch = 1,
                       .steps = 50,
                       .page_tokens = 16,
                       .settings = {.items = (const char **)argv}};
  NN_TRY(launch_options_read("bench decode", options, sizeof options / sizeof *options, argc, argv,
                             &o->settings));
  for (int64_t i = 0; i < o->settings.count; i++)
    if (strchr(o->settings.items[i], '=') == NULL)
      return NN_FAIL(NN_ERR_USAGE, "bench decode: expected key.path=value, found '%s'", o->settings.items[i]);
  for (int p = 0; o->cache != NULL && p < POLICIES; p++)
    if (strcmp(o->cache, policies[p]) == 0)
      return NN_OK;
  if (o->cache != NULL)
    return NN_FAIL(NN_ERR_USAGE, "bench decode: --cache: expected dense or nats, found '%s'", o->cache);
  return NN_OK;
}

static nn_status load_config(dist_group *world, const bench_options *o, launch_config *config) {
  static const char *const shape[] = {"model.width=256", "model.layers=6", "model.heads=4",
                                      "model.vocab=4096", "nats.scorer_bias=-1.1"};
  NN_TRY(launch_config_load(world, NULL, shape, sizeof shape / sizeof *shape, config));
  for (int64_t i = 0; i < o->settings.count; i++)
    NN_TRY(launch_config_override(config, o->settings.items[i]));
  snprintf(config->model.attention, sizeof config->model.attention, "nats");
  return launch_config_check(config, 1);
}

static void report(const char *policy, const measurement *m, const bench_options *o, json_t *rows) {
  nn_info("%-6s prefill %9.1f ms   step p50 %8.3f ms  p95 %8.3f ms   KV fraction %.3f   reads %8.1f MiB a "
          "step   holds %8.1f MiB  (%d tokens seen, batch %d)",
          policy, m->prefill_ms, m->p50_ms, m->p95_ms, m->kv_fraction, m->bytes_read / (1 << 20),
          (double)m->cache.bytes / (1 << 20), o->context, o->batch);
  json_object_set_new(rows, policy,
                      json_pack("{s:f, s:f, s:f, s:f, s:f, s:I, s:I}", "prefill_ms", m->prefill_ms, "step_ms",
                                m->p50_ms, "step_p95_ms", m->p95_ms, "kv_fraction", m->kv_fraction,
                                "bytes_read", m->bytes_read, "kv_bytes", (json_int_t)m->cache.bytes,
                                "dense_bytes", (json_int_t)m->cache.dense_bytes));
}

static nn_status measure_all(nn_device *device, const launch_config *config, const bench_options *o,
                             json_t *rows) {
  nats_model_config model;
  nn_param_table table = {0};
  nn_params params = {0};
  nn_status status;
  NN_TRY(launch_config_model(config, config->model.vocab, &model));
  NN_GOTO(status, done, nats_model_params(&model, &table));
  NN_GOTO(status, done, nn_params_create(device, &table, false, &params));
  NN_GOTO(status, done, nn_params_init(&params, (uint64_t)config->seed));
  NN_GOTO(status, done, widen_scorers(device, &table, &model, &params, (uint64_t)config->seed));
  for (int p = 0; p < POLICIES; p++) {
    measurement m = {0};
    if (o->cache != NULL && strcmp(o->cache, policies[p]) != 0)
      continue;
    NN_GOTO(status, done, run_policy(&model, &params, o, policies[p], (uint64_t)config->seed, &m));
    report(policies[p], &m, o, rows);
  }
done:
  nn_params_free(&params);
  nn_param_table_free(&table);
  return status;
}

// One device is measured: the other ranks only hear how it went.
static nn_status run(dist_group *world, int argc, char **argv) {
  bench_options o;
  launch_config config;
  NN_TRY(read_options(argc, argv, &o));
  NN_TRY(load_config(world, &o, &config));
  NN_TRY(launch_set_threads(world, config.threads));
  nn_status status = NN_OK;
  if (dist_rank(world) == 0) {
    nn_device *device = NULL;
    json_t *rows = json_object();
    status = nn_device_open(config.device, config.precision, dist_local_rank(world), &device);
    if (status == NN_OK) {
      nn_info("%s", nn_device_describe(device));
      status = measure_all(device, &config, &o, rows);
    }
    if (status == NN_OK && o.json)
      status = launch_print_json(json_incref(rows));
    json_decref(rows);
    nn_device_close(device);
  }
  return dist_agree(world, status);
}

const launch_bench_row launch_bench_decode = {
    .name = "decode", .run = run, .summary = "time of a decoding step after a long context"};
