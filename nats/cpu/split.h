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

// The head and the share of it that task `index` stands for.
typedef struct {
  int32_t pair, batch, kv_head, part; // pair = batch * kv_heads + kv_head
} nats_task;

static inline nats_task nats_split_task(const nats_split *split, const nats_attention *op, int32_t index) {
  const int32_t pair = index / split->parts;
  return (nats_task){pair, pair / op->kv_heads, pair % op->kv_heads, index % split->parts};
}

// Whether a task computes a block of its head: forth and back, so that long and short rows even out.
static inline bool nats_split_owns(const nats_split *split, const nats_task *task, int32_t block) {
  const int32_t place = block % split->parts;
  return task->part == (block / split->parts % 2 == 0 ? place : split->parts - 1 - place);
}

// What a tile holds of `total` keys or rows from `first` on.
static inline int32_t nats_tile_part(int32_t total, int32_t first) {
  return total - first < NATS_TILE ? total - first : NATS_TILE;
}
