#include "nats/sampler.h"

#include <criterion/criterion.h>
#include <math.h>   // exp, sqrt, INFINITY
#include <string.h> // strstr

#include "tests/nn/fresh_seed.h"

enum { VOCAB = 6, DRAWS = 20000 };
// probabilities 0.4, 0.05, 0.3, 0.15, 0.1 and 0 at temperature 1
static const double probability[VOCAB] = {0.4, 0.05, 0.3, 0.15, 0.1, 0.0};

static void known_logits(float logits[VOCAB]) {
  for (int i = 0; i < VOCAB; i++)
    logits[i] = probability[i] > 0.0 ? (float)log(probability[i]) + 3.0f : -INFINITY;
}

static nats_sampler *open_sampler(float temperature, int32_t top_k, float top_p, uint64_t seed) {
  nats_sampler_config config = {temperature, top_k, top_p, seed};
  nats_sampler *sampler;
  cr_assert_eq(nats_sampler_create(&config, VOCAB, &sampler), NN_OK, "%s", nn_error_text());
  return sampler;
}

// Draws many times and compares with the expected shares, each within 5 standard deviations.
static void expect_shares(const char *what, nats_sampler *sampler, const double *share) {
  float logits[VOCAB];
  int count[VOCAB] = {0};
  known_logits(logits);
  for (uint64_t i = 0; i < DRAWS; i++) {
    int32_t token = -1;
    cr_assert_eq(nats_sampler_draw(sampler, logits, i % 7, i, &token), NN_OK);
    cr_assert(token >= 0 && token < VOCAB);
    count[token]++;
  }
  for (int i = 0; i < VOCAB; i++) {
    double deviation = sqrt(DRAWS * share[i] * (1.0 - share[i]));
    cr_expect(fabs(count[i] - DRAWS * share[i]) <= 5.0 * deviation,
              "%s: token %d was drawn %d times of %d, expected %g", what, i, count[i], DRAWS,
              DRAWS * share[i]);
  }
  nats_sampler_free(sampler);
}

static void normalise(double share[VOCAB]) {
  double sum = 0.0;
  for (int i = 0; i < VOCAB; i++)
    sum += share[i];
  for (int i = 0; i < VOCAB; i++)
    share[i] /= sum;
}

// Text that is drawn from another distribution than the one asked for looks plausible and is wrong.
Test(sampler, draws_from_the_distribution) {
  uint64_t seed = fresh_seed();
  expect_shares("temperature 1", open_sampler(1.0f, 0, 1.0f, seed), probability);
  double sharp[VOCAB], two[VOCAB] = {0.4, 0, 0.3, 0, 0, 0}, three[VOCAB] = {0.4, 0, 0.3, 0.15, 0, 0};
  for (int i = 0; i < VOCAB; i++)
    sharp[i] = probability[i] * probability[i];
  normalise(sharp);
  normalise(two);
  normalise(three);
  expect_shares("temperature 0.5", open_sampler(0.5f, 0, 1.0f, seed), sharp);
  expect_shares("top_k 2", open_sampler(1.0f, 2, 1.0f, seed), two);
  expect_shares("top_k past the vocabulary", open_sampler(1.0f, 50, 1.0f, seed), probability);
  expect_shares("top_p 0.69", open_sampler(1.0f, 0, 0.69f, seed), two);
  expect_shares("top_p 0.71", open_sampler(1.0f, 0, 0.71f, seed), three);
  expect_shares("top_p 0.71, top_k past the vocabulary", open_sampler(1.0f, 50, 0.71f, seed), three);
  // of the 3 most likely (0.47, 0.35, 0.18 of what is left) the first two hold 0.7
  expect_shares("top_k 3, top_p 0.7", open_sampler(1.0f, 3, 0.7f, seed), two);
  double one[VOCAB] = {1, 0, 0, 0, 0, 0};
  expect_shares("temperature 0", open_sampler(0.0f, 0, 1.0f, seed), one);
  expect_shares("top_k 1", open_sampler(1.0f, 1, 1.0f, seed), one);
  expect_shares("top_p small", open_sampler(1.0f, 0, 1e-6f, seed), one);
}

// A seed is a promise that the same text comes again, from any place and in any order.
Test(sampler, repeats_with_its_seed) {
  uint64_t seed = fresh_seed();
  float logits[VOCAB];
  int32_t forwards[200], backwards[200], other[200], different = 0;
  known_logits(logits);
  nats_sampler *a = open_sampler(1.0f, 0, 1.0f, seed), *b = open_sampler(1.0f, 0, 1.0f, seed);
  nats_sampler *c = open_sampler(1.0f, 0, 1.0f, seed + 1);
  for (uint64_t i = 0; i < 200; i++)
    cr_assert_eq(nats_sampler_draw(a, logits, 3, i, &forwards[i]), NN_OK);
  for (uint64_t i = 200; i-- > 0;)
    cr_assert_eq(nats_sampler_draw(b, logits, 3, i, &backwards[i]), NN_OK);
  for (uint64_t i = 0; i < 200; i++)
    cr_assert_eq(nats_sampler_draw(c, logits, 3, i, &other[i]), NN_OK);
  for (int i = 0; i < 200; i++) {
    cr_expect_eq(forwards[i], backwards[i]);
    different += forwards[i] != other[i];
  }
  cr_expect_gt(different, 20, "another seed gives another text");
  nats_sampler_free(c);
  nats_sampler_free(b);
  nats_sampler_free(a);
}

// Numbers from the command line, and logits of a model that went wrong: one line, no token.
Test(sampler, refuses_bad_numbers) {
  static const nats_sampler_config bad[] = {
      {-1.0f, 0, 1.0f, 0}, {NAN, 0, 1.0f, 0}, {1.0f, -1, 1.0f, 0}, {1.0f, 0, 0.0f, 0}, {1.0f, 0, 1.5f, 0},
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    nats_sampler *sampler;
    cr_expect_eq(nats_sampler_create(&bad[i], VOCAB, &sampler), NN_ERR_USAGE);
    cr_expect_null(sampler);
    nn_error_clear();
  }
  float logits[VOCAB];
  int32_t token;
  nats_sampler *sampler = open_sampler(1.0f, 0, 1.0f, 1);
  known_logits(logits);
  logits[4] = NAN;
  cr_expect_eq(nats_sampler_draw(sampler, logits, 0, 0, &token), NN_ERR_NUMERIC);
  cr_expect(strstr(nn_error_text(), "token 4"), "%s", nn_error_text());
  for (int i = 0; i < VOCAB; i++)
    logits[i] = -INFINITY;
  nn_error_clear();
  cr_expect_eq(nats_sampler_draw(sampler, logits, 0, 0, &token), NN_ERR_NUMERIC);
  nats_sampler_free(sampler);
}
