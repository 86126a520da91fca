// Private to this room: byte-pair encoding. Neighbours are merged, the pair of lowest rank first and of those
// the leftmost, until no pair has a merge (Sennrich, Haddow and Birch, 2016).
#pragma once

#include <stdint.h>

#include "nn/status.h"

typedef struct data_bpe data_bpe;

nn_status data_bpe_create(int64_t merges, data_bpe **out);
void data_bpe_free(data_bpe *bpe); // NULL is allowed

// The pair (left, right) becomes `merged`; calls come in the order of ranks. A pair given twice keeps its
// first.
void data_bpe_add(data_bpe *bpe, int32_t left, int32_t right, int32_t merged);

// Merges symbols[0, *count) in place; *count is what is left. Time grows with n log n.
nn_status data_bpe_apply(data_bpe *bpe, int32_t *symbols, int64_t *count);
