// `natsformer eval --types`: the page against the model that it shows. What its JavaScript computes is
// checked where an engine is found.
#include <jansson.h>
#include <math.h> // NAN
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/files.h"
#include "nn/random.h"
#include "tests/launch/run_fixture.h"

TestSuite(types_page, .init = run_fixture_open, .fini = run_fixture_close, .timeout = 120);

// The page in `file`, as text; free it.
static char *read_page(const char *file) {
  char *page;
  size_t bytes;
  cr_ok(data_file_read(run_path(file), &page, &bytes));
  cr_assert_eq(strlen(page), bytes, "a NUL in %s", file);
  return page;
}

// The page's data; free it.
static char *page_data(const char *file) {
  const char *mark = "<script type=\"application/json\" id=\"data\">";
  char *page = read_page(file), *from = strstr(page, mark);
  cr_assert_not_null(from);
  from += strlen(mark);
  char *data = strndup(from, (size_t)(strstr(from, "</script>") - from));
  free(page);
  return data;
}

// The same as an object; free it with json_decref.
static json_t *page_object(const char *file) {
  char *data = page_data(file);
  json_t *object = json_loads(data, JSON_REJECT_DUPLICATES, NULL);
  cr_assert(json_is_object(object), "%s", data);
  free(data);
  return object;
}

// A line of the script: a page, the pairs that the model saw, and the text that a reader sees (JSON or null).
static void put_page(FILE *script, const char *arguments, const char *shown) {
  char command[256];
  snprintf(command, sizeof command, "eval run --types page.html --json %s", arguments);
  json_t *report = run_json(0, command);
  char *data = page_data("page.html");
  fprintf(script, "{visible: %.0f, shown: %s, page: %s},\n", run_number(report, "visible_pairs"), shown,
          data);
  free(data);
  json_decref(report);
}

// ---- expiries

enum { LONGEST = 40 };

// Types and expiries of one head as the model's operators choose them, as a line of the script.
static void put_case(FILE *script, nn_device *device, uint64_t index, int32_t length, int32_t chunk,
                     int32_t window) {
  float logits[LONGEST * NATS_TYPES];
  uint8_t types[LONGEST];
  int32_t expiry[LONGEST], chunks = nats_chunks(length, chunk);
  for (uint64_t i = 0; i < LONGEST * NATS_TYPES; i++) {
    uint32_t bits[4];
    nn_random_u32x4(nn_random_key_make(run_seed, NN_RANDOM_TEST, index, 1), 0, i, bits);
    logits[i] = (float)(bits[0] % 1000);
  }
  nats_types op = {.batch = 1,
                   .length = length,
                   .kv_heads = 1,
                   .chunk = chunk,
                   .window = window,
                   .kind = NATS_ATTENTION_NATS,
                   .mode = NATS_TYPES_ARGMAX,
                   .tau = 1,
                   .logits = logits,
                   .types = types,
                   .expiry = expiry};
  cr_ok(nats_types_forward(device, &op));
  fprintf(script, "{length: %d, chunk: %d, window: %d, types: \"", length, chunk, window);
  for (int32_t a = 0; a < chunks; a++)
    putc((a + 1) * chunk > length ? '-' : "glw"[types[a]], script);
  fprintf(script, "\", expiry: [");
  for (int32_t j = 0; j < length; j++)
    fprintf(script, j > 0 ? ",%d" : "%d", expiry[j]);
  fprintf(script, "]},\n");
}

static void put_cases(FILE *script) {
  static const int32_t chunks[] = {1, 1, 3, 8, 50}, windows[] = {0, 1, 5, 60};
  nn_device *device;
  uint64_t index = 0;
  cr_ok(nn_device_open("cpu", "auto", 0, &device));
  fprintf(script, "var cases = [\n");
  for (int32_t length = 1; length <= LONGEST; length += 13)
    for (size_t c = 0; c < sizeof chunks / sizeof *chunks; c++)
      for (size_t w = 0; w < sizeof windows / sizeof *windows; w++)
        put_case(script, device, index++, length, chunks[c], windows[w]);
  fprintf(script, "];\n");
  nn_device_close(device);
}

// ---- the tests

static const char nasty[] = "a</script><!-- <b>\n\xC3\xA9\x01&\xF0\x9F\x8C\x8D\t\"\\";
static const char nasty_shown[] = "\"a</script><!-- <b>\\u21B5\\n\xC3\xA9\\u25C2\\u2401&\xF0\x9F\x8C\x8D"
                                  "\\u25C2\\u25C2\\u25C2\\u21E5\\\"\\\\\"";

static void make_run(int32_t chunk) {
  run_make_text("data");
  launch_config config = run_config("data", "nats", chunk);
  run_make("run", &config, 1, (double)NAN);
  cr_ok(data_file_write(run_path("nasty.txt"), nasty, strlen(nasty)));
}

// Broken: the page shows another cache than the model has, or other characters than the text.
Test(types_page, shows_what_the_model_sees) {
#ifndef TEST_JAVASCRIPT
  cr_skip_test("no JavaScript engine (node or duk) when the build was configured");
#else
  char command[1200];
  make_run(5);
  FILE *script = fopen(run_path("check.js"), "w");
  cr_assert_not_null(script);
  put_cases(script);
  fprintf(script, "var pages = [\n");
  put_page(script, "--text nasty.txt", nasty_shown);
  put_page(script, "--text nasty.txt --length 10", "\"a</script>\"");
  put_page(script, "--sample 3", "null");
  put_page(script, "--split train --sample 1 --length 33", "null");
  fprintf(script, "];\n");
  fclose(script);
  snprintf(command, sizeof command,
           "cd '%s' && cat check.js '" TEST_SOURCE "/launch/eval/types_page/cache.js' '" TEST_SOURCE
           "/tests/launch/types_page_check.js' >all.js && " TEST_JAVASCRIPT " all.js",
           run_folder);
  cr_expect_eq(system(command), 0, "seed %llu", (unsigned long long)run_seed);
#endif
}

static int count(const char *page, const char *part) {
  int found = 0;
  for (; (page = strstr(page, part)) != NULL; page++)
    found++;
  return found;
}

// Broken: a text with markup in it changes the page; the page loads something from elsewhere.
Test(types_page, is_one_file_that_no_text_breaks) {
  make_run(1);
  cr_assert_eq(run_program(0, "eval run --types page.html --text nasty.txt", NULL, NULL), 0);
  char *page = read_page("page.html");
  cr_expect_eq(count(page, "</script"), 2, "data and program");
  cr_expect_eq(count(page, "<!--"), 0);
  cr_expect_eq(count(page, "http"), 1, "`http-equiv` of the policy, no address");
  cr_expect_eq(count(page, "src=") + count(page, "href="), 0);
  cr_expect_eq(count(page, "@STYLE@") + count(page, "@SCRIPT@") + count(page, "@DATA@"), 0);
  json_t *data = page_object("page.html");
  cr_expect_eq(json_array_size(json_object_get(data, "tokens")), strlen(nasty));
  json_decref(data);
  free(page);
}

// Broken: tokens of a recall task, which are no text, cannot be shown.
Test(types_page, shows_synthetic_tokens_by_number) {
  run_make_mqar("data");
  launch_config config = run_config("data", "nats", 1);
  snprintf(config.data.sample, sizeof config.data.sample, "document");
  run_make("run", &config, 1, (double)NAN);
  json_decref(run_json(0, "eval run --types page.html --json"));
  json_t *data = page_object("page.html");
  cr_assert_eq(json_array_size(json_object_get(data, "tokens")), 64);
  cr_expect(json_is_integer(json_array_get(json_object_get(data, "tokens"), 5)));
  json_decref(data);
}

static void expect_refusal(int ranks, const char *arguments, int code, const char *says) {
  char *err;
  cr_expect_eq(run_program(ranks, arguments, NULL, &err), code, "%s\n%s", arguments, err);
  cr_expect_not_null(strstr(err, says), "%s: expected '%s' in\n%s", arguments, says, err);
  cr_expect_neq(access(run_path("page.html"), F_OK), 0, "%s leaves a page", arguments);
  free(err);
}

// Broken: whoever mistypes gets a page about something else, or a part of one.
Test(types_page, refuses_what_it_cannot_show) {
  make_run(1);
  expect_refusal(0, "eval run --text nasty.txt", 2, "--text: expected --types beside it");
  expect_refusal(0, "eval run --sample 1", 2, "--sample: expected --types beside it");
  expect_refusal(0, "eval run --types page.html --policy dense", 2, "expected no --policy");
  expect_refusal(0, "eval run --types page.html --text nasty.txt --sample 1", 2, "expected no --sample");
  expect_refusal(0, "eval run --types page.html --sample 100000", 2, "--sample: expected 0 to");
  expect_refusal(0, "eval run --types page.html --length 5000", 2, "at most 4096 tokens");
  expect_refusal(0, "eval run --types page.html --text nothing.txt", 1, "nothing.txt");
  expect_refusal(2, "eval run --types page.html", 2, "expected one rank");
  cr_ok(data_file_write(run_path("nasty.txt"), "\xC3(", 2));
  expect_refusal(0, "eval run --types page.html --text nasty.txt", 1, "nasty.txt: expected UTF-8");
  cr_ok(data_file_write(run_path("nasty.txt"), "", 0));
  expect_refusal(0, "eval run --types page.html --text nasty.txt", 1, "nasty.txt: expected a text");
  launch_config config = run_config("data", "window", 1);
  run_make("window", &config, 1, (double)NAN);
  expect_refusal(0, "eval window --types page.html", 2,
                 "expected a model with token types, window is a window one");
}
