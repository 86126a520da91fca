// What the tests of checkpoints share: a folder, tensors whose contents depend on (seed, step) alone, and a
// save that is waited for.
#pragma once

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "data/checkpoint.h"
#include "data/files.h"
#include "nn/random.h"

// Shapes that cut well, badly and not at all into row ranges.
enum { TENSORS = 5 };
static const struct {
  const char *name;
  int64_t rows, columns;
} shapes[TENSORS] = {{"param/embedding.weight", 37, 24},
                     {"param/layer.0.attention.qkv.weight", 64, 33},
                     {"param/norm.weight", 2, 1},
                     {"moment1/embedding.weight", 37, 24},
                     {"moment2/layer.0.attention.qkv.weight", 1, 129}};

static const char tokenizer[] = "a tokenizer's model\0with zero bytes";
static uint64_t seed;
static char folder[256]; // of the test
static nn_device *device;

typedef struct {
  data_tensor items[TENSORS];
} tensor_list;

#define cr_ok(expression) cr_assert_eq((expression), NN_OK, "%s (%s)", nn_error_text(), nn_error_place())

static inline uint64_t clock_seed(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_nsec ^ ((uint64_t)now.tv_sec << 30);
}

static inline void open_folder(void) {
  const char *parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/natsformer-checkpoint-XXXXXX", parent != NULL ? parent : "/tmp");
  cr_assert_not_null(mkdtemp(folder));
}

static inline void close_folder(void) {
  cr_ok(data_folder_remove(folder));
}

static inline tensor_list make_tensors(void) {
  tensor_list list = {0};
  for (int32_t i = 0; i < TENSORS; i++) {
    data_tensor *tensor = &list.items[i];
    snprintf(tensor->name, sizeof tensor->name, "%s", shapes[i].name);
    tensor->rows = shapes[i].rows;
    tensor->columns = shapes[i].columns;
    void *data;
    cr_ok(nn_device_alloc(device, (size_t)(tensor->rows * tensor->columns) * sizeof(float), "a test", &data));
    tensor->data = data;
  }
  return list;
}

static inline void free_tensors(tensor_list *list) {
  for (int32_t i = 0; i < TENSORS; i++)
    nn_device_free(device, list->items[i].data);
}

// Any bits but those of NaN, which compare unequal.
static inline float value_of(int64_t step, int32_t tensor, int64_t element) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, (uint64_t)step, (uint64_t)tensor), 0,
                  (uint64_t)element, bits);
  return nn_random_uniform(bits[0]) - 0.5f;
}

// The tests run on the CPU device, whose memory is the host's.
static inline void fill_tensors(tensor_list *list, int64_t step) {
  for (int32_t i = 0; i < TENSORS; i++)
    for (int64_t e = 0; e < shapes[i].rows * shapes[i].columns; e++)
      list->items[i].data[e] = value_of(step, i, e);
}

static inline void check_tensors(const tensor_list *list, int64_t step) {
  for (int32_t i = 0; i < TENSORS; i++)
    for (int64_t e = 0; e < shapes[i].rows * shapes[i].columns; e++)
      cr_assert_eq(list->items[i].data[e], value_of(step, i, e), "step %lld, %s[%lld], seed %llu",
                   (long long)step, shapes[i].name, (long long)e, (unsigned long long)seed);
}

static inline data_checkpointer *open_checkpointer(dist_group *world, const tensor_list *list, int32_t keep,
                                                   bool keep_best, int32_t writers) {
  data_checkpoint_config config = {
      .folder = folder, .keep = keep, .keep_best = keep_best, .writers = writers};
  data_checkpointer *checkpointer = NULL;
  cr_ok(data_checkpointer_create(world, device, &config, list->items, TENSORS, &checkpointer));
  return checkpointer;
}

static inline data_checkpoint_info info_of(int64_t step, double loss) {
  return (data_checkpoint_info){.step = step,
                                .tokens = 1000 * step,
                                .samples = 7 * step,
                                .loss = loss,
                                .state_json = "{\"lambda\": 0.1234567890123456789, \"skipped\": 3}",
                                .config_yaml = "train:\n  steps: 10 # \"quoted\"\n",
                                .model_key = "width 64",
                                .tokenizer_kind = "byte",
                                .tokenizer_blob = tokenizer,
                                .tokenizer_bytes = sizeof tokenizer};
}

// Saves the tensors of `step` and waits for the writers.
static inline void save(data_checkpointer *checkpointer, tensor_list *list, int64_t step, double loss) {
  fill_tensors(list, step);
  data_checkpoint_info info = info_of(step, loss);
  cr_ok(data_checkpoint_save(checkpointer, &info));
  cr_ok(data_checkpoint_poll(checkpointer, true));
}

static inline bool has_checkpoint(int64_t step) {
  char path[512];
  snprintf(path, sizeof path, "%s/step-%09lld/manifest.json", folder, (long long)step);
  return access(path, F_OK) == 0;
}

// Finds the newest checkpoint, reads it and compares; its step.
static inline int64_t find_and_check(dist_group *world) {
  data_checkpoint_loaded loaded;
  bool found;
  cr_ok(data_checkpoint_find(world, folder, &found, &loaded));
  cr_assert(found);
  int64_t step = loaded.step;
  tensor_list list = make_tensors();
  cr_ok(data_checkpoint_read(&loaded, device, list.items, TENSORS));
  check_tensors(&list, step);
  free_tensors(&list);
  data_checkpoint_loaded_free(&loaded);
  return step;
}
