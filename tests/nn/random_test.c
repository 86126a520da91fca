#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "nn/random.h"
#include "tests/nn/fresh_seed.h"

// Known answers that the authors of Philox publish with Random123. When this fails, runs made with other
// builds of the program can no longer be repeated: initial weights, noise and data order all change.
Test(random, philox_known_answers) {
  static const struct {
    uint32_t counter[4], key[2], out[4];
  } cases[] = {
      {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
      {{~0u, ~0u, ~0u, ~0u}, {~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
      {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
       {0xa4093822, 0x299f31d0},
       {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint32_t out[4];
    nn_philox(cases[i].counter, (nn_random_key){{cases[i].key[0], cases[i].key[1]}}, out);
    cr_expect(memcmp(out, cases[i].out, sizeof out) == 0, "vector %zu: found %08x %08x %08x %08x", i, out[0],
              out[1], out[2], out[3]);
  }
}

// The two halves of the counter have fixed places: a data order that was saved with one must be found again.
Test(random, counter_halves) {
  nn_random_key key = {{7, 8}};
  uint32_t by_halves[4], by_words[4];
  nn_random_u32x4(key, 0x4444444433333333u, 0x2222222211111111u, by_halves);
  nn_philox((const uint32_t[4]){0x11111111, 0x22222222, 0x33333333, 0x44444444}, key, by_words);
  cr_expect(memcmp(by_halves, by_words, sizeof by_words) == 0);
}

// Streams that share a key would repeat each other's numbers: noise of one layer would be that of another.
Test(random, every_part_of_the_key_counts) {
  uint64_t seed = fresh_seed();
  nn_random_key keys[] = {
      nn_random_key_make(seed, NN_RANDOM_INIT, 1, 2),
      nn_random_key_make(seed + 1, NN_RANDOM_INIT, 1, 2),
      nn_random_key_make(seed, NN_RANDOM_GUMBEL, 1, 2),
      nn_random_key_make(seed, NN_RANDOM_INIT, 2, 2),
      nn_random_key_make(seed, NN_RANDOM_INIT, 1, 3),
      nn_random_key_make(seed, NN_RANDOM_INIT, 2, 1),
      nn_random_key_make(seed, NN_RANDOM_INIT, 1, 2ull << 32),
      nn_random_key_make(seed, NN_RANDOM_INIT, 1ull << 32, 2),
      nn_random_key_make(seed ^ 1ull << 63, NN_RANDOM_INIT, 1, 2),
  };
  int count = sizeof keys / sizeof *keys;
  for (int i = 0; i < count; i++)
    for (int j = 0; j < i; j++)
      cr_expect(memcmp(&keys[i], &keys[j], sizeof *keys) != 0, "keys %d and %d are the same", j, i);
}

// A uniform 0 or 1 becomes an infinite Gumbel draw, and the softmax of the token types becomes NaN.
Test(random, extremes_stay_finite) {
  static const uint32_t bits[] = {0, 1, 511, 512, 0x7fffffff, 0x80000000, 0xfffffdff, 0xfffffffe, 0xffffffff};
  for (size_t i = 0; i < sizeof bits / sizeof *bits; i++) {
    float u = nn_random_uniform(bits[i]), normal[2];
    cr_expect(u > 0.0f && u < 1.0f, "%08x gives %.9g", bits[i], (double)u);
    cr_expect(isfinite(nn_random_gumbel(bits[i])), "%08x", bits[i]);
    nn_random_normal2(bits[i], 0xffffffff - bits[i], normal);
    cr_expect(isfinite(normal[0]) && isfinite(normal[1]), "%08x", bits[i]);
  }
}

// Mean and variance of the three distributions, within six standard errors. Biased noise would bias which
// token types are tried.
Test(random, moments) {
  enum { DRAWS = 1 << 18 };
  const double euler = 0.57721566490153286, pi = 3.14159265358979323846;
  nn_random_key key = nn_random_key_make(fresh_seed(), NN_RANDOM_TEST, 0, 0);
  double sum[4] = {0}, square[4] = {0};
  for (uint64_t i = 0; i < DRAWS; i++) {
    uint32_t bits[4];
    float x[4];
    nn_random_u32x4(key, 0, i, bits);
    x[0] = nn_random_uniform(bits[0]);
    x[1] = nn_random_gumbel(bits[1]);
    nn_random_normal2(bits[2], bits[3], x + 2);
    for (int k = 0; k < 4; k++) {
      sum[k] += (double)x[k];
      square[k] += (double)x[k] * (double)x[k];
    }
  }
  const double mean[4] = {0.5, euler, 0.0, 0.0}, variance[4] = {1.0 / 12.0, pi * pi / 6.0, 1.0, 1.0};
  for (int k = 0; k < 4; k++) {
    double found = sum[k] / DRAWS, spread = square[k] / DRAWS - found * found;
    cr_expect_float_eq(found, mean[k], 6.0 * sqrt(variance[k] / DRAWS), "mean of %d: %g", k, found);
    cr_expect_float_eq(spread, variance[k], variance[k] * 6.0 * sqrt(5.0 / DRAWS), "variance of %d: %g", k,
                       spread);
  }
}

// Every window of the data is visited exactly once in an epoch. A permutation that is none would skip some
// text and repeat other.
Test(random, permute_visits_all_once) {
  nn_random_key key = nn_random_key_make(fresh_seed(), NN_RANDOM_DATA_ORDER, 0, 0);
  static const uint64_t counts[] = {1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4096, 4097, 100003};
  for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
    unsigned char *seen = calloc(counts[c], 1);
    cr_assert_not_null(seen);
    for (uint64_t i = 0; i < counts[c]; i++) {
      uint64_t image = nn_random_permute(key, counts[c], i);
      cr_assert_lt(image, counts[c]);
      cr_assert_eq(seen[image], 0, "%llu of %llu is visited twice", (unsigned long long)image,
                   (unsigned long long)counts[c]);
      seen[image] = 1;
    }
    free(seen);
  }
}

// The order must be shuffled: neighbours far apart, few points left in place, and another key another order.
Test(random, permute_shuffles) {
  enum { COUNT = 50000 };
  uint64_t seed = fresh_seed();
  nn_random_key key = nn_random_key_make(seed, NN_RANDOM_DATA_ORDER, 0, 0);
  nn_random_key other = nn_random_key_make(seed, NN_RANDOM_DATA_ORDER, 1, 0);
  double distance = 0.0;
  int fixed = 0, same = 0;
  for (uint64_t i = 0; i < COUNT; i++) {
    uint64_t here = nn_random_permute(key, COUNT, i), next = nn_random_permute(key, COUNT, (i + 1) % COUNT);
    distance += fabs((double)here - (double)next) / COUNT;
    fixed += here == i;
    same += here == nn_random_permute(other, COUNT, i);
  }
  cr_expect_float_eq(distance / COUNT, 1.0 / 3.0, 0.02, "neighbours are %g of the range apart",
                     distance / COUNT);
  cr_expect_lt(fixed, 20);
  cr_expect_lt(same, 20);
}

// Huge corpora: images stay in range and differ, and an index beyond the end is taken modulo the count.
Test(random, permute_large_counts) {
  nn_random_key key = nn_random_key_make(fresh_seed(), NN_RANDOM_DATA_ORDER, 0, 0);
  uint64_t count = (1ull << 40) + 12345;
  uint64_t previous = count;
  for (uint64_t i = 0; i < 1000; i++) {
    uint64_t image = nn_random_permute(key, count, count - 1 - i);
    cr_assert_lt(image, count);
    cr_assert_neq(image, previous);
    previous = image;
  }
  cr_expect_eq(nn_random_permute(key, 10, 13), nn_random_permute(key, 10, 3));
  cr_expect_eq(nn_random_permute(key, 0, 5), 0);
}

// FNV-1a of "a" and of nothing, as its authors give them: names of parameters become keys by it.
Test(random, hash_known_answers) {
  cr_expect_eq(nn_random_hash("", 0), 0xcbf29ce484222325u);
  cr_expect_eq(nn_random_hash("a", 1), 0xaf63dc4c8601ec8cu);
}
