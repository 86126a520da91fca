// Private to this room: the tokens of words that were seen lately. Bounded: a word takes the place of another
// one with the same slot. Text repeats its words, so nearly all of them are found.
#pragma once

#include <stdbool.h>

#include "data/tokenizer.h"

typedef struct data_word_cache data_word_cache;

nn_status data_word_cache_create(data_word_cache **out);
void data_word_cache_free(data_word_cache *cache); // NULL is allowed

// Appends the word's tokens and returns true, or returns false. `tokens` may grow: *status.
bool data_word_cache_find(data_word_cache *cache, const char *word, size_t bytes, data_tokens *tokens,
                          nn_status *status);
void data_word_cache_keep(data_word_cache *cache, const char *word, size_t bytes, const int32_t *tokens,
                          int64_t count);
