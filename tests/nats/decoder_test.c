// Decoding with a cache that evicts, against the masked parallel pass, on every device.
#include <math.h>   // fabs
#include <stdlib.h> // malloc, calloc, free
#include <string.h> // memcmp, strstr

#include "model_fixture.h"
#include "nats/decoder_internal.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"

enum { SEQUENCES = 2, LENGTH = 45 };

typedef struct {
  const char *name;
  nats_attention_kind attention;
  int32_t kv_heads, window, chunk;
  const char *policy;
} variant;

static const variant variants[] = {
    {"dense", NATS_ATTENTION_DENSE, 4, 3, 1, NULL},
    {"dense, GQA", NATS_ATTENTION_DENSE, 2, 3, 1, "dense"},
    {"window", NATS_ATTENTION_WINDOW, 2, 5, 1, NULL},
    {"window of a dense model", NATS_ATTENTION_DENSE, 4, 0, 1, "window:window=7"},
    {"types", NATS_ATTENTION_NATS, 4, 3, 1, NULL},
    {"types, GQA", NATS_ATTENTION_NATS, 1, 6, 1, "nats"},
    {"types of chunks of 8", NATS_ATTENTION_NATS, 2, 3, 8, NULL},
    {"types of chunks of 3", NATS_ATTENTION_NATS, 2, 1, 3, NULL},
    {"types, another window", NATS_ATTENTION_NATS, 2, 3, 1, "nats:window=9"},
    {"typed model that keeps all", NATS_ATTENTION_NATS, 2, 3, 1, "dense"},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static nats_model_config config_of(const variant *v) {
  nats_model_config config = small_config();
  config.attention = v->attention;
  config.kv_heads = v->kv_heads;
  config.window = v->window;
  config.type_chunk = v->chunk;
  return config;
}

// In bf16 a step and a parallel pass round differently, so that a token whose logits are close may get
// another type in one of them; then only the losses are compared, by their mean.
static bool types_may_differ(const variant *v, const nn_device *device) {
  return v->attention == NATS_ATTENTION_NATS && test_is_bf16(device);
}

static double tolerance_on(const variant *v, const nn_device *device) {
  return types_may_differ(v, device) ? INFINITY : test_tolerance(device, 1e-4, 1e-1);
}

static nats_decoder *open_decoder(fixture *f, int32_t sequences, const char *policy, int32_t page_tokens) {
  nats_decoder_config config = {
      .sequences = sequences, .max_length = 2 * LENGTH, .page_tokens = page_tokens, .policy = policy};
  nats_decoder *decoder;
  MUST(nats_decoder_create(&f->config, &f->params, &config, &decoder));
  return decoder;
}

static nats_cache_stats stats_of(nats_decoder *decoder) {
  nats_cache_stats stats;
  MUST(nats_decoder_stats(decoder, &stats));
  return stats;
}

// Column `i` of a [SEQUENCES, LENGTH] table.
static void column(const int32_t *table, int32_t i, int32_t out[SEQUENCES]) {
  for (int32_t s = 0; s < SEQUENCES; s++)
    out[s] = table[s * LENGTH + i];
}

// ---- decode equals the masked pass

static void check_nll(const variant *v, const fixture *f, nats_decoder *decoder, const nats_batch *batch,
                      const float *expected, uint64_t seed) {
  double worst = 0.0, sum = 0.0;
  for (int32_t i = 0; i < LENGTH; i++) {
    int32_t tokens[SEQUENCES], targets[SEQUENCES];
    float nll[SEQUENCES];
    column(batch->tokens, i, tokens);
    column(batch->targets, i, targets);
    MUST(nats_decoder_score(decoder, tokens, targets, nll));
    for (int32_t s = 0; s < SEQUENCES; s++) {
      double off = (double)nll[s] - (double)expected[s * LENGTH + i];
      sum += off;
      worst = fmax(worst, isnan(off) ? INFINITY : fabs(off));
    }
  }
  double mean = fabs(sum) / (SEQUENCES * LENGTH);
  cr_expect(mean <= test_tolerance(f->device, 1e-4, 2e-2),
            "%s: the mean nll differs by %g (NN_TEST_SEED=%llu)", v->name, mean, (unsigned long long)seed);
  cr_expect(worst <= tolerance_on(v, f->device), "%s: an nll differs by %g (NN_TEST_SEED=%llu)", v->name,
            worst, (unsigned long long)seed);
}

static void check_pairs(const variant *v, nats_decoder *decoder, const double *expected, int32_t heads) {
  double found[2 * 4 * 2], live = 0.0, causal = 0.0;
  MUST(nats_decoder_per_head(decoder, found));
  for (int32_t h = 0; h < heads; h++) {
    cr_expect(found[2 * h] == expected[2 * h] && found[2 * h + 1] == expected[2 * h + 1],
              "%s: head %d attended to %g of %g pairs, the mask shows %g of %g", v->name, (int)h,
              found[2 * h], found[2 * h + 1], expected[2 * h], expected[2 * h + 1]);
    live += found[2 * h];
    causal += found[2 * h + 1];
  }
  bool keeps_all = strstr(v->name, "dense") == v->name || strstr(v->name, "keeps all");
  cr_expect_eq(live < causal, !keeps_all, "%s: %g of %g pairs", v->name, live, causal);
  nats_cache_stats stats = stats_of(decoder);
  cr_expect(stats.live_pairs == (int64_t)live && stats.causal_pairs == (int64_t)causal, "%s", v->name);
  cr_expect(stats.steps == LENGTH && stats.stepmean > 0.0 && stats.stepmean <= 1.0, "%s", v->name);
}

static void check_decode(const variant *v, nn_device *device, uint64_t seed) {
  fixture f;
  nats_model_config config = config_of(v);
  fixture_open_on(&f, device, &config, SEQUENCES, LENGTH, 0.3f, seed);
  nats_batch batch = random_batch(SEQUENCES, LENGTH, config.vocab, seed);
  nats_policy_choice choice;
  nats_model *masked;
  MUST(nats_policy_choose(v->policy, &config, &choice));
  MUST(nats_policy_model(&choice, &config, &f.params, SEQUENCES, LENGTH, &masked));
  float nll[SEQUENCES * LENGTH];
  double per_head[2 * 4 * 2] = {0};
  nats_pass pass = {.types = NATS_TYPES_ARGMAX};
  MUST(nats_model_evaluate(masked, &batch, &pass, nll, per_head));
  nats_decoder *decoder = open_decoder(&f, SEQUENCES, v->policy, 4);
  check_nll(v, &f, decoder, &batch, nll, seed);
  if (!types_may_differ(v, device))
    check_pairs(v, decoder, per_head, config.layers * config.kv_heads);
  nats_decoder_free(decoder);
  nats_model_free(masked);
  batch_free(&batch);
  fixture_close(&f);
}

// The whole point: a cache that is really smaller, and the same model. A token that is dropped too early or
// too late shows as another nll or another count.
DEVICE_TEST(decoder, equals_the_masked_pass) {
  uint64_t seed = fresh_seed();
  for (int i = 0; i < VARIANTS; i++)
    check_decode(&variants[i], device, seed + (uint64_t)i);
}

// ---- a prompt

static void expect_same_lists(const variant *v, const fixture *f, nats_decoder *a, nats_decoder *b) {
  for (int32_t s = 0; s < SEQUENCES; s++)
    for (int32_t l = 0; l < f->config.layers; l++)
      for (int32_t h = 0; h < f->config.kv_heads; h++) {
        int32_t in_a[2 * LENGTH], in_b[2 * LENGTH];
        int32_t count = nats_cache_positions(nats_decoder_cache(a), s, l, h, in_a);
        cr_assert_eq(count, nats_cache_positions(nats_decoder_cache(b), s, l, h, in_b), "%s", v->name);
        cr_expect_eq(memcmp(in_a, in_b, (size_t)count * sizeof *in_a), 0, "%s", v->name);
      }
}

static void expect_close_logits(const variant *v, const nn_device *device, const float *a, const float *b,
                                int32_t count, const char *when) {
  double worst = 0.0;
  for (int32_t i = 0; i < count; i++)
    worst = fmax(worst, fabs((double)a[i] - (double)b[i]));
  cr_expect(worst <= tolerance_on(v, device), "%s: a logit %s differs by %g", v->name, when, worst);
}

static void expect_same_counts(const variant *v, nats_decoder *a, nats_decoder *b) {
  nats_cache_stats x = stats_of(a), y = stats_of(b);
  cr_expect(x.steps == y.steps && x.live_pairs == y.live_pairs && x.causal_pairs == y.causal_pairs &&
                x.live_tokens == y.live_tokens && x.bytes == y.bytes && x.dense_bytes == y.dense_bytes &&
                fabs(x.stepmean - y.stepmean) < 1e-12,
            "%s: %lld against %lld live tokens, %lld against %lld bytes", v->name, (long long)x.live_tokens,
            (long long)y.live_tokens, (long long)x.bytes, (long long)y.bytes);
}

static void check_prefill(const variant *v, nn_device *device, int32_t prompt, uint64_t seed) {
  int32_t end = test_is_emulated(device) && prompt + 5 < LENGTH ? prompt + 5 : LENGTH;
  fixture f;
  nats_model_config config = config_of(v);
  fixture_open_on(&f, device, &config, 1, 1, 0.3f, seed);
  nats_batch batch = random_batch(SEQUENCES, LENGTH, config.vocab, seed);
  nats_decoder *stepped = open_decoder(&f, SEQUENCES, v->policy, 0);
  nats_decoder *filled = open_decoder(&f, SEQUENCES, v->policy, 0);
  int32_t vocab = config.vocab, tokens[SEQUENCES], head[SEQUENCES * LENGTH];
  float *a = calloc((size_t)(SEQUENCES * vocab), sizeof *a),
        *b = calloc((size_t)(SEQUENCES * vocab), sizeof *b);
  cr_assert(a && b);
  for (int32_t i = 0; i < prompt; i++) {
    column(batch.tokens, i, tokens);
    MUST(nats_decoder_step(stepped, tokens, a));
    for (int32_t s = 0; s < SEQUENCES; s++)
      head[s * prompt + i] = tokens[s];
  }
  MUST(nats_decoder_prefill(filled, head, prompt, b));
  expect_close_logits(v, device, a, b, SEQUENCES * vocab, "after the prompt");
  if (!types_may_differ(v, device)) {
    expect_same_lists(v, &f, stepped, filled);
    expect_same_counts(v, stepped, filled);
  }
  for (int32_t i = prompt; i < end; i++) { // what was stored is what was computed
    column(batch.tokens, i, tokens);
    MUST(nats_decoder_step(stepped, tokens, a));
    MUST(nats_decoder_step(filled, tokens, b));
    expect_close_logits(v, device, a, b, SEQUENCES * vocab, "later");
  }
  if (!types_may_differ(v, device))
    expect_same_lists(v, &f, stepped, filled);
  free(b);
  free(a);
  nats_decoder_free(filled);
  nats_decoder_free(stepped);
  batch_free(&batch);
  fixture_close(&f);
}

// A prompt goes through the fast parallel pass; text that follows must not depend on that.
DEVICE_TEST(decoder, prefill_equals_steps) {
  uint64_t seed = fresh_seed();
  for (int i = 0; i < VARIANTS; i++) {
    check_prefill(&variants[i], device, 29, seed + (uint64_t)i);
    check_prefill(&variants[i], device, 1, seed + (uint64_t)i);
  }
}

// ---- memory

// A model of one layer that reads types off its tokens: token 1 is global, token 2 a window token, all others
// local. Embeddings of them point along different axes, and the scorer looks at those.
static void open_readable_model(fixture *f) {
  nats_model_config config = small_config();
  config.layers = 1;
  config.attention = NATS_ATTENTION_NATS;
  fixture_open(f, &config, 1, 1, 0.1f, 1);
  float *embedding = f->params.master + nn_param_find(&f->table, "embedding.weight")->offset;
  float *weight = f->params.master + nn_param_find(&f->table, "layer.0.attention.scorer.weight")->offset;
  float *bias = f->params.master + nn_param_find(&f->table, "layer.0.attention.scorer.bias")->offset;
  for (int32_t row = 0; row < 3 * config.kv_heads; row++) {
    bias[row] = 0.0f;
    for (int32_t i = 0; i < config.width; i++)
      weight[row * config.width + i] = i == row % 3 ? 10.0f : 0.0f;
  }
  static const int32_t type_of[3] = {NATS_LOCAL, NATS_GLOBAL, NATS_WINDOW};
  for (int32_t token = 0; token < config.vocab; token++)
    embedding[token * config.width + (token < 3 ? type_of[token] : NATS_LOCAL)] = 5.0f;
  MUST(nn_params_refresh_compute(&f->params));
}

enum { LOCAL_TOKEN = 0, GLOBAL_TOKEN = 1, WINDOW_TOKEN = 2 };

static void feed(nats_decoder *decoder, int32_t token, int32_t times) {
  for (int32_t i = 0; i < times; i++)
    MUST(nats_decoder_step(decoder, &token, NULL));
}

static void expect_positions(nats_decoder *decoder, int32_t count, const int32_t *expected) {
  int32_t found[2 * LENGTH];
  cr_assert_eq(nats_cache_positions(nats_decoder_cache(decoder), 0, 0, 0, NULL), count, "%d tokens live",
               (int)nats_cache_positions(nats_decoder_cache(decoder), 0, 0, 0, NULL));
  nats_cache_positions(nats_decoder_cache(decoder), 0, 0, 0, found);
  for (int32_t i = 0; i < count; i++)
    cr_expect_eq(found[i], expected[i], "token %d, expected %d", (int)found[i], (int)expected[i]);
}

// The rules of the method page, on a sequence small enough to do by hand (window 3).
Test(decoder, types_live_as_long_as_they_should) {
  fixture f;
  open_readable_model(&f);
  nats_decoder *decoder = open_decoder(&f, 1, NULL, 4);
  feed(decoder, LOCAL_TOKEN, 1);  // 0, global because it is the first
  feed(decoder, LOCAL_TOKEN, 2);  // 1 2
  feed(decoder, WINDOW_TOKEN, 1); // 3, visible to 4 5 6
  feed(decoder, LOCAL_TOKEN, 1);  // 4
  expect_positions(decoder, 5, (int32_t[]){0, 1, 2, 3, 4});
  feed(decoder, GLOBAL_TOKEN, 1); // 5 ends 1 2 4
  expect_positions(decoder, 3, (int32_t[]){0, 3, 5});
  feed(decoder, LOCAL_TOKEN, 1); // 6 still sees 3
  expect_positions(decoder, 4, (int32_t[]){0, 3, 5, 6});
  feed(decoder, LOCAL_TOKEN, 1); // 7 does not
  expect_positions(decoder, 4, (int32_t[]){0, 5, 6, 7});
  nats_decoder_free(decoder);
  fixture_close(&f);
}

// Tables: 4 bytes a page number, 5 bytes a token, room for a power of two of pages. Pages: K and V in
// float32.
static int64_t bytes_by_hand(const fixture *f, int32_t lists, int32_t pages, int32_t capacity,
                             int32_t page_tokens, int64_t fixed) {
  int64_t page = 2LL * page_tokens * f->config.head_size * 4, tables = capacity * (4 + 5LL * page_tokens);
  return fixed + lists * (pages * page + tables);
}

// The bytes that a paper would quote. If they did not come back when locals die, the method would save
// nothing.
Test(decoder, memory_comes_back_when_locals_die) {
  enum { LIVED = 80, LISTS = 2, PAGE = 1 };
  fixture f;
  open_readable_model(&f);
  nats_decoder *decoder = open_decoder(&f, 1, NULL, PAGE);
  int64_t fixed = stats_of(decoder).bytes; // of empty lists
  cr_expect_eq(stats_of(decoder).pool_bytes, 0);
  feed(decoder, LOCAL_TOKEN, LIVED);
  nats_cache_stats full = stats_of(decoder);
  cr_expect_eq(full.live_tokens, LISTS * LIVED);
  cr_expect_eq(full.bytes, bytes_by_hand(&f, LISTS, LIVED, 128, PAGE, fixed), "%lld bytes",
               (long long)full.bytes);
  feed(decoder, GLOBAL_TOKEN, 1);
  nats_cache_stats after = stats_of(decoder);
  cr_expect_eq(after.live_tokens, LISTS * 2); // the first and the last
  cr_expect_eq(after.bytes, bytes_by_hand(&f, LISTS, 2, 2, PAGE, fixed), "%lld bytes",
               (long long)after.bytes);
  cr_expect_eq(after.peak_bytes, bytes_by_hand(&f, LISTS, LIVED + 1, 128, PAGE, fixed));
  cr_expect_eq(after.peak_live_tokens, LISTS * (LIVED + 1));
  feed(decoder, LOCAL_TOKEN, 1); // slabs go when tokens have been moved out of them: in the next step
  after = stats_of(decoder);
  cr_expect(after.pool_bytes < full.pool_bytes / 2, "the pool still holds %lld of %lld bytes",
            (long long)after.pool_bytes, (long long)full.pool_bytes);
  MUST(nats_decoder_reset(decoder));
  cr_expect_eq(stats_of(decoder).bytes, fixed);
  cr_expect_eq(stats_of(decoder).steps, 0);
  nats_decoder_free(decoder);
  fixture_close(&f);
}

// The dense policy allocates exactly what every other policy is compared with.
Test(decoder, dense_bytes_are_those_of_the_dense_policy) {
  fixture f;
  open_readable_model(&f);
  nats_decoder *dense = open_decoder(&f, 1, "dense", 0), *typed = open_decoder(&f, 1, "nats", 0);
  int64_t fixed = stats_of(dense).bytes;
  feed(dense, LOCAL_TOKEN, 35);
  feed(typed, WINDOW_TOKEN, 35);
  cr_expect_eq(stats_of(dense).bytes, bytes_by_hand(&f, 2, 3, 4, 16, fixed));
  cr_expect_eq(stats_of(dense).dense_bytes, stats_of(dense).bytes);
  cr_expect_eq(stats_of(typed).dense_bytes, stats_of(dense).bytes);
  cr_expect_lt(stats_of(typed).bytes, stats_of(dense).bytes);
  nats_decoder_free(typed);
  nats_decoder_free(dense);
  fixture_close(&f);
}

// ---- policies of others

enum { BUDGET };

// Keeps the tokens that were attended to most (in the manner of H2O, Zhang et al. 2023).
static int32_t drop_least_attended(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  double sum = 0.0;
  int32_t least = 0;
  for (int32_t slot = 0; slot < list->length; slot++) {
    list->score[slot] += list->weight[slot];
    sum += (double)list->weight[slot];
    if (list->score[slot] < list->score[least])
      least = slot;
  }
  list->state[0] = (float)sum;
  cr_assert_float_eq(sum, 2.0, 1e-5, "the weights of 2 query heads sum to %g", sum);
  drop[0] = least;
  return list->length > step->parameter[BUDGET];
}

static const nats_policy heavy = {
    .name = "heavy",
    .source = "this test",
    .parameters = {{.name = "budget", .help = "tokens kept", .least = 1}},
    .uses_weights = true,
    .keeps_scores = true,
    .state_size = 1,
    .mask = NATS_NO_MASK,
    .after = drop_least_attended,
};

static nats_decoder *open_heavy(fixture *f, const char *parameters) {
  nats_decoder_config config = {.sequences = SEQUENCES, .max_length = LENGTH, .page_tokens = 4};
  nats_policy_choice choice;
  nats_decoder *decoder;
  MUST(nats_policy_configure(&heavy, parameters, &f->config, &choice));
  MUST(nats_decoder_create_with(&f->config, &f->params, &config, &choice, &decoder));
  return decoder;
}

// A policy is a file and a row: one that reads attention weights needs no change of the cache. It keeps to
// its budget, and with room for all it is the dense policy.
Test(decoder, takes_policies_that_read_attention) {
  uint64_t seed = fresh_seed();
  fixture f;
  nats_model_config config = small_config();
  fixture_open(&f, &config, 1, 1, 0.3f, seed);
  nats_batch batch = random_batch(SEQUENCES, LENGTH, config.vocab, seed);
  nats_decoder *small = open_heavy(&f, "budget=9"), *large = open_heavy(&f, "budget=1000");
  nats_decoder *dense = open_decoder(&f, SEQUENCES, "dense", 4);
  MUST(nats_decoder_prefill(small, batch.tokens, LENGTH, NULL));
  int64_t lists = SEQUENCES * config.layers * config.kv_heads;
  cr_expect_eq(stats_of(small).live_tokens, 9 * lists);
  cr_expect_eq(stats_of(small).peak_live_tokens, 10 * lists);
  for (int32_t i = 0; i < LENGTH; i++) {
    int32_t tokens[SEQUENCES], targets[SEQUENCES];
    float a[SEQUENCES], b[SEQUENCES];
    column(batch.tokens, i, tokens);
    column(batch.targets, i, targets);
    MUST(nats_decoder_score(large, tokens, targets, a));
    MUST(nats_decoder_score(dense, tokens, targets, b));
    for (int32_t s = 0; s < SEQUENCES; s++)
      cr_expect_float_eq(a[s], b[s], 1e-5f);
  }
  nats_decoder_free(dense);
  nats_decoder_free(large);
  nats_decoder_free(small);
  batch_free(&batch);
  fixture_close(&f);
}

// Feeding past the announced length would read past the RoPE table; a prompt into a used cache has no
// meaning.
Test(decoder, refuses_what_does_not_fit) {
  fixture f;
  open_readable_model(&f);
  nats_decoder *decoder = open_decoder(&f, 1, NULL, 0);
  int32_t tokens[2 * LENGTH + 1] = {0};
  cr_expect_eq(nats_decoder_prefill(decoder, tokens, 2 * LENGTH + 1, NULL), NN_ERR_USAGE);
  nn_error_clear();
  MUST(nats_decoder_prefill(decoder, tokens, 2 * LENGTH, NULL));
  cr_expect_eq(nats_decoder_step(decoder, tokens, NULL), NN_ERR_USAGE);
  nn_error_clear();
  cr_expect_eq(nats_decoder_prefill(decoder, tokens, 1, NULL), NN_ERR_INTERNAL);
  nn_error_clear();
  MUST(nats_decoder_reset(decoder));
  MUST(nats_decoder_prefill(decoder, tokens, 1, NULL));
  nats_decoder_free(decoder);
  fixture_close(&f);
}
