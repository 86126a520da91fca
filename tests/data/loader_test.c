// Samples. When these fail, a run sees other tokens than it should, in another order, or does not continue
// where it stopped; or damage is trained on.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/synth.h"
#include "tests/data/data_fixture.h"

enum { DOCUMENTS = 40, T = 32 };

static documents made;
static data_set *set;
static int32_t *stream; // all tokens of the split
static int64_t stream_tokens;

// Byte tokens in several shards, whose ends fall within samples.
static void open_set(void) {
  scratch_open();
  made = write_documents(scratch("a.jsonl"), DOCUMENTS, 150);
  build_call call = simple_build(scratch("a.jsonl"), scratch("set"));
  call.build.inputs = call.inputs;
  call.build.shard_bytes = 500;
  cr_ok(data_build_run(alone, &call.build, NULL));
  cr_ok(data_set_open(scratch("set"), "train", &set));
  stream_tokens = 0;
  for (int i = 0; i < DOCUMENTS; i++)
    stream_tokens += (int64_t)made.bytes[i] + 1;
  stream = malloc((size_t)stream_tokens * sizeof *stream);
  int64_t at = 0;
  for (int i = 0; i < DOCUMENTS; i++) {
    for (size_t b = 0; b < made.bytes[i]; b++)
      stream[at++] = (unsigned char)made.texts[i][b];
    stream[at++] = 256;
  }
}

static void close_set(void) {
  data_set_close(set);
  free(stream);
  free_documents(&made);
  scratch_close();
}

TestSuite(loader, .init = open_set, .fini = close_set);

static data_loader *open_loader(data_sample_kind kind, int32_t length, uint64_t seed, bool shuffle) {
  data_loader *loader = NULL;
  cr_ok(data_loader_create(set, kind, length, seed, shuffle, &loader));
  return loader;
}

// Windows follow each other through documents and shards; nothing is left out but the incomplete end.
Test(loader, stream_is_the_text) {
  data_loader *loader = open_loader(DATA_SAMPLE_STREAM, T, 1, false);
  int32_t tokens[T], targets[T], length = 0;
  int64_t sample = 0, bytes = 0, scored = 0;
  cr_assert_eq(data_set_tokens(set), stream_tokens);
  cr_assert_eq(data_loader_samples(loader), (stream_tokens - 1) / T);
  cr_assert(data_loader_uniform(loader, &scored));
  cr_assert_eq(scored, T);
  for (int64_t s = 0; s < data_loader_samples(loader); s++) {
    int64_t expected_bytes = 0;
    cr_ok(data_loader_read(loader, s, 1, tokens, targets, &length, &sample, &bytes));
    cr_assert_eq(memcmp(tokens, stream + s * T, sizeof tokens), 0, "sample %lld", (long long)s);
    cr_assert_eq(memcmp(targets, stream + s * T + 1, sizeof targets), 0, "sample %lld", (long long)s);
    for (int t = 0; t < T; t++)
      expected_bytes += targets[t] != 256;
    cr_assert(length == T && sample == s && bytes == expected_bytes);
  }
  data_loader_free(loader);
}

// What a sample holds depends on (seed, number) alone: not on the batch it comes in, on what was read before,
// or on which rank reads it. That is what lets any number of ranks continue a run.
Test(loader, samples_are_pure) {
  enum { COUNT = 200 };
  static int32_t tokens[COUNT][T], targets[COUNT][T], lengths[COUNT];
  for (data_sample_kind kind = DATA_SAMPLE_STREAM; kind <= DATA_SAMPLE_DOCUMENT; kind++) {
    data_loader *loader = open_loader(kind, T, test_seed, true);
    int64_t start = random_below(1000000), samples[COUNT], bytes[COUNT];
    cr_ok(data_loader_read(loader, start, COUNT, tokens[0], targets[0], lengths, samples, bytes));
    data_loader_free(loader);
    loader = open_loader(kind, T, test_seed, true);
    for (int round = 0; round < 100; round++) {
      int32_t one[8 * T], one_targets[8 * T], one_lengths[8], at = (int32_t)random_below(COUNT - 8);
      int32_t batch = 1 + (int32_t)random_below(8);
      int64_t one_samples[8], one_bytes[8];
      size_t size = (size_t)batch;
      cr_ok(
          data_loader_read(loader, start + at, batch, one, one_targets, one_lengths, one_samples, one_bytes));
      cr_assert_eq(memcmp(one, tokens[at], size * sizeof tokens[0]), 0, "seed %llu",
                   (unsigned long long)test_seed);
      cr_assert_eq(memcmp(one_targets, targets[at], size * sizeof targets[0]), 0);
      cr_assert_eq(memcmp(one_lengths, lengths + at, size * sizeof *lengths), 0);
      cr_assert_eq(memcmp(one_samples, samples + at, size * sizeof *samples), 0);
      cr_assert_eq(memcmp(one_bytes, bytes + at, size * sizeof *bytes), 0);
    }
    // Only the two arrays that a model needs.
    int32_t plain[T], plain_targets[T];
    cr_ok(data_loader_read(loader, start, 1, plain, plain_targets, NULL, NULL, NULL));
    cr_assert_eq(memcmp(plain, tokens[0], sizeof plain), 0);
    data_loader_free(loader);
  }
}

// Which sample of the set is this? Windows of random text differ.
static int64_t find_window(const int32_t *tokens) {
  for (int64_t s = 0; s * T + T < stream_tokens; s++)
    if (memcmp(stream + s * T, tokens, T * sizeof *tokens) == 0)
      return s;
  return -1;
}

// An epoch has every sample once; the next one has them in another order, and so has another seed.
Test(loader, epochs_cover_everything_once) {
  data_loader *loader = open_loader(DATA_SAMPLE_STREAM, T, test_seed, true);
  data_loader *other = open_loader(DATA_SAMPLE_STREAM, T, test_seed + 1, true);
  int64_t count = data_loader_samples(loader), moved = 0, differing = 0;
  for (int64_t epoch = 0; epoch < 3; epoch++) {
    char *seen = calloc((size_t)count, 1);
    for (int64_t s = 0; s < count; s++) {
      int32_t tokens[T], targets[T];
      cr_ok(data_loader_read(loader, epoch * count + s, 1, tokens, targets, NULL, NULL, NULL));
      int64_t window = find_window(tokens);
      cr_assert(window >= 0 && !seen[window], "window %lld, seed %llu", (long long)window,
                (unsigned long long)test_seed);
      seen[window] = 1;
      moved += window != s;
      cr_ok(data_loader_read(other, epoch * count + s, 1, tokens, targets, NULL, NULL, NULL));
      differing += find_window(tokens) != window;
    }
    free(seen);
  }
  cr_assert_gt(moved, 2 * count);
  cr_assert_gt(differing, 2 * count);
  data_loader_free(other);
  data_loader_free(loader);
}

// One document a sample: cut where it is too long, padded where it is too short, and padding is not scored.
Test(loader, documents_are_cut_and_padded) {
  enum { LENGTH = 100 };
  data_loader *loader = open_loader(DATA_SAMPLE_DOCUMENT, LENGTH, 1, false);
  int64_t start = 0, scored = 0, cut = 0, padded = 0;
  cr_assert_eq(data_loader_samples(loader), DOCUMENTS);
  cr_assert_not(data_loader_uniform(loader, &scored));
  for (int d = 0; d < DOCUMENTS; d++) {
    int32_t tokens[LENGTH], targets[LENGTH], length = 0;
    int64_t bytes = 0, text = (int64_t)made.bytes[d];
    cr_ok(data_loader_read(loader, d, 1, tokens, targets, &length, NULL, &bytes));
    cr_assert_eq(length, text < LENGTH ? text : LENGTH);     // inputs: all but end-of-text
    cr_assert_eq(bytes, text <= LENGTH ? text - 1 : LENGTH); // end-of-text has none
    for (int32_t t = 0; t < LENGTH; t++) {
      cr_assert_eq(tokens[t], t < length ? stream[start + t] : 256);
      cr_assert_eq(targets[t], t < length ? stream[start + t + 1] : -1);
    }
    cut += text > LENGTH;
    padded += text < LENGTH;
    start += text + 1;
  }
  cr_assert(cut > 0 && padded > 0);
  data_loader_free(loader);
}

// Labels stand in for next tokens, in both kinds of samples.
Test(loader, labels_are_the_targets) {
  enum { SAMPLES = 50, LENGTH = 40 };
  const data_synth synth = {
      .folder = scratch("task"), .seed = 3, .samples = SAMPLES, .length = LENGTH, .vocab = 40, .window = 4};
  const data_synth_passkey passkey = {.digits = 3, .depth = -1};
  data_set *task = NULL;
  data_loader *whole = NULL, *wide = NULL, *windows = NULL;
  cr_ok(data_synth_write_passkey(alone, &synth, &passkey, NULL));
  cr_ok(data_set_open(scratch("task"), "train", &task));
  cr_assert(data_set_labelled(task));
  cr_ok(data_loader_create(task, DATA_SAMPLE_DOCUMENT, LENGTH, 1, false, &whole));
  cr_ok(data_loader_create(task, DATA_SAMPLE_DOCUMENT, LENGTH + 3, 1, false, &wide));
  cr_ok(data_loader_create(task, DATA_SAMPLE_STREAM, LENGTH, 1, false, &windows));
  for (int s = 0; s < SAMPLES - 1; s++) {
    int32_t tokens[LENGTH + 3], targets[LENGTH + 3], more[LENGTH + 3], more_targets[LENGTH + 3], length = 0;
    int64_t bytes = 0;
    cr_ok(data_loader_read(whole, s, 1, tokens, targets, &length, NULL, &bytes));
    cr_assert(length == LENGTH && bytes == 0);
    for (int t = 0; t < LENGTH; t++)
      cr_assert((t >= LENGTH - 3) == (targets[t] >= 0));
    cr_ok(data_loader_read(wide, s, 1, more, more_targets, &length, NULL, NULL));
    cr_assert_eq(length, LENGTH);
    cr_assert_eq(memcmp(tokens, more, LENGTH * sizeof *tokens), 0);
    cr_assert_eq(memcmp(targets, more_targets, LENGTH * sizeof *tokens), 0);
    for (int t = LENGTH; t < LENGTH + 3; t++)
      cr_assert(more[t] == 0 && more_targets[t] == -1);
    cr_ok(data_loader_read(windows, s, 1, more, more_targets, NULL, NULL, NULL));
    cr_assert_eq(memcmp(tokens, more, LENGTH * sizeof *tokens), 0);
    cr_assert_eq(memcmp(targets, more_targets, LENGTH * sizeof *tokens), 0);
  }
  data_loader_free(whole);
  data_loader_free(wide);
  data_loader_free(windows);
  data_set_close(task);
}

Test(loader, what_cannot_be_is_refused) {
  data_loader *loader = NULL;
  data_set *none = NULL;
  cr_fails(data_loader_create(set, DATA_SAMPLE_STREAM, (int32_t)stream_tokens, 1, true, &loader),
           NN_ERR_INPUT, "make no sample");
  cr_fails(data_loader_create(set, DATA_SAMPLE_STREAM, 0, 1, true, &loader), NN_ERR_USAGE, "0 tokens");
  cr_fails(data_set_open(scratch("set"), "test", &none), NN_ERR_INPUT,
           "no split 'test' in this data set (it has: "
           "train)");
  cr_fails(data_set_open(scratch("nothing"), "train", &none), NN_ERR_INPUT, "nothing: no data set here");
  cr_assert(data_set_has_split(scratch("set"), "train"));
  cr_assert_not(data_set_has_split(scratch("set"), "val"));
  cr_assert_not(data_set_has_split(scratch("nothing"), "train"));
}

// ---- damage

// HDF5 loses some of its own memory when it refuses a damaged file: not ours to free.
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void) {
  return "leak:libhdf5";
}

static void overwrite(const char *path, char *bytes, size_t count, size_t at, char bits) {
  bytes[at] = (char)(bytes[at] ^ bits);
  write_file(path, bytes, count);
  bytes[at] = (char)(bytes[at] ^ bits);
}

// Reads everything; what is read without an error is right.
static nn_status read_all(void) {
  data_set *damaged = NULL;
  data_loader *loader = NULL;
  nn_status status = data_set_open(scratch("set"), "train", &damaged);
  if (status == NN_OK)
    status = data_loader_create(damaged, DATA_SAMPLE_STREAM, T, 1, false, &loader);
  for (int64_t s = 0; status == NN_OK && s < (stream_tokens - 1) / T; s++) {
    int32_t tokens[T], targets[T];
    status = data_loader_read(loader, s, 1, tokens, targets, NULL, NULL, NULL);
    if (status == NN_OK)
      cr_assert_eq(memcmp(tokens, stream + s * T, sizeof tokens), 0, "garbage, seed %llu",
                   (unsigned long long)test_seed);
  }
  data_loader_free(loader);
  data_set_close(damaged);
  return status;
}

// Where some of the split's tokens stand in this shard.
static size_t find_tokens(const char *bytes, size_t count) {
  uint16_t some[20];
  for (int64_t first = 0; first + 20 < stream_tokens; first++) {
    for (int i = 0; i < 20; i++)
      some[i] = (uint16_t)stream[first + i];
    const char *found = memmem(bytes, count, some, sizeof some);
    if (found != NULL)
      return (size_t)(found - bytes);
  }
  cr_assert_fail("no tokens in this shard");
  return 0;
}

// A flipped bit in a shard never turns into other tokens: either the reader does not need that byte, or there
// is an error with the shard's name.
Test(loader, a_flipped_bit_is_an_error) {
  size_t count = 0;
  int errors = 0;
  char *bytes = read_file(scratch("set/train-00001.h5"), &count);
  for (int round = 0; round < 150; round++) {
    size_t at = round < 50 ? (size_t)round * 10 : random_below((uint32_t)count);
    overwrite(scratch("set/train-00001.h5"), bytes, count, at, (char)(1 << random_below(8)));
    if (read_all() != NN_OK) {
      cr_assert_not_null(strstr(nn_error_text(), "train-00001.h5"), "%s", nn_error_text());
      errors++;
    }
    nn_error_clear();
  }
  cr_assert_gt(errors, 10);
  overwrite(scratch("set/train-00001.h5"), bytes, count, find_tokens(bytes, count), 1);
  cr_fails(read_all(), NN_ERR_INPUT, "train-00001.h5: tokens: data error detected by Fletcher32 checksum");
  write_file(scratch("set/train-00001.h5"), bytes, count);
  cr_ok(read_all());
  free(bytes);
}

Test(loader, a_truncated_or_missing_shard_is_an_error) {
  size_t count = 0;
  char *bytes = read_file(scratch("set/train-00002.h5"), &count);
  write_file(scratch("set/train-00002.h5"), bytes, count - 1);
  cr_fails(read_all(), NN_ERR_INPUT, "train-00002.h5: has ");
  write_file(scratch("set/train-00002.h5"), bytes, 0);
  cr_fails(read_all(), NN_ERR_INPUT, "train-00002.h5: has 0 bytes");
  cr_assert_eq(remove(scratch("set/train-00002.h5")), 0);
  cr_fails(read_all(), NN_ERR_INPUT, "train-00002.h5: the manifest names this shard");
  // The right size, but another file.
  memset(bytes, 'x', count);
  write_file(scratch("set/train-00002.h5"), bytes, count);
  cr_fails(read_all(), NN_ERR_INPUT, "train-00002.h5: is no HDF5 file");
  free(bytes);
}

// A shard of another data set, and a manifest that is not one, do not pass.
Test(loader, shards_and_manifest_must_agree) {
  static const struct {
    const char *from, *to, *says;
  } cases[] = {
      {"\"vocab\": 257", "\"vocab\": 300", "the vocabulary is 257, expected 300"},
      {"\"end_of_text\": 256", "\"end_of_text\": 0", "end_of_text is 256, expected 0"},
      {"\"labelled\": false", "\"labelled\": true", "has no labels, expected some"},
      {"\"kind\": \"byte\"", "\"kind\": \"gpt2\"", "the tokenizer is 'byte', expected 'gpt2'"},
      {"\"version\": 1", "\"version\": 2", "'version' is 2, not in 1 to 1"},
      {"\"vocab\": 257", "\"vocab\": \"257\"", "'vocab' is not an integer"},
      {"\"vocab\": 257", "\"size\": 257", "'vocab' is missing"},
      {"train-00000.h5", "../../etc.h5", "no plain name"},
      {"natsformer data set", "something else", "'format' is 'something else'"},
      {"{", "(", "manifest.json: line 1: is no JSON"},
  };
  size_t count = 0;
  char *manifest = read_file(scratch("set/manifest.json"), &count);
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const char *found = strstr(manifest, cases[i].from);
    cr_assert_not_null(found, "%s", cases[i].from);
    char *changed = malloc(count + 100);
    int length = snprintf(changed, count + 100, "%.*s%s%s", (int)(found - manifest), manifest, cases[i].to,
                          found + strlen(cases[i].from));
    write_file(scratch("set/manifest.json"), changed, (size_t)length);
    cr_fails(read_all(), NN_ERR_INPUT, cases[i].says);
    free(changed);
  }
  free(manifest);
}
