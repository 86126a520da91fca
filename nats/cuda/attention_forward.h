// Forward attention on tensor cores: what its kernels share. A block of rows meets the keys that it can see
// as one sequence of tiles, gathered from the lists of columns.cu.
#pragma once

#include "nats/cuda/attention.h"
#include "nats/cuda/tensor_core.h"

enum { NATS_NO_KEY = INT32_MAX };  // a position
enum { NATS_WEIGHT_SLACK = 8 };    // log2 of how far weights may exceed 1
#define NATS_NO_WEIGHTS_YET -1e30f // what they are relative to at first

// The rows that see the keys of a tile: from the position to the expiry of each.
template <int KEYS> struct nats_tile_keys { int32_t position[KEYS], expiry[KEYS]; };

// The keys that a block of rows can see, as one sequence: a range of each class after the other.
typedef struct {
  const int32_t *key, *until;      // of the pair
  int32_t shift[NATS_KEY_CLASSES]; // from the number in the sequence to the index in the lists
  int32_t end[NATS_KEY_CLASSES];   // of the class in the sequence
} nats_visible_keys;

template <int ROWS>
__device__ static nats_visible_keys nats_visible_to(const nats_cuda_attention &a, int64_t pair, int32_t row) {
  const int32_t first = row / NATS_RANGE_ROWS, beyond = first + ROWS / NATS_RANGE_ROWS;
  const int32_t last = (beyond < a.lists.blocks ? beyond : a.lists.blocks) - 1;
  const int64_t blocks = pair * a.lists.blocks;
  nats_visible_keys keys = {a.lists.key + pair * a.length, a.lists.until + pair * a.length, {}, {}};
  int32_t count = 0;
#pragma unroll
  for (int c = 0; c < NATS_KEY_CLASSES; c++) {
    const int32_t begin = a.lists.first[(blocks + first) * NATS_KEY_CLASSES + c];
    keys.shift[c] = begin - count;
    count += a.lists.end[(blocks + last) * NATS_KEY_CLASSES + c] - begin;
    keys.end[c] = count;
  }
  return keys;
}

// One thread's share of the keys of a tile: the position or the expiry of one of them. There are 2 KEYS
// threads.
template <int KEYS>
__device__ static inline int32_t nats_key_share(const nats_visible_keys &keys, int32_t tile) {
  const bool expiries = threadIdx.x >= KEYS;
  const int32_t number = tile * KEYS + (int32_t)(threadIdx.x % KEYS);
  if (number >= keys.end[2])
    return expiries ? -1 : NATS_NO_KEY;
  const int32_t shift = number < keys.end[0]   ? keys.shift[0]
                        : number < keys.end[1] ? keys.shift[1]
                                               : keys.shift[2];
  return __ldg((expiries ? keys.until : keys.key) + number + shift);
}
template <int KEYS>
__device__ static inline void nats_store_share(nats_tile_keys<KEYS> &keys, int32_t share) {
  int32_t *to = threadIdx.x >= KEYS ? keys.expiry : keys.position;
  to[threadIdx.x % KEYS] = share;
}

// Every warp copies the queries that it will read; zeros past the last row. `head` is where the first query
// of the sequence's head lies.
template <int D, int WARP_ROWS>
__device__ static void nats_load_queries(const nats_cuda_attention &a, int64_t head, int32_t row,
                                         nn_bf16 *tile) {
  const int lane = (int)(threadIdx.x % NN_WARP), piece = lane % (D / 8);
  const int first = (int)(threadIdx.x / NN_WARP) * WARP_ROWS + lane / (D / 8);
#pragma unroll
  for (int r = first; r < first + WARP_ROWS; r += NN_WARP / (D / 8)) {
    const bool valid = row + r < a.length;
    const int64_t at = head + (valid ? row + r : 0) * a.token_stride + piece * 8;
    nats_copy16(tile + nats_piece<D>(r, piece), (const nn_bf16 *)a.q + at, valid);
  }
}

// On Hopper, D = 64 (attention_forward_hopper.cu)
nn_status nats_cuda_forward_hopper(nn_device *device, const nats_cuda_attention *a);
