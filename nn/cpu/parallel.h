// How CPU operators share work: every thread of a parallel region takes one contiguous slice. The slices
// depend on the number of threads alone, so that results repeat bit for bit.
#pragma once

#include <omp.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct {
  int64_t begin, end;
} nn_range;

// Slice `part` of `parts` of [0, total); bounds are multiples of `granule`, except the end.
static inline nn_range nn_range_part(int64_t total, int64_t granule, int part, int parts) {
  int64_t granules = (total + granule - 1) / granule;
  int64_t begin = granules * part / parts * granule, end = granules * (part + 1) / parts * granule;
  return (nn_range){begin < total ? begin : total, end < total ? end : total};
}

// The slice of the calling thread of the current parallel region.
static inline nn_range nn_range_mine(int64_t total, int64_t granule) {
  return nn_range_part(total, granule, omp_get_thread_num(), omp_get_num_threads());
}

// Whether work on so many elements is worth waking the other threads (about 5 microseconds).
static inline bool nn_range_is_large(int64_t elements) {
  return elements >= 1 << 14;
}
