#include "data/output.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h> // rename
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // rmdir, unlink

#include "data/files.h"
#include "data/gather.h"
#include "data/lock.h"
#include "data/view.h"

static const char *const split_names[DATA_SPLITS] = {[DATA_TRAIN] = "train", [DATA_VAL] = "val"};
static const char lock_name[] = ".lock";

typedef struct {
  int64_t split, index;
  int64_t bytes;
  uint64_t hash;
  data_counts counts;
} finished_shard;

struct data_output {
  dist_group *world;
  bool replace;
  char folder[PATH_MAX], building[PATH_MAX];
  int lock;               // of the folder, on rank 0 from begin to the end of commit; otherwise -1
  finished_shard *shards; // this rank's; after the exchange, all of them in order
  int64_t count, capacity;
};

// ---- begin

// All under the lock: another process may have written a data set here just before.
static nn_status prepare_folder(data_output *output) {
  static const char use[] = "writing a data set here; wait for it or choose another folder";
  NN_TRY(data_folder_create(output->folder));
  NN_TRY(data_lock_take(output->folder, lock_name, use, &output->lock));
  if (data_manifest_exists(output->folder) && !output->replace)
    return NN_FAIL(NN_ERR_USAGE, "%s: already holds a data set; --force replaces it", output->folder);
  NN_TRY(data_folder_remove(output->building));
  return data_folder_create(output->building);
}

nn_status data_output_begin(dist_group *world, const char *folder, bool force, data_output **out) {
  data_output *output = calloc(1, sizeof *output);
  nn_status status = NN_OK;
  if (output == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "%s: no memory to write a data set", folder);
  else {
    output->world = world;
    output->replace = force;
    output->lock = -1;
    status = data_path_join(output->building, sizeof output->building, folder, ".building");
    snprintf(output->folder, sizeof output->folder, "%s", folder);
  }
  if (status == NN_OK && dist_rank(world) == 0)
    status = prepare_folder(output);
  status = dist_agree(world, status);
  if (status == NN_OK)
    *out = output;
  else
    data_output_free(output);
  return status;
}

static void unlock(data_output *output) {
  data_lock_remove(output->folder, lock_name, output->lock);
  output->lock = -1;
}

void data_output_free(data_output *output) {
  if (output == NULL)
    return;
  unlock(output);
  free(output->shards);
  free(output);
}

// ---- shards

nn_status data_output_path(const data_output *output, int split, int64_t index, char path[PATH_MAX]) {
  char name[64];
  snprintf(name, sizeof name, "%s-%" PRId64 ".part", split_names[split], index);
  return data_path_join(path, PATH_MAX, output->building, name);
}

static nn_status reserve(data_output *output, int64_t count) {
  if (count <= output->capacity)
    return NN_OK;
  int64_t capacity = count < 64 ? 64 : 2 * count;
  finished_shard *grown = realloc(output->shards, (size_t)capacity * sizeof *grown);
  if (grown == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for a list of %" PRId64 " shards", output->folder, capacity);
  output->shards = grown;
  output->capacity = capacity;
  return NN_OK;
}

nn_status data_output_add(data_output *output, int split, int64_t index, const data_counts *counts) {
  char path[PATH_MAX];
  finished_shard shard = {.split = split, .index = index, .counts = *counts};
  NN_TRY(data_output_path(output, split, index, path));
  NN_TRY(data_file_hash(path, &shard.hash, &shard.bytes));
  NN_TRY(reserve(output, output->count + 1));
  output->shards[output->count++] = shard;
  return NN_OK;
}

// ---- commit

static int by_place(const void *a, const void *b) {
  const finished_shard *x = a, *y = b;
  if (x->split != y->split)
    return x->split < y->split ? -1 : 1;
  return (x->index > y->index) - (x->index < y->index);
}

// Every rank gets the shards of all ranks, in order.
static nn_status exchange(data_output *output) {
  void *shards = output->shards;
  nn_status status = data_gather(output->world, &shards, &output->count, sizeof *output->shards);
  output->shards = shards;
  output->capacity = output->count;
  if (status == NN_OK)
    qsort(output->shards, (size_t)output->count, sizeof *output->shards, by_place);
  return status;
}

// The manifest's splits, with final names; a split without a document does not exist.
static nn_status list_shards(const data_output *output, data_manifest *manifest) {
  for (int64_t i = 0; i < output->count;) {
    int64_t end = i;
    while (end < output->count && output->shards[end].split == output->shards[i].split)
      end++;
    data_manifest_split *split = &manifest->split[manifest->splits++];
    const char *name = split_names[output->shards[i].split];
    snprintf(split->name, sizeof split->name, "%s", name);
    snprintf(split->view.name, sizeof split->view.name, "%s.h5", name);
    split->shards = (int32_t)(end - i);
    split->shard = calloc((size_t)split->shards, sizeof *split->shard);
    if (split->shard == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its manifest", output->folder);
    for (int32_t s = 0; s < split->shards; s++, i++) {
      const finished_shard *from = &output->shards[i];
      data_manifest_file *to = &split->shard[s];
      *to = (data_manifest_file){.bytes = from->bytes, .hash = from->hash, .counts = from->counts};
      snprintf(to->name, sizeof to->name, "%s-%05d.h5", name, s);
      data_counts_add(&split->counts, &from->counts);
    }
  }
  return NN_OK;
}

static nn_status remove_old(const data_output *output) {
  data_manifest old;
  char path[PATH_MAX];
  if (!data_manifest_exists(output->folder))
    return NN_OK;
  if (data_manifest_read(output->folder, &old) != NN_OK)
    nn_error_clear(); // a damaged manifest names no files; those of the same names are replaced anyway
  NN_TRY(data_path_join(path, sizeof path, output->folder, "manifest.json"));
  if (unlink(path) != 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
  for (int32_t i = 0; i < old.splits; i++)
    for (int32_t s = -1; s < old.split[i].shards; s++) {
      const data_manifest_file *file = s < 0 ? &old.split[i].view : &old.split[i].shard[s];
      if (data_path_join(path, sizeof path, output->folder, file->name) == NN_OK)
        unlink(path); // what cannot be removed is no part of the new data set either
    }
  data_manifest_free(&old);
  return NN_OK;
}

static nn_status move_up(const data_output *output, const char *from, const char *name) {
  char path[PATH_MAX];
  NN_TRY(data_path_join(path, sizeof path, output->folder, name));
  if (rename(from, path) != 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot rename it from %s: %s", path, from, strerror(errno));
  return NN_OK;
}

// Rank 0: everything that can fail for want of space comes before the old data set is touched.
static nn_status publish(const data_output *output, data_manifest *manifest) {
  char path[PATH_MAX];
  int64_t at = 0;
  for (int32_t i = 0; i < manifest->splits; i++) {
    data_manifest_file *view = &manifest->split[i].view;
    NN_TRY(data_path_join(path, sizeof path, output->building, view->name));
    NN_TRY(data_view_create(path, &manifest->format, &manifest->split[i]));
    NN_TRY(data_file_hash(path, &view->hash, &view->bytes));
  }
  NN_TRY(remove_old(output));
  for (int32_t i = 0; i < manifest->splits; i++) {
    const data_manifest_split *split = &manifest->split[i];
    for (int32_t s = 0; s < split->shards; s++, at++) {
      const finished_shard *from = &output->shards[at];
      NN_TRY(data_output_path(output, (int)from->split, from->index, path));
      NN_TRY(move_up(output, path, split->shard[s].name));
    }
    NN_TRY(data_path_join(path, sizeof path, output->building, split->view.name));
    NN_TRY(move_up(output, path, split->view.name));
  }
  NN_TRY(data_folder_sync(output->folder));
  return data_manifest_write(output->folder, manifest);
}

nn_status data_output_commit(data_output *output, nn_status mine, const data_format *format,
                             const char *source, data_manifest *manifest) {
  data_manifest made = {.format = *format};
  nn_status status = dist_agree(output->world, mine);
  if (status == NN_OK)
    status = exchange(output);
  if (dist_rank(output->world) == 0) {
    if (status == NN_OK && source != NULL && (made.source = strdup(source)) == NULL)
      status = NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its manifest", output->folder);
    if (status == NN_OK)
      status = list_shards(output, &made);
    if (status == NN_OK && made.splits == 0)
      status = NN_FAIL(NN_ERR_INPUT, "%s: no document to write", output->folder);
    if (status == NN_OK)
      status = publish(output, &made);
    NN_KEEP(status, data_folder_remove(output->building));
    unlock(output);
    if (status != NN_OK)
      rmdir(output->folder); // fails, as it should, where something else is in it
  }
  status = dist_agree(output->world, status);
  if (status == NN_OK && manifest != NULL && dist_rank(output->world) == 0)
    *manifest = made;
  else
    data_manifest_free(&made);
  return status;
}
