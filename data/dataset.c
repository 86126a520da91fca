#include "data/dataset.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h> // PATH_MAX
#include <stdio.h>  // snprintf
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "data/block_cache.h"
#include "data/dataset_read.h"
#include "data/manifest.h"
#include "data/share.h"

// Shards that are kept open: opening one costs about as much as reading ten samples.
enum { OPEN_SHARDS = 32 };
// Rows of a block: of tokens and labels one chunk of HDF5.
enum { TOKEN_ROWS = DATA_BLOCK_BYTES / 4, DOCUMENT_ROWS = DATA_BLOCK_BYTES / 16 };

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
  int32_t *piece_bytes; // [vocab], NULL: not read yet
  open_shard open[OPEN_SHARDS];
  uint64_t clock;
  data_block_cache *cache;
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

// The sizes of shards `rank`, `rank` + `ranks`, ... are looked at here.
static nn_status sum_shards(data_set *set, int32_t rank, int32_t ranks) {
  int32_t shards = set->split->shards;
  set->token_start = calloc((size_t)shards + 1, sizeof *set->token_start);
  set->document_start = calloc((size_t)shards + 1, sizeof *set->document_start);
  if (set->token_start == NULL || set->document_start == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %" PRId32 " shards", set->folder, shards);
  for (int32_t i = 0; i < shards; i++) {
    if (i % ranks == rank)
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

static nn_status create_set(const char *folder, data_set **out) {
  *out = calloc(1, sizeof **out);
  if (*out == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", folder);
  if (snprintf((*out)->folder, sizeof(*out)->folder, "%s", folder) >= (int)sizeof(*out)->folder)
    return NN_FAIL(NN_ERR_IO, "%s: the name is too long", folder);
  return data_block_cache_create(&(*out)->cache);
}

// All that needs no shard to be opened. The set's manifest is there.
static nn_status open_split(data_set *set, const char *split, int32_t rank, int32_t ranks) {
  NN_TRY(find_split(set, split));
  NN_TRY(sum_shards(set, rank, ranks));
  if (set->split->shards == 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: the split '%s' has no shard", set->folder, split);
  return NN_OK;
}

// What travels in every shard.
static nn_status read_tokenizer(data_set *set) {
  data_shard *first = NULL;
  NN_TRY(use_shard(set, 0, &first));
  NN_TRY(data_shard_tokenizer(first, &set->blob, &set->blob_bytes));
  set->piece_bytes = malloc((size_t)set->manifest.format.vocab * sizeof *set->piece_bytes);
  if (set->piece_bytes == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for the sizes of its pieces", set->folder);
  return data_shard_piece_bytes(first, set->piece_bytes);
}

nn_status data_set_open(const char *folder, const char *split, data_set **out) {
  nn_status status = NN_OK;
  data_set *set = NULL;
  NN_GOTO(status, fail, create_set(folder, &set));
  NN_GOTO(status, fail, data_manifest_read(folder, &set->manifest));
  NN_GOTO(status, fail, open_split(set, split, 0, 1));
  NN_GOTO(status, fail, read_tokenizer(set));
  *out = set;
  return NN_OK;
fail:
  data_set_close(set);
  return status;
}

// Rank 0 has looked whether there is one; the others learn its path and text.
static nn_status share_manifest(dist_group *world, data_set *set) {
  char path[PATH_MAX] = "", *text = NULL;
  size_t bytes = 0;
  bool first = dist_rank(world) == 0;
  NN_TRY(dist_agree(world, first ? data_manifest_path(set->folder, path, sizeof path) : NN_OK));
  NN_TRY(dist_broadcast(world, path, sizeof path, 0));
  nn_status status = data_share_file(world, path, &text, &bytes);
  if (status == NN_OK)
    status = dist_agree(world, data_manifest_parse(path, text, bytes, &set->manifest));
  free(text);
  return status;
}

static nn_status share_tokenizer(dist_group *world, data_set *set) {
  bool first = dist_rank(world) == 0;
  nn_status status = first ? read_tokenizer(set) : NN_OK;
  char *blob = set->blob, *pieces = (char *)set->piece_bytes;
  size_t bytes = (size_t)set->manifest.format.vocab * sizeof *set->piece_bytes;
  bool none = false; // synthetic data have no tokenizer
  if (first && status == NN_OK && blob == NULL)
    none = true;
  NN_TRY(dist_agree(world, status));
  NN_TRY(dist_broadcast(world, &none, sizeof none, 0));
  if (!none) {
    status = data_share_bytes(world, NN_OK, &blob, &set->blob_bytes);
    set->blob = blob;
    NN_TRY(status);
  }
  status = data_share_bytes(world, NN_OK, &pieces, &bytes);
  set->piece_bytes = (int32_t *)(void *)pieces;
  return status;
}

nn_status data_set_open_shared(dist_group *world, const char *folder, const char *split, data_set **out) {
  nn_status status = NN_OK;
  data_set *set = NULL;
  NN_GOTO(status, fail, dist_agree(world, create_set(folder, &set)));
  NN_GOTO(status, fail, share_manifest(world, set));
  NN_GOTO(status, fail, dist_agree(world, open_split(set, split, dist_rank(world), dist_size(world))));
  NN_GOTO(status, fail, share_tokenizer(world, set));
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
  data_block_cache_free(set->cache);
  free(set->piece_bytes);
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

nn_status data_set_has_split_shared(dist_group *world, const char *folder, const char *split, bool *found) {
  uint8_t there = dist_rank(world) == 0 && data_set_has_split(folder, split);
  NN_TRY(dist_broadcast(world, &there, sizeof there, 0));
  *found = there;
  return NN_OK;
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

uint64_t data_set_hash(const data_set *set) {
  uint64_t hash = 0;
  for (int32_t i = 0; i < set->split->shards; i++)
    hash = XXH3_64bits_withSeed(&set->split->shard[i].hash, sizeof hash, hash);
  return hash;
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

// Values outside [least, vocab) would be looked up beyond the embedding.
static nn_status check_values(const data_set *set, int32_t shard, data_block_kind kind, int64_t first,
                              int64_t count, const int32_t *values) {
  int32_t least = kind == DATA_BLOCK_LABELS ? -1 : 0;
  for (int64_t i = 0; i < count; i++)
    if (values[i] < least || values[i] >= set->manifest.format.vocab)
      return NN_FAIL(NN_ERR_INPUT, "%s/%s: %s %" PRId64 " is %" PRId32 ", the vocabulary has %" PRId32,
                     set->folder, set->split->shard[shard].name, least < 0 ? "label" : "token", first + i,
                     values[i], set->manifest.format.vocab);
  return NN_OK;
}

static nn_status fill_block(data_set *set, int32_t shard, data_block_kind kind, int64_t first, int64_t count,
                            void *out) {
  data_shard *open = NULL;
  NN_TRY(use_shard(set, shard, &open));
  if (kind == DATA_BLOCK_DOCUMENTS)
    return data_shard_documents(open, first, count, out);
  NN_TRY((kind == DATA_BLOCK_LABELS ? data_shard_labels : data_shard_tokens)(open, first, count, out));
  return check_values(set, shard, kind, first, count, out);
}

// The block of a shard that holds row `row`; *rows is how many follow from `row` on within it.
static nn_status use_block(data_set *set, int32_t shard, data_block_kind kind, int64_t row, const void **out,
                           int64_t *rows) {
  const data_counts *counts = &set->split->shard[shard].counts;
  bool documents = kind == DATA_BLOCK_DOCUMENTS;
  int64_t size = documents ? DOCUMENT_ROWS : TOKEN_ROWS,
          total = documents ? counts->documents : counts->tokens;
  int64_t block = row / size, first = block * size, count = total - first < size ? total - first : size;
  void *bytes = data_block_cache_find(set->cache, shard, kind, block);
  if (bytes == NULL) {
    NN_TRY(data_block_cache_take(set->cache, shard, kind, block, &bytes));
    nn_status status = fill_block(set, shard, kind, first, count, bytes);
    if (status != NN_OK) {
      data_block_cache_drop(set->cache, shard, kind, block);
      return status;
    }
  }
  *out = (const char *)bytes + (row - first) * (DATA_BLOCK_BYTES / size);
  *rows = first + count - row;
  return NN_OK;
}

static nn_status read_across(data_set *set, data_block_kind kind, int64_t first, int64_t count,
                             int32_t *out) {
  if (first < 0 || count < 0 || first > data_set_tokens(set) - count)
    return NN_FAIL(NN_ERR_INTERNAL, "%s: no tokens %" PRId64 " to %" PRId64, set->folder, first,
                   first + count);
  while (count > 0) {
    int32_t shard = shard_of(set->token_start, set->split->shards, first);
    int64_t rows = 0;
    const void *values = NULL;
    NN_TRY(use_block(set, shard, kind, first - set->token_start[shard], &values, &rows));
    rows = rows < count ? rows : count;
    memcpy(out, values, (size_t)rows * sizeof *out);
    first += rows;
    count -= rows;
    out += rows;
  }
  return NN_OK;
}

nn_status data_set_read_tokens(data_set *set, int64_t first, int64_t count, int32_t *out) {
  return read_across(set, DATA_BLOCK_TOKENS, first, count, out);
}

nn_status data_set_read_labels(data_set *set, int64_t first, int64_t count, int32_t *out) {
  return read_across(set, DATA_BLOCK_LABELS, first, count, out);
}

nn_status data_set_document(data_set *set, int64_t index, int64_t *first, int64_t *count,
                            int64_t *source_bytes) {
  if (index < 0 || index >= data_set_documents(set))
    return NN_FAIL(NN_ERR_INTERNAL, "%s: no document %" PRId64, set->folder, index);
  int32_t shard = shard_of(set->document_start, set->split->shards, index);
  const data_manifest_file *file = &set->split->shard[shard];
  int64_t within = index - set->document_start[shard], rows = 0, start = 0, end = file->counts.tokens;
  const void *found = NULL;
  NN_TRY(use_block(set, shard, DATA_BLOCK_DOCUMENTS, within, &found, &rows));
  start = ((const int64_t *)found)[0];
  *source_bytes = ((const int64_t *)found)[1];
  if (within + 1 < file->counts.documents) { // it ends where the next one starts
    NN_TRY(use_block(set, shard, DATA_BLOCK_DOCUMENTS, within + 1, &found, &rows));
    end = ((const int64_t *)found)[0];
  }
  if (start < 0 || end < start || end > file->counts.tokens)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s/%s: document %" PRId64 " starts at token %" PRId64 " and ends at %" PRId64,
                   set->folder, file->name, within, start, end);
  *first = set->token_start[shard] + start;
  *count = end - start;
  return NN_OK;
}

nn_status data_set_piece_bytes(data_set *set, int32_t *out) {
  memcpy(out, set->piece_bytes, (size_t)set->manifest.format.vocab * sizeof *out);
  return NN_OK;
}
