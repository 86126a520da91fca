#include "data/word_cache.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "data/tokenizer_table.h"

enum { SLOTS = 1 << 16, WORD = 30, TOKENS = 8 }; // 64 bytes a slot, 4 MiB

typedef struct {
  unsigned char bytes, count; // bytes 0: free
  char word[WORD];
  int32_t tokens[TOKENS];
} slot;

struct data_word_cache {
  slot slots[SLOTS];
};

nn_status data_word_cache_create(data_word_cache **out) {
  *out = calloc(1, sizeof **out);
  return *out != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for a cache of words");
}

void data_word_cache_free(data_word_cache *cache) {
  free(cache);
}

static slot *slot_of(data_word_cache *cache, const char *word, size_t bytes) {
  return &cache->slots[XXH3_64bits(word, bytes) % SLOTS];
}

bool data_word_cache_find(data_word_cache *cache, const char *word, size_t bytes, data_tokens *tokens,
                          nn_status *status) {
  *status = NN_OK;
  if (bytes == 0 || bytes > WORD)
    return false;
  const slot *found = slot_of(cache, word, bytes);
  if (found->bytes != bytes || memcmp(found->word, word, bytes) != 0)
    return false;
  *status = data_tokens_reserve(tokens, found->count);
  if (*status != NN_OK)
    return true;
  memcpy(tokens->items + tokens->count, found->tokens, found->count * sizeof *found->tokens);
  tokens->count += found->count;
  return true;
}

void data_word_cache_keep(data_word_cache *cache, const char *word, size_t bytes, const int32_t *tokens,
                          int64_t count) {
  if (bytes == 0 || bytes > WORD || count > TOKENS)
    return;
  slot *place = slot_of(cache, word, bytes);
  place->bytes = (unsigned char)bytes;
  place->count = (unsigned char)count;
  memcpy(place->word, word, bytes);
  memcpy(place->tokens, tokens, (size_t)count * sizeof *tokens);
}
