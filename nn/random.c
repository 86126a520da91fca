#include "nn/random.h"

#include <math.h>

// Constants of Philox4x32 (Salmon et al. 2011): two multipliers and two key increments.
static const uint32_t MULTIPLIER[2] = {0xd2511f53u, 0xcd9e8d57u};
static const uint32_t INCREMENT[2] = {0x9e3779b9u, 0xbb67ae85u};
enum { PHILOX_ROUNDS = 10, FEISTEL_ROUNDS = 6 };

void nn_philox(const uint32_t counter[4], nn_random_key key, uint32_t out[4]) {
  uint32_t x0 = counter[0], x1 = counter[1], x2 = counter[2], x3 = counter[3];
  uint32_t k0 = key.key[0], k1 = key.key[1];
  for (int round = 0; round < PHILOX_ROUNDS; round++) {
    uint64_t product0 = (uint64_t)MULTIPLIER[0] * x0;
    uint64_t product1 = (uint64_t)MULTIPLIER[1] * x2;
    x0 = (uint32_t)(product1 >> 32) ^ x1 ^ k0;
    x1 = (uint32_t)product1;
    x2 = (uint32_t)(product0 >> 32) ^ x3 ^ k1;
    x3 = (uint32_t)product0;
    k0 += INCREMENT[0];
    k1 += INCREMENT[1];
  }
  out[0] = x0;
  out[1] = x1;
  out[2] = x2;
  out[3] = x3;
}

void nn_random_u32x4(nn_random_key key, uint64_t high, uint64_t low, uint32_t out[4]) {
  const uint32_t counter[4] = {(uint32_t)low, (uint32_t)(low >> 32), (uint32_t)high, (uint32_t)(high >> 32)};
  nn_philox(counter, key, out);
}

// Two passes: the purpose turns the seed into a key, and that key turns (a, b) into the stream's own.
nn_random_key nn_random_key_make(uint64_t seed, nn_random_purpose purpose, uint64_t a, uint64_t b) {
  nn_random_key key = {{(uint32_t)seed, (uint32_t)(seed >> 32)}};
  uint32_t bits[4];
  nn_random_u32x4(key, 0, (uint64_t)purpose, bits);
  key = (nn_random_key){{bits[0], bits[1]}};
  nn_random_u32x4(key, a, b, bits);
  return (nn_random_key){{bits[0], bits[1]}};
}

// 23 bits and a half: the largest value is 1 - 2^-24, which float32 can hold.
float nn_random_uniform(uint32_t bits) {
  return ((float)(bits >> 9) + 0.5f) * 0x1p-23f;
}

float nn_random_gumbel(uint32_t bits) {
  return -logf(-logf(nn_random_uniform(bits)));
}

// In float64, so that the result does not depend on which float32 functions a machine's library picks.
void nn_random_normal2(uint32_t a, uint32_t b, float out[2]) {
  double radius = sqrt(-2.0 * log(((double)a + 0.5) * 0x1p-32));
  double angle = 2.0 * 3.14159265358979323846 * ((double)b * 0x1p-32);
  out[0] = (float)(radius * cos(angle));
  out[1] = (float)(radius * sin(angle));
}

uint64_t nn_random_hash(const void *bytes, uint64_t count) {
  const unsigned char *byte = bytes;
  uint64_t hash = 0xcbf29ce484222325u;
  for (uint64_t i = 0; i < count; i++)
    hash = (hash ^ byte[i]) * 0x100000001b3u;
  return hash;
}

// One pass of the network over numbers of 2 * half_bits bits.
static uint64_t feistel(nn_random_key key, unsigned half_bits, uint64_t value) {
  uint64_t mask = ((uint64_t)1 << half_bits) - 1;
  uint64_t left = value >> half_bits, right = value & mask;
  for (uint64_t round = 0; round < FEISTEL_ROUNDS; round++) {
    uint32_t bits[4];
    nn_random_u32x4(key, round, right, bits);
    uint64_t next = left ^ (bits[0] & mask);
    left = right;
    right = next;
  }
  return left << half_bits | right;
}

// The network permutes the smallest power of 4 that holds `count` numbers. Following it until it comes back
// into the range (fewer than 4 times on average) leaves a permutation of the range.
uint64_t nn_random_permute(nn_random_key key, uint64_t count, uint64_t index) {
  if (count < 2)
    return 0;
  index %= count; // from outside the range the walk need not end
  unsigned half_bits = 1;
  while (half_bits < 32 && count > (uint64_t)1 << (2 * half_bits))
    half_bits++;
  do
    index = feistel(key, half_bits, index);
  while (index >= count);
  return index;
}
