// Tokenizers. When these fail, what people train on is not their text, or is cut otherwise than the published
// models expect.
#include <stdio.h> // snprintf
#include <stdlib.h>
#include <string.h>

#include "data/tokenizer.h"
#include "data/utf8.h"
#include "tests/data/data_fixture.h"
#ifdef DATA_WITH_PCRE2
#include "data/bpe.h"
#endif
#ifdef DATA_WITH_SENTENCEPIECE
#include "data/train_tokenizer.h"
#endif

TestSuite(tokenizer, .init = scratch_open, .fini = scratch_close);

// Decoding the tokens gives the text back, byte for byte, and no token is end-of-text.
static void check_round_trip(data_tokenizer *tokenizer, const char *text, size_t bytes) {
  data_tokens tokens = {0};
  size_t at = 0;
  cr_ok(data_tokenizer_encode(tokenizer, text, bytes, &tokens));
  for (int64_t i = 0; i < tokens.count; i++) {
    size_t length = 0;
    const char *piece = data_tokenizer_piece(tokenizer, tokens.items[i], &length);
    cr_assert(length > 0 && tokens.items[i] != data_tokenizer_end_of_text(tokenizer));
    cr_assert(at + length <= bytes && memcmp(text + at, piece, length) == 0, "at byte %zu, seed %llu", at,
              (unsigned long long)test_seed);
    at += length;
  }
  cr_assert_eq(at, bytes, "%zu of %zu bytes, seed %llu", at, bytes, (unsigned long long)test_seed);
  free(tokens.items);
}

// A text encoded in parts, cut where the tokenizer says, has the tokens of the whole.
static void check_cuts(data_tokenizer *tokenizer, const char *text, size_t bytes) {
  data_tokens whole = {0}, parts = {0};
  size_t cuts = 0;
  cr_ok(data_tokenizer_encode(tokenizer, text, bytes, &whole));
  for (size_t at = 0; at < bytes;) {
    size_t rest = bytes - at, window = 1 + random_below(200), cut = 0;
    while (cut == 0 && window < rest) { // widened until it holds a place
      cut = data_tokenizer_cut(tokenizer, text + at, window);
      cr_assert(cut <= window);
      cuts += cut > 0;
      window *= 2;
    }
    cut = cut > 0 ? cut : rest;
    cr_ok(data_tokenizer_encode(tokenizer, text + at, cut, &parts));
    at += cut;
  }
  cr_assert_gt(cuts, 0);
  cr_assert_eq(whole.count, parts.count, "seed %llu", (unsigned long long)test_seed);
  cr_assert_eq(memcmp(whole.items, parts.items, (size_t)whole.count * sizeof *whole.items), 0);
  free(whole.items);
  free(parts.items);
}

// What a shard carries is the tokenizer: same tokens, same hash, without the files it came from.
static void check_restored(data_tokenizer *tokenizer, const char *text, size_t bytes) {
  size_t blob_bytes = 0;
  const void *blob = data_tokenizer_blob(tokenizer, &blob_bytes);
  data_tokenizer *again = NULL;
  data_tokens tokens = {0}, expected = {0};
  cr_ok(data_tokenizer_restore(data_tokenizer_kind(tokenizer), blob, blob_bytes, &again));
  cr_assert_eq(data_tokenizer_hash(again), data_tokenizer_hash(tokenizer));
  cr_assert_eq(data_tokenizer_vocab(again), data_tokenizer_vocab(tokenizer));
  cr_assert_eq(data_tokenizer_end_of_text(again), data_tokenizer_end_of_text(tokenizer));
  cr_ok(data_tokenizer_encode(tokenizer, text, bytes, &expected));
  cr_ok(data_tokenizer_encode(again, text, bytes, &tokens));
  cr_assert_eq(tokens.count, expected.count);
  cr_assert_eq(memcmp(tokens.items, expected.items, (size_t)tokens.count * sizeof *tokens.items), 0);
  data_tokenizer_free(again);
  free(tokens.items);
  free(expected.items);
}

static void check_text(data_tokenizer *tokenizer, size_t count) {
  size_t bytes = 0;
  char *text = random_text(count, &bytes);
  check_round_trip(tokenizer, text, bytes);
  check_cuts(tokenizer, text, bytes);
  check_restored(tokenizer, text, bytes);
  free(text);
}

Test(tokenizer, byte_round_trip) {
  data_tokenizer *tokenizer = NULL;
  cr_ok(data_tokenizer_open("byte", &tokenizer));
  cr_assert_eq(data_tokenizer_vocab(tokenizer), 257);
  cr_assert_eq(data_tokenizer_end_of_text(tokenizer), 256);
  check_round_trip(tokenizer, "", 0);
  check_text(tokenizer, 20000);
  data_tokenizer_free(tokenizer);
}

// A mistyped tokenizer is a usage error that says what there is.
Test(tokenizer, refuses_unknown_kinds) {
  data_tokenizer *tokenizer = NULL;
  cr_fails(data_tokenizer_open("bytes", &tokenizer), NN_ERR_USAGE,
           "byte, gpt2:VOCAB.json,MERGES.txt or sp:MODEL");
  cr_fails(data_tokenizer_open("byte:", &tokenizer), NN_ERR_USAGE, "byte");
  cr_fails(data_tokenizer_open("gpt2", &tokenizer), NN_ERR_USAGE, "VOCAB.json,MERGES.txt");
  cr_fails(data_tokenizer_open("sp:", &tokenizer), NN_ERR_USAGE, "sp:MODEL");
  cr_fails(data_tokenizer_restore("word", NULL, 0, &tokenizer), NN_ERR_INPUT, "word");
}

#ifdef DATA_WITH_PCRE2

// Pieces between bars, as GPT-2's own code cuts these texts with the merges of data_fixture.c. They tell
// whether a word was cut where its pattern cuts: a merge across such a place must not happen.
static const struct {
  const char *text, *pieces;
} gpt2_cases[] = {
    {"it's", "i|t|'s"},                   // a contraction is a word
    {"it'S", "i|t|'|S"},                  // in lower case only
    {"!'s", "!'|s"},                      // behind a sign, the apostrophe belongs to it
    {"a1", "a|1"},                        // letters and digits part
    {"112", "1|12"},                      // digits stay together
    {"1\xC2\xB2", "1\xC2|\xB2"},          // U+00B2 is a number
    {"e\xCC\x81", "e|\xCC|\x81"},         // a combining mark is no letter
    {"\xE1\xA0\x8E!", "\xE1|\xA0|\x8E!"}, // U+180E is no space
    {"a  b", "a| | b"},                   // the last space goes with the word
    {"a   b", "a|  | b"},                 //
    {"a  ", "a|  "},                      // at the end there is none
    {"a\n\nc", "a|\n|\n|c"},              // the last newline stands alone
    {"a\n\n c", "a|\n\n| |c"},            // the space goes with the word
    {"\xE3\x80\x80\xE3\x80\x80x", "\xE3|\x80|\x80|\xE3|\x80|\x80|x"},
    {"the the", "the| the"},
    {"ababab", "abab|ab"}, // leftmost first
    {"aaaaa", "aa|aaa"},
    {"abcde", "ab|cde"},                            // by rank, not from the left
    {"<|endoftext|>", "<|||e|n|d|o|f|t|e|x|t|||>"}, // text is never a control token
};

Test(tokenizer, gpt2_cuts_words_like_gpt2) {
  data_tokenizer *tokenizer = NULL;
  data_tokens tokens = {0};
  cr_ok(data_tokenizer_open(write_gpt2_files(), &tokenizer));
  for (size_t c = 0; c < sizeof gpt2_cases / sizeof *gpt2_cases; c++) {
    char found[256] = "";
    tokens.count = 0;
    cr_ok(data_tokenizer_encode(tokenizer, gpt2_cases[c].text, strlen(gpt2_cases[c].text), &tokens));
    for (int64_t i = 0; i < tokens.count; i++) {
      size_t length = 0;
      const char *piece = data_tokenizer_piece(tokenizer, tokens.items[i], &length);
      strcat(found, i > 0 ? "|" : "");
      strncat(found, piece, length);
    }
    cr_assert_str_eq(found, gpt2_cases[c].pieces, "'%s': '%s', not '%s'", gpt2_cases[c].text, found,
                     gpt2_cases[c].pieces);
  }
  free(tokens.items);
  data_tokenizer_free(tokenizer);
}

Test(tokenizer, gpt2_round_trip) {
  data_tokenizer *tokenizer = NULL;
  cr_ok(data_tokenizer_open(write_gpt2_files(), &tokenizer));
  cr_assert_eq(data_tokenizer_end_of_text(tokenizer), data_tokenizer_vocab(tokenizer) - 1);
  check_text(tokenizer, 60000);
  // Words that are far longer than text has, of one letter and of spaces.
  char *text = malloc(300000);
  memset(text, 'a', 300000);
  check_round_trip(tokenizer, text, 300000);
  memset(text, ' ', 300000);
  check_round_trip(tokenizer, text, 300000);
  free(text);
  data_tokenizer_free(tokenizer);
}

// Files that are not what they should be end with their name, not with other tokens.
Test(tokenizer, gpt2_refuses_bad_files) {
  static const struct {
    const char *vocab, *merges, *says;
  } cases[] = {
      {"{\"a\": 0", "", "vocab.json: line 1"},
      {"[]", "", "expected one JSON object"},
      {"{}", "", "expected one JSON object"},
      {"{\"a\": 0, \"b\": 2}", "", "'b'"},
      {"{\"a\": 0, \"b\": 0}", "", "expected a number of its own"},
      {"{\"a\": \"0\"}", "", "'a'"},
      {"{\"a b\": 0, \"<|endoftext|>\": 1}", "", "'a b'"},
      {"{\"a\": 0}", "", "has no token '<|endoftext|>'"},
      {"{\"a\": 0, \"<|endoftext|>\": 1}", "", "has no token for the byte 0"},
      {NULL, "a b\nab\n", "merges.txt: line 2"},
      {NULL, "#version: 0.2\na z\n", "merges.txt: line 2: 'a z'"},
      {NULL, "a  b\n", "merges.txt: line 1"},
  };
  data_tokenizer *tokenizer = NULL;
  const char *spec = write_gpt2_files();
  size_t bytes = 0;
  char *vocab = read_file(scratch("vocab.json"), &bytes);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    const char *text = cases[c].vocab != NULL ? cases[c].vocab : vocab;
    write_file(scratch("vocab.json"), text, strlen(text));
    write_file(scratch("merges.txt"), cases[c].merges, strlen(cases[c].merges));
    cr_fails(data_tokenizer_open(spec, &tokenizer), NN_ERR_INPUT, cases[c].says);
  }
  free(vocab);
  cr_fails(data_tokenizer_open("gpt2:vocab.json", &tokenizer), NN_ERR_USAGE, "VOCAB.json,MERGES.txt");
  cr_fails(data_tokenizer_restore("gpt2", "natsformer gpt2 99\n{}", 21, &tokenizer), NN_ERR_INPUT, "damaged");
}

enum { SYMBOLS = 6, PAIRS = 60 };
typedef struct {
  int32_t left, right, merged;
} pair;

// Merges as Sennrich, Haddow and Birch write them: all occurrences of the best pair, again and again.
static int64_t merge_plainly(const pair *pairs, int count, int32_t *symbols, int64_t length) {
  for (;;) {
    int best = count;
    for (int64_t i = 0; i + 1 < length; i++)
      for (int p = 0; p < best; p++)
        if (pairs[p].left == symbols[i] && pairs[p].right == symbols[i + 1])
          best = p;
    if (best == count)
      return length;
    int64_t kept = 0;
    for (int64_t i = 0; i < length; kept++) {
      bool merges = i + 1 < length && symbols[i] == pairs[best].left && symbols[i + 1] == pairs[best].right;
      symbols[kept] = merges ? pairs[best].merged : symbols[i];
      i += merges ? 2 : 1;
    }
    length = kept;
  }
}

// The fast merging gives what the definition gives.
Test(tokenizer, bpe_merges_like_its_definition) {
  for (int round = 0; round < 30; round++) {
    pair pairs[PAIRS];
    data_bpe *bpe = NULL;
    cr_ok(data_bpe_create(PAIRS, &bpe));
    for (int p = 0; p < PAIRS; p++) { // of symbols that are there already, as training makes them
      bool known = true;
      while (known) {
        pairs[p] = (pair){.left = (int32_t)random_below((uint32_t)(SYMBOLS + p)),
                          .right = (int32_t)random_below((uint32_t)(SYMBOLS + p)),
                          .merged = SYMBOLS + p};
        known = false;
        for (int q = 0; q < p; q++)
          known = known || (pairs[q].left == pairs[p].left && pairs[q].right == pairs[p].right);
      }
      data_bpe_add(bpe, pairs[p].left, pairs[p].right, pairs[p].merged);
    }
    for (int word = 0; word < 50; word++) {
      int32_t fast[400], plain[400];
      int64_t length = 1 + random_below(400), merged = length;
      for (int64_t i = 0; i < length; i++)
        fast[i] = plain[i] = (int32_t)random_below(SYMBOLS);
      int64_t expected = merge_plainly(pairs, PAIRS, plain, length);
      cr_ok(data_bpe_apply(bpe, fast, &merged));
      cr_assert_eq(merged, expected, "seed %llu", (unsigned long long)test_seed);
      cr_assert_eq(memcmp(fast, plain, (size_t)expected * sizeof *fast), 0);
    }
    data_bpe_free(bpe);
  }
}
#else
// A build without PCRE2 says so instead of calling the tokenizer unknown.
Test(tokenizer, gpt2_is_left_out) {
  data_tokenizer *tokenizer = NULL;
  cr_fails(data_tokenizer_open(write_gpt2_files(), &tokenizer), NN_ERR_UNSUPPORTED, "PCRE2");
}
#endif

#ifdef DATA_WITH_SENTENCEPIECE

// A model of random text in scratch "model"; returns its spec.
static const char *train_model(const char *type, int32_t vocab) {
  static char spec[600];
  size_t bytes = 0;
  char *text = random_text(120000, &bytes);
  write_file(scratch("train.txt"), text, bytes);
  free(text);
  const char *inputs[] = {scratch("train.txt")};
  data_tokenizer_training training = {.inputs = inputs,
                                      .input_count = 1,
                                      .field = "text",
                                      .out = scratch("model"),
                                      .force = true,
                                      .vocab = vocab,
                                      .type = type,
                                      .coverage = 0.98,
                                      .sample_bytes = 1 << 20,
                                      .seed = test_seed};
  cr_ok(data_train_tokenizer(alone, &training));
  training.force = false;
  cr_fails(data_train_tokenizer(alone, &training), NN_ERR_USAGE, "--force");
  training.out = scratch("no/such/folder/model");
  cr_fails(data_train_tokenizer(alone, &training), NN_ERR_IO, "no/such/folder/model: cannot be written");
  snprintf(spec, sizeof spec, "sp:%s", scratch("model"));
  return spec;
}

static void check_sentencepiece(const char *type, int32_t vocab) {
  static const char hard[] = "  two  spaces \n\n\n lines\r\n\ttab \xE2\x96\x81\xE2\x96\x81 a\xE2\x96\x81"
                             "b \xEF\xAC\x81 e\xCC\x81 \xC2\xA0\xE3\x80\x80 ";
  static const char zero[] = "a\0b\0\0 c";
  data_tokenizer *tokenizer = NULL;
  cr_ok(data_tokenizer_open(train_model(type, vocab), &tokenizer));
  cr_assert_eq(data_tokenizer_vocab(tokenizer), vocab);
  check_round_trip(tokenizer, hard, sizeof hard - 1);
  check_round_trip(tokenizer, zero, sizeof zero - 1);
  check_text(tokenizer, 30000);
  // One word without a space, longer than what the library gets at once.
  char *text = malloc(100000);
  for (size_t i = 0; i < 99999; i += 3)
    memcpy(text + i, "\xE6\xBC\xA2", 3);
  check_round_trip(tokenizer, text, 99999);
  free(text);
  data_tokenizer_free(tokenizer);
}

Test(tokenizer, sentencepiece_bpe_is_lossless) {
  check_sentencepiece("bpe", 400);
}

Test(tokenizer, sentencepiece_unigram_is_lossless) {
  check_sentencepiece("unigram", 400);
}

// A model that would change the text is refused when it is opened, not found out after a training run.
Test(tokenizer, sentencepiece_refuses_a_lossy_model) {
  // In protocol buffers a message that comes again is merged: field 3, normalizer_spec, with
  // add_dummy_prefix, and with remove_extra_whitespaces.
  static const unsigned char lossy[2][4] = {{0x1A, 2, 0x18, 1}, {0x1A, 2, 0x20, 1}};
  const char *spec = train_model("bpe", 400);
  data_tokenizer *tokenizer = NULL;
  size_t bytes = 0;
  char *model = read_file(scratch("model"), &bytes);
  model = realloc(model, bytes + sizeof lossy[0]);
  for (int i = 0; i < 2; i++) {
    memcpy(model + bytes, lossy[i], sizeof lossy[i]);
    write_file(scratch("model"), model, bytes + sizeof lossy[i]);
    cr_fails(data_tokenizer_open(spec, &tokenizer), NN_ERR_INPUT, "changes the text");
  }
  free(model);
  write_file(scratch("model"), "no model at all", 15);
  cr_fails(data_tokenizer_open(spec, &tokenizer), NN_ERR_INPUT, "model: is no SentencePiece model");
  cr_fails(data_tokenizer_open("sp:/nowhere/at/all", &tokenizer), NN_ERR_IO, "/nowhere/at/all");
}

// Two models are told apart by what they do.
Test(tokenizer, sentencepiece_hash_is_of_the_mapping) {
  data_tokenizer *first = NULL, *second = NULL;
  cr_ok(data_tokenizer_open(train_model("bpe", 400), &first));
  size_t bytes = 0;
  char *model = read_file(scratch("model"), &bytes);
  // Field 2, trainer_spec, with another model_prefix: a path.
  static const unsigned char path[] = {0x12, 5, 0x12, 3, 'a', '/', 'b'};
  model = realloc(model, bytes + sizeof path);
  memcpy(model + bytes, path, sizeof path);
  write_file(scratch("model"), model, bytes + sizeof path);
  char spec[600];
  snprintf(spec, sizeof spec, "sp:%s", scratch("model"));
  cr_ok(data_tokenizer_open(spec, &second));
  cr_assert_eq(data_tokenizer_hash(first), data_tokenizer_hash(second));
  data_tokenizer_free(second);
  cr_ok(data_tokenizer_open(train_model("bpe", 401), &second));
  cr_assert_neq(data_tokenizer_hash(first), data_tokenizer_hash(second));
  data_tokenizer_free(second);
  data_tokenizer_free(first);
  free(model);
}
#else
Test(tokenizer, sentencepiece_is_left_out) {
  data_tokenizer *tokenizer = NULL;
  cr_fails(data_tokenizer_open("sp:model", &tokenizer), NN_ERR_UNSUPPORTED, "SentencePiece");
}
#endif
