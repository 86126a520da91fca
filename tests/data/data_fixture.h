// What the tests of data sets share: a folder of their own, files in it, and random text that is hard to
// tokenise.
#pragma once

#include <criterion/criterion.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "data/build.h"
#include "dist/group.h"
#include "nn/status.h"

#define cr_ok(expression)                                                                                    \
  cr_assert_eq((expression), NN_OK, "%s (%s), seed %llu", nn_error_text(), nn_error_place(),                 \
               (unsigned long long)test_seed)

// `expression` fails with `code` and a text that contains `words`.
#define cr_fails(expression, code, words)                                                                    \
  do {                                                                                                       \
    nn_error_clear();                                                                                        \
    nn_status failed_ = (expression);                                                                        \
    cr_assert_eq(failed_, (code), "status %s: %s", nn_status_name(failed_), nn_error_text());                \
    cr_assert_not_null(strstr(nn_error_text(), (words)), "'%s' does not say '%s'", nn_error_text(),          \
                       (words));                                                                             \
    nn_error_clear();                                                                                        \
  } while (0)

extern uint64_t test_seed;
extern dist_group *alone; // this process

void scratch_open(void); // and the group, for .init
void scratch_close(void);
// FOLDER/name; valid for the next 16 calls.
const char *scratch(const char *name);

void write_file(const char *path, const void *bytes, size_t count);
char *read_file(const char *path, size_t *count);
// The two folders hold files of the same names and bytes.
void check_same_folder(const char *a, const char *b);
int count_files(const char *folder); // hidden ones too

// A number below `count`; calls follow each other from test_seed.
uint32_t random_below(uint32_t count);
// About `count` bytes of valid UTF-8: words, contractions, runs of spaces and newlines, digits, accents,
// combining marks, CJK, emoji, U+2581, control characters. malloc'ed, with a zero byte behind it.
char *random_text(size_t count, size_t *bytes);

// Writes lines of {"id": ..., "text": ...}; the lengths are drawn around `size`. The texts are kept for the
// caller: malloc'ed array of malloc'ed texts.
typedef struct {
  int count;
  char **texts;
  size_t *bytes;
} documents;
documents write_documents(const char *path, int count, size_t size);
void free_documents(documents *made);

// A build with byte tokens of one input file into `folder`; the caller changes what it needs.
typedef struct {
  const char *inputs[4], *val_inputs[4];
  data_build build;
} build_call;
build_call simple_build(const char *input, const char *folder);

// GPT-2 files with all bytes and some merges: scratch "vocab.json" and "merges.txt". Returns the spec.
const char *write_gpt2_files(void);
