// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011). A number is a pure function of what it is for, so results do not depend on the number of ranks,
// on the device or on the order of calls.
#pragma once

#include <stdint.h>

// What a stream of numbers is for: part of the key, so that streams never meet.
typedef enum {
  NN_RANDOM_INIT = 1,
  NN_RANDOM_GUMBEL,
  NN_RANDOM_TYPE_ROWS, // which query blocks are sampled for the type gradients
  NN_RANDOM_DATA_ORDER,
  NN_RANDOM_SPLIT,
  NN_RANDOM_SYNTH,
  NN_RANDOM_GENERATE,
  NN_RANDOM_TEST,
  NN_RANDOM_EVICTION, // cache policies that draw
} nn_random_purpose;

typedef struct {
  uint32_t key[2];
} nn_random_key;

// A key for (seed, purpose, a, b): for example a = step, b = layer.
nn_random_key nn_random_key_make(uint64_t seed, nn_random_purpose purpose, uint64_t a, uint64_t b);

// Four 32-bit numbers for a 128-bit counter.
void nn_philox(const uint32_t counter[4], nn_random_key key, uint32_t out[4]);

// The same, with the counter given as two 64-bit numbers.
void nn_random_u32x4(nn_random_key key, uint64_t high, uint64_t low, uint32_t out[4]);

// Conversions of one 32-bit number; u is never 0 or 1.
float nn_random_uniform(uint32_t bits);                       // (0, 1)
float nn_random_gumbel(uint32_t bits);                        // -log(-log(u))
void nn_random_normal2(uint32_t a, uint32_t b, float out[2]); // Box-Muller

// 64-bit hash of bytes for keys (FNV-1a), not for integrity.
uint64_t nn_random_hash(const void *bytes, uint64_t count);

// A permutation of [0, count) as a function: the image of `index` (a Feistel network with cycle walking over
// Philox), needs no memory. For shuffling windows of a data set. `index` counts modulo `count`.
uint64_t nn_random_permute(nn_random_key key, uint64_t count, uint64_t index);
