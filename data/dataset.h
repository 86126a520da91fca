// A tokenised data set on disk: a folder with manifest.json, shards of train (and val) and one virtual data
// set per split for h5py. Written by data/build.h; formats in docs/formats.md.
//
// Reading never goes through the virtual data set: a missing source would read as zeros.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "data/tokenizer.h"
#include "dist/group.h"
#include "nn/status.h"

typedef struct data_set data_set;

// Opens one split ("train", "val") of the data set in `folder`. Checks the manifest and that every shard is
// there with its size; Fletcher32 is checked by HDF5 on every read. Errors name the file and the field.
nn_status data_set_open(const char *folder, const char *split, data_set **out);
// The same for all ranks together: rank 0 reads the manifest and the tokenizer, and each rank looks at the
// sizes of its share of the shards; data files are opened by those who read them, when they do. Collective,
// agreed.
nn_status data_set_open_shared(dist_group *world, const char *folder, const char *split, data_set **out);
void data_set_close(data_set *set);

bool data_set_has_split(const char *folder, const char *split);
nn_status data_set_has_split_shared(dist_group *world, const char *folder, const char *split, bool *found);
int64_t data_set_tokens(const data_set *set); // end-of-text tokens included
int64_t data_set_documents(const data_set *set);
int64_t data_set_source_bytes(const data_set *set); // UTF-8 bytes of the documents: for bits per byte
int32_t data_set_vocab(const data_set *set);
bool data_set_labelled(const data_set *set); // has `labels`
uint64_t data_set_tokenizer_hash(const data_set *set);
uint64_t data_set_hash(const data_set *set); // of the split's shards, from their hashes in the manifest
const char *
data_set_tokenizer_kind(const data_set *set); // "byte", "gpt2", "sentencepiece", "none" (synthetic)
const void *data_set_tokenizer_blob(const data_set *set, size_t *bytes);

// ---- samples
typedef enum {
  DATA_SAMPLE_STREAM,   // windows of T + 1 tokens, T apart, across documents; the last incomplete one is left
                        // out
  DATA_SAMPLE_DOCUMENT, // one document a sample, cut or padded to T
} data_sample_kind;

typedef struct data_loader data_loader;

// Samples of T inputs and their T next tokens, or their labels where the set has them; in the order of
// epochs: sample g of the run is sample permute(seed, epoch = g / count, g % count) of the set; with shuffle
// false, g % count.
nn_status data_loader_create(data_set *set, data_sample_kind kind, int32_t length, uint64_t seed,
                             bool shuffle, data_loader **out);
void data_loader_free(data_loader *loader);
int64_t data_loader_samples(const data_loader *loader); // of one epoch; 0 is an error at creation

// Fills `batch` samples starting with global sample `first`: a pure function of (seed, first). Any pointer
// but tokens and targets may be NULL. Pads with end-of-text (or token 0), target -1.
//   tokens, targets: [batch, T]
//   lengths: [batch] inputs before the padding
//   sample: [batch] = first + b
//   bytes: [batch] UTF-8 bytes of source text that the scored targets stand for: the sum of the lengths of
//   their pieces (end-of-text has none; 0 for synthetic data), exact because every tokenizer is lossless.
//   Turns nats into bits per byte.
// Errors: NN_ERR_INPUT or NN_ERR_IO with the shard's name; nothing that was read is to be used then.
nn_status data_loader_read(data_loader *loader, int64_t first, int32_t batch, int32_t *tokens,
                           int32_t *targets, int32_t *lengths, int64_t *sample, int64_t *bytes);

// Every sample has the same number of scored targets (stream windows without labels): then means need no
// count from the other ranks. *scored is that number.
bool data_loader_uniform(const data_loader *loader, int64_t *scored);
