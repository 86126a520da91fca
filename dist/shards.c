#include "dist/shards.h"

#include <stdlib.h> // calloc

// First element of the piece of rank `rank` of `count` elements; rank == size gives `count`.
static int64_t piece_begin(int64_t count, int32_t rank, int32_t size) {
  int64_t units = (count + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN;
  int64_t begin = units * rank / size * NN_PARAM_ALIGN;
  return begin < count ? begin : count;
}

nn_status dist_shards_make(int64_t total, int64_t bucket_bytes, int32_t rank, int32_t size,
                           dist_shards *out) {
  if (bucket_bytes < 1)
    return NN_FAIL(NN_ERR_USAGE, "gradient buckets of %lld bytes: at least 1 is needed",
                   (long long)bucket_bytes);
  int64_t unit = (int64_t)size * NN_PARAM_ALIGN;
  int64_t elements = (bucket_bytes - 1) / (int64_t)sizeof(float) + 1;
  int64_t width = (elements + unit - 1) / unit * unit;
  *out = (dist_shards){
      .total = total, .width = width, .buckets = (total + width - 1) / width, .rank = rank, .size = size};
  return NN_OK;
}

int64_t dist_shards_bucket(const dist_shards *shards, int64_t bucket, int64_t *count) {
  int64_t end = shards->total - bucket * shards->width;
  int64_t begin = end > shards->width ? end - shards->width : 0;
  *count = end - begin;
  return begin;
}

void dist_shards_starts(const dist_shards *shards, int64_t bucket, int64_t *starts) {
  int64_t count;
  dist_shards_bucket(shards, bucket, &count);
  for (int32_t rank = 0; rank <= shards->size; rank++)
    starts[rank] = piece_begin(count, rank, shards->size);
}

dist_place dist_shards_find(const dist_shards *shards, int64_t element) {
  int64_t bucket = (shards->total - 1 - element) / shards->width, count;
  int64_t begin = dist_shards_bucket(shards, bucket, &count), inside = element - begin;
  int32_t low = 0, high = shards->size; // the owner is in [low, high)
  while (high - low > 1) {
    int32_t middle = low + (high - low) / 2;
    if (piece_begin(count, middle, shards->size) <= inside)
      low = middle;
    else
      high = middle;
  }
  // Buckets before this one are whole, and so are their pieces.
  int64_t before = bucket * (shards->width / shards->size);
  return (dist_place){.owner = low,
                      .end = begin + piece_begin(count, low + 1, shards->size),
                      .at = before + inside - piece_begin(count, low, shards->size)};
}

nn_status dist_shards_own(const dist_shards *shards, nn_shard *out) {
  *out = (nn_shard){0};
  out->items = calloc((size_t)shards->buckets + 1, sizeof *out->items);
  if (out->items == NULL || shards->buckets > INT32_MAX)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld pieces of a shard", (long long)shards->buckets);
  for (int64_t bucket = 0; bucket < shards->buckets; bucket++) {
    int64_t count, begin = dist_shards_bucket(shards, bucket, &count);
    int64_t from = piece_begin(count, shards->rank, shards->size);
    int64_t to = piece_begin(count, shards->rank + 1, shards->size);
    if (from < to)
      out->items[out->count++] = (nn_piece){.offset = begin + from, .count = to - from, .at = out->total};
    out->total += to - from;
  }
  return NN_OK;
}
