#include "data/verify.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h> // PATH_MAX
#include <stdio.h>  // snprintf
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/files.h"
#include "data/gather.h"
#include "data/progress.h"

enum { PIECE = 1 << 16 }; // tokens or documents that are looked at together

// Every token is of the vocabulary, every label too or -1.
static nn_status check_tokens(const char *path, data_shard *shard, int32_t *values) {
  const data_format *format = data_shard_format(shard);
  int64_t tokens = data_shard_counts(shard)->tokens;
  for (int64_t first = 0; first < tokens; first += PIECE) {
    int64_t count = tokens - first < PIECE ? tokens - first : PIECE;
    NN_TRY(data_shard_tokens(shard, first, count, values));
    for (int64_t i = 0; i < count; i++)
      if (values[i] < 0 || values[i] >= format->vocab)
        return NN_FAIL(NN_ERR_INPUT, "%s: token %" PRId64 " is %" PRId32 ", the vocabulary has %" PRId32,
                       path, first + i, values[i], format->vocab);
    if (!format->labelled)
      continue;
    NN_TRY(data_shard_labels(shard, first, count, values));
    for (int64_t i = 0; i < count; i++)
      if (values[i] < -1 || values[i] >= format->vocab)
        return NN_FAIL(NN_ERR_INPUT, "%s: label %" PRId64 " is %" PRId32 ", the vocabulary has %" PRId32,
                       path, first + i, values[i], format->vocab);
  }
  return NN_OK;
}

// Documents follow each other from token 0 on, and their bytes add up.
static nn_status check_documents(const char *path, data_shard *shard, int64_t *rows) {
  const data_counts *counts = data_shard_counts(shard);
  int64_t last = -1, bytes = 0;
  for (int64_t first = 0; first < counts->documents; first += PIECE) {
    int64_t count = counts->documents - first < PIECE ? counts->documents - first : PIECE;
    NN_TRY(data_shard_documents(shard, first, count, rows));
    for (int64_t i = 0; i < count; i++) {
      int64_t start = rows[2 * i];
      if (start <= last || start >= counts->tokens || (last < 0 && start != 0))
        return NN_FAIL(NN_ERR_INPUT, "%s: document %" PRId64 " starts at token %" PRId64, path, first + i,
                       start);
      last = start;
      bytes += rows[2 * i + 1];
    }
  }
  if (bytes != counts->source_bytes)
    return NN_FAIL(NN_ERR_INPUT, "%s: the documents have %" PRId64 " bytes, the shard says %" PRId64, path,
                   bytes, counts->source_bytes);
  return NN_OK;
}

// The tokenizer inside is the one whose hash the shard carries. One that this build cannot open is passed
// over: the hash of the file has vouched for it.
static nn_status check_tokenizer(const char *path, data_shard *shard) {
  const data_format *format = data_shard_format(shard);
  data_tokenizer *tokenizer = NULL;
  void *blob = NULL;
  size_t bytes = 0;
  if (strcmp(format->tokenizer_kind, "none") == 0)
    return NN_OK;
  NN_TRY(data_shard_tokenizer(shard, &blob, &bytes));
  nn_status status = data_tokenizer_restore(format->tokenizer_kind, blob, bytes, &tokenizer);
  free(blob);
  if (status == NN_ERR_UNSUPPORTED) {
    nn_error_clear();
    return NN_OK;
  }
  NN_TRY(status);
  data_format found;
  data_format_of(&found, tokenizer);
  data_tokenizer_free(tokenizer);
  return data_format_same(path, &found, format);
}

static nn_status check_shard(const char *path, const data_format *format, const data_manifest_file *file,
                             bool first) {
  data_shard *shard = NULL;
  nn_status status = NN_OK;
  int64_t *room = malloc(2 * PIECE * sizeof *room);
  if (room == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to check it", path);
  NN_GOTO(status, done, data_shard_open(path, &shard));
  NN_GOTO(status, done, data_format_same(path, data_shard_format(shard), format));
  if (memcmp(data_shard_counts(shard), &file->counts, sizeof file->counts) != 0)
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_INPUT, "%s: holds %" PRId64 " tokens, the manifest says %" PRId64, path,
                    data_shard_counts(shard)->tokens, file->counts.tokens));
  NN_GOTO(status, done, check_tokens(path, shard, (int32_t *)room));
  NN_GOTO(status, done, check_documents(path, shard, room));
  if (first) // the others carry the same one
    NN_GOTO(status, done, check_tokenizer(path, shard));
done:
  data_shard_close(shard);
  free(room);
  return status;
}

// Size and hash come before anything opens the file: HDF5 trusts what it reads.
static nn_status check_bytes(const char *path, const data_manifest_file *file) {
  struct stat info;
  uint64_t hash = 0;
  int64_t bytes = 0;
  if (stat(path, &info) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: cannot be found: %s", path, strerror(errno));
  if (info.st_size != file->bytes)
    return NN_FAIL(NN_ERR_INPUT, "%s: has %jd bytes, the manifest says %" PRId64, path,
                   (intmax_t)info.st_size, file->bytes);
  NN_TRY(data_file_hash(path, &hash, &bytes));
  if (hash != file->hash || bytes != file->bytes)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: its hash is %016" PRIx64 ", the manifest says %016" PRIx64 ": the file is damaged",
                   path, hash, file->hash);
  return NN_OK;
}

// Where file `index` of the manifest stands; its place in the split: -1 is the view.
static const data_manifest_file *file_at(const data_manifest *manifest, int64_t index, int32_t *place) {
  for (int32_t i = 0; i < manifest->splits; i++) {
    const data_manifest_split *split = &manifest->split[i];
    *place = index < split->shards ? (int32_t)index : -1;
    if (index <= split->shards)
      return index < split->shards ? &split->shard[index] : &split->view;
    index -= split->shards + 1;
  }
  return NULL;
}

static nn_status check_file(const char *folder, const data_manifest *manifest, int64_t index,
                            data_verified_file *out) {
  char path[PATH_MAX];
  int32_t place = 0;
  const data_manifest_file *file = file_at(manifest, index, &place);
  *out = (data_verified_file){.index = index,
                              .bytes = file->bytes,
                              .tokens = file->counts.tokens,
                              .documents = file->counts.documents};
  memcpy(out->name, file->name, sizeof out->name);
  NN_TRY(data_path_join(path, sizeof path, folder, file->name));
  NN_TRY(check_bytes(path, file));
  return place >= 0 ? check_shard(path, &manifest->format, file, place == 0) : NN_OK;
}

static int by_index(const void *a, const void *b) {
  const data_verified_file *x = a, *y = b;
  return (x->index > y->index) - (x->index < y->index);
}

static nn_status check_own(dist_group *world, const char *folder, int64_t total, data_verification *out) {
  int64_t bytes = 0, done = 0;
  int32_t place = 0;
  data_progress progress;
  out->files = calloc((size_t)total, sizeof *out->files);
  if (out->files == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %" PRId64 " files", folder, total);
  for (int64_t i = dist_rank(world); i < total; i += dist_size(world))
    bytes += file_at(&out->manifest, i, &place)->bytes;
  data_progress_begin(&progress, dist_rank(world), "verifying", bytes);
  for (int64_t i = dist_rank(world); i < total; i += dist_size(world)) {
    data_verified_file *file = &out->files[out->count++];
    if (check_file(folder, &out->manifest, i, file) != NN_OK) {
      snprintf(file->problem, sizeof file->problem, "%s", nn_error_text());
      nn_error_clear();
    }
    done += file->bytes;
    data_progress_show(&progress, done);
  }
  data_progress_end(&progress, done);
  return NN_OK;
}

nn_status data_verify(dist_group *world, const char *folder, data_verification *out) {
  memset(out, 0, sizeof *out);
  int64_t total = 0;
  nn_status status = dist_agree(world, data_manifest_read(folder, &out->manifest));
  for (int32_t i = 0; i < out->manifest.splits; i++)
    total += out->manifest.split[i].shards + 1;
  if (status == NN_OK)
    status = dist_agree(world, check_own(world, folder, total, out));
  if (status == NN_OK) {
    void *files = out->files;
    status = data_gather(world, &files, &out->count, sizeof *out->files);
    out->files = files;
  }
  if (status != NN_OK) {
    data_verification_free(out);
    return status;
  }
  qsort(out->files, (size_t)out->count, sizeof *out->files, by_index);
  for (int64_t i = 0; i < out->count; i++)
    out->damaged += out->files[i].problem[0] != '\0';
  return NN_OK;
}

void data_verification_free(data_verification *verification) {
  free(verification->files);
  data_manifest_free(&verification->manifest);
  memset(verification, 0, sizeof *verification);
}
