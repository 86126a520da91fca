// Private to policies that draw: one number a list and step.
#pragma once

#include "nats/policy.h"
#include "nn/random.h"

static inline uint32_t nats_policy_draw(const nats_policy_step *step) {
  uint32_t bits[4];
  uint64_t list = (uint64_t)step->layer << 32 | (uint32_t)step->head;
  nn_random_key key = nn_random_key_make(step->seed, NN_RANDOM_EVICTION, (uint64_t)step->sample, list);
  nn_random_u32x4(key, 0, (uint64_t)step->position, bits);
  return bits[0];
}
