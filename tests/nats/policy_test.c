// Every policy of the table, on every device, against the definitions written a second time
// (policy_reference.c).
#include <math.h>   // fabs
#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free
#include <string.h> // memcmp, strstr

#include "nats/decoder_internal.h"
#include "policy_reference.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"

enum { SEQUENCES = 2, LENGTH = 45, PAGE = 4 };

static const double HEAD_USE[] = {0.9, 0.1, 0.5, 0.5}; // [layers, Hk]
static const int64_t SAMPLES[SEQUENCES] = {7, 1000003};
enum { SEED = 5 };

static nats_decoder *open_decoder(fixture *f, const char *policy) {
  nats_decoder_config config = {.sequences = SEQUENCES,
                                .max_length = LENGTH,
                                .page_tokens = PAGE,
                                .seed = SEED,
                                .policy = policy,
                                .head_use = HEAD_USE};
  nats_decoder *decoder;
  MUST(nats_decoder_create(&f->config, &f->params, &config, &decoder));
  nats_decoder_set_samples(decoder, SAMPLES);
  return decoder;
}

// ---- full budget

// The policy with room for everything, or "" where no number gives it that.
static const char *with_room(const nats_policy *policy, char text[64]) {
  text[0] = '\0';
  if (policy->size)
    snprintf(text, 64, "%s:%s=%d", policy->name, policy->size, policy->size_is_percent ? 100 : 1000);
  return text;
}

static void expect_dense(fixture *f, const nats_batch *batch, const char *text, int32_t prompt) {
  nats_decoder *decoder = open_decoder(f, text), *dense = open_decoder(f, "dense");
  float a[SEQUENCES * REF_TOKENS], b[SEQUENCES * REF_TOKENS];
  int32_t head[SEQUENCES * LENGTH], tokens[SEQUENCES];
  for (int32_t i = 0; i < SEQUENCES * prompt; i++)
    head[i] = batch->tokens[i / prompt * LENGTH + i % prompt];
  if (prompt > 0) {
    MUST(nats_decoder_prefill(decoder, head, prompt, a));
    MUST(nats_decoder_prefill(dense, head, prompt, b));
  }
  for (int32_t i = prompt; i < LENGTH; i++) {
    for (int32_t s = 0; s < SEQUENCES; s++)
      tokens[s] = batch->tokens[s * LENGTH + i];
    MUST(nats_decoder_step(decoder, tokens, a));
    MUST(nats_decoder_step(dense, tokens, b));
    for (int32_t v = 0; v < SEQUENCES * f->config.vocab; v++)
      cr_expect(fabs((double)a[v] - (double)b[v]) <= test_tolerance(f->device, 1e-4, 1e-1),
                "%s, prompt %d, step %d: a logit is %g, dense has %g", text, (int)prompt, (int)i,
                (double)a[v], (double)b[v]);
  }
  nats_cache_stats stats;
  MUST(nats_decoder_stats(decoder, &stats));
  cr_expect_eq(stats.live_pairs, stats.causal_pairs, "%s", text);
  nats_decoder_free(dense);
  nats_decoder_free(decoder);
}

// What breaks: a policy is charged for damage that its own bookkeeping does, not what it leaves out.
DEVICE_TEST(policy, with_room_for_all_it_is_dense) {
  fixture f;
  nats_model_config config = small_config();
  fixture_open_on(&f, device, &config, 1, 1, 0.3f, fresh_seed());
  nats_batch batch = random_batch(SEQUENCES, LENGTH, config.vocab, fresh_seed());
  int32_t seen = 0;
  char text[64];
  for (int32_t p = 0; nats_policy_at(p); p++) {
    if (with_room(nats_policy_at(p), text)[0] == '\0')
      continue;
    seen++;
    expect_dense(&f, &batch, text, 20);
    if (!test_is_emulated(device))
      expect_dense(&f, &batch, text, 0);
  }
  cr_expect_eq(seen, 8, "all but dense and nats have a size");
  batch_free(&batch);
  fixture_close(&f);
}

// ---- what stays, step by step

static const ref_rule RULES[] = {
    {.policy = "window:window=8", .before = ref_streaming, .recent = 9, .sinks = 1},
    {.policy = "streaming:recent=7,reassign=0", .before = ref_streaming, .recent = 7, .sinks = 4},
    {.policy = "streaming:recent=7", .before = ref_streaming, .reassigns = true, .recent = 7, .sinks = 4},
    {.policy = "streaming:recent=1,sinks=3",
     .before = ref_streaming,
     .reassigns = true,
     .recent = 1,
     .sinks = 3},
    {.policy = "streaming:recent=5,sinks=0", .before = ref_streaming, .reassigns = true, .recent = 5},
    {.policy = "h2o:size=12", .after = ref_heavy, .size = 12, .recent = 6},
    {.policy = "h2o:size=9,recent=0", .after = ref_heavy, .size = 9},
    {.policy = "h2o:size=9,recent=100", .after = ref_heavy, .size = 9, .recent = 9},
    {.policy = "tova:size=10", .after = ref_last_query, .size = 10},
    {.policy = "snapkv:keep=9,observe=6", .after = ref_votes, .size = 9, .recent = 6},
    {.policy = "cam:recent=9,sinks=2,merge=4",
     .before = ref_merge,
     .after = ref_sums,
     .size = 4,
     .recent = 9,
     .sinks = 2},
    {.policy = "cam:recent=6", .before = ref_merge, .after = ref_sums, .size = 32, .recent = 6, .sinks = 4},
    {.policy = "random:size=11", .before = ref_random, .size = 11},
    {.policy = "duo:recent=6,sinks=2", .before = ref_static_heads, .size = 2, .recent = 6, .sinks = 2},
    {.policy = "duo:dense=26,recent=3", .before = ref_static_heads, .size = 2, .recent = 3, .sinks = 4},
    {.policy = "duo:dense=25,recent=3", .before = ref_static_heads, .size = 1, .recent = 3, .sinks = 4},
};
enum { RULES_COUNT = sizeof RULES / sizeof *RULES };

// In bf16 near ties are decided otherwise, and from then on other tokens live: their number alone is compared
// where weights decide.
static bool is_exact(const ref_rule *rule, const nn_device *device) {
  return !test_is_bf16(device) || !rule->after;
}

static void expect_kept(const ref_decoder *r, const nn_device *device, nats_decoder *decoder,
                        int32_t sequence) {
  const nats_model_config *c = &r->model->config;
  for (int32_t layer = 0; layer < c->layers; layer++)
    for (int32_t head = 0; head < c->kv_heads; head++) {
      int32_t expected[REF_TOKENS], found[REF_TOKENS];
      int32_t count = ref_positions(r, layer, head, expected);
      int32_t length = nats_cache_positions(nats_decoder_cache(decoder), sequence, layer, head, found);
      bool same = !is_exact(r->rule, device) || memcmp(found, expected, (size_t)count * sizeof *found) == 0;
      cr_assert(length == count && same,
                "%s: after position %d list (%d, %d, %d) keeps other tokens: %d of them, expected %d",
                r->rule->policy, (int)r->position - 1, (int)sequence, (int)layer, (int)head, (int)length,
                (int)count);
    }
}

static void expect_logits(const ref_decoder *r, const nn_device *device, const float *logits) {
  double worst = 0;
  for (int32_t v = 0; v < r->model->config.vocab; v++)
    worst = fmax(worst, fabs((double)logits[v] - r->logits[v]));
  double tolerance = is_exact(r->rule, device) ? test_tolerance(device, 1e-4, 0.4) : (double)INFINITY;
  cr_expect(worst <= tolerance, "%s: after position %d a logit differs by %g", r->rule->policy,
            (int)r->position - 1, worst);
}

// `f` is on the device, `host` has the same parameters on the CPU; `prompt`: fed as one. Returns how many
// values were merged.
static int32_t check_rule(fixture *f, const fixture *host, const nats_batch *batch, const ref_rule *rule,
                          int32_t prompt) {
  nats_decoder *decoder = open_decoder(f, rule->policy);
  ref_decoder *r = calloc(SEQUENCES, sizeof *r);
  float logits[SEQUENCES * REF_TOKENS];
  int32_t head[SEQUENCES * LENGTH], tokens[SEQUENCES], merges = 0;
  cr_assert(r);
  for (int32_t s = 0; s < SEQUENCES; s++) {
    r[s] = (ref_decoder){.model = host,
                         .rule = rule,
                         .prompt = prompt,
                         .sample = SAMPLES[s],
                         .seed = SEED,
                         .head_use = HEAD_USE};
    for (int32_t i = 0; i < prompt; i++)
      ref_step(&r[s], head[s * prompt + i] = batch->tokens[s * LENGTH + i]);
  }
  if (prompt > 0)
    MUST(nats_decoder_prefill(decoder, head, prompt, logits));
  for (int32_t i = prompt; i < LENGTH; i++) {
    for (int32_t s = 0; s < SEQUENCES; s++)
      tokens[s] = batch->tokens[s * LENGTH + i];
    MUST(nats_decoder_step(decoder, tokens, logits));
    for (int32_t s = 0; s < SEQUENCES; s++) {
      ref_step(&r[s], tokens[s]);
      expect_kept(&r[s], f->device, decoder, s);
      expect_logits(&r[s], f->device, logits + s * f->config.vocab);
    }
  }
  for (int32_t s = 0; s < SEQUENCES; s++)
    merges += r[s].merges;
  free(r);
  nats_decoder_free(decoder);
  return merges;
}

// What breaks: a table compares something else than the policy whose name it prints. Seeds are fixed: float32
// would decide near ties otherwise than float64.
DEVICE_TEST(policy, keeps_what_its_definition_keeps) {
  fixture f, host;
  nats_model_config config = small_config();
  fixture_open_on(&f, device, &config, 1, 1, 0.4f, 20231);
  fixture_open(&host, &config, 1, 1, 0.4f, 20231);
  nats_batch batch = random_batch(SEQUENCES, LENGTH, config.vocab, 4);
  for (int i = 0; i < RULES_COUNT; i++) {
    if (test_is_emulated(device) && i % 3 != 2) // the others have one of each that asks more than attention
      continue;
    int32_t merges = check_rule(&f, &host, &batch, &RULES[i], 0);
    cr_expect_eq(merges > 0, RULES[i].before == ref_merge, "%s: %d merges", RULES[i].policy, (int)merges);
    if (!test_is_emulated(device))
      check_rule(&f, &host, &batch, &RULES[i], 28);
  }
  batch_free(&batch);
  fixture_close(&host);
  fixture_close(&f);
}

// What breaks: what is drawn for a text depends on the batch in which it was decoded.
Test(policy, draws_belong_to_samples) {
  fixture f;
  nats_model_config config = small_config();
  fixture_open(&f, &config, 1, 1, 0.3f, fresh_seed());
  nats_decoder *decoder = open_decoder(&f, "random:size=6");
  int32_t tokens[SEQUENCES] = {1, 1}, a[6], b[6];
  const int64_t same[SEQUENCES] = {3, 3};
  for (int round = 0; round < 2; round++) {
    nats_decoder_set_samples(decoder, round == 0 ? SAMPLES : same);
    for (int i = 0; i < 30; i++)
      MUST(nats_decoder_step(decoder, tokens, NULL));
    nats_cache_positions(nats_decoder_cache(decoder), 0, 1, 0, a);
    nats_cache_positions(nats_decoder_cache(decoder), 1, 1, 0, b);
    cr_expect_eq(memcmp(a, b, sizeof a) == 0, round == 1);
    MUST(nats_decoder_reset(decoder));
  }
  nats_decoder_free(decoder);
  fixture_close(&f);
}

// ---- memory

// Pages hold keys and values in float32; tables have a page number (4 bytes) and for every token its position
// and type (5 bytes) and, where a policy scores, 4 more, with room for a power of two of pages.
static int64_t bytes_by_hand(const nats_model_config *c, int32_t pages, int32_t capacity,
                             int32_t token_bytes) {
  return pages * 2LL * PAGE * c->head_size * 4 + capacity * (4LL + PAGE * token_bytes);
}

// What breaks: policies are compared at sizes that they do not have.
Test(policy, bytes_are_those_of_its_lists) {
  static const struct {
    const char *policy;
    int32_t tokens, pages, capacity, token_bytes;
  } cases[] = {
      {"dense", LENGTH, 12, 16, 5},         {"window:window=9", 11, 3, 4, 5},
      {"streaming:recent=13", 17, 5, 8, 5}, {"cam:recent=13,sinks=3", 16, 4, 4, 9},
      {"random:size=8", 8, 2, 2, 5},        {"h2o:size=15", 14, 4, 4, 9},
      {"tova:size=10", 9, 3, 4, 5},
  };
  fixture f;
  nats_model_config config = small_config();
  fixture_open(&f, &config, 1, 1, 0.3f, fresh_seed());
  int32_t lists = SEQUENCES * config.layers * config.kv_heads, tokens[SEQUENCES] = {1, 2};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    nats_decoder *decoder = open_decoder(&f, cases[i].policy);
    nats_cache_stats empty, full;
    MUST(nats_decoder_stats(decoder, &empty));
    for (int32_t t = 0; t < LENGTH; t++)
      MUST(nats_decoder_step(decoder, tokens, NULL));
    MUST(nats_decoder_stats(decoder, &full));
    int64_t list = bytes_by_hand(&config, cases[i].pages, cases[i].capacity, cases[i].token_bytes);
    cr_expect_eq(full.live_tokens, lists * cases[i].tokens, "%s: %lld tokens", cases[i].policy,
                 (long long)full.live_tokens);
    cr_expect_eq(full.bytes, empty.bytes + lists * list, "%s: %lld bytes", cases[i].policy,
                 (long long)full.bytes);
    cr_expect_eq(full.peak_bytes, full.bytes, "%s", cases[i].policy);
    nats_policy_choice choice;
    MUST(nats_policy_choose(cases[i].policy, &config, &choice));
    cr_expect_eq(lists * nats_decoder_list_bytes(choice.policy, &config, f.device, PAGE, cases[i].tokens),
                 full.bytes, "%s", cases[i].policy);
    nats_decoder_free(decoder);
  }
  fixture_close(&f);
}

// ---- the table

// What breaks: a search for a size turns a number that is not there; a table of results cannot say what a
// policy is.
Test(policy, rows_say_what_they_are) {
  for (int32_t p = 0; nats_policy_at(p); p++) {
    const nats_policy *policy = nats_policy_at(p);
    bool found = policy->size == NULL;
    for (int32_t i = 0; i < NATS_POLICY_PARAMETERS && policy->parameters[i].name; i++) {
      cr_expect(policy->parameters[i].help, "%s", policy->name);
      found = found || strcmp(policy->parameters[i].name, policy->size) == 0;
    }
    cr_expect(found && policy->source && policy->keeps && policy->departs, "%s", policy->name);
    cr_expect_eq(policy->prompt_only, strstr(policy->keeps, "prompt only") != NULL, "%s", policy->name);
  }
}

// What breaks: a mistyped policy runs as another one.
Test(policy, refuses_what_it_cannot_be) {
  static const struct {
    const char *text, *hint;
  } cases[] = {
      {"streaming:sink=4", "'sink=4' is no parameter"},
      {"streaming:recent=0", "recent: expected a whole number"},
      {"streaming:reassign=2", "from 0 to 1"},
      {"h2o:size=8,recent=101", "from 0 to 100"},
      {"tova", "tova:size=NUMBER"},
      {"cam:merge=0", "merge: expected a whole number from 1"},
      {"duo:dense=50", "duo:recent=NUMBER"},
      {"nats:window=3", "attention: nats"},
      {"nats", "attention: nats"},
      {"h3o", "dense, nats, window"},
      {"dense:window=3", "no parameter"},
      {"window", "window=NUMBER"},
      {"window:", "no parameter"},
      {"window:sinks=4", "window"},
      {"window:window=x", "whole number"},
      {"window:window=0", "from 1 to"},
      {"window:window=99999999999", "whole number"},
  };
  nats_model_config config = small_config();
  config.window = 0;
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    nats_policy_choice choice;
    nn_error_clear();
    cr_expect_eq(nats_policy_choose(cases[i].text, &config, &choice), NN_ERR_USAGE, "%s", cases[i].text);
    cr_expect(strstr(nn_error_text(), cases[i].hint), "%s: '%s'", cases[i].text, nn_error_text());
  }
  fixture f;
  fixture_open(&f, &config, 1, 1, 0.3f, 1);
  nats_decoder_config blind = {.sequences = 1, .max_length = 4, .policy = "duo:recent=2"};
  nats_decoder *decoder;
  nn_error_clear();
  cr_expect_eq(nats_decoder_create(&config, &f.params, &blind, &decoder), NN_ERR_USAGE);
  cr_expect(strstr(nn_error_text(), "KV use of every head"), "'%s'", nn_error_text());
  nn_error_clear();
  fixture_close(&f);
}
