// Ranges of the arenas that one launch works on, as an argument of the kernel: nothing is uploaded. The
// blocks of a segment take `chunk` elements each; all segments begin at multiples of NN_PARAM_ALIGN.
#pragma once

#include "nn/cuda/kernel.h"

enum { NN_SEGMENTS = 100 }; // of one launch, whose arguments take 4 KiB at most

struct nn_segment {
  int64_t begin, count; // in the arenas
  int64_t at;           // where it begins in memory that holds the shard only
  int32_t first_block;
  int32_t kind; // the kernel's own
};

struct nn_segment_list {
  nn_segment item[NN_SEGMENTS];
  int32_t count;
  int32_t blocks;
};

// False: the list is full.
static inline bool nn_segment_append(nn_segment_list *list, nn_segment segment, int64_t chunk) {
  if (list->count == NN_SEGMENTS)
    return false;
  segment.first_block = list->blocks;
  list->item[list->count++] = segment;
  list->blocks += (int32_t)nn_ceil_div(segment.count, chunk);
  return true;
}

__device__ static inline nn_segment nn_segment_find(const nn_segment_list &list, int32_t block) {
  int32_t low = 0, high = list.count; // the last one whose first block is not after this one
  while (high - low > 1) {
    int32_t middle = (low + high) / 2;
    if (list.item[middle].first_block <= block)
      low = middle;
    else
      high = middle;
  }
  return list.item[low];
}
