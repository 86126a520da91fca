#include "data/text_source.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/input_file.h"
#include "data/json_lines.h"
#include "data/utf8.h"

struct data_text_source {
  char *path, *field;
  bool lines; // .jsonl
  data_input_file *file;
  data_json_lines json;
  data_utf8 utf8;
  int64_t checked;   // bytes of the contents checked so far
  int64_t newlines;  // among them
  const char *bytes; // what is left of the piece under way
  size_t count;
  bool at_end;
  bool inside; // a document has begun
};

static bool has_suffix(const char *path, size_t length, const char *suffix) {
  size_t tail = strlen(suffix);
  return length > tail && memcmp(path + length - tail, suffix, tail) == 0;
}

static nn_status kind_of(const char *path, bool *lines) {
  size_t length = strlen(path);
  if (has_suffix(path, length, ".zst"))
    length -= strlen(".zst");
  *lines = has_suffix(path, length, ".jsonl");
  if (*lines || has_suffix(path, length, ".txt"))
    return NN_OK;
  return NN_FAIL(NN_ERR_INPUT, "%s: expected a name that ends in .txt, .jsonl, .txt.zst or .jsonl.zst", path);
}

nn_status data_text_source_open(const char *path, const char *field, data_text_source **out) {
  nn_status status = NN_OK;
  bool lines = false;
  NN_TRY(kind_of(path, &lines));
  if (field[0] == '\0' || strlen(field) >= DATA_JSON_NAME)
    return NN_FAIL(NN_ERR_USAGE, "the field '%.160s' has no name of 1 to %d bytes", field,
                   DATA_JSON_NAME - 1);
  data_text_source *source = calloc(1, sizeof *source);
  if (source == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", path);
  source->lines = lines;
  source->path = strdup(path);
  source->field = strdup(field);
  if (source->path == NULL || source->field == NULL)
    NN_GOTO(status, fail, NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", path));
  NN_GOTO(status, fail, data_input_file_open(path, &source->file));
  data_json_lines_start(&source->json, source->path, source->field);
  *out = source;
  return NN_OK;
fail:
  data_text_source_close(source);
  return status;
}

void data_text_source_close(data_text_source *source) {
  if (source == NULL)
    return;
  data_input_file_close(source->file);
  free(source->field);
  free(source->path);
  free(source);
}

static int64_t count_newlines(const char *bytes, size_t count) {
  int64_t newlines = 0;
  for (size_t i = 0; i < count; i++)
    newlines += bytes[i] == '\n';
  return newlines;
}

// The next piece of the file, known to be UTF-8.
static nn_status refill(data_text_source *source) {
  NN_TRY(data_input_file_next(source->file, &source->bytes, &source->count));
  source->at_end = source->count == 0;
  size_t good = data_utf8_check(&source->utf8, source->bytes, source->count);
  source->newlines += count_newlines(source->bytes, good);
  source->checked += (int64_t)good;
  if (good < source->count || (source->at_end && !data_utf8_complete(&source->utf8)))
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ", byte %" PRId64 " of the file: is not UTF-8 (%s)",
                   source->path, source->newlines + 1, source->checked - source->utf8.seen,
                   source->at_end ? "ends within a character" : "convert it with iconv");
  return NN_OK;
}

static nn_status read_plain(data_text_source *source, char *text, size_t room, size_t *count, bool *end) {
  while (*count < room && !source->at_end) {
    size_t take = source->count < room - *count ? source->count : room - *count;
    memcpy(text + *count, source->bytes, take);
    *count += take;
    source->bytes += take;
    source->count -= take;
    if (source->count == 0)
      NN_TRY(refill(source));
  }
  source->inside = source->inside || *count > 0;
  *end = source->at_end && source->inside;
  source->inside = source->inside && !*end;
  return NN_OK;
}

static nn_status read_lines(data_text_source *source, char *text, size_t room, size_t *count, bool *end) {
  data_json_event event = DATA_JSON_INPUT;
  for (;;) {
    size_t used = 0, made = 0;
    if (source->count == 0 && !source->at_end)
      NN_TRY(refill(source));
    if (source->at_end)
      NN_TRY(data_json_lines_end(&source->json, &event));
    else
      NN_TRY(data_json_lines_read(&source->json, source->bytes, source->count, &used, text + *count,
                                  room - *count, &made, &event));
    source->bytes += used;
    source->count -= used;
    *count += made;
    source->inside = source->inside || made > 0;
    if (event == DATA_JSON_LINE && source->inside) {
      *end = true;
      source->inside = false;
      return NN_OK;
    }
    if (event == DATA_JSON_OUTPUT || (event == DATA_JSON_INPUT && source->at_end))
      return NN_OK;
  }
}

nn_status data_text_source_read(data_text_source *source, char *text, size_t room, size_t *count, bool *end) {
  *count = 0;
  *end = false;
  if (source->count == 0 && !source->at_end)
    NN_TRY(refill(source));
  return source->lines ? read_lines(source, text, room, count, end)
                       : read_plain(source, text, room, count, end);
}

void data_text_source_tell(const data_text_source *source, int64_t *offset, int64_t *line) {
  *offset = source->checked - (int64_t)source->count;
  *line = source->json.line;
}

nn_status data_text_source_seek(data_text_source *source, int64_t offset, int64_t line) {
  NN_TRY(data_input_file_seek(source->file, offset));
  data_json_lines_start(&source->json, source->path, source->field);
  source->json.line = line;
  source->newlines = line - 1;
  source->checked = offset;
  source->utf8 = (data_utf8){0};
  source->count = 0;
  source->at_end = source->inside = false;
  return NN_OK;
}

void data_text_source_progress(const data_text_source *source, int64_t *size, int64_t *read) {
  *size = data_input_file_size(source->file);
  *read = data_input_file_read(source->file);
}
