#include "data/bpe.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  int32_t left, right; // left -1: free
  int32_t rank, merged;
} merge;

// A pair of neighbours that can be merged: by rank, then by place.
typedef struct {
  int64_t at; // of its left symbol
  int32_t left, right, rank;
} candidate;

struct data_bpe {
  merge *table; // [slots], open addressing
  uint64_t slots;
  int32_t ranks;
  // Room for one word, grown as needed:
  int64_t room;
  int64_t *next, *previous; // [room] neighbours that are left
  candidate *heap;          // [3 * room]
  int64_t heap_count;
};

nn_status data_bpe_create(int64_t merges, data_bpe **out) {
  data_bpe *bpe = calloc(1, sizeof *bpe);
  uint64_t slots = 64;
  while (slots < 2 * (uint64_t)merges)
    slots *= 2;
  if (bpe != NULL)
    bpe->table = malloc(slots * sizeof *bpe->table);
  if (bpe == NULL || bpe->table == NULL) {
    free(bpe);
    return NN_FAIL(NN_ERR_MEMORY, "no memory for %lld merges", (long long)merges);
  }
  bpe->slots = slots;
  for (uint64_t i = 0; i < slots; i++)
    bpe->table[i].left = -1;
  *out = bpe;
  return NN_OK;
}

void data_bpe_free(data_bpe *bpe) {
  if (bpe == NULL)
    return;
  free(bpe->heap);
  free(bpe->previous);
  free(bpe->next);
  free(bpe->table);
  free(bpe);
}

// The slot of a pair, or the free one where it belongs.
static merge *slot_of(const data_bpe *bpe, int32_t left, int32_t right) {
  uint64_t hash = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
  for (uint64_t i = hash >> 32;; i++) {
    merge *slot = &bpe->table[i & (bpe->slots - 1)];
    if (slot->left < 0 || (slot->left == left && slot->right == right))
      return slot;
  }
}

void data_bpe_add(data_bpe *bpe, int32_t left, int32_t right, int32_t merged) {
  merge *slot = slot_of(bpe, left, right);
  if (slot->left < 0)
    *slot = (merge){.left = left, .right = right, .rank = bpe->ranks, .merged = merged};
  bpe->ranks++;
}

// ---- the heap of candidates

static bool before(const candidate *a, const candidate *b) {
  return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void push(data_bpe *bpe, candidate added) {
  int64_t i = bpe->heap_count++;
  for (; i > 0 && before(&added, &bpe->heap[(i - 1) / 2]); i = (i - 1) / 2)
    bpe->heap[i] = bpe->heap[(i - 1) / 2];
  bpe->heap[i] = added;
}

static candidate pop(data_bpe *bpe) {
  candidate *heap = bpe->heap, top = heap[0], last = heap[--bpe->heap_count];
  int64_t i = 0;
  for (;;) {
    int64_t child = 2 * i + 1;
    if (child >= bpe->heap_count)
      break;
    if (child + 1 < bpe->heap_count && before(&heap[child + 1], &heap[child]))
      child++;
    if (!before(&heap[child], &last))
      break;
    heap[i] = heap[child];
    i = child;
  }
  heap[i] = last;
  return top;
}

// ---- one word

static nn_status reserve(data_bpe *bpe, int64_t count) {
  if (count <= bpe->room)
    return NN_OK;
  size_t room = 2 * (size_t)count;
  free(bpe->heap);
  free(bpe->previous);
  free(bpe->next);
  bpe->next = malloc(room * sizeof *bpe->next);
  bpe->previous = malloc(room * sizeof *bpe->previous);
  bpe->heap = malloc(3 * room * sizeof *bpe->heap); // count pairs, and two new ones with each merge
  bpe->room = bpe->next != NULL && bpe->previous != NULL && bpe->heap != NULL ? (int64_t)room : 0;
  return bpe->room > 0 ? NN_OK
                       : NN_FAIL(NN_ERR_MEMORY, "no memory for a word of %lld bytes", (long long)count);
}

static void consider(data_bpe *bpe, const int32_t *symbols, int64_t at, int64_t next, int64_t end) {
  if (at < 0 || next >= end)
    return;
  const merge *found = slot_of(bpe, symbols[at], symbols[next]);
  if (found->left >= 0)
    push(bpe, (candidate){.at = at, .left = symbols[at], .right = symbols[next], .rank = found->rank});
}

nn_status data_bpe_apply(data_bpe *bpe, int32_t *symbols, int64_t *count) {
  enum { GONE = -1 };
  int64_t end = *count, left = 0;
  if (end < 2)
    return NN_OK;
  NN_TRY(reserve(bpe, end));
  bpe->heap_count = 0;
  for (int64_t i = 0; i < end; i++) {
    bpe->next[i] = i + 1;
    bpe->previous[i] = i - 1;
    consider(bpe, symbols, i, i + 1, end);
  }
  while (bpe->heap_count > 0) {
    candidate best = pop(bpe);
    int64_t at = best.at, right = bpe->next[at];
    if (symbols[at] != best.left || right >= end || symbols[right] != best.right)
      continue; // one of the two has been merged since
    symbols[at] = slot_of(bpe, best.left, best.right)->merged;
    symbols[right] = GONE;
    bpe->next[at] = bpe->next[right];
    if (bpe->next[at] < end)
      bpe->previous[bpe->next[at]] = at;
    consider(bpe, symbols, bpe->previous[at], at, end);
    consider(bpe, symbols, at, bpe->next[at], end);
  }
  for (int64_t i = 0; i < end; i = bpe->next[i])
    symbols[left++] = symbols[i];
  *count = left;
  return NN_OK;
}
