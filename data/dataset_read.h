// Private to this room: ranges of a split, across its shards.
#pragma once

#include "data/dataset.h"
#include "data/shard.h"

const data_format *data_set_format(const data_set *set);
const char *data_set_folder(const data_set *set);

// Tokens or labels [first, first + count) of the split. Tokens are checked against the vocabulary.
nn_status data_set_read_tokens(data_set *set, int64_t first, int64_t count, int32_t *out); // [count]
nn_status data_set_read_labels(data_set *set, int64_t first, int64_t count, int32_t *out); // [count]
// Where document `index` lies in the split.
nn_status data_set_document(data_set *set, int64_t index, int64_t *first, int64_t *count,
                            int64_t *source_bytes);
// UTF-8 bytes that each token stands for.
nn_status data_set_piece_bytes(data_set *set, int32_t *out); // [vocab]
