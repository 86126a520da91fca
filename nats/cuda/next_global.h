// The next global chunk after each one, for kernels with a thread a chunk: a block takes a strip of
// neighbouring chunks of one (sequence, kv head), and looks for the first global behind its strip itself.
#pragma once

#include <stdint.h>

#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/types.h"
}

enum { NATS_NONE = INT32_MAX }; // no global follows

// Threads of such a block, and blocks of a sequence.
static inline int nats_strip_threads(int32_t chunks) {
  return chunks < 1024 ? nn_ceil_div(chunks, (int32_t)NN_WARP) * NN_WARP : 1024;
}
static inline int32_t nats_strip_count(int32_t chunks) {
  return nn_ceil_div(chunks, (int32_t)nats_strip_threads(chunks));
}

// The lowest of `mine` over the warps from `first` on; `shared`: a number for each warp. Called by all
// threads of the block.
__device__ static inline int nats_lowest(int mine, int first, int *shared) {
  const int lane = (int)threadIdx.x % NN_WARP, warps = (int)blockDim.x / NN_WARP;
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    mine = min(mine, __shfl_xor_sync(0xffffffffu, mine, lanes));
  __syncthreads(); // what was there before has been read
  if (lane == 0)
    shared[threadIdx.x / NN_WARP] = mine;
  __syncthreads();
  int lowest = lane >= first && lane < warps ? shared[lane] : (int)NATS_NONE;
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    lowest = min(lowest, __shfl_xor_sync(0xffffffffu, lowest, lanes));
  return lowest;
}

// The first global among chunks `from` to count - 1; NATS_NONE without any. For the whole block.
__device__ static inline int nats_first_global(const uint8_t *types, int32_t from, int32_t count,
                                               int *shared) {
  enum { AHEAD = 8 };
  int found = NATS_NONE;
  for (int64_t at = from; found == NATS_NONE && at < count; at += AHEAD * blockDim.x) {
    int mine = NATS_NONE;
#pragma unroll
    for (int i = AHEAD - 1; i >= 0; i--) {
      const int64_t c = at + i * (int)blockDim.x + (int)threadIdx.x;
      mine = c < count && types[c] == NATS_GLOBAL ? (int)c : mine;
    }
    found = nats_lowest(mine, 0, shared);
  }
  return found;
}

// The next global after chunk `a`, this thread's; its neighbours have the neighbouring chunks. Only the first
// `count` chunks can be global. For the whole block; `types` [chunks] of its (sequence, kv head).
__device__ static inline int nats_next_global(const uint8_t *types, int32_t a, int32_t count) {
  __shared__ int shared[NN_WARP];
  const int lane = (int)threadIdx.x % NN_WARP, strip_end = a - (int)threadIdx.x + (int)blockDim.x;
  const bool global = a < count && types[a] == NATS_GLOBAL;
  const int behind = nats_first_global(types, strip_end, count, shared);
  const int following = nats_lowest(global ? a : (int)NATS_NONE, (int)threadIdx.x / NN_WARP + 1, shared);
  const unsigned globals = __ballot_sync(0xffffffffu, global);
  const unsigned above = lane == NN_WARP - 1 ? 0 : globals >> (lane + 1);
  return above != 0 ? a + __ffs(above) : min(following, behind);
}
