// The plan of a comparison: which models under which eviction policies, at which sizes of the cache, on what.
// Filled from YAML with the strictness of a configuration: unknown keys, wrong types and impossible values
// are errors with the key's path. Keys are listed in docs/benchmarks.md.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "nn/status.h"

enum {
  COMPARE_MODELS = 32,
  COMPARE_POLICIES = 24,
  COMPARE_BUDGETS = 16,
  COMPARE_SEEDS = 16,
  COMPARE_TASKS = 8,
  COMPARE_LENGTHS = 16,
  COMPARE_DEPTHS = 32,
  COMPARE_NAME = 48,
  COMPARE_PATH = 1024,
};

// Models of the plan by name, and which they are.
typedef struct {
  int32_t count;
  char name[COMPARE_MODELS][COMPARE_NAME];
  int32_t model[COMPARE_MODELS];
} compare_models;

typedef struct {
  char name[COMPARE_NAME];
  char run[COMPARE_PATH]; // run folder, or the folder of one checkpoint
  char checkpoint[8];     // last, best
  char trained[8];        // dense, nats, window: what its run must say; any: whatever it says
  bool text;              // measured on the plan's text
} compare_model;

typedef struct {
  char policy[COMPARE_NAME]; // "h2o", "streaming:reassign=0"
  compare_models models;     // none: those trained as dense; for a policy that reads the use of heads, nats
} compare_policy;

typedef struct {
  char name[COMPARE_NAME];
  char data[COMPARE_PATH];
  char split[8], sample[16];
  int32_t length; // 0: as the model was trained
  int64_t samples;
  int32_t prompt;
  compare_models models;
} compare_task;

typedef struct {
  int32_t lengths_count, depths_count;
  int32_t lengths[COMPARE_LENGTHS];
  double depths[COMPARE_DEPTHS];
  int64_t samples; // of a length, depth and seed
  int32_t digits, vocab, window;
  bool prompt; // all up to the question is a prompt
  compare_models models;
} compare_needle;

typedef struct {
  char data[COMPARE_PATH]; // "": no text
  char split[8], sample[16];
  int32_t length;  // 0: as the first model was trained
  int64_t samples; // 0: all
  int32_t batch, prompt, page_tokens;
  char device[8], precision[8];
  int32_t threads;
  int32_t seeds_count, budgets_count;
  int64_t seeds[COMPARE_SEEDS];
  double budgets[COMPARE_BUDGETS];
  double tolerance; // share by which bytes may miss those wanted without a note
  compare_models match;
  int32_t models_count, policies_count, tasks_count;
  compare_model models[COMPARE_MODELS];
  compare_policy policies[COMPARE_POLICIES];
  compare_task tasks[COMPARE_TASKS];
  compare_needle needle; // lengths_count 0: none
} compare_plan;

// Reads a file and then `count` texts "key=value", where the value is YAML ("budgets=[0.1, 0.2]"). Errors:
// NN_ERR_USAGE.
nn_status compare_plan_read(const char *path, const char *const *overrides, int count, compare_plan *plan);

// What cannot be across keys, and which models the plan's names mean: part of reading. `file`: for messages.
nn_status compare_plan_check(const char *file, compare_plan *plan);

// The plan as an object whose keys are those of the file; NULL without memory.
json_t *compare_plan_json(const compare_plan *plan);
