#include "launch/eval/text_tokens.h"

#include <stdlib.h>

#include "data/files.h"
#include "data/utf8.h"

nn_status launch_text_encode(data_tokenizer *tokenizer, const char *name, const char *text, size_t bytes,
                             data_tokens *tokens) {
  data_utf8 state = {0};
  size_t fine = data_utf8_check(&state, text, bytes);
  if (fine < bytes || !data_utf8_complete(&state))
    return NN_FAIL(NN_ERR_INPUT, "%s: expected UTF-8, byte %zu is none", name, fine);
  return data_tokenizer_encode(tokenizer, text, bytes, tokens);
}

nn_status launch_text_read(data_tokenizer *tokenizer, const char *path, data_tokens *tokens) {
  char *text;
  size_t bytes;
  NN_TRY(data_file_read(path, &text, &bytes));
  nn_status status = launch_text_encode(tokenizer, path, text, bytes, tokens);
  free(text);
  return status;
}
