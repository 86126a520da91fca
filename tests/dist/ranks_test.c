// Collectives between real ranks: 1, 2 and 3 of them (tests/dist/CMakeLists.txt).
#include <signal.h> // raise
#include <stdio.h>  // snprintf
#include <stdlib.h> // malloc
#include <string.h> // memset, strstr
#include <time.h>   // clock_gettime

#include "dist/group_table.h"
#include "dist/stop.h"
#include "nn/device_table.h" // a GPU that nobody has
#include "tests/dist/fixture.h"
#include "tests/rank_tests.h"

TestSuite(ranks, .init = start_ranks, .fini = end_ranks);

static const int64_t part_sizes[] = {(int64_t)1 << 30, 4096, 40}; // no split, few parts, many parts
static const int64_t counts[] = {1, 3, 1000, 4099};
enum { MOST = 4099, LENGTH = (int)(sizeof counts / sizeof *counts) };

// A seed that all ranks share and that differs from run to run.
static uint64_t fresh_seed(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  uint64_t seed = (uint64_t)now.tv_nsec ^ ((uint64_t)now.tv_sec << 30);
  cr_assert_eq(dist_broadcast(world, &seed, sizeof seed, 0), NN_OK, "%s", nn_error_text());
  return seed;
}

static void store(void *data, dist_type type, int64_t i, int32_t value) {
  switch (type) {
  case DIST_U8:
    ((uint8_t *)data)[i] = (uint8_t)value;
    break;
  case DIST_I32:
    ((int32_t *)data)[i] = -value;
    break;
  case DIST_I64:
    ((int64_t *)data)[i] = (int64_t)value << 40;
    break;
  case DIST_F32:
    ((float *)data)[i] = 0.25f * (float)value;
    break;
  case DIST_F64:
    ((double *)data)[i] = -0.5 * (double)value;
    break;
  }
}

static double load(const void *data, dist_type type, int64_t i) {
  switch (type) {
  case DIST_U8:
    return ((const uint8_t *)data)[i];
  case DIST_I32:
    return ((const int32_t *)data)[i];
  case DIST_I64:
    return (double)((const int64_t *)data)[i];
  case DIST_F32:
    return (double)((const float *)data)[i];
  case DIST_F64:
    return ((const double *)data)[i];
  }
  return 0;
}

// What the ranks together should get for element i.
static double expected_value(uint64_t seed, dist_type type, dist_op op, int64_t i) {
  double result = 0;
  for (int32_t rank = 0; rank < dist_size(world); rank++) {
    char one[8];
    store(one, type, 0, value_of(seed, rank, i));
    double value = load(one, type, 0);
    if (rank == 0)
      result = value;
    else if (op == DIST_SUM)
      result += value;
    else if (op == DIST_MIN ? value < result : value > result)
      result = value;
  }
  return result;
}

static void check_allreduce(uint64_t seed, dist_type type, dist_op op, int64_t count) {
  static char data[8 * MOST];
  for (int64_t i = 0; i < count; i++)
    store(data, type, i, value_of(seed, dist_rank(world), i));
  cr_assert_eq(dist_allreduce(world, data, count, type, op), NN_OK, "%s", nn_error_text());
  for (int64_t i = 0; i < count; i++)
    cr_assert_eq(load(data, type, i), expected_value(seed, type, op, i), "type %d op %d count %lld at %lld",
                 type, op, (long long)count, (long long)i);
}

// Breaks: losses, gradients and counts summed over ranks are wrong, for some type, length or split.
static void reductions(void) {
  uint64_t seed = fresh_seed();
  for (size_t part = 0; part < sizeof part_sizes / sizeof *part_sizes; part++) {
    dist_mpi_part_bytes = part_sizes[part];
    for (dist_type type = DIST_U8; type <= DIST_F64; type++)
      for (dist_op op = DIST_SUM; op <= DIST_MAX; op++)
        for (int i = 0; i < LENGTH; i++)
          check_allreduce(seed++, type, op, counts[i]);
  }
}

static void fill(uint8_t *data, int64_t count, uint64_t seed, int32_t rank) {
  for (int64_t i = 0; i < count; i++)
    data[i] = (uint8_t)value_of(seed, rank, i);
}

// Breaks: configuration, seeds or text that one rank hands to the others arrive damaged.
static void broadcasts(void) {
  uint64_t seed = fresh_seed();
  static uint8_t data[MOST], expected[MOST];
  for (size_t part = 0; part < sizeof part_sizes / sizeof *part_sizes; part++) {
    dist_mpi_part_bytes = part_sizes[part];
    for (int32_t root = 0; root < dist_size(world); root++)
      for (int i = 0; i < LENGTH; i++) {
        fill(data, counts[i], seed, dist_rank(world));
        fill(expected, counts[i], seed++, root);
        cr_assert_eq(dist_broadcast(world, data, counts[i], root), NN_OK, "%s", nn_error_text());
        cr_assert_arr_eq(data, expected, (size_t)counts[i]);
      }
  }
}

// Breaks: what every rank reports (counts, hashes, shard lists) is mixed up between ranks.
static void gathers(void) {
  uint64_t seed = fresh_seed();
  int32_t size = dist_size(world);
  static uint8_t mine[MOST], all[3 * MOST], expected[MOST];
  for (size_t part = 0; part < sizeof part_sizes / sizeof *part_sizes; part++) {
    dist_mpi_part_bytes = part_sizes[part];
    for (int i = 0; i < LENGTH; i++) {
      fill(mine, counts[i], seed, dist_rank(world));
      memset(all, 0xff, sizeof all);
      cr_assert_eq(dist_allgather(world, mine, counts[i], all), NN_OK, "%s", nn_error_text());
      for (int32_t rank = 0; rank < size; rank++) {
        fill(expected, counts[i], seed, rank);
        cr_assert_arr_eq(all + rank * counts[i], expected, (size_t)counts[i], "piece of rank %d", rank);
      }
      seed++;
    }
  }
}

// Breaks: work that rank 0 hands out reaches the wrong rank, or in pieces.
static void messages(void) {
  uint64_t seed = fresh_seed();
  static uint8_t data[MOST], expected[MOST];
  for (size_t part = 0; part < sizeof part_sizes / sizeof *part_sizes; part++) {
    dist_mpi_part_bytes = part_sizes[part];
    for (int32_t rank = 1; rank < dist_size(world); rank++) {
      if (dist_rank(world) == 0) {
        fill(data, MOST, seed, rank);
        cr_assert_eq(dist_send(world, data, MOST, rank, 7), NN_OK, "%s", nn_error_text());
        memset(data, 0, sizeof data);
        cr_assert_eq(dist_receive(world, data, 5, rank, 8), NN_OK, "%s", nn_error_text());
        fill(expected, 5, seed, 100 + rank);
        cr_assert_arr_eq(data, expected, 5);
      } else if (dist_rank(world) == rank) {
        fill(expected, MOST, seed, rank);
        cr_assert_eq(dist_receive(world, data, MOST, 0, 7), NN_OK, "%s", nn_error_text());
        cr_assert_arr_eq(data, expected, MOST);
        fill(data, 5, seed, 100 + rank);
        cr_assert_eq(dist_send(world, data, 5, 0, 8), NN_OK, "%s", nn_error_text());
      }
      seed++;
    }
  }
  cr_assert_eq(dist_barrier(world), NN_OK);
}

// Breaks: gradient buckets that overlap backward end with the wrong sums or never end.
static void several_reductions_under_way(void) {
  enum { REQUESTS = 9, COUNT = 777 };
  uint64_t seed = fresh_seed();
  static float data[REQUESTS][COUNT];
  dist_request *requests[REQUESTS];
  dist_mpi_part_bytes = 1000;
  for (int r = 0; r < REQUESTS; r++) {
    for (int i = 0; i < COUNT; i++)
      store(data[r], DIST_F32, i, value_of(seed + (uint64_t)r, dist_rank(world), i));
    cr_assert_eq(dist_allreduce_start(world, data[r], COUNT, DIST_F32, DIST_SUM, &requests[r]), NN_OK);
  }
  for (int r = REQUESTS - 1; r > 0; r--) // some by waiting, in reverse; the first one by polling
    cr_assert_eq(dist_wait(requests[r]), NN_OK, "%s", nn_error_text());
  for (bool done = false; !done;)
    cr_assert_eq(dist_test(requests[0], &done), NN_OK, "%s", nn_error_text());
  for (int r = 0; r < REQUESTS; r++)
    for (int i = 0; i < COUNT; i++)
      cr_assert_eq(load(data[r], DIST_F32, i), expected_value(seed + (uint64_t)r, DIST_F32, DIST_SUM, i));
}

// Breaks: gradients and the world's own messages meet, or the GPU's device group is promised and missing.
static void gradients_have_a_group_of_their_own(void) {
  nn_device *device;
  dist_group *gradients;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK, "%s", nn_error_text());
  cr_assert_eq(dist_group_for_device(world, device, NN_F32, &gradients), NN_OK, "%s", nn_error_text());
  cr_assert_eq(dist_size(gradients), dist_size(world));
  cr_assert_eq(dist_rank(gradients), dist_rank(world));
  cr_assert_eq(dist_local_rank(gradients), dist_rank(world)); // the ranks of a test share one machine
  cr_assert_eq(dist_local_size(gradients), dist_size(world));

  float one = 1;
  int32_t two = 2;
  dist_request *first, *second;
  if (dist_rank(world) % 2 == 0) { // started in different orders, which within one group would be an error
    cr_assert_eq(dist_allreduce_start(gradients, &one, 1, DIST_F32, DIST_SUM, &first), NN_OK);
    cr_assert_eq(dist_allreduce_start(world, &two, 1, DIST_I32, DIST_SUM, &second), NN_OK);
  } else {
    cr_assert_eq(dist_allreduce_start(world, &two, 1, DIST_I32, DIST_SUM, &second), NN_OK);
    cr_assert_eq(dist_allreduce_start(gradients, &one, 1, DIST_F32, DIST_SUM, &first), NN_OK);
  }
  cr_assert_eq(dist_wait(second), NN_OK, "%s", nn_error_text());
  cr_assert_eq(dist_wait(first), NN_OK, "%s", nn_error_text());
  cr_assert_eq(one, (float)dist_size(world));
  cr_assert_eq(two, 2 * dist_size(world));
  dist_group_free(gradients);
  nn_device_close(device);
}

// Breaks: an option that only GPUs have is taken and does nothing, or the ranks of a build without NCCL wait
// for each other instead of saying why they cannot train.
static void refusals_of_gradient_groups(void) {
  nn_device *device;
  dist_group *gradients;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK, "%s", nn_error_text());
  cr_assert_eq(dist_group_for_device(world, device, NN_BF16, &gradients), NN_ERR_USAGE);
  cr_assert_null(gradients);
  cr_assert_not_null(strstr(nn_error_text(), "dist.gradients: bf16 needs GPUs"));
  nn_error_clear();
  nn_device_close(device);

  cr_assert(dist_reduces_on(NN_DEVICE_CPU));
  if (dist_reduces_on(NN_DEVICE_CUDA))
    return;
  nn_device gpu = {.kind = NN_DEVICE_CUDA};
  nn_status status = dist_group_for_device(world, &gpu, NN_F32, &gradients);
  if (dist_size(world) == 1) { // one rank has nobody to add to
    cr_assert_eq(status, NN_OK, "%s", nn_error_text());
    dist_group_free(gradients);
    return;
  }
  cr_assert_eq(status, NN_ERR_UNSUPPORTED);
  cr_assert_not_null(strstr(nn_error_text(), "need NCCL, and this program was built without it"));
}

static void check_agreement(int32_t failing) {
  char text[64];
  nn_error_clear();
  nn_status mine = NN_OK;
  // A higher rank fails too and must not win; its text stays out.
  if (dist_rank(world) == failing)
    mine = NN_FAIL(NN_ERR_INPUT, "rank %d cannot read its shard", failing);
  else if (dist_rank(world) > failing)
    mine = NN_FAIL(NN_ERR_MEMORY, "too late");
  nn_status agreed = dist_agree(world, mine);
  cr_assert_eq(agreed, NN_ERR_INPUT);
  snprintf(text, sizeof text, "rank %d cannot read its shard", failing);
  cr_assert_str_eq(nn_error_text(), text);
  if (dist_size(world) == 1)
    return;
  snprintf(text, sizeof text, ", rank %d", failing);
  cr_assert_not_null(strstr(nn_error_place(), text), "place '%s'", nn_error_place());
  // Agreeing again further out changes nothing.
  char place[128];
  snprintf(place, sizeof place, "%s", nn_error_place());
  cr_assert_eq(dist_agree(world, agreed), NN_ERR_INPUT);
  cr_assert_str_eq(nn_error_place(), place);
}

// Breaks: one rank fails and the others go on, hang, or report something else than the cause.
static void agree_on_the_lowest_failure(void) {
  cr_assert_eq(dist_agree(world, NN_OK), NN_OK);
  for (int32_t failing = 0; failing < dist_size(world); failing++)
    check_agreement(failing);
  nn_error_clear();
  cr_assert_eq(dist_agree(world, NN_OK), NN_OK);
  cr_assert_str_eq(nn_error_text(), "");
}

// Breaks: a run that failed on one rank while another was asked to stop is requeued as if all were well.
static void a_failure_outweighs_a_stop(void) {
  int32_t last = dist_size(world) - 1;
  nn_status mine = dist_rank(world) == last ? NN_FAIL(NN_ERR_IO, "disk full") : NN_STOPPED;
  cr_assert_eq(dist_agree(world, mine), NN_ERR_IO);
  cr_assert_str_eq(nn_error_text(), "disk full");
  nn_error_clear();
  mine = dist_rank(world) == last ? NN_STOPPED : NN_OK;
  cr_assert_eq(dist_agree(world, mine), NN_STOPPED);
}

// Breaks: a signal that reached one rank makes it leave alone; the others hang at the next collective.
static void stop_together(void) {
  bool stop = true;
  cr_assert_eq(dist_stop_install(), NN_OK);
  cr_assert_eq(dist_stop_agreed(world, &stop), NN_OK);
  cr_assert_not(stop);
  if (dist_rank(world) == dist_size(world) - 1)
    raise(SIGUSR1);
  cr_assert_eq(dist_stop_agreed(world, &stop), NN_OK, "%s", nn_error_text());
  cr_assert(stop);
}

// Tests set how messages are split; each starts without.
static void split_nothing(void) {
  dist_mpi_part_bytes = part_sizes[0];
}

Test(ranks, all) {
  static const rank_test tests[] = {
      RANK_TEST(reductions),
      RANK_TEST(broadcasts),
      RANK_TEST(gathers),
      RANK_TEST(messages),
      RANK_TEST(several_reductions_under_way),
      RANK_TEST(gradients_have_a_group_of_their_own),
      RANK_TEST(refusals_of_gradient_groups),
      RANK_TEST(agree_on_the_lowest_failure),
      RANK_TEST(a_failure_outweighs_a_stop),
      RANK_TEST(stop_together),
  };
  run_rank_tests(tests, sizeof tests / sizeof *tests, split_nothing, NULL);
}
