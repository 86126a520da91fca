// Recall tasks. When these fail, a model is scored on answers that it cannot know, or that a window gives
// away.
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/synth.h"
#include "tests/data/data_fixture.h"

TestSuite(synth, .init = scratch_open, .fini = scratch_close);

enum { LENGTH = 96, SAMPLES = 300 };
static int32_t tokens[SAMPLES][LENGTH], labels[SAMPLES][LENGTH];

static data_synth common(const char *folder) {
  return (data_synth){.folder = folder,
                      .seed = test_seed >> 1,
                      .samples = SAMPLES,
                      .val_samples = 20,
                      .length = LENGTH,
                      .vocab = 64,
                      .window = 16};
}

static void load(const char *folder, const char *split, int count) {
  data_set *set = NULL;
  data_loader *loader = NULL;
  cr_ok(data_set_open(folder, split, &set));
  cr_assert_eq(data_set_documents(set), count);
  cr_assert_str_eq(data_set_tokenizer_kind(set), "none");
  cr_ok(data_loader_create(set, DATA_SAMPLE_DOCUMENT, LENGTH, 1, false, &loader));
  cr_ok(data_loader_read(loader, 0, count, tokens[0], labels[0], NULL, NULL, NULL));
  data_loader_free(loader);
  data_set_close(set);
}

// Every query shows a key that was given, its label is the value given with it, and the distance is beyond
// the window; nothing else is scored.
Test(synth, mqar_asks_for_what_was_given) {
  enum { PAIRS = 12, QUERIES = 20, KEYS = 16 };
  const data_synth synth = common(scratch("task"));
  const data_synth_mqar mqar = {.pairs = PAIRS, .queries = QUERIES};
  int nearest = LENGTH, farthest = 0, answers[KEYS] = {0};
  cr_ok(data_synth_write_mqar(alone, &synth, &mqar, NULL));
  load(scratch("task"), "train", SAMPLES);
  for (int s = 0; s < SAMPLES; s++) {
    int asked[KEYS] = {0}, value[KEYS], place[KEYS], queries = 0;
    memset(value, -1, sizeof value);
    for (int i = 0; i < PAIRS; i++) {
      int32_t key = tokens[s][2 * i];
      cr_assert(key >= 0 && key < KEYS && value[key] < 0, "keys differ");
      value[key] = tokens[s][2 * i + 1];
      place[key] = 2 * i + 1;
      cr_assert(value[key] >= KEYS && value[key] < 2 * KEYS);
      cr_assert(labels[s][2 * i] == -1 && labels[s][2 * i + 1] == -1);
    }
    for (int t = 2 * PAIRS; t < LENGTH; t++) {
      int32_t token = tokens[s][t];
      if (labels[s][t] < 0) {
        cr_assert(token >= 2 * KEYS && token < 64, "filler is filler, seed %llu",
                  (unsigned long long)test_seed);
        continue;
      }
      cr_assert(token < KEYS && value[token] == labels[s][t]);
      cr_assert_gt(t - place[token], 16);
      nearest = t - place[token] < nearest ? t - place[token] : nearest;
      farthest = t - place[token] > farthest ? t - place[token] : farthest;
      answers[labels[s][t] - KEYS]++;
      asked[token]++;
      queries++;
    }
    cr_assert_eq(queries, QUERIES);
    for (int key = 0; key < KEYS; key++)
      cr_assert(value[key] < 0 ? asked[key] == 0 : asked[key] == 1 || asked[key] == 2);
  }
  // Distances reach from just beyond the window to the whole document, and no answer is much more common.
  cr_assert(nearest < 20 && farthest > LENGTH - 8, "%d to %d", nearest, farthest);
  for (int i = 0; i < KEYS; i++)
    cr_assert(answers[i] > 200 && answers[i] < 600, "answer %d: %d of %d", i, answers[i], SAMPLES * QUERIES);
}

static int find(const int32_t *row, int32_t token) {
  for (int t = 0; t < LENGTH; t++)
    if (row[t] == token)
      return t;
  return -1;
}

// The needle stands once, beyond the window of its question; only its digits are scored.
static void check_passkeys(double depth, int count, int digits, int *least, int *most) {
  *least = LENGTH;
  *most = 0;
  for (int s = 0; s < count; s++) {
    int needle = find(tokens[s], 10), ask = find(tokens[s], 11);
    cr_assert_eq(ask, LENGTH - digits);
    cr_assert(needle >= 0 && ask - (needle + digits) > 16, "depth %g, needle at %d", depth, needle);
    for (int t = 0; t < LENGTH; t++) {
      bool answer = t >= ask, digit = (t > needle && t <= needle + digits) || t > ask;
      cr_assert_eq(labels[s][t], answer ? tokens[s][needle + 1 + t - ask] : -1);
      cr_assert(digit ? tokens[s][t] < 10 : tokens[s][t] >= 12 || t == needle || t == ask);
      cr_assert(t <= ask || tokens[s][t] == labels[s][t - 1]);
    }
    *least = needle < *least ? needle : *least;
    *most = needle > *most ? needle : *most;
  }
}

Test(synth, passkey_hides_a_needle) {
  enum { DIGITS = 4, LAST = LENGTH - 2 * DIGITS - 16 - 1 };
  data_synth synth = common(scratch("task"));
  data_synth_passkey passkey = {.digits = DIGITS, .depth = -1};
  int least = 0, most = 0;
  cr_ok(data_synth_write_passkey(alone, &synth, &passkey, NULL));
  load(scratch("task"), "train", SAMPLES);
  check_passkeys(-1, SAMPLES, DIGITS, &least, &most);
  cr_assert(least <= 5 && most >= LAST - 5, "needles from %d to %d", least, most);
  synth.force = true;
  passkey.depth = 0;
  cr_ok(data_synth_write_passkey(alone, &synth, &passkey, NULL));
  load(scratch("task"), "val", 20);
  check_passkeys(0, 20, DIGITS, &least, &most);
  cr_assert(least == 0 && most == 0);
  passkey.depth = 1;
  cr_ok(data_synth_write_passkey(alone, &synth, &passkey, NULL));
  load(scratch("task"), "val", 20);
  check_passkeys(1, 20, DIGITS, &least, &most);
  cr_assert(least == LAST && most == LAST);
}

// The validation split is not the beginning of the training split, and another seed gives another set.
Test(synth, samples_differ) {
  data_synth synth = common(scratch("task"));
  const data_synth_mqar mqar = {.pairs = 8, .queries = 8};
  int32_t train[LENGTH], val[LENGTH];
  cr_ok(data_synth_write_mqar(alone, &synth, &mqar, NULL));
  load(scratch("task"), "val", 20);
  memcpy(val, tokens[0], sizeof val);
  load(scratch("task"), "train", SAMPLES);
  memcpy(train, tokens[0], sizeof train);
  cr_assert_neq(memcmp(train, val, sizeof train), 0);
  cr_assert_neq(memcmp(train, tokens[1], sizeof train), 0);
  synth.force = true;
  synth.seed++;
  cr_ok(data_synth_write_mqar(alone, &synth, &mqar, NULL));
  load(scratch("task"), "train", SAMPLES);
  cr_assert_neq(memcmp(train, tokens[0], sizeof train), 0);
}

// Tasks that cannot be made are refused with what would be needed, before anything is written.
Test(synth, impossible_tasks_are_refused) {
  data_synth synth = common(scratch("task"));
  data_synth_mqar mqar = {.pairs = 17, .queries = 17};
  data_synth_passkey passkey = {.digits = 40, .depth = -1};
  cr_fails(data_synth_write_mqar(alone, &synth, &mqar, NULL), NN_ERR_USAGE, "has 16 keys");
  mqar.pairs = mqar.queries = 16;
  synth.length = 2 * 16 + 16 + 15;
  cr_fails(data_synth_write_mqar(alone, &synth, &mqar, NULL), NN_ERR_USAGE, "at least 64 are needed");
  cr_fails(data_synth_write_passkey(alone, &synth, &passkey, NULL), NN_ERR_USAGE,
           "do not fit into 63 tokens");
  passkey.digits = 3;
  passkey.depth = 1.5;
  cr_fails(data_synth_write_passkey(alone, &synth, &passkey, NULL), NN_ERR_USAGE, "depth is 1.5");
  synth.vocab = 12;
  passkey.depth = 0;
  cr_fails(data_synth_write_passkey(alone, &synth, &passkey, NULL), NN_ERR_USAGE, "at least 13");
  synth.samples = 0;
  cr_fails(data_synth_write_mqar(alone, &synth, &mqar, NULL), NN_ERR_USAGE, "0 samples");
  cr_assert_eq(count_files(scratch("task")), 0);
  // The tightest one that is possible is made.
  data_synth tight = common(scratch("task"));
  tight.length = 2 * 16 + 16 + 16;
  cr_ok(data_synth_write_mqar(alone, &tight, &mqar, NULL));
}
