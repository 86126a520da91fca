#include <jansson.h> // the state of the loop in a checkpoint
#include <math.h>    // NAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/files.h"
#include "launch/train/trainer.h"
#include "nn/log.h"

// ---- whose folder it is ----

// The text "KEY: VALUE" of a line, cut at its end.
typedef struct {
  int key, value;   // lengths
  const char *text; // of the key; the value begins 2 bytes after its end
} key_line;

static key_line first_line(const char *text) {
  int length = (int)strcspn(text, "\n");
  const char *colon = strstr(text, ": ");
  int key = colon != NULL && colon - text <= length ? (int)(colon - text) : length;
  return (key_line){.text = text, .key = key, .value = length > key + 2 ? length - key - 2 : 0};
}

// Two texts of "KEY: VALUE" lines must be the same. `stored` is what the folder has.
static nn_status same_run(const char *run, const char *stored, const char *ours) {
  while (*stored != '\0' && *ours != '\0') {
    size_t length = strcspn(stored, "\n");
    if (length != strcspn(ours, "\n") || memcmp(stored, ours, length) != 0)
      break;
    stored += length + (stored[length] == '\n');
    ours += length + (ours[length] == '\n');
  }
  if (*stored == '\0' && *ours == '\0')
    return NN_OK;
  key_line there = first_line(stored), here = first_line(ours);
  if (there.key != here.key || memcmp(there.text, here.text, (size_t)here.key) != 0)
    return NN_FAIL(NN_ERR_USAGE,
                   "%s: this run folder was written by another version of natsformer: expected %.*s, "
                   "found %.*s; choose another `run`",
                   run, here.key, here.text, there.key, there.text);
  return NN_FAIL(
      NN_ERR_USAGE,
      "%s: this run folder belongs to another configuration: %.*s is %.*s there and %.*s here; choose "
      "another `run`",
      run, here.key, here.text, there.value, there.text + there.key + 2, here.value,
      here.text + here.key + 2);
}

static nn_status belongs(const launch_trainer *t) {
  char path[1100];
  launch_config stored;
  snprintf(path, sizeof path, "%s/config.yaml", t->config.run);
  if (access(path, F_OK) != 0)
    return NN_OK;
  launch_config_defaults(&stored);
  NN_TRY(launch_config_read(&stored, path));
  char *there = launch_config_fixed_text(&stored), *here = launch_config_fixed_text(&t->config);
  nn_status status = there != NULL && here != NULL ? same_run(t->config.run, there, here)
                                                   : NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", path);
  free(there);
  free(here);
  return status;
}

nn_status launch_trainer_claim(launch_trainer *t) {
  bool first = dist_rank(t->world) == 0;
  NN_TRY(dist_agree(t->world, first ? data_folder_create(t->config.run) : NN_OK));
  NN_TRY(data_run_lock(t->world, t->config.run, &t->lock));
  return dist_agree(t->world, first ? belongs(t) : NN_OK);
}

// ---- the state of a run ----

static json_t *losses_of(const launch_spikes *spikes) {
  json_t *losses = json_array();
  for (int32_t i = 0; i < spikes->count; i++)
    json_array_append_new(losses, json_real(spikes->recent[i]));
  return losses;
}

// Checkpoints of before there were spikes have none.
static void read_losses(launch_spikes *spikes, const json_t *losses) {
  *spikes = (launch_spikes){0};
  size_t count = json_array_size(losses);
  for (size_t i = count > LAUNCH_SPIKES_WINDOW ? count - LAUNCH_SPIKES_WINDOW : 0; i < count; i++)
    spikes->recent[spikes->count++] = json_number_value(json_array_get(losses, i));
}

static char *state_text(const launch_trainer *t) {
  const launch_learner *l = &t->learner;
  json_t *state =
      json_pack("{s:f, s:[I, I], s:I, s:I, s:f, s:o}", "lambda", l->phases.dual, "updates",
                (json_int_t)l->updates[NN_GROUP_WEIGHTS], (json_int_t)l->updates[NN_GROUP_SCORER], "skipped",
                (json_int_t)t->skipped, "skipped_in_a_row", (json_int_t)t->skipped_in_a_row, "seconds",
                t->seconds, "losses", losses_of(&t->spikes));
  char *text = state != NULL ? json_dumps(state, JSON_REAL_PRECISION(17)) : NULL;
  json_decref(state);
  return text;
}

static nn_status read_state(launch_trainer *t, const data_checkpoint_loaded *loaded) {
  json_error_t error = {.text = ""};
  json_int_t weights = 0, scorer = 0, skipped = 0, in_a_row = 0;
  double lambda = 0, seconds = 0;
  json_t *state = json_loads(loaded->state_json, 0, &error);
  int failed = state == NULL || json_unpack_ex(state, &error, 0, "{s:F, s:[I, I], s:I, s:I, s:F}", "lambda",
                                               &lambda, "updates", &weights, &scorer, "skipped", &skipped,
                                               "skipped_in_a_row", &in_a_row, "seconds", &seconds) != 0;
  if (!failed)
    read_losses(&t->spikes, json_object_get(state, "losses"));
  json_decref(state);
  if (failed)
    return NN_FAIL(NN_ERR_INPUT, "%s: the state of the training loop: %s", loaded->path, error.text);
  t->step = loaded->step;
  t->tokens_seen = loaded->tokens;
  t->samples = loaded->samples;
  t->skipped = skipped;
  t->skipped_in_a_row = in_a_row;
  t->seconds = seconds;
  t->learner.updates[NN_GROUP_WEIGHTS] = weights;
  t->learner.updates[NN_GROUP_SCORER] = scorer;
  t->learner.phases.dual = lambda;
  return NN_OK;
}

static nn_status restore(launch_trainer *t, const data_checkpoint_loaded *loaded) {
  NN_TRY(same_run(t->config.run, loaded->model_key, t->model_key));
  NN_TRY(read_state(t, loaded));
  NN_TRY(data_checkpoint_read(loaded, t->device, t->tensors, 3 * t->learner.table.count));
  return NN_OK;
}

// ---- beginning with the weights of another run ----

static nn_status same_tokens(const launch_trainer *t, const data_checkpoint_loaded *loaded) {
  size_t bytes;
  const void *blob = data_set_tokenizer_blob(t->data, &bytes);
  if (strcmp(loaded->tokenizer_kind, data_set_tokenizer_kind(t->data)) == 0 &&
      bytes == loaded->tokenizer_bytes && (bytes == 0 || memcmp(blob, loaded->tokenizer_blob, bytes) == 0))
    return NN_OK;
  return NN_FAIL(NN_ERR_USAGE, "train.from: the tokens of %s are not those of %s (another tokenizer)",
                 loaded->path, t->config.data.path);
}

// A scorer that the checkpoint lacks, being of a model without token types, stays as it was initialised.
static nn_status read_weights(launch_trainer *t, const data_checkpoint_loaded *loaded) {
  NN_TRY(same_tokens(t, loaded));
  for (int32_t i = 0; i < t->learner.table.count; i++) {
    int64_t rows, columns;
    bool scorer = t->learner.table.items[i].group == NN_GROUP_SCORER;
    if (scorer && data_checkpoint_shape(loaded, t->tensors[i].name, &rows, &columns) != NN_OK)
      nn_error_clear();
    else
      NN_TRY(data_checkpoint_read(loaded, t->device, &t->tensors[i], 1));
  }
  return NN_OK;
}

static nn_status begin_with(launch_trainer *t) {
  char folder[1100];
  bool found = false;
  data_checkpoint_loaded loaded = {0};
  snprintf(folder, sizeof folder, "%s/checkpoints", t->config.train.from);
  NN_TRY(data_checkpoint_find(t->world, folder, &found, &loaded));
  if (!found)
    return NN_FAIL(NN_ERR_USAGE, "train.from: %s: expected a run folder with a checkpoint in it, found none",
                   t->config.train.from);
  nn_status status = dist_agree(t->world, read_weights(t, &loaded));
  if (status == NN_OK)
    status = launch_learner_refresh(&t->learner);
  if (status == NN_OK)
    nn_info("beginning with the weights of %s", loaded.path);
  data_checkpoint_loaded_free(&loaded);
  return status;
}

// ---- resuming ----

nn_status launch_trainer_resume(launch_trainer *t) {
  char folder[1100];
  bool found = false;
  data_checkpoint_loaded loaded = {0};
  snprintf(folder, sizeof folder, "%s/checkpoints", t->config.run);
  double started = launch_seconds();
  NN_TRY(data_checkpoint_find(t->world, folder, &found, &loaded));
  if (!found)
    return t->config.train.from[0] != '\0' ? begin_with(t) : NN_OK;
  nn_status status = dist_agree(t->world, restore(t, &loaded));
  if (status == NN_OK)
    status = launch_learner_refresh(&t->learner);
  if (status == NN_OK) {
    nn_info("continuing at step %lld from %s (%.2f s to verify and read it)", (long long)t->step, loaded.path,
            launch_seconds() - started);
    t->saved_step = t->step;
    if (dist_rank(t->world) == 0) // what to report where no step is left to make
      launch_metrics_read(t->config.run, t->step, &t->line);
  }
  data_checkpoint_loaded_free(&loaded);
  return status;
}

// ---- saving ----

static bool due(const launch_trainer *t) {
  int64_t every = t->config.checkpoint.every;
  return t->step == t->config.train.steps || (every > 0 && t->step % every == 0);
}

static nn_status save(launch_trainer *t) {
  nn_status status = NN_OK;
  NN_TRY(launch_learner_settle(&t->learner));
  char *state = state_text(t), *config = launch_config_text(&t->config);
  bool ready = state != NULL && config != NULL;
  NN_GOTO(
      status, done,
      dist_agree(t->world, ready ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory for a checkpoint's state")));
  data_checkpoint_info info = {
      .step = t->step,
      .tokens = t->tokens_seen,
      .samples = t->samples,
      .loss = t->line.evaluated ? t->line.val_loss : (double)NAN,
      .state_json = state,
      .config_yaml = config,
      .model_key = t->model_key,
      .tokenizer_kind = data_set_tokenizer_kind(t->data),
  };
  info.tokenizer_blob = data_set_tokenizer_blob(t->data, &info.tokenizer_bytes);
  status = data_checkpoint_save(t->checkpoints, &info);
  t->saved_step = t->step;
done:
  free(config);
  free(state);
  return status;
}

nn_status launch_trainer_save(launch_trainer *t, bool now) {
  bool wanted = t->saved_step != t->step && (now || due(t));
  if (!wanted && !data_checkpoint_under_way(t->checkpoints))
    return NN_OK; // still training: with its deadline, not the long one of a checkpoint
  launch_trainer_enter(t, LAUNCH_CHECKPOINT);
  NN_TRY(data_checkpoint_poll(t->checkpoints, false));
  if (!wanted)
    return NN_OK;
  if (dist_rank(t->world) == 0)
    launch_plot_start(&t->plot, t->config.run);
  return save(t);
}

nn_status launch_trainer_save_end(launch_trainer *t) {
  NN_TRY(launch_trainer_save(t, true));
  NN_TRY(data_checkpoint_poll(t->checkpoints, true));
  if (data_checkpoint_last_step(t->checkpoints) == t->step || t->step == t->first_step)
    return NN_OK;
  return NN_FAIL(NN_ERR_IO,
                 "%s: the last checkpoint, of step %lld, could not be written; start again to continue "
                 "from an earlier one",
                 t->config.run, (long long)t->step);
}
