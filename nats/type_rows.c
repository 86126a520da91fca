#include "nats/type_rows.h"

#include <math.h> // lroundf

#include "nn/random.h"

void nats_type_block_weights(const nats_attention *op, int32_t blocks, float *weight) {
  int32_t wanted = (int32_t)lroundf(op->type_grad_rows * (float)blocks);
  wanted = wanted < 1 ? 1 : wanted;
  const nn_random_key key =
      nn_random_key_make(op->seed, NN_RANDOM_TYPE_ROWS, (uint64_t)op->step, (uint64_t)op->layer);
  // Selection sampling (Fan, Muller and Rezucha 1962): all subsets of that size are equally likely.
  int32_t drawn = 0;
  for (int32_t block = 0; block < blocks; block++) {
    uint32_t bits[4];
    nn_random_u32x4(key, 0, (uint64_t)block, bits);
    const double u = ((double)bits[0] + 0.5) * 0x1p-32;
    const bool draw = u * (blocks - block) < wanted - drawn;
    weight[block] = draw ? (float)blocks / (float)wanted : 0;
    drawn += draw;
  }
}
