#include "data/json_fields.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"

nn_status data_json_load(const char *path, json_t **out) {
  char *text = NULL;
  size_t count = 0;
  NN_TRY(data_file_read(path, &text, &count));
  nn_status status = data_json_parse(path, text, count, out);
  free(text);
  return status;
}

nn_status data_json_parse(const char *path, const char *text, size_t count, json_t **out) {
  json_error_t error;
  json_t *object = json_loadb(text, count, JSON_REJECT_DUPLICATES, &error);
  if (object == NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: line %d: is no JSON: %s", path, error.line, error.text);
  if (!json_is_object(object)) {
    json_decref(object);
    return NN_FAIL(NN_ERR_INPUT, "%s: expected one JSON object", path);
  }
  *out = object;
  return NN_OK;
}

static nn_status wrong_type(const char *path, const char *field, const char *expected, const json_t *value) {
  if (value == NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: the field '%s' is missing", path, field);
  return NN_FAIL(NN_ERR_INPUT, "%s: the field '%s' is not %s", path, field, expected);
}

nn_status data_json_int(const char *path, const json_t *object, const char *field, int64_t least,
                        int64_t most, int64_t *out) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_integer(value))
    return wrong_type(path, field, "an integer", value);
  int64_t number = json_integer_value(value);
  if (number < least || number > most)
    return NN_FAIL(NN_ERR_INPUT, "%s: the field '%s' is %" PRId64 ", not in %" PRId64 " to %" PRId64, path,
                   field, number, least, most);
  *out = number;
  return NN_OK;
}

nn_status data_json_text(const char *path, const json_t *object, const char *field, const char **out) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_string(value))
    return wrong_type(path, field, "a string", value);
  *out = json_string_value(value);
  return NN_OK;
}

nn_status data_json_bool(const char *path, const json_t *object, const char *field, bool *out) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_boolean(value))
    return wrong_type(path, field, "true or false", value);
  *out = json_is_true(value);
  return NN_OK;
}

nn_status data_json_hash(const char *path, const json_t *object, const char *field, uint64_t *out) {
  const char *text = NULL;
  NN_TRY(data_json_text(path, object, field, &text));
  if (!data_hash_parse(text, out))
    return NN_FAIL(NN_ERR_INPUT, "%s: the field '%s' is '%.40s', not 16 hexadecimal digits", path, field,
                   text);
  return NN_OK;
}

nn_status data_json_object(const char *path, const json_t *object, const char *field, const json_t **out) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_object(value))
    return wrong_type(path, field, "an object", value);
  *out = value;
  return NN_OK;
}

nn_status data_json_array(const char *path, const json_t *object, const char *field, const json_t **out) {
  const json_t *value = json_object_get(object, field);
  if (!json_is_array(value))
    return wrong_type(path, field, "an array", value);
  *out = value;
  return NN_OK;
}

nn_status data_json_store(const char *path, json_t *object) {
  char *text = object != NULL ? json_dumps(object, JSON_INDENT(1)) : NULL;
  json_decref(object);
  if (text == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its text", path);
  nn_status status = data_file_replace(path, text, strlen(text));
  free(text);
  return status;
}
