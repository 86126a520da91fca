// The next global chunk after each one, for kernels in which one block walks a sequence backwards.
#pragma once

#include <stdint.h>

#include "nn/cuda/kernel.h"

enum { NATS_NONE = INT32_MAX }; // no global follows

// Threads of such a block: one for each chunk of a tile.
static inline int nats_tile_threads(int32_t chunks) {
  return chunks < 1024 ? nn_ceil_div(chunks, (int32_t)NN_WARP) * NN_WARP : 1024;
}

// The lowest of `mine` over this thread's successors in the block; without any, *beyond. `mine` is the
// thread's own index where its chunk is global, else NATS_NONE. On return *beyond is the lowest of the whole
// block or what it was: with tiles taken from the end of the sequence, what the tile before this one needs.
// `shared`: NN_WARP numbers. Called by all threads of the block.
__device__ static inline int nats_next_global(int mine, int *beyond, int *shared) {
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP, warps = blockDim.x / NN_WARP;
  const unsigned globals = __ballot_sync(0xffffffffu, mine != NATS_NONE);
  const int lowest_lane = globals == 0 ? 0 : __ffs(globals) - 1;
  const int lowest = __shfl_sync(0xffffffffu, mine, lowest_lane); // NATS_NONE without any
  __syncthreads();                                                // the tile before has been read
  if (lane == 0)
    shared[warp] = lowest;
  __syncthreads();
  // Over the warps that follow, and over all of them.
  int after = *beyond, all = *beyond;
  const int other = lane < warps ? shared[lane] : (int)NATS_NONE;
  const unsigned having = __ballot_sync(0xffffffffu, other != NATS_NONE);
  const unsigned following = warp == NN_WARP - 1 ? 0 : having & (0xffffffffu << (warp + 1));
  if (having != 0)
    all = shared[__ffs(having) - 1];
  if (following != 0)
    after = shared[__ffs(following) - 1];
  // Within the warp, whose chunks are neighbours.
  const unsigned above = lane == NN_WARP - 1 ? 0 : globals & (0xffffffffu << (lane + 1));
  *beyond = all;
  return above != 0 ? lowest - lowest_lane + __ffs(above) - 1 : after;
}
