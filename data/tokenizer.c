#include "data/tokenizer.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer_table.h"

static const data_tokenizer_table *const kinds[] = {
    &data_tokenizer_byte,
    &data_tokenizer_gpt2,
    &data_tokenizer_sentencepiece,
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static nn_status allocate(const data_tokenizer_table *table, data_tokenizer **out) {
  *out = calloc(1, sizeof **out);
  if (*out == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a tokenizer");
  (*out)->table = table;
  (*out)->end_of_text = -1;
  return NN_OK;
}

// "gpt2:FILES" begins with the prefix "gpt2"; the rest, without the colon, or NULL.
static const char *files_of(const char *spec, const char *prefix) {
  size_t length = strlen(prefix);
  return strncmp(spec, prefix, length) == 0 && spec[length] == ':' ? spec + length + 1 : NULL;
}

nn_status data_tokenizer_open(const char *spec, data_tokenizer **out) {
  for (int i = 0; i < KINDS; i++) {
    const data_tokenizer_table *table = kinds[i];
    const char *files = files_of(spec, table->prefix);
    bool named = strcmp(spec, table->prefix) == 0;
    if (files == NULL && !named)
      continue;
    if ((table->files != NULL) != (files != NULL) || (files != NULL && files[0] == '\0'))
      return NN_FAIL(NN_ERR_USAGE, "tokenizer '%s': expected %s%s%s", spec, table->prefix,
                     table->files ? ":" : "", table->files ? table->files : "");
    data_tokenizer *tokenizer = NULL;
    NN_TRY(allocate(table, &tokenizer));
    char *copy = strdup(files != NULL ? files : "");
    nn_status status =
        copy != NULL ? table->open(tokenizer, copy) : NN_FAIL(NN_ERR_MEMORY, "no memory for '%s'", spec);
    free(copy);
    if (status == NN_OK)
      *out = tokenizer;
    else
      data_tokenizer_free(tokenizer);
    return status;
  }
  return NN_FAIL(NN_ERR_USAGE,
                 "unknown tokenizer '%s': expected byte, gpt2:VOCAB.json,MERGES.txt or sp:MODEL", spec);
}

nn_status data_tokenizer_restore(const char *kind, const void *blob, size_t bytes, data_tokenizer **out) {
  for (int i = 0; i < KINDS; i++) {
    if (strcmp(kind, kinds[i]->kind) != 0)
      continue;
    data_tokenizer *tokenizer = NULL;
    NN_TRY(allocate(kinds[i], &tokenizer));
    nn_status status = kinds[i]->restore(tokenizer, blob, bytes);
    if (status == NN_OK)
      *out = tokenizer;
    else
      data_tokenizer_free(tokenizer);
    return status;
  }
  return NN_FAIL(NN_ERR_INPUT, "unknown kind of tokenizer '%s'", kind);
}

void data_tokenizer_free(data_tokenizer *tokenizer) {
  if (tokenizer == NULL)
    return;
  if (tokenizer->own != NULL)
    tokenizer->table->free(tokenizer->own);
  free(tokenizer->piece_starts);
  free(tokenizer->piece_text);
  free(tokenizer->blob);
  free(tokenizer);
}

const char *data_tokenizer_kind(const data_tokenizer *tokenizer) {
  return tokenizer->table->kind;
}

int32_t data_tokenizer_vocab(const data_tokenizer *tokenizer) {
  return tokenizer->vocab;
}

int32_t data_tokenizer_end_of_text(const data_tokenizer *tokenizer) {
  return tokenizer->end_of_text;
}

uint64_t data_tokenizer_hash(const data_tokenizer *tokenizer) {
  return tokenizer->hash;
}

const void *data_tokenizer_blob(const data_tokenizer *tokenizer, size_t *bytes) {
  *bytes = tokenizer->blob_bytes;
  return tokenizer->blob;
}

nn_status data_tokenizer_encode(data_tokenizer *tokenizer, const char *text, size_t bytes,
                                data_tokens *tokens) {
  return tokenizer->table->encode(tokenizer, text, bytes, tokens);
}

size_t data_tokenizer_cut(const data_tokenizer *tokenizer, const char *text, size_t bytes) {
  return tokenizer->table->cut(tokenizer, text, bytes);
}

const char *data_tokenizer_piece(const data_tokenizer *tokenizer, int32_t token, size_t *bytes) {
  if (token < 0 || token >= tokenizer->vocab) {
    *bytes = 0;
    return "";
  }
  size_t start = tokenizer->piece_starts[token];
  *bytes = tokenizer->piece_starts[token + 1] - start;
  return tokenizer->piece_text + start;
}

// ---- for the kinds

nn_status data_tokens_reserve(data_tokens *tokens, int64_t more) {
  if (tokens->items != NULL && tokens->capacity - tokens->count >= more)
    return NN_OK;
  int64_t capacity = tokens->count + more + tokens->count / 2 + 256;
  int32_t *grown = realloc(tokens->items, (size_t)capacity * sizeof *grown);
  if (grown == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for %lld tokens", (long long)capacity);
  tokens->items = grown;
  tokens->capacity = capacity;
  return NN_OK;
}

nn_status data_tokenizer_keep_blob(data_tokenizer *tokenizer, const void *blob, size_t bytes) {
  tokenizer->blob = malloc(bytes + 1);
  if (tokenizer->blob == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a tokenizer of %zu bytes", bytes);
  memcpy(tokenizer->blob, blob, bytes);
  ((char *)tokenizer->blob)[bytes] = '\0';
  tokenizer->blob_bytes = bytes;
  return NN_OK;
}

nn_status data_tokenizer_start_pieces(data_tokenizer *tokenizer, size_t total_bytes) {
  tokenizer->piece_text = malloc(total_bytes + 1);
  tokenizer->piece_starts = calloc((size_t)tokenizer->vocab + 1, sizeof *tokenizer->piece_starts);
  if (tokenizer->piece_text == NULL || tokenizer->piece_starts == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a vocabulary of %d tokens", tokenizer->vocab);
  return NN_OK;
}

void data_tokenizer_add_piece(data_tokenizer *tokenizer, int32_t token, const char *bytes, size_t count) {
  size_t start = tokenizer->piece_starts[token];
  memcpy(tokenizer->piece_text + start, bytes, count);
  tokenizer->piece_starts[token + 1] = start + count;
}
