// The sums over hidden pairs: what its kernels share. A thread block takes neighbours of one list and one
// query head, and goes down the rows that these keys are hidden from.
//
// As the lists are sorted, the first hidden row of neighbouring keys is that of the first, and rows past the
// last bound of the last key need no comparison at all. Lists tell more: local keys expire with their `local`
// bound and window keys with their `window` bound, so that each class has but two bounds beyond its expiry to
// look at.
#pragma once

#include "nats/cuda/attention.h"

#define NATS_LOG2_E 1.4426950408889634f

// Up to which rows the sums of a key go. Rows after `expiry` are hidden.
typedef struct {
  int32_t expiry;
  int32_t second; // `window` of local keys, `local` of window keys
  int32_t third;  // `ended` of local keys, -1 of others
  int32_t token;
} nats_hidden_bounds;

// A thread block's part.
typedef struct {
  int32_t sequence, head, pair;
  int32_t key_class;
  int32_t first, count; // in the pair's list
} nats_hidden_tile;

// Slots of a query head follow one another, so that the head's Q and dO stay in the cache; those that see
// most rows come first: local and window tiles in turn. Tiles of lasting keys, at the end, only write zeros.
template <int KEYS>
__device__ static nats_hidden_tile nats_hidden_find(const nats_cuda_attention &a, int32_t slots) {
  const int32_t at = blockIdx.x / slots, slot = blockIdx.x % slots;
  nats_hidden_tile tile;
  tile.sequence = at / a.heads;
  tile.head = at % a.heads;
  tile.pair = tile.sequence * a.kv_heads + tile.head / a.group;
  const int32_t *start = a.lists.start + 4 * (int64_t)tile.pair;
  const int32_t locals = (start[2] - start[1] + KEYS - 1) / KEYS;
  const int32_t both = locals + (start[3] - start[2] + KEYS - 1) / KEYS;
  int32_t index = slot - both;
  tile.key_class = NATS_KEY_LASTING;
  if (slot < both) {
    const int32_t before = (int32_t)((int64_t)slot * locals / both);
    const int32_t after = (int32_t)((int64_t)(slot + 1) * locals / both);
    tile.key_class = after > before ? NATS_KEY_LOCAL : NATS_KEY_WINDOW;
    index = after > before ? before : slot - before;
  }
  tile.first = start[tile.key_class] + index * KEYS;
  tile.count = min((int32_t)KEYS, start[tile.key_class + 1] - tile.first);
  return tile;
}
// The thread blocks of a query head.
static inline int32_t nats_hidden_slots(const nats_cuda_attention *a, int32_t keys) {
  return nn_ceil_div(a->length, keys) + NATS_KEY_CLASSES - 1;
}

// Thread i brings the bounds of key i.
__device__ static inline void nats_hidden_load_bounds(const nats_cuda_attention &a,
                                                      const nats_hidden_tile &tile,
                                                      nats_hidden_bounds *keys) {
  const int key = threadIdx.x;
  if (key >= tile.count)
    return;
  const int64_t list = (int64_t)tile.pair * a.length;
  const int32_t token = a.lists.key[list + tile.first + key];
  const nats_key_rows rows = a.rows[list + token];
  const bool local = tile.key_class == NATS_KEY_LOCAL;
  keys[key] = {a.lists.until[list + tile.first + key], local ? rows.window : rows.local,
               local ? rows.ended : -1, token};
}

// The first block of ROWS rows from `block` on that is visited.
template <int ROWS>
__device__ static inline int32_t nats_hidden_drawn(const nats_cuda_attention &a, int32_t block) {
  while (block * ROWS < a.length && a.block_weight[block * ROWS / NATS_RANGE_ROWS] == 0)
    block++;
  return block;
}

// On Hopper, D = 64 (attention_hidden_hopper.cu)
nn_status nats_cuda_hidden_hopper(nn_device *device, const nats_cuda_attention *a);
