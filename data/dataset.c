#include "data/dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h> // PATH_MAX
#include <stdio.h> // snprintf
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/dataset_read.h"
#include "data/manifest.h"

// Shards that are kept open: opening one costs about as much as reading ten samples.
enum { OPEN_SHARDS = 32 };

typedef struct {
  data_shard *shard; // NULL: free
  int32_t index;
  uint64_t used; // when it was used last
} open_shard;

struct data_set {
  char folder[PATH_MAX];
  data_manifest manifest;
  const data_manifest_split *split;
  int64_t *token_start, *document_start; // [shards + 1]: of each shard within the split
  void *blob;
  size_t blob_bytes;
  open_shard open[OPEN_SHARDS];
  uint64_t clock;
};

// ---- opening

static nn_status check_size(const data_set *set, const data_manifest_file *file) {
  char path[PATH_MAX];
  struct stat info;
  NN_TRY(data_path_join(path, sizeof path, set->folder, file->name));
  if (stat(path, &info) != 0)
    return NN_FAIL(errno == ENOENT ? NN_ERR_INPUT : NN_ERR_IO,
                   "%s: the manifest names this shard, but it cannot be found: %s", path, strerror(errno));
  if (info.st_size != file->bytes)
    return NN_FAIL(NN_ERR_INPUT, "%s: has %jd bytes, the manifest says %" PRId64, path,
                   (intmax_t)info.st_size, file->bytes);
  return NN_OK;
}

static nn_status find_split(data_set *set, const char *split) {
  set->split = data_manifest_find(&set->manifest, split);
  if (set->split != NULL)
    return NN_OK;
  char has[128] = "";
  for (int32_t i = 0; i < set->manifest.splits; i++)
    snprintf(has + strlen(has), sizeof has - strlen(has), "%s%s", i > 0 ? ", " : "",
             set->manifest.split[i].name);
  return NN_FAIL(NN_ERR_INPUT, "%s: no split '%s' in this data set (it has: %s)", set->folder, split, has);
}

static nn_status sum_shards(data_set *set) {
  int32_t shards = set->split->shards;
  set->token_start = calloc((size_t)shards + 1, sizeof *set->token_start);
  set->document_start = calloc((size_t)shards + 1, sizeof *set->document_start);
  if (set->token_start == NULL || set->document_start == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %" PRId32 " shards", set->folder, shards);
  for (int32_t i = 0; i < shards; i++) {
    NN_TRY(check_size(set, &set->split->shard[i]));
    set->token_start[i + 1] = set->token_start[i] + set->split->shard[i].counts.tokens;
    set->document_start[i + 1] = set->document_start[i] + set->split->shard[i].counts.documents;
  }
  return NN_OK;
}

// Opens shard `index`, or finds it among those that are open.
static nn_status use_shard(data_set *set, int32_t index, data_shard **out) {
  open_shard *slot = &set->open[0];
  for (int i = 0; i < OPEN_SHARDS; i++) {
    open_shard *other = &set->open[i];
    if (other->shard != NULL && other->index == index) {
      other->used = ++set->clock;
      *out = other->shard;
      return NN_OK;
    }
    if (other->shard == NULL || (slot->shard != NULL && other->used < slot->used))
      slot = other;
  }
  char path[PATH_MAX];
  data_shard *shard = NULL;
  const data_manifest_file *file = &set->split->shard[index];
  NN_TRY(data_path_join(path, sizeof path, set->folder, file->name));
  NN_TRY(data_shard_open(path, &shard));
  nn_status status = data_format_same(path, data_shard_format(shard), &set->manifest.format);
  if (status == NN_OK && memcmp(data_shard_counts(shard), &file->counts, sizeof file->counts) != 0)
    status = NN_FAIL(NN_ERR_INPUT, "%s: holds %" PRId64 " tokens, the manifest says %" PRId64, path,
                     data_shard_counts(shard)->tokens, file->counts.tokens);
  if (status != NN_OK) {
    data_shard_close(shard);
    return status;
  }
  data_shard_close(slot->shard);
  *slot = (open_shard){.shard = shard, .index = index, .used = ++set->clock};
  *out = shard;
  return NN_OK;
}

nn_status data_set_open(const char *folder, const char *split, data_set **out) {
  nn_status status = NN_OK;
  data_shard *first = NULL;
  data_set *set = calloc(1, sizeof *set);
  if (set == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", folder);
  if (snprintf(set->folder, sizeof set->folder, "%s", folder) >= (int)sizeof set->folder)
    NN_GOTO(status, fail, NN_FAIL(NN_ERR_IO, "%s: the name is too long", folder));
  NN_GOTO(status, fail, data_manifest_read(folder, &set->manifest));
  NN_GOTO(status, fail, find_split(set, split));
  NN_GOTO(status, fail, sum_shards(set));
  if (set->split->shards == 0)
    NN_GOTO(status, fail, NN_FAIL(NN_ERR_INPUT, "%s: the split '%s' has no shard", folder, split));
  NN_GOTO(status, fail, use_shard(set, 0, &first));
  NN_GOTO(status, fail, data_shard_tokenizer(first, &set->blob, &set->blob_bytes));
  *out = set;
  return NN_OK;
fail:
  data_set_close(set);
  return status;
}

void data_set_close(data_set *set) {
  if (set == NULL)
    return;
  for (int i = 0; i < OPEN_SHARDS; i++)
    data_shard_close(set->open[i].shard);
  free(set->blob);
  free(set->token_start);
  free(set->document_start);
  data_manifest_free(&set->manifest);
  free(set);
}

bool data_set_has_split(const char *folder, const char *split) {
  data_manifest manifest;
  if (data_manifest_read(folder, &manifest) != NN_OK) {
    nn_error_clear();
    return false;
  }
  bool found = data_manifest_find(&manifest, split) != NULL;
  data_manifest_free(&manifest);
  return found;
}

// ---- what it holds

int64_t data_set_tokens(const data_set *set) {
  return set->split->counts.tokens;
}

int64_t data_set_documents(const data_set *set) {
  return set->split->counts.documents;
}

int64_t data_set_source_bytes(const data_set *set) {
  return set->split->counts.source_bytes;
}

int32_t data_set_vocab(const data_set *set) {
  return set->manifest.format.vocab;
}

bool data_set_labelled(const data_set *set) {
  return set->manifest.format.labelled;
}

uint64_t data_set_tokenizer_hash(const data_set *set) {
  return set->manifest.format.tokenizer_hash;
}

const char *data_set_tokenizer_kind(const data_set *set) {
  return set->manifest.format.tokenizer_kind;
}

const void *data_set_tokenizer_blob(const data_set *set, size_t *bytes) {
  *bytes = set->blob_bytes;
  return set->blob;
}

const data_format *data_set_format(const data_set *set) {
  return &set->manifest.format;
}

const char *data_set_folder(const data_set *set) {
  return set->folder;
}

// ---- reading

// The shard that holds position `at`, given where each starts: the last one that starts at or before it and
// is not empty.
static int32_t shard_of(const int64_t *starts, int32_t shards, int64_t at) {
  int32_t low = 0, high = shards;
  while (high - low > 1) {
    int32_t middle = low + (high - low) / 2;
    if (starts[middle] <= at)
      low = middle;
    else
      high = middle;
  }
  return low;
}

typedef nn_status (*shard_read)(data_shard *shard, int64_t first, int64_t count, int32_t *out);

static nn_status read_across(data_set *set, shard_read read, int64_t first, int64_t count, int32_t *out) {
  if (first < 0 || count < 0 || first > data_set_tokens(set) - count)
    return NN_FAIL(NN_ERR_INTERNAL, "%s: no tokens %" PRId64 " to %" PRId64, set->folder, first,
                   first + count);
  while (count > 0) {
    int32_t index = shard_of(set->token_start, set->split->shards, first);
    int64_t room = set->token_start[index + 1] - first, take = count < room ? count : room;
    data_shard *shard = NULL;
    NN_TRY(use_shard(set, index, &shard));
    NN_TRY(read(shard, first - set->token_start[index], take, out));
    first += take;
    count -= take;
    out += take;
  }
  return NN_OK;
}

// Values outside [least, vocab) would be looked up beyond the embedding.
static nn_status check_values(const data_set *set, const char *what, int32_t least, int64_t first,
                              int64_t count, const int32_t *values) {
  for (int64_t i = 0; i < count; i++)
    if (values[i] < least || values[i] >= set->manifest.format.vocab) {
      int32_t index = shard_of(set->token_start, set->split->shards, first + i);
      return NN_FAIL(NN_ERR_INPUT, "%s/%s: %s %" PRId64 " is %" PRId32 ", the vocabulary has %" PRId32,
                     set->folder, set->split->shard[index].name, what, first + i - set->token_start[index],
                     values[i], set->manifest.format.vocab);
    }
  return NN_OK;
}

nn_status data_set_read_tokens(data_set *set, int64_t first, int64_t count, int32_t *out) {
  NN_TRY(read_across(set, data_shard_tokens, first, count, out));
  return check_values(set, "token", 0, first, count, out);
}

nn_status data_set_read_labels(data_set *set, int64_t first, int64_t count, int32_t *out) {
  NN_TRY(read_across(set, data_shard_labels, first, count, out));
  return check_values(set, "label", -1, first, count, out);
}

nn_status data_set_document(data_set *set, int64_t index, int64_t *first, int64_t *count,
                            int64_t *source_bytes) {
  if (index < 0 || index >= data_set_documents(set))
    return NN_FAIL(NN_ERR_INTERNAL, "%s: no document %" PRId64, set->folder, index);
  int32_t at = shard_of(set->document_start, set->split->shards, index);
  const data_manifest_file *file = &set->split->shard[at];
  int64_t within = index - set->document_start[at], rows[2][2] = {{0, 0}, {file->counts.tokens, 0}};
  data_shard *shard = NULL;
  NN_TRY(use_shard(set, at, &shard));
  NN_TRY(data_shard_documents(shard, within, within + 1 < file->counts.documents ? 2 : 1, rows[0]));
  if (rows[0][0] < 0 || rows[1][0] < rows[0][0] || rows[1][0] > file->counts.tokens)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s/%s: document %" PRId64 " starts at token %" PRId64 " and ends at %" PRId64,
                   set->folder, file->name, within, rows[0][0], rows[1][0]);
  *first = set->token_start[at] + rows[0][0];
  *count = rows[1][0] - rows[0][0];
  *source_bytes = rows[0][1];
  return NN_OK;
}

nn_status data_set_piece_bytes(data_set *set, int32_t *out) {
  data_shard *shard = NULL;
  NN_TRY(use_shard(set, 0, &shard));
  return data_shard_piece_bytes(shard, out);
}
