// Text to a data set. The inputs are read twice: once to check them and to plan the shards, once to tokenise.
// Both are shared over the ranks, and the files are the same byte for byte whatever their number. Memory
// stays bounded whatever the size of corpus, file and document.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "data/manifest.h"
#include "dist/group.h"

typedef struct {
  const char *const *inputs; // files as in data/text_source.h, in the order of the documents
  int64_t input_count;
  const char *const *val_inputs; // whose documents are the validation split
  int64_t val_input_count;
  const char *field;     // of .jsonl
  const char *tokenizer; // as in data_tokenizer_open
  const char *folder;
  bool force; // replace a data set that is there
  // Share of the documents for validation, when there are no val_inputs: of N documents round(val * N), but
  // at least 1 and at most N - 1, chosen by (seed, number of the document). 0: no validation split.
  double val;
  uint64_t seed;
  int64_t shard_bytes; // text of a shard, about; 0: a 64th of the text, 4 to 256 MiB
} data_build;

// Collective. NN_ERR_USAGE for options that cannot be; NN_ERR_INPUT for inputs without text, that are not
// UTF-8 or no JSON. `manifest`: see data_output_commit.
nn_status data_build_run(dist_group *world, const data_build *build, data_manifest *manifest);
