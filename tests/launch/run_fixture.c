#include "tests/launch/run_fixture.h"

#include <math.h> // NAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h> // WEXITSTATUS
#include <unistd.h>

#include "data/dataset.h"
#include "data/files.h"
#include "dist/group_table.h"
#include "nn/random.h"

char run_folder[256];
uint64_t run_seed;
dist_group *run_world;

void run_fixture_open(void) {
  const char *parent = getenv("TMPDIR");
  // One seed by default: thousands of types are compared between two orders of summing, and one seed in some
  // hundreds has two logits so close that rounding decides.
  const char *seed = getenv("NN_TEST_SEED");
  run_seed = seed != NULL ? strtoull(seed, NULL, 10) : 2026;
  snprintf(run_folder, sizeof run_folder, "%s/natsformer-run-XXXXXX", parent != NULL ? parent : "/tmp");
  cr_assert_not_null(mkdtemp(run_folder));
  cr_ok(dist_self_open(&run_world));
}

void run_fixture_close(void) {
  dist_finalize(run_world);
  cr_ok(data_folder_remove(run_folder));
}

const char *run_path(const char *name) {
  static char paths[4][512]; // a few may be in use at once
  static int next;
  char *path = paths[next++ % 4];
  snprintf(path, sizeof paths[0], "%s/%s", run_folder, name);
  return path;
}

static uint32_t draw(uint64_t stream, uint64_t index, uint32_t below) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(run_seed, NN_RANDOM_TEST, stream, 0), 0, index, bits);
  return bits[0] % below;
}

// ---- data

void run_make_text(const char *name) {
  static const char *const words[] = {"rank",         "shard", "caf\xC3\xA9",     "window",
                                      "\xE2\x82\xAC", "key",   "\xF0\x9F\x8C\x8D"};
  enum { DOCUMENTS = 24, WORDS = 60 };
  const char *inputs[] = {run_path("text.jsonl")};
  FILE *file = fopen(inputs[0], "w");
  cr_assert_not_null(file);
  for (uint64_t document = 0; document < DOCUMENTS; document++) {
    fprintf(file, "{\"text\": \"");
    for (uint64_t word = 0; word < WORDS; word++)
      fprintf(file, "%s ", words[draw(document, word, sizeof words / sizeof *words)]);
    fprintf(file, "\"}\n");
  }
  fclose(file);
  data_build build = {.inputs = inputs,
                      .input_count = 1,
                      .field = "text",
                      .tokenizer = "byte",
                      .folder = run_path(name),
                      .val = 0.5,
                      .seed = run_seed};
  data_manifest manifest = {0};
  cr_ok(data_build_run(run_world, &build, &manifest));
  data_manifest_free(&manifest);
}

void run_make_mqar(const char *name) {
  data_synth synth = {.folder = run_path(name),
                      .seed = run_seed,
                      .samples = 8,
                      .val_samples = 9,
                      .length = 64,
                      .vocab = 256,
                      .window = 8};
  data_synth_mqar mqar = {.pairs = 4, .queries = 6};
  data_manifest manifest = {0};
  cr_ok(data_synth_write_mqar(run_world, &synth, &mqar, &manifest));
  data_manifest_free(&manifest);
}

// ---- runs

launch_config run_config(const char *data, const char *attention, int32_t type_chunk) {
  launch_config config;
  launch_config_defaults(&config);
  snprintf(config.data.path, sizeof config.data.path, "%s", run_path(data));
  snprintf(config.model.attention, sizeof config.model.attention, "%s", attention);
  config.model.layers = 2;
  config.model.width = 32;
  config.model.heads = 4;
  config.model.kv_heads = 2;
  config.model.window = 6;
  config.nats.type_chunk = type_chunk;
  config.nats.scorer_bias = 0;
  config.train.length = 64;
  config.train.micro_batch = 3;
  return config;
}

// Scorers begin almost blind, and weights near 0 make all logits alike: both are enlarged, so that all types
// occur and every token counts.
static void enlarge(nn_params *params) {
  for (int32_t p = 0; p < params->table->count; p++) {
    const nn_param *param = &params->table->items[p];
    float factor = param->group == NN_GROUP_SCORER ? 100.0f : 4.0f;
    for (int64_t i = 0; param->rank == 2 && i < param->count; i++)
      params->master[param->offset + i] *= factor;
  }
}

// The model of a run on the CPU device, whose memory is the host's.
static void save(const char *name, const launch_config *config, const data_set *data, nn_params *params,
                 int64_t step, double loss) {
  char folder[600];
  snprintf(folder, sizeof folder, "%s/checkpoints", run_path(name));
  data_tensor *tensors = calloc((size_t)params->table->count, sizeof *tensors);
  data_tensors_of(params->table, "param", params->master, tensors);
  data_checkpoint_config kept = {.folder = folder, .keep = 9, .writers = 1};
  data_checkpointer *checkpointer;
  cr_ok(data_checkpointer_create(run_world, params->device, &kept, tensors, params->table->count,
                                 &checkpointer));
  char *yaml = launch_config_text(config);
  data_checkpoint_info info = {.step = step,
                               .loss = loss,
                               .state_json = "{}",
                               .config_yaml = yaml,
                               .model_key = "",
                               .tokenizer_kind = data_set_tokenizer_kind(data)};
  info.tokenizer_blob = data_set_tokenizer_blob(data, &info.tokenizer_bytes);
  cr_ok(data_checkpoint_save(checkpointer, &info));
  cr_ok(data_checkpoint_poll(checkpointer, true));
  cr_assert_eq(data_checkpoint_last_step(checkpointer), step);
  data_checkpointer_free(checkpointer);
  free(yaml);
  free(tensors);
}

void run_make(const char *name, const launch_config *config, int64_t step, double loss) {
  nn_device *device;
  data_set *data;
  nats_model_config model;
  nn_param_table table = {0};
  nn_params params;
  cr_ok(nn_device_open("cpu", "auto", 0, &device));
  cr_ok(data_set_open(config->data.path, "train", &data));
  cr_ok(launch_config_model(config, data_set_vocab(data), &model));
  cr_ok(nats_model_params(&model, &table));
  cr_ok(nn_params_create(device, &table, false, &params));
  cr_ok(nn_params_init(&params, run_seed + (uint64_t)step));
  enlarge(&params);
  save(name, config, data, &params, step, loss);
  nn_params_free(&params);
  nn_param_table_free(&table);
  data_set_close(data);
  nn_device_close(device);
}

// ---- the program

static void append(char *command, size_t room, const char *text) {
  size_t used = strlen(command);
  cr_assert_lt(used + strlen(text), room);
  strcpy(command + used, text);
}

int run_program(int ranks, const char *arguments, char **out, char **err) {
  char command[4096] = "", number[16];
  size_t bytes;
  append(command, sizeof command, "cd '");
  append(command, sizeof command, run_folder);
  append(command, sizeof command, "' && export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= && ");
  if (ranks > 0) {
    snprintf(number, sizeof number, "%d ", ranks);
    append(command, sizeof command, "bash '" TEST_SOURCE "/tests/ranks.sh' ");
    append(command, sizeof command, number);
  }
  append(command, sizeof command, "'" TEST_PROGRAM "' ");
  append(command, sizeof command, arguments);
  append(command, sizeof command, " >stdout 2>stderr");
  int status = system(command);
  cr_assert(WIFEXITED(status));
  if (out != NULL)
    cr_ok(data_file_read(run_path("stdout"), out, &bytes));
  if (err != NULL)
    cr_ok(data_file_read(run_path("stderr"), err, &bytes));
  return WEXITSTATUS(status);
}

json_t *run_json(int ranks, const char *arguments) {
  char *out, *err;
  json_error_t error;
  int code = run_program(ranks, arguments, &out, &err);
  cr_assert_eq(code, 0, "%s: exit code %d\n%s", arguments, code, err);
  json_t *object = json_loads(out, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
  cr_assert(json_is_object(object), "%s: %s\n%s", arguments, error.text, out);
  free(out);
  free(err);
  return object;
}

double run_number(const json_t *object, const char *name) {
  const json_t *value = json_object_get(object, name);
  cr_assert(json_is_number(value), "%s is missing", name);
  return json_number_value(value);
}
