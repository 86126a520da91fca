// Bytes of tokens to valid UTF-8 text: a token may end inside a character, which is held back until it is
// whole; bytes that can be no character become U+FFFD.
#pragma once

#include <stdio.h>

#include "data/utf8.h"

typedef struct {
  FILE *out;
  data_utf8 state;
  char held[4]; // bytes of the character under way
  size_t count;
} launch_utf8_stream; // {.out = stdout}

void launch_utf8_put(launch_utf8_stream *stream, const char *bytes, size_t count);
void launch_utf8_end(launch_utf8_stream *stream); // no more bytes will come
