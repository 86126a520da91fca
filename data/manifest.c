#include "data/manifest.h"

#include <inttypes.h>
#include <limits.h> // PATH_MAX
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/files.h"
#include "data/json_fields.h"

static const char manifest_name[] = "manifest.json";
static const char manifest_format[] = "natsformer data set";

nn_status data_path_join(char *out, size_t room, const char *folder, const char *name) {
  int length = snprintf(out, room, "%s/%s", folder, name);
  if (length < 0 || (size_t)length >= room)
    return NN_FAIL(NN_ERR_IO, "%s/%s: the name is too long", folder, name);
  return NN_OK;
}

bool data_manifest_exists(const char *folder) {
  char path[PATH_MAX];
  int length = snprintf(path, sizeof path, "%s/%s", folder, manifest_name);
  return length > 0 && (size_t)length < sizeof path && access(path, F_OK) == 0;
}

const data_manifest_split *data_manifest_find(const data_manifest *manifest, const char *split) {
  for (int32_t i = 0; i < manifest->splits; i++)
    if (strcmp(manifest->split[i].name, split) == 0)
      return &manifest->split[i];
  return NULL;
}

void data_manifest_free(data_manifest *manifest) {
  for (int32_t i = 0; i < manifest->splits; i++)
    free(manifest->split[i].shard);
  free(manifest->source);
  memset(manifest, 0, sizeof *manifest);
}

// ---- reading

static nn_status read_counts(const char *path, const json_t *object, data_counts *counts) {
  NN_TRY(data_json_int(path, object, "tokens", 0, INT64_MAX, &counts->tokens));
  NN_TRY(data_json_int(path, object, "documents", 0, INT64_MAX, &counts->documents));
  return data_json_int(path, object, "source_bytes", 0, INT64_MAX, &counts->source_bytes);
}

// A text that must fit; names of files may not lead out of the folder.
static nn_status read_name(const char *path, const json_t *object, const char *field, char *out,
                           size_t room) {
  const char *text = NULL;
  NN_TRY(data_json_text(path, object, field, &text));
  if (text[0] == '\0' || strlen(text) >= room || strchr(text, '/') != NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: the field '%s' is '%.80s', no plain name of at most %zu letters", path,
                   field, text, room - 1);
  memcpy(out, text, strlen(text) + 1);
  return NN_OK;
}

static nn_status read_file(const char *path, const json_t *object, data_manifest_file *file) {
  NN_TRY(read_name(path, object, "file", file->name, sizeof file->name));
  NN_TRY(data_json_int(path, object, "bytes", 0, INT64_MAX, &file->bytes));
  return data_json_hash(path, object, "xxh3", &file->hash);
}

static nn_status read_shards(const char *path, const json_t *list, data_manifest_split *split) {
  data_counts sum = {0};
  split->shards = (int32_t)json_array_size(list);
  split->shard = calloc(json_array_size(list) + 1, sizeof *split->shard);
  if (split->shard == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %" PRId32 " shards", path, split->shards);
  for (int32_t i = 0; i < split->shards; i++) {
    const json_t *object = json_array_get(list, (size_t)i);
    NN_TRY(read_file(path, object, &split->shard[i]));
    NN_TRY(read_counts(path, object, &split->shard[i].counts));
    data_counts_add(&sum, &split->shard[i].counts);
  }
  if (memcmp(&sum, &split->counts, sizeof sum) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: the shards of '%s' hold %" PRId64 " tokens, the split says %" PRId64,
                   path, split->name, sum.tokens, split->counts.tokens);
  return NN_OK;
}

static nn_status read_split(const char *path, const json_t *object, data_manifest_split *split) {
  const json_t *list = NULL, *view = NULL;
  NN_TRY(read_name(path, object, "name", split->name, sizeof split->name));
  NN_TRY(read_counts(path, object, &split->counts));
  NN_TRY(data_json_object(path, object, "view", &view));
  NN_TRY(read_file(path, view, &split->view));
  NN_TRY(data_json_array(path, object, "shards", &list));
  return read_shards(path, list, split);
}

static nn_status read_format(const char *path, const json_t *root, data_format *format) {
  const json_t *tokenizer = NULL;
  int64_t version = 0, vocab = 0, end_of_text = 0;
  const char *text = NULL;
  NN_TRY(data_json_text(path, root, "format", &text));
  if (strcmp(text, manifest_format) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: the field 'format' is '%.40s', not '%s'", path, text, manifest_format);
  NN_TRY(data_json_int(path, root, "version", DATA_MANIFEST_VERSION, DATA_MANIFEST_VERSION, &version));
  NN_TRY(data_json_int(path, root, "vocab", 1, INT32_MAX, &vocab));
  NN_TRY(data_json_int(path, root, "end_of_text", -1, vocab - 1, &end_of_text));
  NN_TRY(data_json_bool(path, root, "labelled", &format->labelled));
  NN_TRY(data_json_object(path, root, "tokenizer", &tokenizer));
  NN_TRY(read_name(path, tokenizer, "kind", format->tokenizer_kind, sizeof format->tokenizer_kind));
  NN_TRY(data_json_hash(path, tokenizer, "hash", &format->tokenizer_hash));
  format->vocab = (int32_t)vocab;
  format->end_of_text = (int32_t)end_of_text;
  return NN_OK;
}

static nn_status read_manifest(const char *path, const json_t *root, data_manifest *out) {
  const json_t *splits = NULL, *source = json_object_get(root, "source");
  NN_TRY(read_format(path, root, &out->format));
  NN_TRY(data_json_array(path, root, "splits", &splits));
  if (json_array_size(splits) < 1 || json_array_size(splits) > DATA_SPLITS)
    return NN_FAIL(NN_ERR_INPUT, "%s: %zu splits, not 1 to %d", path, json_array_size(splits), DATA_SPLITS);
  for (size_t i = 0; i < json_array_size(splits); i++) {
    out->splits = (int32_t)i + 1;
    NN_TRY(read_split(path, json_array_get(splits, i), &out->split[i]));
  }
  if (source != NULL && (out->source = json_dumps(source, JSON_COMPACT)) == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its text", path);
  return NN_OK;
}

nn_status data_manifest_path(const char *folder, char *path, size_t room) {
  if (!data_manifest_exists(folder))
    return NN_FAIL(NN_ERR_INPUT, "%s: no data set here: %s is missing; `natsformer data build` makes one",
                   folder, manifest_name);
  return data_path_join(path, room, folder, manifest_name);
}

nn_status data_manifest_read(const char *folder, data_manifest *out) {
  char path[PATH_MAX], *text = NULL;
  size_t bytes = 0;
  memset(out, 0, sizeof *out);
  NN_TRY(data_manifest_path(folder, path, sizeof path));
  NN_TRY(data_file_read(path, &text, &bytes));
  nn_status status = data_manifest_parse(path, text, bytes, out);
  free(text);
  return status;
}

nn_status data_manifest_parse(const char *path, const char *text, size_t bytes, data_manifest *out) {
  json_t *root = NULL;
  memset(out, 0, sizeof *out);
  NN_TRY(data_json_parse(path, text, bytes, &root));
  nn_status status = read_manifest(path, root, out);
  json_decref(root);
  if (status != NN_OK)
    data_manifest_free(out);
  return status;
}

// ---- writing; jansson's NULL for "no memory" is passed on and found in data_json_store

static json_t *hash_text(uint64_t hash) {
  char text[DATA_HASH_DIGITS + 1];
  data_hash_format(hash, text);
  return json_string(text);
}

static json_t *pack_file(const data_manifest_file *file) {
  return json_pack("{s:s, s:I, s:o}", "file", file->name, "bytes", (json_int_t)file->bytes, "xxh3",
                   hash_text(file->hash));
}

static json_t *pack_counts(json_t *object, const data_counts *counts) {
  int failed = json_object_set_new(object, "tokens", json_integer(counts->tokens)) |
               json_object_set_new(object, "documents", json_integer(counts->documents)) |
               json_object_set_new(object, "source_bytes", json_integer(counts->source_bytes));
  if (failed == 0)
    return object;
  json_decref(object);
  return NULL;
}

static json_t *pack_split(const data_manifest_split *split) {
  json_t *list = json_array();
  for (int32_t i = 0; i < split->shards; i++)
    if (json_array_append_new(list, pack_counts(pack_file(&split->shard[i]), &split->shard[i].counts)) != 0) {
      json_decref(list);
      return NULL;
    }
  json_t *object = pack_counts(json_pack("{s:s}", "name", split->name), &split->counts);
  if (json_object_set_new(object, "view", pack_file(&split->view)) == 0 &&
      json_object_set_new(object, "shards", list) == 0)
    return object;
  json_decref(object);
  return NULL;
}

nn_status data_manifest_write(const char *folder, const data_manifest *manifest) {
  char path[PATH_MAX];
  const data_format *format = &manifest->format;
  NN_TRY(data_path_join(path, sizeof path, folder, manifest_name));
  json_t *splits = json_array();
  int failed = splits == NULL;
  for (int32_t i = 0; i < manifest->splits; i++)
    failed |= json_array_append_new(splits, pack_split(&manifest->split[i]));
  json_t *source = manifest->source != NULL ? json_loads(manifest->source, 0, NULL) : json_object();
  json_t *root =
      json_pack("{s:s, s:i, s:i, s:i, s:b, s:{s:s, s:o}, s:o, s:o}", "format", manifest_format, "version",
                DATA_MANIFEST_VERSION, "vocab", (int)format->vocab, "end_of_text", (int)format->end_of_text,
                "labelled", (int)format->labelled, "tokenizer", "kind", format->tokenizer_kind, "hash",
                hash_text(format->tokenizer_hash), "source", source, "splits", splits);
  if (failed) {
    json_decref(root);
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its text", path);
  }
  NN_TRY(data_json_store(path, root));
  return data_folder_sync(folder);
}
