// Pieces of one array between real ranks, and what is built on them: the layout of shards, the reducer that
// sends sums to their owners, and the gatherer that brings parameters back. On 1 to 4 ranks.
#include <stdlib.h> // free
#include <string.h> // memcpy
#include <time.h>   // nanosleep

#include "dist/gatherer.h"
#include "dist/group_table.h"
#include "dist/reducer.h"
#include "tests/dist/fixture.h"
#include "tests/rank_tests.h"

TestSuite(shards, .init = start_ranks, .fini = end_ranks);

enum { MOST = 20000, RANKS = 8 };
static const int64_t part_sizes[] = {(int64_t)1 << 30, 4096, 40}; // no split, few parts, many parts

#define cr_ok(expression) cr_assert_eq((expression), NN_OK, "%s", nn_error_text())

static uint64_t shared_seed(void) {
  uint64_t seed = (uint64_t)(uintptr_t)world ^ (uint64_t)rand();
  cr_ok(dist_broadcast(world, &seed, sizeof seed, 0));
  return seed;
}

// Cuts `count` elements into pieces, the same on all ranks; some of them empty.
static void random_starts(uint64_t seed, int64_t count, int64_t *starts) {
  int32_t size = dist_size(world);
  starts[0] = 0;
  for (int32_t rank = 1; rank <= size; rank++) {
    int32_t die = value_of(seed, 100, rank);
    starts[rank] = die < 10 ? starts[rank - 1] : count * die / 40;
    if (starts[rank] < starts[rank - 1])
      starts[rank] = starts[rank - 1];
  }
  starts[size] = count;
}

// Breaks: the optimizer updates a part of the parameters with something else than the sum of all ranks'
// gradients.
static void reduce_scatter(void) {
  static float data[MOST];
  uint64_t seed = shared_seed();
  int32_t rank = dist_rank(world);
  for (int round = 0; round < 60; round++, seed++) {
    int64_t count = value_of(seed, 0, 0) * value_of(seed, 0, 1) * 10, starts[RANKS + 1];
    dist_request *request;
    dist_mpi_part_bytes = part_sizes[round % 3];
    random_starts(seed, count, starts);
    for (int64_t i = 0; i < count; i++)
      data[i] = 0.25f * (float)value_of(seed, rank, i);
    cr_ok(dist_reduce_scatter_start(world, data, starts, &request));
    cr_ok(dist_wait(request));
    for (int64_t i = starts[rank]; i < starts[rank + 1]; i++) {
      float sum = 0;
      for (int32_t other = 0; other < dist_size(world); other++)
        sum += 0.25f * (float)value_of(seed, other, i);
      cr_assert_eq(data[i], sum, "round %d, element %lld of [%lld, %lld)", round, (long long)i,
                   (long long)starts[rank], (long long)starts[rank + 1]);
    }
  }
}

// Breaks: after an update the ranks compute with different parameters.
static void allgather(void) {
  static uint16_t data[MOST];
  uint64_t seed = shared_seed();
  int32_t rank = dist_rank(world);
  for (int round = 0; round < 60; round++, seed++) {
    int64_t count = value_of(seed, 0, 0) * value_of(seed, 0, 1) * 10, starts[RANKS + 1];
    dist_request *request;
    dist_mpi_part_bytes = part_sizes[round % 3];
    random_starts(seed, count, starts);
    for (int64_t i = 0; i < count; i++)
      data[i] = i >= starts[rank] && i < starts[rank + 1] ? (uint16_t)value_of(seed, 50, i) : 9999;
    cr_ok(dist_allgather_start(world, data, sizeof *data, starts, &request));
    for (bool done = false; !done;)
      cr_ok(dist_test(request, &done));
    for (int64_t i = 0; i < count; i++)
      cr_assert_eq(data[i], value_of(seed, 50, i), "round %d, element %lld", round, (long long)i);
  }
}

// Breaks: an element has two owners or none, or its moments are looked for in another place than they are.
static void every_element_has_one_owner(void) {
  uint64_t seed = shared_seed();
  static int8_t seen[MOST];
  for (int round = 0; round < 40; round++, seed++) {
    int64_t total = NN_PARAM_ALIGN * (1 + value_of(seed, 0, 0) * value_of(seed, 0, 1) / 2);
    int64_t bytes = 1 + value_of(seed, 0, 2) * value_of(seed, 0, 3) * 10;
    int32_t size = 1 + value_of(seed, 0, 4) % 7;
    memset(seen, -1, sizeof seen);
    for (int32_t rank = 0; rank < size; rank++) {
      dist_shards shards;
      nn_shard own;
      cr_ok(dist_shards_make(total, bytes, rank, size, &shards));
      cr_ok(dist_shards_own(&shards, &own));
      int64_t at = 0;
      for (int32_t i = 0; i < own.count; i++) {
        const nn_piece *piece = &own.items[i];
        cr_assert(piece->offset % NN_PARAM_ALIGN == 0 && piece->count % NN_PARAM_ALIGN == 0);
        cr_assert_eq(piece->at, at);
        for (int64_t e = 0; e < piece->count; e++, at++) {
          dist_place place = dist_shards_find(&shards, piece->offset + e);
          cr_assert_eq(seen[piece->offset + e], -1);
          seen[piece->offset + e] = (int8_t)rank;
          cr_assert(place.owner == rank && place.at == at && place.end == piece->offset + piece->count);
        }
      }
      cr_assert_eq(at, own.total);
      cr_assert_leq(own.total, total / size + (shards.buckets + 1) * NN_PARAM_ALIGN); // its fair share
      free(own.items);
    }
    for (int64_t i = 0; i < total; i++)
      cr_assert_neq(seen[i], -1);
  }
}

// ---- a table of a few blocks, as a model has them

typedef struct {
  nn_device *device;
  nn_param_table table;
  dist_shards shards;
  nn_shard own;
  nn_params params;
} fixture;

static void set_up(fixture *f, nn_shard_kind kind, int64_t bucket_bytes) {
  static const int64_t sizes[] = {1016, 333, 5, 2048, 17, 900, 64}; // the first one is kept
  *f = (fixture){.table = {.block = NN_BLOCK_KEPT}};
  cr_ok(nn_device_open("cpu", "float32", 0, &f->device));
  for (int i = 0; i < 7; i++, f->table.block += i % 2 == 0) {
    char name[] = {(char)('a' + i), '\0'};
    cr_ok(nn_param_add(&f->table, name, 1, sizes[i], 1, NN_INIT_ZERO, 0, false, NN_GROUP_WEIGHTS, NULL));
    if (i == 0)
      f->table.block = 0;
  }
  cr_ok(dist_shards_make(f->table.total, bucket_bytes, dist_rank(world), dist_size(world), &f->shards));
  cr_ok(dist_shards_own(&f->shards, &f->own));
  cr_ok(nn_params_create_shard(f->device, &f->table, &f->own, kind, &f->params));
}

static void tear_down(fixture *f) {
  nn_params_free(&f->params);
  free(f->own.items);
  nn_param_table_free(&f->table);
  nn_device_close(f->device);
}

// A backward pass: each block is written where nn_params_grad says, then told of.
static void pass(fixture *f, dist_reducer *reducer, uint64_t seed) {
  nn_grad_listener listener = dist_reducer_listener(reducer);
  const nn_param *rows = f->table.items;
  int64_t end = f->table.total;
  dist_reducer_begin(reducer);
  for (int32_t i = f->table.count - 1; i >= 0; i--) {
    for (int64_t e = 0; e < rows[i].count; e++)
      nn_params_grad(&f->params, i)[e] += (float)value_of(seed, dist_rank(world), rows[i].offset + e);
    if (i == 0 || rows[i - 1].block != rows[i].block) {
      cr_ok(listener.ready(listener.context, rows[i].offset, end - rows[i].offset));
      end = rows[i].offset;
    }
  }
  cr_ok(dist_reducer_finish(reducer));
}

static void check_sums(const fixture *f, uint64_t seed, int passes) {
  for (int32_t p = 0; p < f->own.count; p++)
    for (int64_t e = 0; e < f->own.items[p].count; e++) {
      int64_t element = f->own.items[p].offset + e;
      const nn_param *row = f->table.items;
      while (row->offset + (row->count + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN <= element)
        row++;
      float sum = 0,
            found = f->params.sum != NULL ? f->params.sum[f->own.items[p].at + e] : f->params.grad[element];
      for (int32_t rank = 0; rank < dist_size(world) && element < row->offset + row->count; rank++)
        for (int i = 0; i < passes; i++)
          sum += (float)value_of(seed + (uint64_t)i, rank, element);
      cr_assert_eq(found, sum, "element %lld", (long long)element);
    }
}

// Breaks: sharded training uses wrong gradients, with buckets that begin and end anywhere in a layer.
static void reducer_sends_sums_to_their_owners(void) {
  for (int64_t bytes = 1; bytes < 40000; bytes = bytes * 5 + 3) {
    fixture f;
    dist_reducer *reducer;
    uint64_t seed = shared_seed();
    set_up(&f, NN_SHARD_OPTIMIZER, bytes);
    cr_ok(dist_reducer_create_sharded(world, &f.params, &f.shards, &reducer));
    pass(&f, reducer, seed);
    check_sums(&f, seed, 1);
    dist_reducer_free(reducer);
    tear_down(&f);
  }
}

// Breaks: the same with dist.shard=gradients, where several passes add up in the shard and each layer's
// gradient uses the memory of the layer before.
static void window_adds_up_passes(void) {
  for (int64_t bytes = 1; bytes < 40000; bytes = bytes * 5 + 3) {
    fixture f;
    dist_reducer *reducer;
    uint64_t seed = shared_seed();
    set_up(&f, NN_SHARD_GRADIENTS, bytes);
    cr_assert_lt(f.params.grad_total, f.table.total);
    cr_ok(dist_reducer_create_sharded(world, &f.params, &f.shards, &reducer));
    for (int i = 0; i < 3; i++)
      pass(&f, reducer, seed + (uint64_t)i);
    check_sums(&f, seed, 3);
    dist_reducer_free(reducer);
    tear_down(&f);
  }
}

// Breaks: forward runs into parameters that have not arrived.
static void gatherer_brings_what_forward_asks_for(void) {
  for (int64_t bytes = 1; bytes < 40000; bytes = bytes * 5 + 3) {
    fixture f;
    dist_gatherer *gatherer;
    set_up(&f, NN_SHARD_OPTIMIZER, bytes);
    cr_ok(dist_gatherer_create(world, &f.params, &f.shards, &gatherer));
    nn_param_source source = dist_gatherer_source(gatherer);
    for (int step = 0; step < 3; step++) {
      for (int64_t i = 0; i < f.table.total; i++)
        f.params.master[i] =
            dist_shards_find(&f.shards, i).owner == dist_rank(world) ? (float)(i + step) : -1;
      cr_ok(dist_gatherer_start(gatherer));
      for (int32_t row = 0; row < f.table.count; row++) {
        int64_t end = row + 1 < f.table.count ? f.table.items[row + 1].offset : f.table.total;
        cr_ok(source.await(source.context, end));
        for (int64_t i = 0; i < end; i++)
          cr_assert_eq(f.params.master[i], (float)(i + step), "element %lld", (long long)i);
      }
      cr_ok(dist_barrier(world)); // others may still want this rank's pieces
      cr_ok(dist_gatherer_finish(gatherer));
    }
    cr_assert_geq(dist_gatherer_exposed_seconds(gatherer), 0);
    dist_gatherer_free(gatherer);
    tear_down(&f);
  }
}

// Breaks: two runs of the same sharded configuration drift apart.
static void sums_repeat_bit_for_bit(void) {
  static float data[MOST], first[MOST];
  int32_t rank = dist_rank(world), size = dist_size(world);
  int64_t starts[RANKS + 1];
  for (int32_t r = 0; r <= size; r++)
    starts[r] = (int64_t)MOST * r / size;
  for (int round = 0; round < 5; round++) {
    dist_request *request;
    for (int64_t i = 0; i < MOST; i++)
      data[i] = (float)value_of(7, rank, i) / 3.0f;
    if (round % size == rank) // another rank is late each time
      nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    cr_ok(dist_reduce_scatter_start(world, data, starts, &request));
    cr_ok(dist_wait(request));
    if (round == 0)
      memcpy(first, data, sizeof data);
    cr_assert_arr_eq((const char *)(data + starts[rank]), (const char *)(first + starts[rank]),
                     (size_t)(starts[rank + 1] - starts[rank]) * sizeof *data);
  }
}

// Breaks: a wrong cut is sent to other ranks, which then wait for ever.
static void pieces_that_do_not_follow_each_other_are_refused(void) {
  float data[4] = {0};
  int64_t starts[RANKS + 1] = {1, 2};
  dist_request *request;
  cr_assert_eq(dist_reduce_scatter_start(world, data, starts, &request), NN_ERR_INTERNAL);
  nn_error_clear();
  starts[0] = 0;
  starts[1] = -3;
  cr_assert_eq(dist_allgather_start(world, data, sizeof *data, starts, &request), NN_ERR_INTERNAL);
  nn_error_clear();
}

// Tests set how messages are split; each starts without.
static void split_nothing(void) {
  dist_mpi_part_bytes = part_sizes[0];
}

Test(shards, all) {
  static const rank_test tests[] = {
      RANK_TEST(reduce_scatter),
      RANK_TEST(allgather),
      RANK_TEST(every_element_has_one_owner),
      RANK_TEST(reducer_sends_sums_to_their_owners),
      RANK_TEST(window_adds_up_passes),
      RANK_TEST(gatherer_brings_what_forward_asks_for),
      RANK_TEST(sums_repeat_bit_for_bit),
      RANK_TEST(pieces_that_do_not_follow_each_other_are_refused),
  };
  run_rank_tests(tests, sizeof tests / sizeof *tests, split_nothing, NULL);
}
