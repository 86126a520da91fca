// What rows are measured on: text, labelled tasks, and needles that are made here.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"
#include "data/synth.h"
#include "launch/compare/compare.h"
#include "nn/random.h" // nn_random_hash

static const char needle_split[] = "train";

// DIR/data/passkey-...: all that the samples depend on is in the name.
static nn_status needle_folder(const comparison *c, int32_t length, int32_t depth, int64_t seed,
                               char path[COMPARE_PATH + 300]) {
  const compare_needle *needle = &c->plan.needle;
  char name[200];
  snprintf(name, sizeof name, "data/passkey-length%d-depth%g-digits%d-vocab%d-window%d-samples%lld-seed%lld",
           length, needle->depths[depth], needle->digits, needle->vocab, needle->window,
           (long long)needle->samples, (long long)seed);
  return data_path_join(path, COMPARE_PATH + 300, c->folder, name);
}

// Shuffled as in training's validation, by a seed that is no key: the first ones speak for the whole split,
// and are the same for every row.
static nn_status open_samples(const char *folder, const char *split, const char *sample, int32_t length,
                              compare_samples *out) {
  bool documents = strcmp(sample, "document") == 0;
  NN_TRY(data_set_open(folder, split, &out->set));
  return data_loader_create(out->set, documents ? DATA_SAMPLE_DOCUMENT : DATA_SAMPLE_STREAM, length, 0, true,
                            &out->loader);
}

nn_status compare_samples_open(const comparison *c, const compare_row *row, int32_t depth, int64_t seed,
                               compare_samples *out) {
  const compare_plan *plan = &c->plan;
  int32_t length = row->shape.length;
  char path[COMPARE_PATH + 300];
  *out = (compare_samples){0};
  const char *kind = compare_samples_kind(c, row);
  if (row->measure == COMPARE_TEXT)
    return open_samples(plan->data, plan->split, kind, length, out);
  if (row->measure == COMPARE_TASK)
    return open_samples(plan->tasks[row->task].data, plan->tasks[row->task].split, kind, length, out);
  NN_TRY(needle_folder(c, length, depth, seed, path));
  return open_samples(path, needle_split, kind, length, out);
}

const char *compare_samples_kind(const comparison *c, const compare_row *row) {
  return row->measure == COMPARE_TEXT   ? c->plan.sample
         : row->measure == COMPARE_TASK ? c->plan.tasks[row->task].sample
                                        : "document";
}

void compare_samples_close(compare_samples *samples) {
  data_loader_free(samples->loader);
  data_set_close(samples->set);
  *samples = (compare_samples){0};
}

nn_status compare_samples_hash(const comparison *c, const compare_row *row, uint64_t *hash) {
  if (row->measure == COMPARE_NEEDLE) { // a pure function of their parameters
    json_t *plan = compare_plan_json(&c->plan);
    char *text = json_dumps(json_object_get(plan, "needle"), JSON_SORT_KEYS | JSON_COMPACT);
    json_decref(plan);
    if (text == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "out of memory for the description of needles");
    *hash = nn_random_hash(text, strlen(text));
    free(text);
    return NN_OK;
  }
  compare_samples samples;
  nn_status status = compare_samples_open(c, row, 0, 0, &samples);
  if (status == NN_OK)
    *hash = data_set_hash(samples.set);
  compare_samples_close(&samples);
  return status;
}

// ---- needles

static nn_status make_needle(comparison *c, int32_t length, int32_t depth, int64_t seed) {
  const compare_needle *needle = &c->plan.needle;
  char folder[COMPARE_PATH + 300];
  NN_TRY(needle_folder(c, length, depth, seed, folder));
  if (data_manifest_exists(folder))
    return NN_OK;
  NN_TRY(data_folder_create(folder));
  data_synth synth = {.folder = folder,
                      .seed = (uint64_t)seed,
                      .samples = needle->samples,
                      .length = length,
                      .vocab = needle->vocab,
                      .window = needle->window};
  data_synth_passkey passkey = {.digits = needle->digits, .depth = needle->depths[depth]};
  data_manifest manifest = {0};
  nn_status status = data_synth_write_passkey(c->alone, &synth, &passkey, &manifest);
  data_manifest_free(&manifest);
  return status;
}

nn_status compare_make_needles(comparison *c) {
  const compare_needle *needle = &c->plan.needle;
  int32_t cells = needle->lengths_count * needle->depths_count * c->plan.seeds_count;
  nn_status status = NN_OK;
  for (int32_t i = dist_rank(c->world); i < cells && status == NN_OK; i += dist_size(c->world)) {
    int32_t depth = i % needle->depths_count, rest = i / needle->depths_count;
    status = make_needle(c, needle->lengths[rest / c->plan.seeds_count], depth,
                         c->plan.seeds[rest % c->plan.seeds_count]);
  }
  return dist_agree(c->world, status);
}
