#include "launch/eval/types_page.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "data/utf8.h"
#include "launch/eval/utf8_stream.h"

// Texts of others (file names) may be no UTF-8, which JSON has to be.
static json_t *clean_string(const char *text) {
  char *clean = NULL;
  size_t bytes = 0;
  launch_utf8_stream stream = {.out = open_memstream(&clean, &bytes)};
  if (stream.out == NULL)
    return NULL;
  launch_utf8_put(&stream, text, strlen(text));
  launch_utf8_end(&stream);
  fclose(stream.out);
  json_t *string = json_stringn(clean, bytes);
  free(clean);
  return string;
}

static json_t *byte_list(const char *piece, size_t bytes) {
  json_t *list = json_array();
  for (size_t i = 0; i < bytes; i++)
    json_array_append_new(list, json_integer((unsigned char)piece[i]));
  return list;
}

// Text; bytes, where they are no text by themselves; null, the end of a text; or a number that stands for no
// text (cache.js, spellTokens).
static json_t *token_of(data_tokenizer *tokenizer, int32_t token) {
  if (tokenizer == NULL || token >= data_tokenizer_vocab(tokenizer))
    return json_integer(token);
  if (token == data_tokenizer_end_of_text(tokenizer))
    return json_null();
  size_t bytes;
  const char *piece = data_tokenizer_piece(tokenizer, token, &bytes);
  if (bytes == 0)
    return json_integer(token);
  return data_utf8_whole(piece, bytes) == bytes ? json_stringn(piece, bytes) : byte_list(piece, bytes);
}

static json_t *tokens_of(const launch_types_page *page) {
  json_t *tokens = json_array();
  for (int32_t t = 0; t < page->length; t++)
    json_array_append_new(tokens, token_of(page->run->tokenizer, page->tokens[t]));
  return tokens;
}

// A letter a chunk; an unfinished chunk has no type, whatever stands there.
static json_t *head_types(const launch_types_page *page, const uint8_t *types, char *letters) {
  int32_t chunk = page->run->model.type_chunk, chunks = nats_chunks(page->length, chunk);
  for (int32_t a = 0; a < chunks; a++)
    letters[a] = "glw"[types[a]];
  if (page->length % chunk != 0)
    letters[chunks - 1] = '-';
  return json_stringn(letters, (size_t)chunks);
}

static json_t *types_of(const launch_types_page *page) {
  const nats_model_config *model = &page->run->model;
  const uint8_t *types = page->types;
  int32_t chunks = nats_chunks(page->length, model->type_chunk);
  char *letters = malloc((size_t)chunks);
  json_t *all = letters != NULL ? json_array() : NULL;
  for (int32_t layer = 0; layer < model->layers && all != NULL; layer++) {
    json_t *heads = json_array();
    for (int32_t head = 0; head < model->kv_heads; head++, types += chunks)
      json_array_append_new(heads, head_types(page, types, letters));
    json_array_append_new(all, heads);
  }
  free(letters);
  return all;
}

// A script element ends at "</script", wherever that stands. In JSON a "<" can only be in a string.
static int write_escaped(const char *text, size_t bytes, void *file) {
  for (size_t i = 0; i < bytes; i++)
    if (text[i] == '<')
      fputs("\\u003C", file);
    else
      putc(text[i], file);
  return 0;
}

nn_status launch_types_page_write(FILE *file, const launch_types_page *page) {
  const launch_run *run = page->run;
  json_t *data =
      json_pack("{s:o, s:I, s:o, s:s, s:i, s:i, s:i, s:i, s:i, s:o, s:o}", "model", clean_string(page->name),
                "step", (json_int_t)run->checkpoint.step, "source", clean_string(page->source), "tokenizer",
                run->checkpoint.tokenizer_kind, "length", page->length, "layers", run->model.layers,
                "kv_heads", run->model.kv_heads, "chunk", run->model.type_chunk, "window", run->model.window,
                "tokens", tokens_of(page), "types", types_of(page));
  if (data == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a page of %d tokens", page->length);
  fputs((const char *)launch_types_page_head, file);
  json_dump_callback(data, write_escaped, file, JSON_COMPACT);
  fputs((const char *)launch_types_page_tail, file);
  json_decref(data);
  return NN_OK;
}
