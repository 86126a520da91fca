// Text to tokens and back. Kinds: bytes; GPT-2 byte-pair encoding from its vocabulary and merges files;
// SentencePiece from a model file. A tokenizer travels as a blob inside shards and checkpoints, so neither
// needs the file it came from.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_tokenizer data_tokenizer;

// Tokens out of one call: grown as needed, reused between calls, freed by the caller with free(items).
typedef struct {
  int32_t *items;
  int64_t count, capacity;
} data_tokens;

// `spec`: "byte", "gpt2:VOCAB.json,MERGES.txt", "sp:MODEL". Errors: NN_ERR_USAGE (unknown kind), NN_ERR_INPUT
// (a file that is no such model), NN_ERR_UNSUPPORTED (left out of this build).
nn_status data_tokenizer_open(const char *spec, data_tokenizer **out);
// From the kind and blob that a shard or checkpoint carries.
nn_status data_tokenizer_restore(const char *kind, const void *blob, size_t bytes, data_tokenizer **out);
void data_tokenizer_free(data_tokenizer *tokenizer);

const char *data_tokenizer_kind(const data_tokenizer *tokenizer); // "byte", "gpt2", "sentencepiece"
int32_t data_tokenizer_vocab(const data_tokenizer *tokenizer);    // byte: 257 (256 is end-of-text)
int32_t data_tokenizer_end_of_text(const data_tokenizer *tokenizer);
// XXH3-64 of what defines the mapping (for SentencePiece: pieces and normaliser, not paths).
uint64_t data_tokenizer_hash(const data_tokenizer *tokenizer);
const void *data_tokenizer_blob(const data_tokenizer *tokenizer, size_t *bytes);

// Appends to `tokens`. Lossless: decoding gives the bytes back. `text` is valid UTF-8.
nn_status data_tokenizer_encode(data_tokenizer *tokenizer, const char *text, size_t bytes,
                                data_tokens *tokens);

// Where a text that is too long to be encoded at once may be cut: the length of the longest prefix that gives
// the same tokens apart from what follows it, whatever that is. 0: there is no such place.
size_t data_tokenizer_cut(const data_tokenizer *tokenizer, const char *text, size_t bytes);

// Bytes of one token (streaming generation concatenates them): *bytes is set, the pointer stays valid as long
// as the tokenizer. End-of-text has none.
const char *data_tokenizer_piece(const data_tokenizer *tokenizer, int32_t token, size_t *bytes);

#ifdef __cplusplus
}
#endif
