// Checkpoints of several ranks: under mpirun, on 1, 2 and 3 of them.
#include <signal.h> // kill

#include "dist/group_table.h"
#include "tests/data/checkpoint_fixture.h"
#include "tests/rank_tests.h"

static dist_group *world, *alone; // all ranks; a group of this rank only

static void start(void) {
  cr_ok(dist_init(NULL, NULL, &world));
  cr_ok(dist_self_open(&alone));
  dist_set_deadline(world, 60);
  cr_ok(nn_device_open("cpu", "auto", 0, &device));
  seed = clock_seed();
  cr_ok(dist_broadcast(world, &seed, sizeof seed, 0));
}

static void end(void) {
  nn_device_close(device);
  dist_group_free(alone);
  dist_finalize(world);
}

TestSuite(ranks, .init = start, .fini = end);

// A folder for each test, with no faults in it but its own.
static void open_shared_folder(void) {
  unsetenv("NATSFORMER_FAULT");
  if (dist_rank(world) == 0)
    open_folder();
  cr_ok(dist_broadcast(world, folder, sizeof folder, 0));
}

static void close_shared_folder(void) {
  cr_ok(dist_barrier(world));
  if (dist_rank(world) == 0)
    close_folder();
}

// Broken: a run cannot continue on another number of ranks, or does with rows in the wrong place.
static void any_number_reads_what_any_number_wrote(void) {
  tensor_list list = make_tensors();
  int64_t step = 0;
  for (int32_t writers = 1; writers <= dist_size(world) + 1; writers++) {
    data_checkpointer *checkpointer = open_checkpointer(world, &list, 1, false, writers);
    save(checkpointer, &list, ++step, 1.0);
    cr_expect_eq(data_checkpoint_last_step(checkpointer), step);
    data_checkpointer_free(checkpointer);
    cr_expect_eq(find_and_check(world), step);
    if (dist_rank(world) == 0) // all of them wrote, one reads
      cr_expect_eq(find_and_check(alone), step);
    cr_ok(dist_barrier(world));
  }
  if (dist_rank(world) == 0) { // one writes, all of them read
    data_checkpointer *checkpointer = open_checkpointer(alone, &list, 1, false, 1);
    save(checkpointer, &list, ++step, 1.0);
    data_checkpointer_free(checkpointer);
  }
  cr_ok(dist_broadcast(world, &step, sizeof step, 0));
  cr_expect_eq(find_and_check(world), step);
  free_tensors(&list);
}

// ---- tensors that the ranks share

// The tensors one after the other in an arena, as a table of parameters has them.
static int64_t place_tensors(tensor_list *list) {
  int64_t total = 0;
  for (int32_t i = 0; i < TENSORS; i++) {
    list->items[i].offset = total;
    total += (shapes[i].rows * shapes[i].columns + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN;
  }
  return total;
}

typedef struct {
  tensor_list list;
  dist_shards shards;
  float *memory; // of this rank
} shared_tensors;

static void share_tensors(shared_tensors *s, int64_t bucket_bytes) {
  nn_shard own;
  *s = (shared_tensors){0};
  for (int32_t i = 0; i < TENSORS; i++) {
    snprintf(s->list.items[i].name, sizeof s->list.items[i].name, "%s", shapes[i].name);
    s->list.items[i].rows = shapes[i].rows;
    s->list.items[i].columns = shapes[i].columns;
  }
  int64_t total = place_tensors(&s->list);
  cr_ok(dist_shards_make(total, bucket_bytes, dist_rank(world), dist_size(world), &s->shards));
  cr_ok(dist_shards_own(&s->shards, &own));
  free(own.items);
  s->memory = calloc((size_t)own.total + 1, sizeof *s->memory);
  for (int32_t i = 0; i < TENSORS; i++) {
    s->list.items[i].data = s->memory;
    s->list.items[i].shards = &s->shards;
  }
}

// Writes (`expect` false) or checks what this rank has of the tensors of `step`.
static void visit_shared(shared_tensors *s, int64_t step, bool expect) {
  for (int32_t i = 0; i < TENSORS; i++)
    for (int64_t e = 0; e < shapes[i].rows * shapes[i].columns; e++) {
      dist_place place = dist_shards_find(&s->shards, s->list.items[i].offset + e);
      if (place.owner != dist_rank(world))
        continue;
      if (expect)
        cr_assert_eq(s->memory[place.at], value_of(step, i, e), "%s[%lld]", shapes[i].name, (long long)e);
      else
        s->memory[place.at] = value_of(step, i, e);
    }
}

static void read_shared(int64_t step, int64_t bucket_bytes) {
  data_checkpoint_loaded loaded;
  shared_tensors s;
  bool found;
  share_tensors(&s, bucket_bytes);
  cr_ok(data_checkpoint_find(world, folder, &found, &loaded));
  cr_assert(found && loaded.step == step);
  cr_ok(data_checkpoint_read(&loaded, device, s.list.items, TENSORS));
  visit_shared(&s, step, true);
  data_checkpoint_loaded_free(&loaded);
  free(s.memory);
}

// Broken: a run with dist.shard loses its moments, or can only be continued with the same shards.
static void shards_are_written_as_whole_tensors(void) {
  int64_t step = 0;
  for (int32_t writers = 1; writers <= dist_size(world) + 1; writers++)
    for (int64_t bytes = 1; bytes < 60000; bytes = 7 * bytes + 100) {
      shared_tensors s;
      share_tensors(&s, bytes);
      data_checkpointer *checkpointer = open_checkpointer(world, &s.list, 1, false, writers);
      visit_shared(&s, ++step, false);
      data_checkpoint_info info = info_of(step, 1.0);
      cr_ok(data_checkpoint_save(checkpointer, &info));
      cr_ok(data_checkpoint_poll(checkpointer, true));
      cr_expect_eq(data_checkpoint_last_step(checkpointer), step);
      data_checkpointer_free(checkpointer);
      cr_expect_eq(find_and_check(world), step); // every rank all of it
      read_shared(step, bytes + 1000);           // and its part, cut otherwise
      free(s.memory);
      cr_ok(dist_barrier(world));
    }
}

// Broken: snapshots take more host memory than the tensors, or some rank does all the writing.
static void the_work_is_shared(void) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 1, false, 64);
  int64_t mine = data_checkpointer_snapshot_bytes(checkpointer), sum = mine, all = 0, row = 0;
  cr_ok(dist_allreduce(world, &sum, 1, DIST_I64, DIST_SUM));
  for (int32_t i = 0; i < TENSORS; i++) {
    all += shapes[i].rows * shapes[i].columns * (int64_t)sizeof(float);
    row += shapes[i].columns * (int64_t)sizeof(float);
  }
  cr_expect_eq(sum, all);
  cr_expect_leq(mine, all / dist_size(world) + row);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: the disk of one node fails, the others believe that the checkpoint is there.
static void a_failure_of_one_is_a_failure_of_all(void) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 64);
  save(checkpointer, &list, 1, 1.0);
  data_checkpointer_free(checkpointer);

  if (dist_rank(world) == dist_size(world) - 1)
    setenv("NATSFORMER_FAULT", "checkpoint-pwrite:2", 1);
  checkpointer = open_checkpointer(world, &list, 2, false, 64);
  save(checkpointer, &list, 2, 1.0);
  cr_expect_eq(data_checkpoint_failures(checkpointer), 1);
  cr_expect_eq(data_checkpoint_last_step(checkpointer), -1);
  cr_expect_eq(find_and_check(world), 1);
  save(checkpointer, &list, 3, 1.0);
  cr_expect_eq(data_checkpoint_last_step(checkpointer), 3);
  cr_expect_eq(find_and_check(world), 3);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: one slow disk stops all ranks at every step while a checkpoint is written.
static void a_slow_writer_holds_up_nobody(void) {
  if (dist_rank(world) == dist_size(world) - 1)
    setenv("NATSFORMER_FAULT", "checkpoint-slow:100", 1);
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 64);
  fill_tensors(&list, 1);
  data_checkpoint_info info = info_of(1, 1.0);
  cr_ok(data_checkpoint_save(checkpointer, &info));
  for (int polls = 0; polls < 3; polls++)
    cr_ok(data_checkpoint_poll(checkpointer, false));
  cr_expect_eq(data_checkpoint_last_step(checkpointer), -1);
  fill_tensors(&list, 2); // training goes on
  while (data_checkpoint_last_step(checkpointer) < 0)
    cr_ok(data_checkpoint_poll(checkpointer, false));
  cr_expect_eq(find_and_check(world), 1);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: the ranks resume from different checkpoints, or one that hashes no damaged file goes on.
static void damage_that_one_rank_sees_is_seen_by_all(void) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 64);
  save(checkpointer, &list, 1, 1.0);
  save(checkpointer, &list, 2, 1.0);
  for (int32_t part = 0; part <= dist_size(world); part++) {
    char path[512], *bytes = NULL;
    size_t count = 0;
    if (part < dist_size(world))
      snprintf(path, sizeof path, "%s/step-000000002/part-%03d.h5", folder, part);
    else
      snprintf(path, sizeof path, "%s/step-000000002/tokenizer.bin", folder);
    if (dist_rank(world) == 0) {
      cr_ok(data_file_read(path, &bytes, &count));
      bytes[count / 2] ^= 4;
      cr_ok(data_file_write(path, bytes, count));
    }
    cr_ok(dist_barrier(world));
    cr_expect_eq(find_and_check(world), 1);
    if (dist_rank(world) == 0) {
      bytes[count / 2] ^= 4;
      cr_ok(data_file_write(path, bytes, count));
    }
    free(bytes);
    cr_ok(dist_barrier(world));
    cr_expect_eq(find_and_check(world), 2);
    cr_ok(dist_barrier(world));
  }
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: only one rank learns that the folder is taken, the others wait for it for ever.
static void all_hear_of_a_taken_folder(void) {
  int ready[2], fd = -1;
  pid_t child = -1;
  if (dist_rank(world) == 0) {
    bool locked = false;
    cr_assert_eq(pipe(ready), 0);
    child = fork();
    if (child == 0) {
      locked = data_run_lock(alone, folder, &fd) == NN_OK;
      if (write(ready[1], &locked, sizeof locked) == sizeof locked)
        pause();
      _exit(1);
    }
    cr_assert(read(ready[0], &locked, sizeof locked) == (ssize_t)sizeof locked && locked);
  }
  cr_expect_eq(data_run_lock(world, folder, &fd), NN_ERR_USAGE);
  cr_expect_not_null(strstr(nn_error_text(), "is using this run folder"), "%s", nn_error_text());
  nn_error_clear();
  if (child > 0)
    kill(child, SIGKILL);
}

Test(ranks, all) {
  static const rank_test tests[] = {
      RANK_TEST(any_number_reads_what_any_number_wrote),
      RANK_TEST(shards_are_written_as_whole_tensors),
      RANK_TEST(the_work_is_shared),
      RANK_TEST(a_failure_of_one_is_a_failure_of_all),
      RANK_TEST(a_slow_writer_holds_up_nobody),
      RANK_TEST(damage_that_one_rank_sees_is_seen_by_all),
      RANK_TEST(all_hear_of_a_taken_folder),
  };
  run_rank_tests(tests, sizeof tests / sizeof *tests, open_shared_folder, close_shared_folder);
}
