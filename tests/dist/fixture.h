// The world of a test: started once, ended after it. With a short deadline, so that a rank whose assertion
// failed does not keep the others waiting.
#pragma once

#include <criterion/criterion.h>

#include "dist/group.h"
#include "nn/random.h"

static dist_group *world;

static inline void start_ranks(void) {
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK, "%s", nn_error_text());
  dist_set_deadline(world, 60);
}

static inline void end_ranks(void) {
  dist_finalize(world);
}

// A small whole number for (rank, element), so that sums are exact in every type and any order.
static inline int32_t value_of(uint64_t seed, int32_t rank, int64_t element) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, (uint64_t)rank, 0), 0, (uint64_t)element, bits);
  return (int32_t)(bits[0] % 40);
}
