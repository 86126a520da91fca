// Documents out of files. When these fail, text gets lost or changed on its way into a data set, or bad files
// are taken without a word.
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#ifdef DATA_WITH_ZSTD
#include <zstd.h>
#endif

#include "data/text_source.h"
#include "tests/data/data_fixture.h"

TestSuite(text_source, .init = scratch_open, .fini = scratch_close);

// The next document, read in pieces of random sizes; NULL at the end of the file. malloc'ed.
static nn_status next_document(data_text_source *source, char **text, size_t *bytes) {
  size_t room = 1 << 20, most = 1 + random_below(300);
  bool end = false;
  *text = malloc(room);
  *bytes = 0;
  while (!end) {
    size_t count = 0, want = 1 + random_below((uint32_t)most);
    nn_status status = data_text_source_read(source, *text + *bytes, want, &count, &end);
    if (status != NN_OK || (count == 0 && !end)) {
      free(*text);
      *text = NULL;
      return status;
    }
    cr_assert(count <= want && (end || count == want));
    *bytes += count;
    cr_assert_lt(*bytes, room - 400);
  }
  return NN_OK;
}

static void check_documents(const char *path, const documents *expected, int first, int64_t offset,
                            int64_t line) {
  data_text_source *source = NULL;
  cr_ok(data_text_source_open(path, "text", &source));
  if (offset > 0)
    cr_ok(data_text_source_seek(source, offset, line));
  for (int i = first; i <= expected->count; i++) {
    char *text = NULL;
    size_t bytes = 0;
    cr_ok(next_document(source, &text, &bytes));
    if (i == expected->count) {
      cr_assert_null(text);
      break;
    }
    cr_assert_not_null(text, "%s ends before document %d, seed %llu", path, i, (unsigned long long)test_seed);
    cr_assert(bytes == expected->bytes[i] && memcmp(text, expected->texts[i], bytes) == 0,
              "document %d differs, seed %llu", i, (unsigned long long)test_seed);
    free(text);
  }
  data_text_source_close(source);
}

// Whatever jansson writes is read back: escapes, surrogate pairs, other fields and nested ones on the way.
Test(text_source, lines_give_their_field) {
  documents made = write_documents(scratch("a.jsonl"), 60, 300);
  check_documents(scratch("a.jsonl"), &made, 0, 0, 0);
  free_documents(&made);
}

// Building goes to the middle of files: the same documents follow from there.
Test(text_source, continues_where_told) {
  documents made = write_documents(scratch("a.jsonl"), 20, 200);
  data_text_source *source = NULL;
  cr_ok(data_text_source_open(scratch("a.jsonl"), "text", &source));
  for (int i = 0; i < 13; i++) {
    char *text = NULL;
    size_t bytes = 0;
    int64_t offset = 0, line = 0;
    cr_ok(next_document(source, &text, &bytes));
    free(text);
    data_text_source_tell(source, &offset, &line);
    cr_assert_eq(line, i + 2);
    if (i % 6 == 0)
      check_documents(scratch("a.jsonl"), &made, i + 1, offset, line);
  }
  data_text_source_close(source);
  free_documents(&made);
}

Test(text_source, a_text_file_is_one_document) {
  size_t bytes = 0;
  char *text = random_text(700000, &bytes);
  write_file(scratch("a.txt"), text, bytes);
  documents one = {.count = 1, .texts = &text, .bytes = &bytes};
  check_documents(scratch("a.txt"), &one, 0, 0, 0);
  free(text);
}

// Reads a file with these contents to its end.
static nn_status read_contents(const char *name, const char *contents, size_t count, int *read) {
  data_text_source *source = NULL;
  nn_status status = NN_OK;
  write_file(scratch(name), contents, count);
  cr_ok(data_text_source_open(scratch(name), "text", &source));
  *read = 0;
  for (char *text = NULL;; ++*read) {
    size_t bytes = 0;
    status = next_document(source, &text, &bytes);
    free(text);
    if (text == NULL || status != NN_OK)
      break;
  }
  data_text_source_close(source);
  return status;
}

static const struct {
  const char *line, *says; // says NULL: fine
} lines[] = {
    {"{\"text\": \"a\"}", NULL},
    {" \t{ \"text\" : \"a\" } \r", NULL},
    {"{\"a\": [1, -2.5e+10, 0, 0.5, 1E3, true, false, null, [], {}, [[{\"text\": 1}]]], \"text\": \"a\"}",
     NULL},
    {"{\"text\": \"\\u00e9\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\"}", NULL},
    {"{}", "no field 'text'"},
    {"{\"Text\": \"a\"}", "no field 'text'"},
    {"{\"a\": {\"text\": \"a\"}}", "no field 'text'"},
    {"{\"text\": 1}", "the field 'text' is not a string"},
    {"{\"text\": null}", "the field 'text' is not a string"},
    {"{\"text\": [\"a\"]}", "the field 'text' is not a string"},
    {"{\"text\": \"a\", \"text\": \"b\"}", "stands there twice"},
    {"[\"text\"]", "expected a JSON object, found '['"},
    {"text", "expected a JSON object, found 't'"},
    {"{\"text\": \"a\"", "found the end of the line"},
    {"{\"text\": \"a", "expected the end of the string, found the end of the line"},
    {"{\"text\": \"a\"} x", "expected the end of the line after its object, found 'x'"},
    {"{\"text\": \"a\"}}", "after its object"},
    {"{\"text\": \"a\",}", "expected a field, found '}'"},
    {"{\"text\" \"a\"}", "expected ':'"},
    {"{\"text\": \"a\" \"b\": 1}", "expected ','"},
    {"{\"text\": \"a\", \"b\": [1}", "expected ','"},
    {"{\"text\": \"a\", \"b\": [1,]}", "expected a value, found ']'"},
    {"{\"text\": \"a\", \"b\": 01}", "expected ','"},
    {"{\"text\": \"a\", \"b\": 1.}", "expected a digit"},
    {"{\"text\": \"a\", \"b\": -}", "expected a digit"},
    {"{\"text\": \"a\", \"b\": 1e}", "expected a digit"},
    {"{\"text\": \"a\", \"b\": nul}", "expected true, false or null"},
    {"{\"text\": \"a\", \"b\": NaN}", "expected a value"},
    {"{\"text\": \"\\x\"}", "after a backslash"},
    {"{\"text\": \"\\u12g4\"}", "4 hexadecimal digits"},
    {"{\"text\": \"\\ud83d\"}", "half a surrogate pair"},
    {"{\"text\": \"\\ud83d\\u0041\"}", "half a surrogate pair"},
    {"{\"text\": \"\\ude00\"}", "half a surrogate pair"},
    {"{\"text\": \"a\x01\"}", "found the byte 0x01"},
};

// One line that is not JSON Lines is named with its number, and so is what was expected there.
Test(text_source, bad_lines_are_named) {
  for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
    char contents[400];
    int count = 0;
    int length = snprintf(contents, sizeof contents, "{\"text\": \"first\"}\n\n%s\n", lines[i].line);
    if (lines[i].says == NULL) {
      cr_ok(read_contents("a.jsonl", contents, (size_t)length, &count));
      cr_assert_eq(count, 2, "%s", lines[i].line);
      cr_ok(read_contents("a.jsonl", contents, (size_t)length - 1, &count)); // no newline at the end
      cr_assert_eq(count, 2, "%s", lines[i].line);
      continue;
    }
    cr_fails(read_contents("a.jsonl", contents, (size_t)length, &count), NN_ERR_INPUT, lines[i].says);
    cr_assert_neq(read_contents("a.jsonl", contents, (size_t)length, &count), NN_OK);
    cr_assert_not_null(strstr(nn_error_text(), "a.jsonl: line 3: "), "%s: %s", lines[i].line,
                       nn_error_text());
    cr_assert_eq(count, 1);
    nn_error_clear();
  }
}

// What jansson takes and refuses, this reader takes and refuses: random changes to lines that were fine.
Test(text_source, agrees_with_jansson_on_damaged_lines) {
  static const char letters[] = "{}[]\",:\\u0019eE+-. \tntx";
  int refused = 0, taken = 0;
  for (int round = 0; round < 3000; round++) {
    char line[400];
    int count = 0;
    snprintf(line, sizeof line, "%s", lines[random_below(4)].line);
    for (uint32_t change = 1 + random_below(2); change > 0; change--)
      line[random_below((uint32_t)strlen(line))] = letters[random_below(sizeof letters - 1)];
    json_error_t error;
    json_t *object = json_loads(line, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    const json_t *text = json_object_get(object, "text");
    if (object == NULL || (json_is_string(text) && json_string_length(text) > 0)) {
      nn_status status = read_contents("a.jsonl", line, strlen(line), &count);
      // Jansson also refuses fields that stand twice elsewhere, and numbers beyond its own range.
      bool stricter = object == NULL && (json_error_code(&error) == json_error_duplicate_key ||
                                         json_error_code(&error) == json_error_numeric_overflow);
      cr_assert((status == NN_OK) == (object != NULL) || (stricter && status == NN_OK), "'%s': %s, seed %llu",
                line, nn_error_text(), (unsigned long long)test_seed);
      refused += status != NN_OK;
      taken += status == NN_OK;
      nn_error_clear();
    }
    json_decref(object);
  }
  cr_assert(refused > 100 && taken > 10, "%d refused, %d taken", refused, taken);
}

// Text that is not UTF-8 ends with file, line and byte; what is UTF-8 up to the last code point passes.
Test(text_source, only_utf8_passes) {
  static const struct {
    const char *bytes;
    bool valid;
  } cases[] = {
      {"\xC2\x80", true},
      {"\xDF\xBF", true},
      {"\xE0\xA0\x80", true},
      {"\xED\x9F\xBF", true},
      {"\xEE\x80\x80", true},
      {"\xF0\x90\x80\x80", true},
      {"\xF4\x8F\xBF\xBF", true},
      {"\x80", false},
      {"\xC0\x80", false},
      {"\xC1\xBF", false},
      {"\xE0\x9F\xBF", false},
      {"\xED\xA0\x80", false},
      {"\xF0\x8F\xBF\xBF", false},
      {"\xF4\x90\x80\x80", false},
      {"\xF5\x80\x80\x80", false},
      {"\xFF", false},
      {"\xC3(", false},
      {"\xE2\x82(", false},
      {"\xC3", false},
      {"\xE2\x82", false},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    char contents[600], place[100];
    int count = 0, front = (int)random_below(500);
    memset(contents, 'x', sizeof contents);
    contents[front / 2] = '\n';
    memcpy(contents + front, cases[i].bytes, strlen(cases[i].bytes));
    bool cut_off = i % 2 == 0 || front < 2; // with and without something behind
    size_t length = (size_t)front + strlen(cases[i].bytes) + (cut_off ? 0 : 10);
    nn_status status = read_contents("a.txt", contents, length, &count);
    cr_assert_eq(status, cases[i].valid ? NN_OK : NN_ERR_INPUT, "case %zu: %s", i, nn_error_text());
    snprintf(place, sizeof place, "a.txt: line %d, byte ", front > 0 ? 2 : 1);
    cr_assert(cases[i].valid || strstr(nn_error_text(), place) != NULL, "'%s' does not say '%s'",
              nn_error_text(), place);
    nn_error_clear();
  }
}

Test(text_source, other_files_are_refused) {
  data_text_source *source = NULL;
  cr_fails(data_text_source_open(scratch("a.csv"), "text", &source), NN_ERR_INPUT, "ends in .txt, .jsonl");
  cr_fails(data_text_source_open(scratch("none.txt"), "text", &source), NN_ERR_IO, "none.txt: cannot open");
  cr_fails(data_text_source_open(scratch("none.jsonl"), "", &source), NN_ERR_USAGE, "field");
  write_file(scratch("a.txt.zst"), "no such thing", 13);
#ifdef DATA_WITH_ZSTD
  char room[16];
  size_t count = 0;
  bool end = false;
  cr_ok(data_text_source_open(scratch("a.txt.zst"), "text", &source));
  cr_fails(data_text_source_read(source, room, sizeof room, &count, &end), NN_ERR_INPUT, "no Zstandard file");
  data_text_source_close(source);
#else
  cr_fails(data_text_source_open(scratch("a.txt.zst"), "text", &source), NN_ERR_UNSUPPORTED,
           "NATSFORMER_ZSTD");
#endif
}

#ifdef DATA_WITH_ZSTD
// Compresses a file into frames of about `frame` bytes each.
static size_t compress(const char *from, const char *to, size_t frame) {
  size_t bytes = 0, made = 0;
  char *text = read_file(from, &bytes);
  char *out = malloc(2 * bytes + 100000);
  for (size_t at = 0; at < bytes; at += frame) {
    size_t part = bytes - at < frame ? bytes - at : frame;
    size_t count = ZSTD_compress(out + made, ZSTD_compressBound(part), text + at, part, 3);
    cr_assert_not(ZSTD_isError(count));
    made += count;
  }
  write_file(to, out, made);
  free(out);
  free(text);
  return made;
}

Test(text_source, compressed_lines) {
  documents made = write_documents(scratch("a.jsonl"), 40, 20000);
  compress(scratch("a.jsonl"), scratch("one.jsonl.zst"), SIZE_MAX / 4);
  compress(scratch("a.jsonl"), scratch("many.jsonl.zst"), 70000);
  check_documents(scratch("one.jsonl.zst"), &made, 0, 0, 0);
  check_documents(scratch("many.jsonl.zst"), &made, 0, 0, 0);
  data_text_source *source = NULL;
  int64_t offset = 0, line = 0;
  cr_ok(data_text_source_open(scratch("a.jsonl"), "text", &source));
  for (int i = 0; i < 30; i++) {
    char *text = NULL;
    size_t bytes = 0;
    cr_ok(next_document(source, &text, &bytes));
    free(text);
  }
  data_text_source_tell(source, &offset, &line);
  data_text_source_close(source);
  check_documents(scratch("many.jsonl.zst"), &made, 30, offset, line);
  free_documents(&made);
}

// A download that was cut off is not a short corpus.
Test(text_source, a_cut_off_file_is_an_error) {
  documents made = write_documents(scratch("a.jsonl"), 10, 5000);
  size_t bytes = compress(scratch("a.jsonl"), scratch("a.jsonl.zst"), SIZE_MAX / 4);
  char *packed = read_file(scratch("a.jsonl.zst"), &bytes);
  int count = 0;
  cr_fails(read_contents("a.jsonl.zst", packed, bytes - 1 - random_below((uint32_t)bytes / 2), &count),
           NN_ERR_INPUT, "a.jsonl.zst: is cut off");
  free(packed);
  free_documents(&made);
}
#endif
