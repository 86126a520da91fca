// The gradient reducer between real ranks, against a plain all-reduce of the whole arena.
#include <stdlib.h> // malloc
#include <string.h> // memcpy

#include "dist/reducer.h"
#include "tests/dist/fixture.h"
#include "tests/rank_tests.h"

TestSuite(reducer, .init = start_ranks, .fini = end_ranks);

// Random numbers of one stream, the same on all ranks or not, as `rank` says.
typedef struct {
  nn_random_key key;
  uint64_t next;
} stream;

static stream stream_of(uint64_t seed, int32_t rank) {
  return (stream){.key = nn_random_key_make(seed, NN_RANDOM_TEST, 1000, (uint64_t)rank)};
}

static int64_t below(stream *s, int64_t limit) {
  uint32_t bits[4];
  nn_random_u32x4(s->key, 0, s->next++, bits);
  return (int64_t)(bits[0] % (uint64_t)limit);
}

typedef struct {
  int64_t offset, count;
} range;

// Cuts the arena into ranges and shuffles them.
static int random_ranges(stream *s, int64_t total, range *ranges) {
  int count = 0;
  for (int64_t from = 0; from < total;) {
    int64_t length = 1 + below(s, total / 4 + 1);
    if (from + length > total)
      length = total - from;
    ranges[count++] = (range){from, length};
    from += length;
  }
  for (int i = count - 1; i > 0; i--) {
    int other = (int)below(s, i + 1);
    range held = ranges[i];
    ranges[i] = ranges[other];
    ranges[other] = held;
  }
  return count;
}

enum { MOST = 20000 };
static float grad[MOST], before[MOST], expected[MOST];
static range ranges[MOST];

// One backward pass: ranges become ready in an order of this rank's own.
static void reduce(int64_t total, int64_t bucket_bytes, stream *own) {
  nn_param_table table = {.total = total};
  nn_params params = {.table = &table, .grad = grad};
  dist_reducer *reducer;
  cr_assert_eq(dist_reducer_create(world, &params, bucket_bytes, &reducer), NN_OK, "%s", nn_error_text());
  nn_grad_listener listener = dist_reducer_listener(reducer);
  int count = random_ranges(own, total, ranges);
  dist_reducer_begin(reducer);
  for (int i = 0; i < count; i++) {
    cr_assert_eq(listener.ready(listener.context, ranges[i].offset, ranges[i].count), NN_OK, "%s",
                 nn_error_text());
    if (i % 3 == 0)
      cr_assert_eq(dist_reducer_poll(reducer), NN_OK, "%s", nn_error_text());
  }
  cr_assert_eq(dist_reducer_finish(reducer), NN_OK, "%s", nn_error_text());
  cr_assert_geq(dist_reducer_exposed_seconds(reducer), 0);
  dist_reducer_free(reducer);
}

static uint64_t shared_seed(void) {
  uint64_t seed = (uint64_t)(uintptr_t)world ^ (uint64_t)rand();
  cr_assert_eq(dist_broadcast(world, &seed, sizeof seed, 0), NN_OK);
  return seed;
}

// Breaks: training on several ranks uses gradients that are not the sum over ranks.
static void sums_like_a_plain_all_reduce(void) {
  uint64_t seed = shared_seed();
  stream shared = stream_of(seed, 1000), own = stream_of(seed, dist_rank(world));
  for (int round = 0; round < 30; round++) {
    int64_t total = 1 + below(&shared, MOST);
    int64_t bucket_bytes = 1 + below(&shared, 5 * total);
    for (int64_t i = 0; i < total; i++)
      grad[i] = expected[i] = (float)value_of(seed + (uint64_t)round, dist_rank(world), i);
    cr_assert_eq(dist_allreduce(world, expected, total, DIST_F32, DIST_SUM), NN_OK, "%s", nn_error_text());
    reduce(total, bucket_bytes, &own);
    for (int64_t i = 0; i < total; i++)
      cr_assert_eq(grad[i], expected[i], "round %d, element %lld of %lld", round, (long long)i,
                   (long long)total);
  }
}

// Breaks: two runs of the same configuration on the same ranks drift apart.
static void repeats_bit_for_bit(void) {
  uint64_t seed = shared_seed();
  stream own = stream_of(seed, dist_rank(world));
  for (int64_t i = 0; i < MOST; i++)
    before[i] = (float)below(&own, 1 << 20) / 3.0f;
  memcpy(grad, before, sizeof grad);
  reduce(MOST, 10000, &own);
  memcpy(expected, grad, sizeof grad);
  for (int round = 0; round < 5; round++) {
    memcpy(grad, before, sizeof grad);
    reduce(MOST, 10000, &own); // another order of ranges, other moments of polling
    cr_assert_arr_eq((const char *)grad, (const char *)expected, sizeof grad);
  }
}

Test(reducer, all) {
  static const rank_test tests[] = {
      RANK_TEST(sums_like_a_plain_all_reduce),
      RANK_TEST(repeats_bit_for_bit),
  };
  run_rank_tests(tests, sizeof tests / sizeof *tests, NULL, NULL);
}
