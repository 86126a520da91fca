// Private to this room: strict access to the fields of manifests. A field that is missing, of another type or
// out of range fails with NN_ERR_INPUT and a line that names the file, the field and what was expected.
#pragma once

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "nn/status.h"

// The object that a file holds; free with json_decref. A file that is not one JSON object is an error.
nn_status data_json_load(const char *path, json_t **out);
nn_status data_json_parse(const char *path, const char *text, size_t count, json_t **out); // read from there

// Fields of `object`; `path` is the file, for messages. Texts and objects belong to `object`.
nn_status data_json_int(const char *path, const json_t *object, const char *field, int64_t least,
                        int64_t most, int64_t *out);
nn_status data_json_text(const char *path, const json_t *object, const char *field, const char **out);
nn_status data_json_bool(const char *path, const json_t *object, const char *field, bool *out);
nn_status data_json_hash(const char *path, const json_t *object, const char *field, uint64_t *out);
nn_status data_json_object(const char *path, const json_t *object, const char *field, const json_t **out);
nn_status data_json_array(const char *path, const json_t *object, const char *field, const json_t **out);

// Replaces a file: written under another name beside it, flushed, renamed. Steals `object`.
nn_status data_json_store(const char *path, json_t *object);
