// Finding, verifying and reading.
#include <inttypes.h>
#include <limits.h> // PATH_MAX
#include <math.h>   // isnan
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/checkpoint.h"
#include "data/checkpoint_folder.h"
#include "data/checkpoint_manifest.h"
#include "data/checkpoint_part.h"
#include "data/files.h"
#include "data/share.h"
#include "nn/log.h"

// ---- one checkpoint

static nn_status share_file(dist_group *world, const char *folder, const char *name, char **bytes,
                            size_t *count) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  return data_share_file(world, path, bytes, count);
}

static nn_status check_file(const char *folder, const data_checkpoint_file *file) {
  char path[PATH_MAX];
  uint64_t hash;
  int64_t size;
  snprintf(path, sizeof path, "%s/%s", folder, file->name);
  NN_TRY(data_file_hash(path, &hash, &size));
  if (size != file->bytes)
    return NN_FAIL(NN_ERR_INPUT, "%s: has %" PRId64 " bytes, expected %" PRId64, path, size, file->bytes);
  if (hash != file->hash)
    return NN_FAIL(NN_ERR_INPUT, "%s: is damaged: XXH3 is %016" PRIx64 ", expected %016" PRIx64, path, hash,
                   file->hash);
  return NN_OK;
}

// Each file is hashed by one rank.
static nn_status check_files(dist_group *world, const char *folder,
                             const data_checkpoint_manifest *manifest) {
  nn_status status = NN_OK;
  for (int32_t i = dist_rank(world); i < data_checkpoint_manifest_files(manifest) && status == NN_OK;
       i += dist_size(world))
    status = check_file(folder, &manifest->files[i]);
  return dist_agree(world, status);
}

static nn_status open_manifest(dist_group *world, const char *folder, data_checkpoint_manifest *out) {
  char *text = NULL, path[PATH_MAX];
  size_t bytes = 0;
  snprintf(path, sizeof path, "%s/" DATA_CHECKPOINT_MANIFEST, folder);
  nn_status status = share_file(world, folder, DATA_CHECKPOINT_MANIFEST, &text, &bytes);
  if (status == NN_OK)
    status = dist_agree(world, data_checkpoint_manifest_parse(path, text, bytes, out));
  free(text);
  return status;
}

static nn_status open_all(dist_group *world, const char *folder, data_checkpoint_loaded *out) {
  snprintf(out->path, sizeof out->path, "%s", folder);
  out->manifest = calloc(1, sizeof *out->manifest);
  nn_status memory =
      out->manifest != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for a checkpoint's manifest");
  NN_TRY(dist_agree(world, memory));
  data_checkpoint_manifest *manifest = out->manifest;
  NN_TRY(open_manifest(world, folder, manifest));
  NN_TRY(check_files(world, folder, manifest));
  if (manifest->has_tokenizer) {
    char *blob = NULL;
    nn_status status = share_file(world, folder, DATA_CHECKPOINT_TOKENIZER, &blob, &out->tokenizer_bytes);
    out->tokenizer_blob = blob;
    NN_TRY(status);
  }
  out->step = manifest->step;
  out->tokens = manifest->tokens;
  out->samples = manifest->samples;
  out->loss = manifest->loss;
  out->state_json = manifest->state_json;
  out->config_yaml = manifest->config_yaml;
  out->model_key = manifest->model_key;
  out->tokenizer_kind = manifest->tokenizer_kind;
  return NN_OK;
}

nn_status data_checkpoint_open(dist_group *world, const char *path, data_checkpoint_loaded *out) {
  *out = (data_checkpoint_loaded){0};
  nn_status status = strlen(path) < sizeof out->path
                         ? open_all(world, path, out)
                         : NN_FAIL(NN_ERR_INPUT, "%s: the name of a checkpoint is too long", path);
  if (status != NN_OK)
    data_checkpoint_loaded_free(out);
  return status;
}

void data_checkpoint_loaded_free(data_checkpoint_loaded *loaded) {
  if (loaded->manifest != NULL)
    data_checkpoint_manifest_free(loaded->manifest); // the texts are its
  free(loaded->manifest);
  free(loaded->tokenizer_blob);
  *loaded = (data_checkpoint_loaded){0};
}

// ---- the first that verifies

static int lowest_loss_first(const void *a, const void *b) {
  const data_checkpoint_entry *x = a, *y = b;
  double x_loss = isnan(x->loss) ? (double)INFINITY : x->loss,
         y_loss = isnan(y->loss) ? (double)INFINITY : y->loss;
  if (x_loss != y_loss)
    return x_loss < y_loss ? -1 : 1;
  return (x->step < y->step) - (x->step > y->step);
}

// The checkpoints to try, in order, on all ranks; malloc'ed.
static nn_status list(dist_group *world, const char *folder, bool best, data_checkpoint_entry **entries,
                      int32_t *count) {
  nn_status status = NN_OK;
  *entries = NULL;
  *count = 0;
  if (dist_rank(world) == 0) {
    status = data_checkpoint_list(folder, best, entries, count);
    if (best && *count > 0)
      qsort(*entries, (size_t)*count, sizeof **entries, lowest_loss_first);
    if (*entries == NULL && status == NN_OK)
      *entries = calloc(1, sizeof **entries); // data_share_bytes takes NULL for a lack of memory
  }
  char *bytes = (char *)*entries;
  size_t size = (size_t)*count * sizeof **entries;
  status = data_share_bytes(world, status, &bytes, &size);
  *entries = (data_checkpoint_entry *)bytes;
  *count = (int32_t)(size / sizeof **entries);
  return status;
}

// What is wrong with the checkpoint itself lets the next one be tried; anything else (memory, the group) ends
// the search.
static bool is_damage(nn_status status) {
  return status == NN_ERR_INPUT || status == NN_ERR_IO;
}

static nn_status find(dist_group *world, const char *folder, bool best, bool *found,
                      data_checkpoint_loaded *out) {
  data_checkpoint_entry *entries;
  int32_t count;
  *found = false;
  *out = (data_checkpoint_loaded){0};
  nn_status status = list(world, folder, best, &entries, &count);
  for (int32_t i = 0; status == NN_OK && !*found && i < count; i++) {
    char path[DATA_CHECKPOINT_PATH];
    NN_GOTO(status, done, data_checkpoint_path(folder, entries[i].step, path));
    status = data_checkpoint_open(world, path, out);
    *found = status == NN_OK;
    if (!is_damage(status))
      continue;
    if (dist_rank(world) == 0)
      nn_warn("the checkpoint of step %" PRId64 " is skipped: %s", entries[i].step, nn_error_text());
    nn_error_clear();
    status = NN_OK;
  }
  if (status == NN_OK && !*found && count > 0)
    status =
        NN_FAIL(NN_ERR_INPUT, "%s: none of the %d checkpoints verifies; move the folder away to start anew",
                folder, count);
done:
  free(entries);
  return status;
}

nn_status data_checkpoint_find(dist_group *world, const char *folder, bool *found,
                               data_checkpoint_loaded *out) {
  return find(world, folder, false, found, out);
}

nn_status data_checkpoint_find_best(dist_group *world, const char *folder, bool *found,
                                    data_checkpoint_loaded *out) {
  return find(world, folder, true, found, out);
}

// ---- tensors

nn_status data_checkpoint_shape(const data_checkpoint_loaded *loaded, const char *name, int64_t *rows,
                                int64_t *columns) {
  const data_checkpoint_tensor *tensor = data_checkpoint_manifest_find(loaded->manifest, name);
  if (tensor == NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: holds no tensor %s", loaded->path, name);
  *rows = tensor->rows;
  *columns = tensor->columns;
  return NN_OK;
}

static nn_status check_tensor(const data_checkpoint_loaded *loaded, const data_tensor *tensor) {
  int64_t rows = 0, columns = 0;
  NN_TRY(data_checkpoint_shape(loaded, tensor->name, &rows, &columns));
  if (rows != tensor->rows || columns != tensor->columns)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: tensor %s: expected [%" PRId64 ", %" PRId64 "], found [%" PRId64 ", %" PRId64 "]",
                   loaded->path, tensor->name, tensor->rows, tensor->columns, rows, columns);
  return NN_OK;
}

nn_status data_checkpoint_read(const data_checkpoint_loaded *loaded, nn_device *device,
                               const data_tensor *tensors, int32_t count) {
  for (int32_t i = 0; i < count; i++)
    NN_TRY(check_tensor(loaded, &tensors[i]));
  for (int32_t part = 0; part < loaded->manifest->parts; part++) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", loaded->path, loaded->manifest->files[part].name);
    NN_TRY(data_part_read(path, loaded->manifest, part, device, tensors, count));
  }
  return NN_OK;
}
