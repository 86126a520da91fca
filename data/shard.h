// One shard: an HDF5 file of consecutive whole documents of one split. Layout in docs/formats.md.
//
//   tokens       [tokens]        uint16, or uint32 where the vocabulary needs it; Fletcher32
//   documents    [documents, 2]  int64: first token within the shard, UTF-8 bytes of the source
//   labels       [tokens]        int32, optional: the target of each position, -1 = not scored
//   piece_bytes  [vocab]         uint16, with a tokenizer: UTF-8 bytes that a token stands for
//   tokenizer    [bytes]         uint8, with a tokenizer that has one: its blob
//
// One HDF5 call at a time, from one thread. Errors name the file: NN_ERR_INPUT (not such a shard, damaged),
// NN_ERR_IO.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer.h"
#include "nn/status.h"

enum { DATA_SHARD_VERSION = 1, DATA_KIND_LENGTH = 16 };

// What all shards of a data set have in common.
typedef struct {
  int32_t vocab;
  int32_t end_of_text;                   // -1: none
  bool labelled;                         // has `labels`
  char tokenizer_kind[DATA_KIND_LENGTH]; // "byte", "gpt2", "sentencepiece", "none" (synthetic)
  uint64_t tokenizer_hash;               // 0 for "none"
} data_format;

void data_format_of(data_format *format, const data_tokenizer *tokenizer); // not for NULL
// NN_ERR_INPUT names `path` and the first field in which the two differ.
nn_status data_format_same(const char *path, const data_format *found, const data_format *expected);

typedef struct {
  int64_t tokens; // end-of-text included
  int64_t documents;
  int64_t source_bytes;
} data_counts;

void data_counts_add(data_counts *sum, const data_counts *more);

// ---- writing
typedef struct data_shard_writer data_shard_writer;

// Creates the file. `tokenizer` may be NULL (kind "none"). The same calls give the same bytes.
nn_status data_shard_create(const char *path, const data_format *format, const data_tokenizer *tokenizer,
                            data_shard_writer **out);
// Appends tokens to the document that is being written. labels: [count], where the format has them.
nn_status data_shard_append(data_shard_writer *writer, const int32_t *tokens, const int32_t *labels,
                            int64_t count);
nn_status data_shard_end_document(data_shard_writer *writer, int64_t source_bytes);
// Writes what is left, closes the file and flushes it to disk.
nn_status data_shard_finish(data_shard_writer *writer, data_counts *counts);
// Frees the writer; a file that was not finished is closed and left to the caller to remove. NULL is allowed.
void data_shard_writer_free(data_shard_writer *writer);

// ---- reading
typedef struct data_shard data_shard;

nn_status data_shard_open(const char *path, data_shard **out);
void data_shard_close(data_shard *shard); // NULL is allowed
const data_format *data_shard_format(const data_shard *shard);
const data_counts *data_shard_counts(const data_shard *shard);

// Ranges that leave the shard are NN_ERR_INTERNAL; Fletcher32 is checked on the way.
nn_status data_shard_tokens(data_shard *shard, int64_t first, int64_t count, int32_t *out); // [count]
nn_status data_shard_labels(data_shard *shard, int64_t first, int64_t count, int32_t *out); // [count]
nn_status data_shard_documents(data_shard *shard, int64_t first, int64_t count,
                               int64_t *out);                      // [count, 2]
nn_status data_shard_piece_bytes(data_shard *shard, int32_t *out); // [vocab]; zeros without a tokenizer
// The tokenizer's blob, malloc'ed; NULL and 0 where there is none.
nn_status data_shard_tokenizer(data_shard *shard, void **blob, size_t *bytes);
