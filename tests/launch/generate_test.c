// `natsformer generate` from the outside, and the text that it streams.
#include <math.h> // NAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/eval/utf8_stream.h"
#include "nn/random.h"
#include "tests/launch/run_fixture.h"

TestSuite(generate, .init = run_fixture_open, .fini = run_fixture_close, .timeout = 240);

static void make_run(void) {
  run_make_text("data");
  launch_config config = run_config("data", "nats", 1);
  run_make("run", &config, 1, (double)NAN);
}

static char *text_of(const char *arguments) {
  char *out, *err;
  cr_assert_eq(run_program(0, arguments, &out, &err), 0, "%s\n%s", arguments, err);
  cr_expect_not_null(strstr(err, " tokens/s, cache "), "%s", err);
  free(err);
  return out;
}

static void expect_valid(const char *text, size_t bytes) {
  data_utf8 state = {0};
  cr_expect_eq(data_utf8_check(&state, text, bytes), bytes, "seed %llu", (unsigned long long)run_seed);
  cr_expect(data_utf8_complete(&state));
}

// Broken: a text cannot be made again, or what is printed is no text.
Test(generate, the_same_seed_writes_the_same_text) {
  make_run();
  char *first = text_of("generate run --prompt 'rank ' --tokens 100 --seed 5 --temperature 1");
  char *again = text_of("generate run --prompt 'rank ' --tokens 100 --seed 5 --temperature 1");
  char *other = text_of("generate run --prompt 'rank ' --tokens 100 --seed 6 --temperature 1");
  cr_expect_str_eq(first, again);
  cr_expect_str_neq(first, other);
  expect_valid(first, strlen(first));
  free(first);
  free(again);
  free(other);
}

// Broken: the text depends on whether the prompt came from a file, or greedy text on the seed.
Test(generate, the_same_prompt_writes_the_same_text) {
  make_run();
  const char *prompt = "window key \xE2\x82\xAC";
  FILE *file = fopen(run_path("prompt"), "w");
  fputs(prompt, file);
  fclose(file);
  char command[256];
  snprintf(command, sizeof command, "generate run --prompt '%s' --tokens 30 --temperature 0 --seed 1",
           prompt);
  char *typed = text_of(command);
  char *stored = text_of("generate run --prompt-file prompt --tokens 30 --temperature 0 --seed 2");
  char *narrow = text_of("generate run --prompt-file prompt --tokens 30 --top-k 1 --seed 3");
  cr_expect_str_eq(typed, stored);
  cr_expect_str_eq(typed, narrow);
  free(typed);
  free(stored);
  free(narrow);
}

// Broken: a report says more tokens than were written, or a cache larger than a dense one.
Test(generate, the_report_adds_up) {
  make_run();
  json_t *report = run_json(0, "generate run --prompt 'rank' --tokens 60 --temperature 0 --json");
  cr_expect_eq(run_number(report, "prompt_tokens"), 4);
  cr_expect_leq(run_number(report, "tokens"), 60);
  cr_expect_leq(run_number(report, "kv_bytes"), run_number(report, "kv_bytes_peak"));
  cr_expect_leq(run_number(report, "kv_fraction"), 1);
  const json_t *text = json_object_get(report, "text");
  expect_valid(json_string_value(text), json_string_length(text));
  json_decref(report);
  report = run_json(0, "generate run --tokens 20 --temperature 0 --policy dense --json");
  cr_expect_eq(run_number(report, "prompt_tokens"), 1, "a new document begins behind an end of text");
  cr_expect_eq(run_number(report, "kv_fraction"), 1);
  cr_expect_eq(run_number(report, "kv_bytes"), run_number(report, "kv_bytes_dense"));
  json_decref(report);
}

static void expect_failure(int ranks, const char *arguments, int code, const char *says) {
  char *out, *err;
  cr_expect_eq(run_program(ranks, arguments, &out, &err), code, "%s\n%s", arguments, err);
  cr_expect_not_null(strstr(err, says), "%s: expected '%s' in\n%s", arguments, says, err);
  cr_expect_str_empty(out, "%s", arguments);
  free(out);
  free(err);
}

// Broken: whoever mistypes gets text from another setting, or no message.
Test(generate, says_what_is_wrong) {
  make_run();
  run_make_mqar("recall");
  launch_config config = run_config("recall", "dense", 1);
  run_make("synthetic", &config, 1, (double)NAN);
  expect_failure(0, "generate", 2, "expected one run folder");
  expect_failure(0, "generate run --top-p 1.5", 2, "--top-p: expected a number from");
  expect_failure(0, "generate run --prompt a --prompt-file b", 2, "expected one of them");
  expect_failure(0, "generate run --prompt-file nothing", 1, "nothing: cannot open");
  expect_failure(0, "generate run --prompt \"$(printf 'a\\377b')\"", 1,
                 "--prompt: expected UTF-8, byte 1 is none");
  expect_failure(0, "generate synthetic", 1, "synthetic: was trained on synthetic tokens");
  expect_failure(2, "generate run", 2, "expected one rank, found 2");
}

// Broken: text that was valid comes out changed when tokens end inside of characters.
Test(generate, text_survives_any_cutting) {
  static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x8C\x8Dz\0\xED\x9F\xBF\xF4\x8F\xBF\xBF";
  for (uint64_t round = 0; round < 200; round++) {
    char *out;
    size_t bytes;
    launch_utf8_stream stream = {.out = open_memstream(&out, &bytes)};
    for (size_t at = 0, count; at < sizeof text; at += count) {
      uint32_t bits[4];
      nn_random_u32x4(nn_random_key_make(run_seed, NN_RANDOM_TEST, round, 0), 0, at, bits);
      count = 1 + bits[0] % 6;
      count = count < sizeof text - at ? count : sizeof text - at;
      launch_utf8_put(&stream, text + at, count);
    }
    launch_utf8_end(&stream);
    fclose(stream.out);
    cr_assert(bytes == sizeof text && memcmp(out, text, bytes) == 0);
    free(out);
  }
}

// Broken: what a model writes in the middle of training breaks the terminal or the reader of --json.
Test(generate, any_bytes_become_valid_text) {
  for (uint64_t round = 0; round < 200; round++) {
    char *out, input[64];
    size_t bytes, valid = 0;
    for (size_t i = 0; i < sizeof input; i++) {
      uint32_t bits[4];
      nn_random_u32x4(nn_random_key_make(run_seed, NN_RANDOM_TEST, round, 1), 0, i, bits);
      input[i] = (char)(bits[0] % 2 == 0 ? 0x80 + bits[1] % 0x80 : 0xC0 + bits[1] % 0x40);
    }
    launch_utf8_stream stream = {.out = open_memstream(&out, &bytes)};
    launch_utf8_put(&stream, input, sizeof input);
    launch_utf8_end(&stream);
    fclose(stream.out);
    expect_valid(out, bytes);
    for (size_t i = 0; i < bytes; i++)
      valid += (out[i] & 0xC0) != 0x80;
    cr_expect_gt(valid, 0);
    free(out);
  }
  static const char mixed[] = "a\xE2\x82"
                              "b\xFF\xC3\xA9\xF0\x9F";
  char *out;
  size_t bytes;
  launch_utf8_stream stream = {.out = open_memstream(&out, &bytes)};
  launch_utf8_put(&stream, mixed, sizeof mixed - 1);
  launch_utf8_end(&stream);
  fclose(stream.out);
  cr_expect_str_eq(out, "a\xEF\xBF\xBD"
                        "b\xEF\xBF\xBD\xC3\xA9\xEF\xBF\xBD");
  free(out);
}
