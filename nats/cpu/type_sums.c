#include "nats/cpu/type_sums.h"

#include <string.h> // memset, memcpy

#include "nats/cpu/tile.h"
#include "nn/cpu/vector.h"

void nats_type_sums_layout(nats_type_sums *sums, const nats_attention *op, nats_scratch *scratch) {
  const int64_t tokens = nats_round_up(op->length, NATS_TILE);
  sums->rows = nats_scratch_take(scratch, tokens, sizeof(nats_type_rows));
  sums->lanes = nats_scratch_take(scratch, tokens * NATS_LANE_SUMS * NN_LANES, sizeof(float));
  sums->own = nats_scratch_take(scratch, tokens, sizeof(float));
  sums->seen = nats_scratch_take(scratch, tokens, sizeof(float));
}

static int32_t smaller(int64_t a, int64_t b) {
  return (int32_t)(a < b ? a : b);
}

void nats_type_sums_begin(nats_type_sums *sums, const nats_attention *op, int32_t pair) {
  const int32_t length = op->length, chunk = op->chunk, chunks = nats_chunks(length, chunk);
  const uint8_t *types = op->types + (int64_t)pair * chunks;
  const size_t tokens = (size_t)nats_round_up(length, NATS_TILE);
  sums->wants_own = chunk == 1;
  memset(sums->lanes, 0, tokens * NATS_LANE_SUMS * NN_LANES * sizeof(float));
  memset(sums->own, 0, tokens * sizeof(float));
  memset(sums->seen, 0, tokens * sizeof(float));

  // Going backwards, the next two global chunks are known: the rows after which they end things.
  int32_t next = length, second = length; // s(N(a)), s(N(N(a)))
  for (int32_t a = chunks - 1; a >= 0; a--) {
    const int64_t start = (int64_t)(a + 1) * chunk;
    const bool complete = start <= length, local = complete && types[a] == NATS_LOCAL;
    const nats_type_rows rows = {.start = complete ? (int32_t)start : length,
                                 .local = next - 1,
                                 .window = smaller(start - 1 + op->window, length - 1),
                                 .ended = (local ? second : next) - 1,
                                 .is_local = local};
    for (int32_t j = a * chunk; j < smaller(start, length); j++) {
      sums->rows[j] = rows;
      sums->rows[j].longest = rows.window > rows.ended ? rows.window : rows.ended;
    }
    if (complete && types[a] == NATS_GLOBAL) {
      second = next;
      next = (int32_t)start;
    }
  }
}

NN_CLONES void nats_type_sums_finish(const nats_type_sums *sums, int32_t length, float *result) {
  for (int32_t j = 0; j < length; j++) {
    const float *lanes = sums->lanes + (int64_t)j * NATS_LANE_SUMS * NN_LANES;
    float *to = result + (int64_t)j * NATS_SUMS;
    for (int sum = 0; sum < NATS_LANE_SUMS; sum++)
      to[sum] = nn_v16_sum(nn_v16_load(lanes + sum * NN_LANES));
    to[NATS_SUM_OWN] = sums->own[j];
    to[NATS_SUM_SEEN] = sums->seen[j];
  }
}

// All sums of a chunk, over its tokens and over parts.
static void chunk_sums(const nats_attention *op, int32_t a, int32_t parts, const float *sums,
                       double total[NATS_SUMS]) {
  for (int sum = 0; sum < NATS_SUMS; sum++)
    total[sum] = 0;
  for (int32_t part = 0; part < parts; part++)
    for (int32_t j = a * op->chunk; j < (a + 1) * op->chunk; j++)
      for (int sum = 0; sum < NATS_SUMS; sum++)
        total[sum] += (double)sums[((int64_t)part * op->length + j) * NATS_SUMS + sum];
}

void nats_type_gradient(const nats_attention *op, const uint8_t *types, int32_t parts, const float *sums,
                        float *dtypes) {
  const int32_t complete = op->length / op->chunk;
  // What a global at a takes away. A global: `ended`, the pairs of the locals in its segment that it hides.
  // Another type: `crossing`, the pairs of living locals that cross a.
  double ended = 0, crossing = 0, before[NATS_SUMS] = {0};
  for (int32_t a = 0; a < complete; a++) {
    double sum[NATS_SUMS];
    chunk_sums(op, a, parts, sums, sum);
    if (a == 0 || types[a - 1] == NATS_GLOBAL) {
      ended = crossing = 0;
    } else {
      const bool local = types[a - 1] == NATS_LOCAL;
      ended += before[NATS_SUM_ENDED];
      crossing += (local ? before[NATS_SUM_LOCAL] : 0) - sum[NATS_SUM_SEEN];
    }
    const double own = sum[NATS_SUM_OWN];
    dtypes[3 * a + NATS_GLOBAL] =
        (float)(sum[NATS_SUM_ALL] + own - (types[a] == NATS_GLOBAL ? ended : crossing));
    dtypes[3 * a + NATS_LOCAL] = (float)(sum[NATS_SUM_LOCAL] + own);
    dtypes[3 * a + NATS_WINDOW] = (float)(sum[NATS_SUM_WINDOW] + own);
    memcpy(before, sum, sizeof before);
  }
  for (int32_t a = complete; a < nats_chunks(op->length, op->chunk); a++)
    dtypes[3 * a + 0] = dtypes[3 * a + 1] = dtypes[3 * a + 2] = 0;
}
