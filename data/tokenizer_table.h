// Private to this room: what a kind of tokenizer implements. Another kind is one file and one row in
// data/tokenizer.c.
#pragma once

#include "data/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
  const char *kind;   // as it stands in shards and checkpoints
  const char *prefix; // of a spec: "gpt2" in "gpt2:FILES"
  const char *files;  // what follows the colon, for messages; NULL: nothing does
  // Fills the tokenizer from the files of a spec (whose text may be changed) / from a blob.
  nn_status (*open)(data_tokenizer *tokenizer, char *files);
  nn_status (*restore)(data_tokenizer *tokenizer, const void *blob, size_t bytes);
  nn_status (*encode)(data_tokenizer *tokenizer, const char *text, size_t bytes, data_tokens *tokens);
  size_t (*cut)(const data_tokenizer *tokenizer, const char *text, size_t bytes);
  void (*free)(void *own);
} data_tokenizer_table;

struct data_tokenizer {
  const data_tokenizer_table *table;
  int32_t vocab, end_of_text;
  uint64_t hash;
  void *blob;
  size_t blob_bytes;
  char *piece_text;     // the bytes of all tokens, one behind the other
  size_t *piece_starts; // [vocab + 1] into piece_text
  void *own;            // of the kind
};

extern const data_tokenizer_table data_tokenizer_byte, data_tokenizer_gpt2, data_tokenizer_sentencepiece;

nn_status data_tokens_reserve(data_tokens *tokens, int64_t more); // room for `more` behind the last one
nn_status data_tokenizer_keep_blob(data_tokenizer *tokenizer, const void *blob, size_t bytes);

// Fills piece_text and piece_starts token by token, in order, after `vocab` is set.
nn_status data_tokenizer_start_pieces(data_tokenizer *tokenizer, size_t total_bytes);
void data_tokenizer_add_piece(data_tokenizer *tokenizer, int32_t token, const char *bytes, size_t count);

#ifdef __cplusplus
}
#endif
