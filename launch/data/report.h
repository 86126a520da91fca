// What `natsformer data` prints about data sets: tables for people, one JSON object with --json.
#pragma once

#include <stdbool.h>

#include "data/manifest.h"
#include "data/verify.h"

// A line a split: tokens, documents, source bytes, bytes a token, shards. `folder`: for the title.
nn_status launch_data_print_set(const char *folder, const data_manifest *manifest, bool json);

// A line a file with its verdict.
nn_status launch_data_print_verification(const char *folder, const data_verification *found, bool json);

// The same as launch_data_print_set, and the beginning of the first document of `split`.
nn_status launch_data_print_sample(const char *folder, const data_manifest *manifest, const char *split,
                                   int64_t tokens, bool json);
