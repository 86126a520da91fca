// Bytes: token b is the byte b, token 256 is end-of-text.
#include "data/tokenizer_table.h"

enum { BYTES = 256, VOCAB = BYTES + 1 };

static nn_status restore(data_tokenizer *tokenizer, const void *blob, size_t bytes) {
  (void)blob;
  if (bytes != 0)
    return NN_FAIL(NN_ERR_INPUT, "the byte tokenizer has no model, found one of %zu bytes", bytes);
  tokenizer->vocab = VOCAB;
  tokenizer->end_of_text = BYTES;
  tokenizer->hash = VOCAB; // there is one such mapping only
  NN_TRY(data_tokenizer_start_pieces(tokenizer, BYTES));
  for (int32_t token = 0; token < VOCAB; token++) {
    char byte = (char)token;
    data_tokenizer_add_piece(tokenizer, token, &byte, token < BYTES);
  }
  return NN_OK;
}

static nn_status open_byte(data_tokenizer *tokenizer, char *files) {
  (void)files;
  return restore(tokenizer, NULL, 0);
}

static nn_status encode(data_tokenizer *tokenizer, const char *text, size_t bytes, data_tokens *tokens) {
  (void)tokenizer;
  NN_TRY(data_tokens_reserve(tokens, (int64_t)bytes));
  int32_t *out = tokens->items + tokens->count;
  for (size_t i = 0; i < bytes; i++)
    out[i] = (unsigned char)text[i];
  tokens->count += (int64_t)bytes;
  return NN_OK;
}

static size_t cut(const data_tokenizer *tokenizer, const char *text, size_t bytes) {
  (void)tokenizer, (void)text;
  return bytes;
}

const data_tokenizer_table data_tokenizer_byte = {
    .kind = "byte",
    .prefix = "byte",
    .open = open_byte,
    .restore = restore,
    .encode = encode,
    .cut = cut,
};
