// Before anything is measured, on rank 0: the models, and of every row its shape, its size and whether it is
// done already.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // unlink

#include "data/files.h"
#include "launch/compare/choice.h"
#include "launch/compare/compare.h"
#include "nn/random.h" // nn_random_hash

// ---- models

nn_status compare_open_model(comparison *c, int32_t model) {
  const compare_model *wanted = &c->plan.models[model];
  const char *found = c->models[model].checkpoint;
  if (c->open == model)
    return NN_OK;
  c->open = -1;
  launch_run_close(&c->run);
  NN_TRY(launch_run_open(c->alone, found[0] != '\0' ? found : wanted->run,
                         found[0] != '\0' ? NULL : wanted->checkpoint, c->device, c->plan.precision,
                         &c->run));
  c->open = model;
  return NN_OK;
}

static const char *attention_name(const nats_model_config *config) {
  return config->attention == NATS_ATTENTION_NATS     ? "nats"
         : config->attention == NATS_ATTENTION_WINDOW ? "window"
                                                      : "dense";
}

static nn_status look_at_model(comparison *c, int32_t model) {
  const compare_model *wanted = &c->plan.models[model];
  compare_model_info *info = &c->models[model];
  char manifest[COMPARE_PATH + 32];
  NN_TRY(compare_open_model(c, model));
  const launch_run *run = &c->run;
  snprintf(info->checkpoint, sizeof info->checkpoint, "%s", run->checkpoint.path);
  snprintf(manifest, sizeof manifest, "%s/manifest.json", info->checkpoint);
  NN_TRY(data_file_hash(manifest, &info->hash, NULL));
  info->step = run->checkpoint.step;
  info->tokens = run->checkpoint.tokens;
  info->seed = run->config.seed;
  info->lambda = run->config.nats.lambda;
  info->kv_target = run->config.nats.kv_target;
  info->length = run->config.train.length;
  info->config = run->model;
  for (int32_t p = 0; p < run->table.count; p++)
    info->parameters += run->table.items[p].count;
  const char *trained = attention_name(&run->model);
  if (strcmp(wanted->trained, "any") != 0 && strcmp(wanted->trained, trained) != 0)
    return NN_FAIL(NN_ERR_USAGE, "models[%d].trained: expected %s, as the plan says, found %s in %s", model,
                   wanted->trained, trained, info->checkpoint);
  return NN_OK;
}

nn_status compare_look(comparison *c) {
  for (int32_t m = 0; m < c->plan.models_count; m++)
    NN_TRY(look_at_model(c, m));
  snprintf(c->precision, sizeof c->precision, "%s",
           nn_device_act_size(c->run.device) == 2 ? "bf16" : "float32");
  return NN_OK;
}

// ---- shapes

// The first model that a row's task is measured with: its training length is the task's where none is given.
static int32_t first_model(const comparison *c, const compare_row *row) {
  for (int32_t r = 0; r < c->row_count; r++)
    if (c->rows[r].measure == row->measure && c->rows[r].task == row->task)
      return c->rows[r].model;
  return row->model;
}

static nn_status find_shape(comparison *c, compare_row *row) {
  const compare_plan *plan = &c->plan;
  const compare_task *task = &plan->tasks[row->task];
  compare_shape *shape = &row->shape;
  bool text = row->measure == COMPARE_TEXT;
  if (row->measure == COMPARE_NEEDLE) {
    int32_t length = plan->needle.lengths[row->task];
    *shape = (compare_shape){.length = length,
                             .prompt = plan->needle.prompt ? length - plan->needle.digits + 1 : 0,
                             .samples = plan->needle.samples};
  } else {
    int32_t length = text ? plan->length : task->length;
    *shape = (compare_shape){.length = length > 0 ? length : c->models[first_model(c, row)].length,
                             .prompt = text ? plan->prompt : task->prompt,
                             .samples = text ? plan->samples : task->samples};
  }
  compare_samples samples;
  nn_status status = compare_samples_open(c, row, 0, plan->seeds[0], &samples);
  if (status == NN_OK)
    status = launch_run_check_data(&c->run, samples.set,
                                   row->measure == COMPARE_NEEDLE ? "needle"
                                   : text                         ? plan->data
                                                                  : task->data);
  int64_t all = status == NN_OK ? data_loader_samples(samples.loader) : 0;
  compare_samples_close(&samples);
  NN_TRY(status);
  shape->available = all;
  shape->samples = shape->samples > 0 && shape->samples < all ? shape->samples : all;
  shape->batch = plan->batch < shape->samples ? plan->batch : (int32_t)shape->samples;
  if (shape->prompt >= shape->length)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected a prompt shorter than the %d tokens of a sample, found %d",
                   row->name, shape->length, shape->prompt);
  return NN_OK;
}

// ---- sizes

// A number of the row that a model has under its own policy on the same task.
static nn_status own_bytes(const comparison *c, const compare_row *row, int32_t model, const char *name,
                           double *bytes) {
  const compare_row *own = compare_row_own(c, row, model);
  json_t *object = own != NULL ? compare_row_read(c, own) : NULL;
  const json_t *value = json_object_get(object, name);
  bool found = json_is_number(value);
  *bytes = found ? json_number_value(value) : 0;
  json_decref(object);
  return found ? NN_OK
               : NN_FAIL(NN_ERR_INTERNAL, "%s: no %s of %s", row->name, name, c->plan.models[model].name);
}

// Shares are of what the dense policy takes on these very samples, which may be shorter than `length`.
static nn_status find_size(comparison *c, compare_row *row, nats_policy_choice *choice) {
  const compare_plan *plan = &c->plan;
  int32_t match = row->budget - plan->budgets_count;
  double bytes;
  NN_TRY(compare_choose(compare_row_policy(c, row), &c->run.model, choice));
  if (match < 0) {
    NN_TRY(own_bytes(c, row, row->model, "kv_bytes_dense", &bytes));
    row->bytes_wanted = (int64_t)(plan->budgets[row->budget] * bytes);
  } else {
    NN_TRY(own_bytes(c, row, plan->match.model[match], "kv_bytes", &bytes));
    row->bytes_wanted = (int64_t)bytes;
  }
  return compare_find_size(c, row, choice);
}

static nn_status choose(comparison *c, compare_row *row) {
  nats_policy_choice choice;
  row->possible = true;
  if (row->budget >= 0)
    NN_TRY(find_size(c, row, &choice));
  else
    NN_TRY(nats_policy_choose(compare_row_policy(c, row), &c->run.model, &choice));
  row->draws = choice.policy->draws;
  compare_choice_text(&choice, row->choice);
  return NN_OK;
}

// ---- keys

// All that a measurement depends on, in a hash.
static nn_status find_key(const comparison *c, compare_row *row) {
  const compare_shape *shape = &row->shape;
  char text[1280];
  uint64_t data;
  NN_TRY(compare_samples_hash(c, row, &data));
  int used = snprintf(
      text, sizeof text, "3 %s %016llx %016llx %s %s %s %d %d %d %lld %lld %d %s %s %d", NATSFORMER_VERSION,
      (unsigned long long)c->models[row->model].hash, (unsigned long long)data, row->name, row->choice,
      compare_samples_kind(c, row), shape->length, shape->prompt, shape->batch, (long long)shape->samples,
      (long long)row->bytes_wanted, c->plan.page_tokens, c->device, c->precision, row->possible);
  bool seeded = row->draws || row->measure == COMPARE_NEEDLE;
  for (int32_t s = 0; s < c->plan.seeds_count && seeded; s++)
    used += snprintf(text + used, sizeof text - (size_t)used, " %lld", (long long)c->plan.seeds[s]);
  data_hash_format(nn_random_hash(text, strlen(text)), row->key);
  return NN_OK;
}

// A file with another key is of another plan, checkpoint or version: it goes, so that what is there is right.
static nn_status find_done(const comparison *c, compare_row *row) {
  char path[COMPARE_PATH + 300];
  json_t *object = compare_row_read(c, row);
  const char *key = json_string_value(json_object_get(object, "key"));
  row->done = key != NULL && strcmp(key, row->key) == 0;
  json_decref(object);
  NN_TRY(compare_row_path(c, row, path));
  if (!row->done)
    unlink(path);
  return NN_OK;
}

// ---- all of it

// Steps, each with a share that does not depend on the cache and one that grows with it.
static double estimate_cost(const comparison *c, const compare_row *row) {
  const compare_shape *shape = &row->shape;
  const compare_plan *plan = &c->plan;
  int32_t kinds = row->draws ? plan->seeds_count : 1;
  if (row->measure == COMPARE_NEEDLE)
    kinds = plan->seeds_count * plan->needle.depths_count;
  double dense = (double)compare_dense_bytes(c, shape->length);
  double share = row->bytes_wanted > 0 ? (double)row->bytes_wanted / dense : 1;
  double steps = (double)shape->samples * shape->length * kinds;
  return steps * (1 + share * shape->length / 512);
}

// The longest first, each to the rank that has least to do.
static nn_status deal(comparison *c, int32_t phase) {
  int32_t ranks = dist_size(c->world);
  double *load = calloc((size_t)ranks, sizeof *load);
  if (load == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the work of %d ranks", ranks);
  for (;;) {
    compare_row *longest = NULL;
    for (int32_t r = 0; r < c->row_count; r++) {
      compare_row *row = &c->rows[r];
      bool open = compare_row_phase(row) == phase && !row->done && row->rank < 0;
      if (open && (longest == NULL || row->cost > longest->cost))
        longest = row;
    }
    if (longest == NULL)
      break;
    longest->rank = 0;
    for (int32_t rank = 1; rank < ranks; rank++)
      if (load[rank] < load[longest->rank])
        longest->rank = rank;
    load[longest->rank] += longest->cost;
  }
  free(load);
  return NN_OK;
}

nn_status compare_prepare(comparison *c, int32_t phase) {
  for (int32_t r = 0; r < c->row_count; r++) {
    compare_row *row = &c->rows[r];
    if (compare_row_phase(row) != phase)
      continue;
    NN_TRY(compare_open_model(c, row->model));
    NN_TRY(find_shape(c, row));
    NN_TRY(choose(c, row));
    NN_TRY(find_key(c, row));
    NN_TRY(find_done(c, row));
    row->cost = estimate_cost(c, row);
    row->rank = -1;
  }
  return deal(c, phase);
}
