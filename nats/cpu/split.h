// How attention is shared by threads: a task is one (sequence, kv head), or, where there are too few of
// those, every `parts`-th query block of one. A task owns what it writes, so results depend on `parts` alone
// and not on which thread ran what.
#pragma once

#include "nats/attention.h"
#include "nats/cpu/tile.h"

typedef struct {
  int32_t threads;
  int32_t blocks; // query blocks of a sequence
  int32_t parts;  // tasks of one (sequence, kv head)
  int32_t tasks;  // batch * kv_heads * parts
} nats_split;

// The fewest parts with which no thread idles for more than an eighth of the time.
static inline nats_split nats_split_make(const nats_attention *op, int32_t threads) {
  const int32_t heads = op->batch * op->kv_heads;
  const int32_t blocks = (op->length + NATS_TILE - 1) / NATS_TILE;
  int32_t parts = 1;
  while (parts < blocks && nats_round_up(heads * parts, threads) * 8 > heads * parts * 9)
    parts++;
  return (nats_split){threads, blocks, parts, heads * parts};
}

// Which task of its head computes a block: forth and back, so that long and short rows even out.
static inline bool nats_split_owns(const nats_split *split, int32_t part, int32_t block) {
  const int32_t place = block % split->parts;
  return part == (block / split->parts % 2 == 0 ? place : split->parts - 1 - place);
}
