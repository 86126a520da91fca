// Private: manifest.json of a checkpoint. Its last line is the XXH3-64 of everything before that line, so a
// flipped byte anywhere in it is found before any field is believed.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "data/checkpoint.h"

#define DATA_CHECKPOINT_MANIFEST  "manifest.json"
#define DATA_CHECKPOINT_TOKENIZER "tokenizer.bin"
enum { DATA_CHECKPOINT_VERSION = 1, DATA_CHECKPOINT_PARTS_MAX = 1000 };

typedef struct {
  char name[32]; // "part-000.h5", "tokenizer.bin"
  int64_t bytes;
  uint64_t hash; // XXH3-64 of the contents
} data_checkpoint_file;

typedef struct {
  char name[sizeof((data_tensor *)0)->name];
  int64_t rows, columns;
  int64_t *starts; // [parts + 1]: part p holds rows [starts[p], starts[p + 1])
} data_checkpoint_tensor;

typedef struct data_checkpoint_manifest {
  int64_t step, tokens, samples;
  double loss; // NaN: unknown
  char *state_json, *config_yaml, *model_key, *tokenizer_kind;
  bool has_tokenizer; // there is a tokenizer.bin, the last one of `files`
  int32_t parts;
  data_checkpoint_file *files; // [parts + has_tokenizer]
  int32_t tensor_count;
  data_checkpoint_tensor *tensors;
} data_checkpoint_manifest;

static inline int32_t data_checkpoint_manifest_files(const data_checkpoint_manifest *manifest) {
  return manifest->parts + (manifest->has_tokenizer ? 1 : 0);
}

// The tensor of that name, NULL where there is none.
const data_checkpoint_tensor *data_checkpoint_manifest_find(const data_checkpoint_manifest *manifest,
                                                            const char *name);

// First row of part `part` of `parts` of a tensor; part == parts gives `rows`.
int64_t data_part_begin(int64_t rows, int32_t part, int32_t parts);
void data_part_name(int32_t part, char name[32]);

// A manifest of what `info` says and of how `tensors` are cut into parts; sizes and hashes are still 0.
// Errors: NN_ERR_MEMORY.
nn_status data_checkpoint_manifest_make(const data_checkpoint_info *info, const data_tensor *tensors,
                                        int32_t count, int32_t parts, data_checkpoint_manifest *out);
void data_checkpoint_manifest_free(data_checkpoint_manifest *manifest); // leaves it empty

// The file's text, malloc'ed, and back. `path` names it in messages. Errors of print: NN_ERR_INTERNAL when
// state_json is not a JSON object, NN_ERR_MEMORY. Errors of parse: NN_ERR_INPUT (a field is
// missing, unknown, of the wrong type or impossible; the hash does not fit), NN_ERR_MEMORY.
nn_status data_checkpoint_manifest_print(const data_checkpoint_manifest *manifest, char **text,
                                         size_t *bytes);
nn_status data_checkpoint_manifest_parse(const char *path, const char *text, size_t bytes,
                                         data_checkpoint_manifest *out);

// Reads and parses FOLDER/manifest.json.
nn_status data_checkpoint_manifest_read(const char *folder, data_checkpoint_manifest *out);
