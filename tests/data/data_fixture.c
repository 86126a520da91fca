#include "tests/data/data_fixture.h"

#include <dirent.h> // opendir
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "data/files.h"
#include "data/utf8.h"
#include "dist/group_table.h" // dist_self_open
#include "nn/random.h"
#include "tests/nn/fresh_seed.h"

uint64_t test_seed;
dist_group *alone;
static char folder[256];
static uint64_t drawn;

void scratch_open(void) {
  const char *parent = getenv("TMPDIR");
  test_seed = fresh_seed();
  drawn = 0;
  snprintf(folder, sizeof folder, "%s/natsformer-data-XXXXXX", parent != NULL ? parent : "/tmp");
  cr_assert_not_null(mkdtemp(folder));
  cr_ok(dist_self_open(&alone));
}

void scratch_close(void) {
  dist_group_free(alone);
  cr_ok(data_folder_remove(folder));
}

const char *scratch(const char *name) {
  static char paths[16][512];
  static int next = 0;
  char *path = paths[next++ % 16];
  snprintf(path, sizeof paths[0], "%s/%s", folder, name);
  return path;
}

void write_file(const char *path, const void *bytes, size_t count) {
  FILE *file = fopen(path, "wb"); // data_file_write would wait for the disk, thousands of times
  cr_assert_not_null(file);
  cr_assert_eq(fwrite(bytes, 1, count, file), count);
  cr_assert_eq(fclose(file), 0);
}

char *read_file(const char *path, size_t *count) {
  char *bytes = NULL;
  cr_ok(data_file_read(path, &bytes, count));
  return bytes;
}

static bool is_name(const struct dirent *entry) {
  return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

int count_files(const char *path) {
  DIR *list = opendir(path);
  int count = 0;
  if (list == NULL)
    return 0;
  for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list))
    count += is_name(entry);
  closedir(list);
  return count;
}

void check_same_folder(const char *a, const char *b) {
  cr_assert_eq(count_files(a), count_files(b), "%s has %d files, %s %d", a, count_files(a), b,
               count_files(b));
  DIR *list = opendir(a);
  cr_assert_not_null(list);
  for (struct dirent *entry = readdir(list); entry != NULL; entry = readdir(list)) {
    if (!is_name(entry))
      continue;
    char path_a[600], path_b[600];
    size_t count_a = 0, count_b = 0;
    snprintf(path_a, sizeof path_a, "%s/%s", a, entry->d_name);
    snprintf(path_b, sizeof path_b, "%s/%s", b, entry->d_name);
    char *bytes_a = read_file(path_a, &count_a), *bytes_b = read_file(path_b, &count_b);
    cr_assert(count_a == count_b && memcmp(bytes_a, bytes_b, count_a) == 0, "%s and %s differ, seed %llu",
              path_a, path_b, (unsigned long long)test_seed);
    free(bytes_a);
    free(bytes_b);
  }
  closedir(list);
}

uint32_t random_below(uint32_t count) {
  uint32_t numbers[4];
  nn_random_u32x4(nn_random_key_make(test_seed, NN_RANDOM_TEST, 0, 0), 0, drawn++, numbers);
  return (uint32_t)((uint64_t)numbers[0] * count >> 32);
}

// Something to write next; returns its length.
static size_t random_piece(char *out) {
  static const char *const pieces[] = {"the ",
                                       "it's",
                                       " don't",
                                       "I'LL ",
                                       "we've",
                                       "'s",
                                       "''",
                                       " x",
                                       "  ",
                                       "   ",
                                       "\n",
                                       "\n\n",
                                       "\t",
                                       "\r\n",
                                       "1234",
                                       " 56",
                                       "3.14",
                                       "!?",
                                       "...",
                                       " (",
                                       ")",
                                       "\"",
                                       "<|endoftext|>",
                                       "</s>",
                                       "<0x41>",
                                       "\xC3\xA9",
                                       "e\xCC\x81",
                                       "\xE6\xBC\xA2\xE5\xAD\x97",
                                       "\xE3\x80\x82",
                                       "\xF0\x9F\x98\x80",
                                       "\xE2\x96\x81",
                                       "\xC2\xA0",
                                       "\xE3\x80\x80",
                                       "\xE1\xA0\x8E",
                                       "\xC2\xB2",
                                       "\x01",
                                       "\x7F",
                                       "\xEF\xBB\xBF",
                                       "\xE2\x80\xA8"};
  uint32_t kind = random_below(80);
  if (kind < 32) { // a word of few letters, so that words repeat
    size_t length = 1 + random_below(6);
    for (size_t i = 0; i < length; i++)
      out[i] = (char)('a' + random_below(5));
    out[length] = ' ';
    return length + 1;
  }
  if (kind == 32) { // any character
    uint32_t point = random_below(0x10FFFF + 1);
    return data_utf8_put(point >= 0xD800 && point < 0xE000 ? 'z' : point, out);
  }
  const char *piece = pieces[random_below(sizeof pieces / sizeof *pieces)];
  memcpy(out, piece, strlen(piece));
  return strlen(piece);
}

char *random_text(size_t count, size_t *bytes) {
  char *text = malloc(count + 32);
  *bytes = 0;
  while (*bytes < count)
    *bytes += random_piece(text + *bytes);
  text[*bytes] = '\0';
  return text;
}

documents write_documents(const char *path, int count, size_t size) {
  documents made = {.count = count,
                    .texts = calloc((size_t)count, sizeof *made.texts),
                    .bytes = calloc((size_t)count, sizeof *made.bytes)};
  FILE *file = fopen(path, "w");
  cr_assert_not_null(file);
  for (int i = 0; i < count; i++) {
    made.texts[i] = random_text(1 + random_below((uint32_t)(2 * size)), &made.bytes[i]);
    json_t *line = json_pack("{s:i, s:s%, s:[i, {s:s}]}", "id", i, "text", made.texts[i], made.bytes[i],
                             "more", 1, "text", "not this one");
    cr_assert_not_null(line);
    json_dumpf(line, file, random_below(2) ? JSON_ENSURE_ASCII : JSON_COMPACT);
    fputc('\n', file);
    json_decref(line);
  }
  fclose(file);
  return made;
}

void free_documents(documents *made) {
  for (int i = 0; i < made->count; i++)
    free(made->texts[i]);
  free(made->texts);
  free(made->bytes);
}

build_call simple_build(const char *input, const char *out) {
  return (build_call){
      .inputs = {input},
      .build = {.input_count = 1, .field = "text", .tokenizer = "byte", .folder = out, .seed = 1}};
}

// ---- GPT-2

// A byte as GPT-2's files spell it.
static size_t spell(int byte, char *out) {
  if ((byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE)
    return data_utf8_put((uint32_t)byte, out);
  int place = byte <= ' ' ? byte : byte <= 0xA0 ? byte - 0x7F + 33 : 67;
  return data_utf8_put((uint32_t)(0x100 + place), out);
}

// In spelling: U+0120 is the space, U+010A the newline.
#define SP "\xC4\xA0"
#define NL "\xC4\x8A"
static const char *const merges[][2] = {
    {"'", "s"},   {"'", "S"}, {"a", "1"},        {"!", "'"},        {SP, SP},          {SP, "b"},
    {NL, NL},     {"1", "2"}, {"1", "\xC3\x82"}, {"e", "\xC3\x8C"}, {"\xC4\xB0", "!"}, {"a", "b"},
    {"ab", "ab"}, {"t", "h"}, {"th", "e"},       {SP, "the"},       {"a", "a"},        {"aa", "a"},
    {"c", "d"},   {"b", "c"}, {"cd", "e"},
};

const char *write_gpt2_files(void) {
  static char spec[1100];
  json_t *vocab = json_object();
  char text[64];
  int token = 0;
  for (int byte = 0; byte < 256; byte++) {
    text[spell(byte, text)] = '\0';
    json_object_set_new(vocab, text, json_integer(token++));
  }
  FILE *file = fopen(scratch("merges.txt"), "w");
  fputs("#version: 0.2\n", file);
  for (size_t i = 0; i < sizeof merges / sizeof *merges; i++) {
    snprintf(text, sizeof text, "%s%s", merges[i][0], merges[i][1]);
    json_object_set_new(vocab, text, json_integer(token++));
    fprintf(file, "%s %s\n", merges[i][0], merges[i][1]);
  }
  fclose(file);
  json_object_set_new(vocab, "<|endoftext|>", json_integer(token++));
  cr_assert_eq(json_dump_file(vocab, scratch("vocab.json"), random_below(2) ? JSON_ENSURE_ASCII : 0), 0);
  json_decref(vocab);
  snprintf(spec, sizeof spec, "gpt2:%s,%s", scratch("vocab.json"), scratch("merges.txt"));
  return spec;
}
