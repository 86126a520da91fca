// Pieces of an operator's workspace. The same layout function runs twice: first with base NULL to learn how
// much memory it takes, then with the memory.
#pragma once

#include <stddef.h>
#include <stdint.h>

typedef struct {
  char *base;
  size_t used;
} nats_scratch;

static inline void *nats_scratch_take(nats_scratch *scratch, int64_t count, size_t size) {
  void *piece = scratch->base == NULL ? NULL : scratch->base + scratch->used;
  scratch->used += ((size_t)count * size + 63) / 64 * 64;
  return piece;
}
