// Saving: snapshot, background writer, agreement, retention.
#include "data/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h> // nanosleep, clock_gettime

#include "data/checkpoint_folder.h"
#include "data/checkpoint_manifest.h"
#include "data/checkpoint_part.h"
#include "data/checkpoint_snapshot.h"
#include "data/checkpoint_writer.h"
#include "data/files.h"
#include "nn/log.h"

struct data_checkpointer {
  dist_group *world;
  nn_device *device;
  char folder[DATA_CHECKPOINT_PATH];
  int32_t keep;
  bool keep_best;
  data_tensor *tensors;
  int32_t count;
  int32_t parts, part; // part -1: this rank writes none
  char *snapshot;      // this part's rows of every tensor, one after the other
  int64_t snapshot_bytes;
  int64_t *offsets;     // [count] where they go in the part's file
  data_extent *extents; // [count]
  data_writer *writer;

  // the save under way
  bool under_way;
  int64_t step;
  data_checkpoint_manifest manifest; // rank 0
  void *blob;                        // rank 0: the tokenizer's
  data_extent blob_extent;           // rank 0
  data_writer_file files[2];         // this rank's part; the tokenizer
  int32_t file_count;

  int32_t failures;
  int64_t last_step;
  double begun; // the save under way
  data_checkpoint_times times;
};

void data_tensors_of(const nn_param_table *table, const char *prefix, float *arena, data_tensor *out) {
  for (int32_t i = 0; i < table->count; i++) {
    const nn_param *param = &table->items[i];
    out[i] = (data_tensor){.rows = param->shape[0],
                           .columns = param->shape[1],
                           .data = arena != NULL ? arena + param->offset : NULL};
    snprintf(out[i].name, sizeof out[i].name, "%s/%s", prefix, param->name);
  }
}

void data_tensors_of_shard(const nn_param_table *table, const char *prefix, const dist_shards *shards,
                           float *shard, data_tensor *out) {
  data_tensors_of(table, prefix, NULL, out);
  for (int32_t i = 0; i < table->count; i++) {
    out[i].data = shard;
    out[i].shards = shards;
    out[i].offset = table->items[i].offset;
  }
}

static double monotonic_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// ---- creation

static nn_status reserve(data_checkpointer *c, const data_tensor *tensors, int32_t count) {
  for (int32_t i = 0; c->part >= 0 && i < count; i++)
    c->snapshot_bytes +=
        data_part_rows(&tensors[i], c->part, c->parts) * tensors[i].columns * (int64_t)sizeof(float);
  c->count = count;
  c->tensors = malloc((size_t)count * sizeof *tensors + 1);
  c->offsets = malloc((size_t)count * sizeof *c->offsets + 1);
  c->extents = malloc((size_t)count * sizeof *c->extents + 1);
  c->snapshot = malloc((size_t)c->snapshot_bytes + 1);
  if (c->tensors == NULL || c->offsets == NULL || c->extents == NULL || c->snapshot == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for the snapshot of a checkpoint: %" PRId64 " bytes",
                   c->snapshot_bytes);
  memcpy(c->tensors, tensors, (size_t)count * sizeof *tensors);
  return NN_OK;
}

static nn_status create(data_checkpointer *c, const data_checkpoint_config *config,
                        const data_tensor *tensors, int32_t count) {
  int32_t size = dist_size(c->world);
  if (config->keep < 1 || config->writers < 1)
    return NN_FAIL(NN_ERR_USAGE, "checkpoint.keep and checkpoint.writers must be at least 1");
  if (snprintf(c->folder, sizeof c->folder, "%s", config->folder) >= (int)sizeof c->folder)
    return NN_FAIL(NN_ERR_USAGE, "%s: the name of the run folder is too long", config->folder);
  c->keep = config->keep;
  c->keep_best = config->keep_best;
  c->parts = config->writers < size ? config->writers : size;
  if (c->parts > DATA_CHECKPOINT_PARTS_MAX)
    c->parts = DATA_CHECKPOINT_PARTS_MAX;
  c->part = data_part_of_rank(dist_rank(c->world), size, c->parts);
  c->last_step = -1;
  NN_TRY(reserve(c, tensors, count));
  NN_TRY(data_writer_create(&c->writer));
  if (dist_rank(c->world) != 0)
    return NN_OK;
  NN_TRY(data_folder_create(c->folder));
  return data_checkpoint_sweep(c->folder);
}

nn_status data_checkpointer_create(dist_group *world, nn_device *device, const data_checkpoint_config *config,
                                   const data_tensor *tensors, int32_t count, data_checkpointer **out) {
  data_checkpointer *c = calloc(1, sizeof *c);
  nn_status status = NN_FAIL(NN_ERR_MEMORY, "no memory for checkpoints");
  if (c != NULL) {
    nn_error_clear();
    c->world = world;
    c->device = device;
    status = create(c, config, tensors, count);
  }
  status = dist_agree(world, status);
  if (status != NN_OK)
    data_checkpointer_free(c);
  else
    *out = c;
  return status;
}

// Forgets the save under way; its files are somebody else's business.
static void forget(data_checkpointer *c) {
  data_checkpoint_manifest_free(&c->manifest);
  free(c->blob);
  c->blob = NULL;
  c->under_way = false;
}

void data_checkpointer_free(data_checkpointer *c) {
  if (c == NULL)
    return;
  data_writer_free(c->writer);
  forget(c);
  free(c->snapshot);
  free(c->extents);
  free(c->offsets);
  free(c->tensors);
  free(c);
}

int64_t data_checkpointer_snapshot_bytes(const data_checkpointer *c) {
  return c->snapshot_bytes;
}

int32_t data_checkpoint_failures(const data_checkpointer *c) {
  return c->failures;
}

data_checkpoint_times data_checkpointer_times(const data_checkpointer *c) {
  return c->times;
}

int64_t data_checkpoint_last_step(const data_checkpointer *c) {
  return c->last_step;
}

// ---- saving

// A failed save costs a checkpoint, not the run: rank 0 removes the folder and says why. A broken group is
// another matter and goes on as an error.
static nn_status drop(data_checkpointer *c, nn_status reason) {
  if (reason == NN_ERR_COMM)
    return reason;
  char partial[DATA_CHECKPOINT_PATH];
  if (dist_rank(c->world) == 0) {
    nn_warn("the checkpoint of step %" PRId64 " was not written; training goes on: %s", c->step,
            nn_error_text());
    nn_error_clear();
    if (data_checkpoint_partial_path(c->folder, c->step, partial) != NN_OK ||
        data_folder_remove(partial) != NN_OK)
      nn_warn("%s", nn_error_text());
  }
  nn_error_clear();
  c->failures++;
  forget(c);
  return NN_OK;
}

// HDF5 copes badly with a disk that fills up while it writes, so a full one is noticed before.
static nn_status check_space(const data_checkpointer *c, const data_checkpoint_info *info) {
  const uint64_t file = 16 << 10, header = 1 << 10; // what HDF5 and the manifest add, generously
  struct statvfs disk;
  uint64_t needed = info->tokenizer_bytes + (uint64_t)c->parts * (file + header * (uint64_t)c->count);
  for (int32_t i = 0; i < c->count; i++)
    needed += (uint64_t)(c->tensors[i].rows * c->tensors[i].columns) * sizeof(float);
  if (statvfs(c->folder, &disk) != 0 || disk.f_blocks == 0)
    return NN_OK; // a file system that does not tell; writing will
  uint64_t available = (uint64_t)disk.f_bavail * disk.f_frsize;
  if (available >= needed)
    return NN_OK;
  const double mib = 1 << 20;
  return NN_FAIL(NN_ERR_IO, "%s: a checkpoint needs %.1f MiB, the disk has %.1f MiB left", c->folder,
                 (double)needed / mib, (double)available / mib);
}

static nn_status begin_manifest(data_checkpointer *c, const data_checkpoint_info *info) {
  NN_TRY(check_space(c, info));
  NN_TRY(data_checkpoint_manifest_make(info, c->tensors, c->count, c->parts, &c->manifest));
  c->blob = malloc(info->tokenizer_bytes + 1);
  if (c->blob == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a copy of the tokenizer: %zu bytes", info->tokenizer_bytes);
  if (info->tokenizer_bytes == 0)
    return NN_OK;
  memcpy(c->blob, info->tokenizer_blob, info->tokenizer_bytes);
  c->blob_extent = (data_extent){.bytes = c->blob, .count = info->tokenizer_bytes};
  return NN_OK;
}

// This part's file with its layout, and where in it the snapshot goes.
static nn_status begin_part(data_checkpointer *c, const char *path) {
  NN_TRY(data_part_create(path, c->tensors, c->count, c->part, c->parts, c->offsets));
  const char *from = c->snapshot;
  int32_t extents = 0;
  for (int32_t i = 0; i < c->count; i++) {
    const data_tensor *tensor = &c->tensors[i];
    size_t bytes = (size_t)(data_part_rows(tensor, c->part, c->parts) * tensor->columns) * sizeof(float);
    if (bytes == 0)
      continue;
    c->extents[extents++] = (data_extent){.bytes = from, .count = bytes, .offset = c->offsets[i]};
    from += bytes;
  }
  data_writer_file *file = &c->files[c->file_count++];
  *file = (data_writer_file){.extents = c->extents, .count = extents};
  snprintf(file->path, sizeof file->path, "%s", path);
  return NN_OK;
}

// All that this rank does before its thread starts.
static nn_status begin(data_checkpointer *c, const data_checkpoint_info *info) {
  char partial[DATA_CHECKPOINT_PATH], path[PATH_MAX], name[32];
  c->step = info->step;
  c->file_count = 0;
  bool first = dist_rank(c->world) == 0;
  if (first)
    NN_TRY(begin_manifest(c, info));
  if (c->part < 0)
    return NN_OK;
  NN_TRY(data_checkpoint_partial_path(c->folder, info->step, partial));
  NN_TRY(data_folder_create(partial));
  data_part_name(c->part, name);
  snprintf(path, sizeof path, "%s/%s", partial, name);
  NN_TRY(begin_part(c, path));
  if (first && c->manifest.has_tokenizer) {
    data_writer_file *file = &c->files[c->file_count++];
    *file = (data_writer_file){.create = true, .extents = &c->blob_extent, .count = 1};
    snprintf(file->path, sizeof file->path, "%s/" DATA_CHECKPOINT_TOKENIZER, partial);
  }
  return NN_OK;
}

static nn_status finish_earlier(data_checkpointer *c, bool wait);

static nn_status save(data_checkpointer *c, const data_checkpoint_info *info) {
  NN_TRY(finish_earlier(c, true));
  c->begun = monotonic_seconds();
  nn_status status =
      data_snapshot_take(c->world, c->device, c->tensors, c->count, c->parts, (float *)c->snapshot);
  status = dist_agree(c->world, status == NN_OK ? begin(c, info) : status);
  if (status != NN_OK)
    return drop(c, status);
  c->under_way = true;
  data_writer_start(c->writer, c->files, c->file_count);
  return NN_OK;
}

nn_status data_checkpoint_save(data_checkpointer *c, const data_checkpoint_info *info) {
  double started = monotonic_seconds();
  nn_status status = save(c, info);
  c->times.stall += monotonic_seconds() - started;
  return status;
}

// ---- finishing

// What the writers found out about their files, to the manifest of rank 0.
static nn_status gather_files(data_checkpointer *c) {
  int32_t count = c->parts + 1; // the tokenizer last
  int64_t *facts = calloc((size_t)count * 2, sizeof *facts);
  nn_status status = dist_agree(
      c->world, facts != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory to gather %d files' sizes", count));
  if (status == NN_OK) {
    for (int32_t i = 0; i < c->file_count; i++) {
      int64_t *mine = facts + 2 * (i == 0 ? c->part : c->parts);
      mine[0] = c->files[i].size;
      mine[1] = (int64_t)c->files[i].hash;
    }
    status = dist_allreduce(c->world, facts, 2 * (int64_t)count, DIST_I64, DIST_SUM); // all others added 0
  }
  for (int32_t i = 0;
       status == NN_OK && dist_rank(c->world) == 0 && i < data_checkpoint_manifest_files(&c->manifest); i++) {
    c->manifest.files[i].bytes = facts[2 * i];
    c->manifest.files[i].hash = (uint64_t)facts[2 * i + 1];
  }
  free(facts);
  return status;
}

static nn_status publish(data_checkpointer *c) {
  char partial[DATA_CHECKPOINT_PATH], path[PATH_MAX], *text = NULL;
  size_t bytes = 0;
  NN_TRY(data_checkpoint_partial_path(c->folder, c->step, partial));
  snprintf(path, sizeof path, "%s/" DATA_CHECKPOINT_MANIFEST, partial);
  NN_TRY(data_checkpoint_manifest_print(&c->manifest, &text, &bytes));
  nn_status status = data_file_write(path, text, bytes);
  free(text);
  NN_TRY(status);
  return data_checkpoint_publish(c->folder, c->step);
}

// All writers are done: the checkpoint becomes one, or is dropped.
static nn_status finish(data_checkpointer *c) {
  nn_status status = dist_agree(c->world, data_writer_join(c->writer));
  if (status == NN_OK)
    status = gather_files(c);
  if (status == NN_OK)
    status = dist_agree(c->world, dist_rank(c->world) == 0 ? publish(c) : NN_OK);
  if (status != NN_OK)
    return drop(c, status);
  c->last_step = c->step;
  c->times.count++;
  c->times.seconds += monotonic_seconds() - c->begun;
  c->times.bytes = 0;
  for (int32_t i = 0; dist_rank(c->world) == 0 && i < data_checkpoint_manifest_files(&c->manifest); i++)
    c->times.bytes += c->manifest.files[i].bytes;
  if (dist_rank(c->world) == 0 &&
      data_checkpoint_retain(c->folder, c->step, c->keep, c->keep_best) != NN_OK) {
    nn_warn("an old checkpoint could not be removed: %s", nn_error_text());
    nn_error_clear();
  }
  forget(c);
  return NN_OK;
}

static nn_status finish_earlier(data_checkpointer *c, bool wait) {
  const int64_t longest = 50 * 1000 * 1000; // ns between two looks
  for (int64_t pause = 200 * 1000; c->under_way;) {
    int32_t busy = !data_writer_done(c->writer);
    NN_TRY(dist_allreduce(c->world, &busy, 1, DIST_I32, DIST_MAX));
    if (!busy)
      return finish(c);
    if (!wait)
      return NN_OK;
    nanosleep(&(struct timespec){.tv_nsec = pause}, NULL);
    pause = 2 * pause < longest ? 2 * pause : longest;
  }
  return NN_OK;
}

bool data_checkpoint_under_way(const data_checkpointer *c) {
  return c->under_way;
}

nn_status data_checkpoint_poll(data_checkpointer *c, bool wait) {
  double started = monotonic_seconds();
  nn_status status = finish_earlier(c, wait);
  if (!wait) // else training is over
    c->times.stall += monotonic_seconds() - started;
  return status;
}
