// Tokens of a text that a user gives on the command line or in a file.
#pragma once

#include "data/tokenizer.h"

// `name`: where the text is from, for messages. Errors: NN_ERR_INPUT where it is no UTF-8.
nn_status launch_text_encode(data_tokenizer *tokenizer, const char *name, const char *text, size_t bytes,
                             data_tokens *tokens);
// The whole file. Errors besides: those of reading.
nn_status launch_text_read(data_tokenizer *tokenizer, const char *path, data_tokens *tokens);
