#include "data/checkpoint_manifest.h"

#include <jansson.h>
#include <limits.h>
#include <math.h> // isfinite
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "data/files.h"

#define FORMAT "natsformer checkpoint"
#define SEAL   ",\n \"xxh3\": \"%s\"\n}\n" // the end of the file, around the hash of all before it
enum { SEAL_BYTES = sizeof SEAL - 3 + DATA_HASH_DIGITS };

int64_t data_part_begin(int64_t rows, int32_t part, int32_t parts) {
  return rows / parts * part + rows % parts * part / parts; // rows * part / parts without overflow
}

void data_part_name(int32_t part, char name[32]) {
  snprintf(name, 32, "part-%03d.h5", part);
}

const data_checkpoint_tensor *data_checkpoint_manifest_find(const data_checkpoint_manifest *manifest,
                                                            const char *name) {
  for (int32_t i = 0; i < manifest->tensor_count; i++)
    if (strcmp(manifest->tensors[i].name, name) == 0)
      return &manifest->tensors[i];
  return NULL;
}

void data_checkpoint_manifest_free(data_checkpoint_manifest *manifest) {
  free(manifest->state_json);
  free(manifest->config_yaml);
  free(manifest->model_key);
  free(manifest->tokenizer_kind);
  free(manifest->files);
  for (int32_t i = 0; manifest->tensors != NULL && i < manifest->tensor_count; i++)
    free(manifest->tensors[i].starts);
  free(manifest->tensors);
  *manifest = (data_checkpoint_manifest){0};
}

// Room for files and tensors, all zero.
static nn_status reserve(data_checkpoint_manifest *manifest, int32_t parts, bool has_tokenizer,
                         int32_t tensors) {
  manifest->parts = parts;
  manifest->has_tokenizer = has_tokenizer;
  manifest->tensor_count = tensors;
  manifest->files = calloc((size_t)parts + 1, sizeof *manifest->files);
  manifest->tensors = calloc((size_t)tensors + 1, sizeof *manifest->tensors);
  if (manifest->files == NULL || manifest->tensors == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a checkpoint's manifest of %d tensors", tensors);
  for (int32_t i = 0; i < tensors; i++)
    if ((manifest->tensors[i].starts = calloc((size_t)parts + 1, sizeof(int64_t))) == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "no memory for a checkpoint's manifest of %d tensors", tensors);
  for (int32_t part = 0; part < parts; part++)
    data_part_name(part, manifest->files[part].name);
  if (has_tokenizer)
    snprintf(manifest->files[parts].name, sizeof manifest->files->name, "%s", DATA_CHECKPOINT_TOKENIZER);
  return NN_OK;
}

static nn_status copy_text(const char *from, char **to) {
  *to = strdup(from != NULL ? from : "");
  return *to != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for a checkpoint's texts");
}

// ---- making

static nn_status make(const data_checkpoint_info *info, const data_tensor *tensors, int32_t count,
                      int32_t parts, data_checkpoint_manifest *out) {
  out->step = info->step;
  out->tokens = info->tokens;
  out->samples = info->samples;
  out->loss = info->loss;
  NN_TRY(copy_text(info->state_json, &out->state_json));
  NN_TRY(copy_text(info->config_yaml, &out->config_yaml));
  NN_TRY(copy_text(info->model_key, &out->model_key));
  NN_TRY(copy_text(info->tokenizer_kind, &out->tokenizer_kind));
  NN_TRY(reserve(out, parts, info->tokenizer_bytes > 0, count));
  for (int32_t i = 0; i < count; i++) {
    data_checkpoint_tensor *tensor = &out->tensors[i];
    memcpy(tensor->name, tensors[i].name, sizeof tensor->name);
    tensor->rows = tensors[i].rows;
    tensor->columns = tensors[i].columns;
    for (int32_t part = 0; part <= parts; part++)
      tensor->starts[part] = data_part_begin(tensor->rows, part, parts);
  }
  return NN_OK;
}

nn_status data_checkpoint_manifest_make(const data_checkpoint_info *info, const data_tensor *tensors,
                                        int32_t count, int32_t parts, data_checkpoint_manifest *out) {
  *out = (data_checkpoint_manifest){0};
  nn_status status = make(info, tensors, count, parts, out);
  if (status != NN_OK)
    data_checkpoint_manifest_free(out);
  return status;
}

// ---- printing

static json_t *files_json(const data_checkpoint_manifest *manifest) {
  json_t *list = json_array();
  for (int32_t i = 0; i < data_checkpoint_manifest_files(manifest); i++) {
    const data_checkpoint_file *file = &manifest->files[i];
    char hash[DATA_HASH_DIGITS + 1];
    data_hash_format(file->hash, hash);
    json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", file->name, "bytes",
                                          (json_int_t)file->bytes, "xxh3", hash));
  }
  return list;
}

static json_t *tensors_json(const data_checkpoint_manifest *manifest) {
  json_t *list = json_array();
  for (int32_t i = 0; i < manifest->tensor_count; i++) {
    const data_checkpoint_tensor *tensor = &manifest->tensors[i];
    json_t *starts = json_array();
    for (int32_t part = 0; part <= manifest->parts; part++)
      json_array_append_new(starts, json_integer(tensor->starts[part]));
    json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:o}", "name", tensor->name, "rows",
                                          (json_int_t)tensor->rows, "columns", (json_int_t)tensor->columns,
                                          "starts", starts));
  }
  return list;
}

nn_status data_checkpoint_manifest_print(const data_checkpoint_manifest *manifest, char **text,
                                         size_t *bytes) {
  json_t *state = json_loads(manifest->state_json, JSON_REJECT_DUPLICATES, NULL);
  if (!json_is_object(state)) {
    json_decref(state);
    return NN_FAIL(NN_ERR_INTERNAL, "the training state of a checkpoint is not a JSON object: %.80s",
                   manifest->state_json);
  }
  json_t *root =
      json_pack("{s:s, s:i, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:s, s:o, s:o}", "format", FORMAT, "version",
                DATA_CHECKPOINT_VERSION, "step", (json_int_t)manifest->step, "tokens",
                (json_int_t)manifest->tokens, "samples", (json_int_t)manifest->samples, "loss",
                isfinite(manifest->loss) ? json_real(manifest->loss) : json_null(), "state", state, "config",
                manifest->config_yaml, "model_key", manifest->model_key, "tokenizer_kind",
                manifest->tokenizer_kind, "files", files_json(manifest), "tensors", tensors_json(manifest));
  char *body = json_dumps(root, JSON_INDENT(1));
  json_decref(root);
  size_t length = body != NULL ? strlen(body) : 0;
  char *whole = length > 2 ? realloc(body, length + SEAL_BYTES + 1) : NULL;
  if (whole == NULL) {
    free(body);
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a checkpoint's manifest (or a text in it is no UTF-8)");
  }
  length -= 2; // the closing "\n}" moves behind the hash
  char hash[DATA_HASH_DIGITS + 1];
  data_hash_format(XXH3_64bits(whole, length), hash);
  snprintf(whole + length, SEAL_BYTES + 1, SEAL, hash);
  *text = whole;
  *bytes = length + SEAL_BYTES;
  return NN_OK;
}

// ---- parsing

static nn_status check_seal(const char *path, const char *text, size_t bytes) {
  if (bytes <= SEAL_BYTES)
    return NN_FAIL(NN_ERR_INPUT, "%s: is cut short (%zu bytes)", path, bytes);
  size_t length = bytes - SEAL_BYTES;
  char hash[DATA_HASH_DIGITS + 1], seal[SEAL_BYTES + 1];
  data_hash_format(XXH3_64bits(text, length), hash);
  snprintf(seal, sizeof seal, SEAL, hash);
  if (memcmp(text + length, seal, SEAL_BYTES) != 0)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: is cut short or damaged: its contents hash to XXH3 %s, which is not what its "
                   "last line says",
                   path, hash);
  return NN_OK;
}

static nn_status parse_files(const char *path, const json_t *list, data_checkpoint_manifest *out) {
  for (int32_t i = 0; i < data_checkpoint_manifest_files(out); i++) {
    const char *name, *hash;
    json_int_t bytes;
    json_error_t error;
    if (json_unpack_ex(json_array_get(list, (size_t)i), &error, JSON_STRICT, "{s:s, s:I, s:s}", "name", &name,
                       "bytes", &bytes, "xxh3", &hash) != 0)
      return NN_FAIL(NN_ERR_INPUT, "%s: files[%d]: %s", path, i, error.text);
    if (strcmp(name, out->files[i].name) != 0)
      return NN_FAIL(NN_ERR_INPUT, "%s: files[%d].name: expected %s, found %.40s", path, i,
                     out->files[i].name, name);
    if (bytes < 0 || !data_hash_parse(hash, &out->files[i].hash))
      return NN_FAIL(NN_ERR_INPUT, "%s: files[%d] (%s): bytes or xxh3 is impossible", path, i, name);
    out->files[i].bytes = bytes;
  }
  return NN_OK;
}

static nn_status parse_tensor(const char *path, const json_t *item, int32_t parts,
                              data_checkpoint_tensor *out) {
  const char *name;
  json_int_t rows, columns;
  json_t *starts;
  json_error_t error;
  if (json_unpack_ex((json_t *)item, &error, JSON_STRICT, "{s:s, s:I, s:I, s:o}", "name", &name, "rows",
                     &rows, "columns", &columns, "starts", &starts) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: tensors: %s", path, error.text);
  if (name[0] == '\0' || strlen(name) >= sizeof out->name)
    return NN_FAIL(NN_ERR_INPUT, "%s: tensors: the name '%.100s' is empty or too long", path, name);
  if (rows < 0 || columns < 1 || rows > INT64_MAX / (int64_t)sizeof(float) / columns)
    return NN_FAIL(NN_ERR_INPUT, "%s: tensor %s: [%lld, %lld] is no shape", path, name, (long long)rows,
                   (long long)columns);
  if (json_array_size(starts) != (size_t)parts + 1)
    return NN_FAIL(NN_ERR_INPUT, "%s: tensor %s: starts: expected %d numbers, found %zu", path, name,
                   parts + 1, json_array_size(starts));
  strcpy(out->name, name);
  out->rows = rows;
  out->columns = columns;
  for (int32_t part = 0; part <= parts; part++) {
    const json_t *start = json_array_get(starts, (size_t)part);
    out->starts[part] = json_is_integer(start) ? json_integer_value(start) : -1;
    if (out->starts[part] < (part == 0 ? 0 : out->starts[part - 1]))
      return NN_FAIL(NN_ERR_INPUT, "%s: tensor %s: starts[%d] is no row or runs backwards", path, name, part);
  }
  if (out->starts[0] != 0 || out->starts[parts] != rows)
    return NN_FAIL(NN_ERR_INPUT, "%s: tensor %s: starts does not cover its %lld rows", path, name,
                   (long long)rows);
  return NN_OK;
}

static nn_status parse_root(const char *path, json_t *root, data_checkpoint_manifest *out) {
  const char *format, *config, *model_key, *kind;
  json_int_t step, tokens, samples;
  int version;
  json_t *loss, *state, *files, *tensors;
  json_error_t error;
  if (json_unpack_ex(root, &error, 0, "{s:s, s:i}", "format", &format, "version", &version) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: %s", path, error.text);
  if (strcmp(format, FORMAT) != 0 || version != DATA_CHECKPOINT_VERSION)
    return NN_FAIL(NN_ERR_INPUT, "%s: expected format '" FORMAT "' version %d, found '%.40s' version %d",
                   path, DATA_CHECKPOINT_VERSION, format, version);
  if (json_unpack_ex(root, &error, JSON_STRICT,
                     "{s:s, s:i, s:I, s:I, s:I, s:o, s:o, s:s, s:s, s:s, s:o, s:o, s:s}", "format", &format,
                     "version", &version, "step", &step, "tokens", &tokens, "samples", &samples, "loss",
                     &loss, "state", &state, "config", &config, "model_key", &model_key, "tokenizer_kind",
                     &kind, "files", &files, "tensors", &tensors, "xxh3", &(const char *){NULL}) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: %s", path, error.text);
  if (step < 0 || tokens < 0 || samples < 0 || !(json_is_null(loss) || json_is_number(loss)) ||
      !json_is_object(state))
    return NN_FAIL(NN_ERR_INPUT, "%s: step, tokens, samples, loss or state is impossible", path);

  size_t file_count = json_array_size(files);
  const char *last = json_string_value(json_object_get(json_array_get(files, file_count - 1), "name"));
  bool has_tokenizer = last != NULL && strcmp(last, DATA_CHECKPOINT_TOKENIZER) == 0;
  size_t parts = file_count - (has_tokenizer ? 1 : 0);
  if (file_count == 0 || parts == 0 || parts > DATA_CHECKPOINT_PARTS_MAX)
    return NN_FAIL(NN_ERR_INPUT, "%s: files: expected 1 to %d parts, found %zu", path,
                   DATA_CHECKPOINT_PARTS_MAX, parts);
  if (!json_is_array(tensors) || json_array_size(tensors) > INT_MAX / 2)
    return NN_FAIL(NN_ERR_INPUT, "%s: tensors: expected a list", path);

  out->step = step;
  out->tokens = tokens;
  out->samples = samples;
  out->loss = json_is_null(loss) ? (double)NAN : json_number_value(loss);
  NN_TRY(copy_text(config, &out->config_yaml));
  NN_TRY(copy_text(model_key, &out->model_key));
  NN_TRY(copy_text(kind, &out->tokenizer_kind));
  if ((out->state_json = json_dumps(state, JSON_COMPACT)) == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", path);
  NN_TRY(reserve(out, (int32_t)parts, has_tokenizer, (int32_t)json_array_size(tensors)));
  NN_TRY(parse_files(path, files, out));
  for (int32_t i = 0; i < out->tensor_count; i++)
    NN_TRY(parse_tensor(path, json_array_get(tensors, (size_t)i), out->parts, &out->tensors[i]));
  return NN_OK;
}

nn_status data_checkpoint_manifest_parse(const char *path, const char *text, size_t bytes,
                                         data_checkpoint_manifest *out) {
  *out = (data_checkpoint_manifest){0};
  NN_TRY(check_seal(path, text, bytes));
  json_error_t error;
  json_t *root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
  if (root == NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: line %d: %s", path, error.line, error.text);
  nn_status status = parse_root(path, root, out);
  json_decref(root);
  if (status != NN_OK)
    data_checkpoint_manifest_free(out);
  return status;
}

nn_status data_checkpoint_manifest_read(const char *folder, data_checkpoint_manifest *out) {
  char path[PATH_MAX];
  snprintf(path, sizeof path, "%s/" DATA_CHECKPOINT_MANIFEST, folder);
  char *text;
  size_t bytes;
  NN_TRY(data_file_read(path, &text, &bytes));
  nn_status status = data_checkpoint_manifest_parse(path, text, bytes, out);
  free(text);
  return status;
}
