// The SentencePiece library, which speaks C++, for the rest of this room. Its failures come back as statuses;
// no exception passes.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "data/tokenizer.h"
#include "nn/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct data_sp data_sp;

typedef enum {
  DATA_SP_TEXT,  // the piece's text, with U+2581 for each space
  DATA_SP_BYTE,  // one byte, spelt "<0x41>"
  DATA_SP_OTHER, // control, unknown, unused: stands for no text
} data_sp_type;

// Errors: NN_ERR_INPUT when these bytes are no model.
nn_status data_sp_load(const void *model, size_t bytes, data_sp **out);
void data_sp_free(data_sp *sp);

int32_t data_sp_vocab(const data_sp *sp);
int32_t data_sp_end_of_text(const data_sp *sp); // its end-of-sentence symbol; -1: none
// Text and type of a piece; the text stays valid as long as `sp`.
data_sp_type data_sp_piece(const data_sp *sp, int32_t token, const char **text, size_t *bytes);

// Appends the tokens of one stretch of text to `tokens`.
nn_status data_sp_encode(const data_sp *sp, const char *text, size_t bytes, data_tokens *tokens);

// A source of stretches of text: *bytes 0 at the end; valid until the next call.
typedef nn_status (*data_sp_next)(void *context, const char **text, size_t *bytes);

// Trains a lossless model on one thread. `type`: "bpe" or "unigram". `coverage`: share of the characters of
// the text that get pieces of their own; the others are spelt in bytes. The model is malloc'ed.
nn_status data_sp_train(const char *type, int32_t vocab, double coverage, const char *end_of_text,
                        data_sp_next next, void *context, void **model, size_t *bytes);

#ifdef __cplusplus
}
#endif
