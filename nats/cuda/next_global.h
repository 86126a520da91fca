// The next global chunk after each one. A thread block takes a strip of neighbouring chunks of one (sequence,
// kv head), ITEMS a thread; a bit for every chunk of the strip tells which are global, and for the first
// global behind its strip the block looks itself.
#pragma once

#include <stdint.h>

#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/types.h"
}

enum { NATS_NONE = INT32_MAX }; // no global follows

// Chunk `item * NATS_STRIP_THREADS + threadIdx.x` of a strip is a thread's item. A warp's items of one
// number fill one word of bits, and all words are as many as a warp has lanes.
enum { NATS_STRIP_CHUNKS = NN_WARP * NN_WARP, NATS_STRIP_THREADS = 256 };
enum { NATS_STRIP_ITEMS = NATS_STRIP_CHUNKS / NATS_STRIP_THREADS };

// The thread blocks of a sequence.
static inline int32_t nats_chunk_strips(int32_t chunks) {
  return nn_ceil_div(chunks, (int32_t)NATS_STRIP_CHUNKS);
}

// The lowest of `mine` over the block; `shared`: a number for each warp. Called by all threads of the block.
__device__ static inline int nats_lowest(int mine, int *shared) {
  const int lane = (int)threadIdx.x % NN_WARP;
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    mine = min(mine, __shfl_xor_sync(0xffffffffu, mine, lanes));
  __syncthreads(); // what was there before has been read
  if (lane == 0)
    shared[threadIdx.x / NN_WARP] = mine;
  __syncthreads();
  int lowest = NATS_NONE;
  for (int warp = 0; warp < NATS_STRIP_THREADS / NN_WARP; warp++)
    lowest = min(lowest, shared[warp]);
  return lowest;
}

// The first global among chunks `from` to count - 1; NATS_NONE without any. For the whole block.
__device__ static inline int nats_first_global(const uint8_t *types, int32_t from, int32_t count) {
  enum { AHEAD = 8 };
  __shared__ int shared[NATS_STRIP_THREADS / NN_WARP];
  int found = NATS_NONE;
  for (int64_t at = from; found == NATS_NONE && at < count; at += AHEAD * NATS_STRIP_THREADS) {
    int mine = NATS_NONE;
#pragma unroll
    for (int i = AHEAD - 1; i >= 0; i--) {
      const int64_t c = at + i * NATS_STRIP_THREADS + (int)threadIdx.x;
      mine = c < count && types[c] == NATS_GLOBAL ? (int)c : mine;
    }
    found = nats_lowest(mine, shared);
  }
  return found;
}

// next[item]: the next global after each of this thread's chunks. `globals`: whether these are global;
// chunks from `count` on never are. `types` [chunks] of the pair tell of what follows the strip, which begins
// with chunk `first`. For the whole block.
__device__ static inline void nats_next_globals(const bool globals[NATS_STRIP_ITEMS], const uint8_t *types,
                                                int32_t first, int32_t count,
                                                int32_t next[NATS_STRIP_ITEMS]) {
  __shared__ uint32_t words[NN_WARP]; // bit i of words[w]: chunk first + 32 w + i
  const int lane = (int)threadIdx.x % NN_WARP, warp = (int)threadIdx.x / NN_WARP;
  const int behind = nats_first_global(types, first + NATS_STRIP_CHUNKS, count);
  uint32_t own[NATS_STRIP_ITEMS];
#pragma unroll
  for (int item = 0; item < NATS_STRIP_ITEMS; item++) {
    own[item] = __ballot_sync(0xffffffffu, globals[item]);
    if (lane == 0)
      words[item * (NATS_STRIP_THREADS / NN_WARP) + warp] = own[item];
  }
  __syncthreads();
  const uint32_t filled = __ballot_sync(0xffffffffu, words[lane] != 0); // words with a global
#pragma unroll
  for (int item = 0; item < NATS_STRIP_ITEMS; item++) {
    int word = item * (NATS_STRIP_THREADS / NN_WARP) + warp;
    uint32_t above = own[item] & ~1u << lane;
    const uint32_t words_above = filled & ~1u << word;
    if (above == 0 && words_above != 0) {
      word = __ffs((int)words_above) - 1;
      above = words[word];
    }
    next[item] = above != 0 ? first + word * NN_WARP + __ffs((int)above) - 1 : behind;
  }
}
