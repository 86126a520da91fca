// Checkpoints on one rank: what comes back, what is kept, what stays when a save fails.
#include <math.h> // NAN
#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include "data/checkpoint_folder.h"
#include "dist/group_table.h"
#include "tests/data/checkpoint_fixture.h"

static dist_group *world;

static void start(void) {
  seed = clock_seed();
  open_folder();
  cr_ok(dist_self_open(&world));
  cr_ok(nn_device_open("cpu", "auto", 0, &device));
}

static void end(void) {
  nn_device_close(device);
  dist_finalize(world);
  close_folder();
}

TestSuite(checkpoint, .init = start, .fini = end, .timeout = 120);

// Broken: a resumed run trains on with other weights, at another place in the data, or with another lambda.
Test(checkpoint, gives_back_what_was_saved) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 4);
  cr_assert_eq(data_checkpoint_last_step(checkpointer), -1);
  save(checkpointer, &list, 100, 2.5);
  cr_assert_eq(data_checkpoint_last_step(checkpointer), 100);
  cr_assert_eq(data_checkpoint_failures(checkpointer), 0);

  data_checkpoint_loaded loaded;
  bool found;
  cr_ok(data_checkpoint_find(world, folder, &found, &loaded));
  cr_assert(found);
  data_checkpoint_info info = info_of(100, 2.5);
  cr_expect_eq(loaded.step, info.step);
  cr_expect_eq(loaded.tokens, info.tokens);
  cr_expect_eq(loaded.samples, info.samples);
  cr_expect_eq(loaded.loss, info.loss);
  cr_expect_str_eq(loaded.state_json, "{\"lambda\":0.12345678901234568,\"skipped\":3}");
  cr_expect_str_eq(loaded.config_yaml, info.config_yaml);
  cr_expect_str_eq(loaded.model_key, info.model_key);
  cr_expect_str_eq(loaded.tokenizer_kind, info.tokenizer_kind);
  cr_assert_eq(loaded.tokenizer_bytes, sizeof tokenizer);
  cr_expect_eq(memcmp(loaded.tokenizer_blob, tokenizer, sizeof tokenizer), 0);
  data_checkpoint_loaded_free(&loaded);

  cr_expect_eq(find_and_check(world), 100);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: two runs that agree bit for bit cannot be shown to by comparing their files.
Test(checkpoint, equal_tensors_make_equal_parts) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 1);
  uint64_t hashes[2];
  fill_tensors(&list, 1);
  for (int64_t step = 1; step <= 2; step++) {
    data_checkpoint_info info = info_of(step, (double)NAN);
    cr_ok(data_checkpoint_save(checkpointer, &info));
    cr_ok(data_checkpoint_poll(checkpointer, true));
    char path[512];
    snprintf(path, sizeof path, "%s/step-%09lld/part-000.h5", folder, (long long)step);
    cr_ok(data_file_hash(path, &hashes[step - 1], NULL));
    sleep(step == 1); // time stamps in HDF5 files count seconds
  }
  cr_expect_eq(hashes[0], hashes[1]);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: weights of two different steps meet in one checkpoint, because training went on while it was
// written.
Test(checkpoint, holds_the_step_at_which_it_was_taken) {
  setenv("NATSFORMER_FAULT", "checkpoint-slow:20", 1);
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 1);
  fill_tensors(&list, 1);
  data_checkpoint_info info = info_of(1, (double)NAN);
  cr_ok(data_checkpoint_save(checkpointer, &info));
  cr_ok(data_checkpoint_poll(checkpointer, false)); // the writer sleeps: training goes on
  cr_expect_not(has_checkpoint(1));
  fill_tensors(&list, 2);
  info = info_of(2, (double)NAN);
  cr_ok(data_checkpoint_save(checkpointer, &info)); // waits for the first one
  cr_expect_eq(find_and_check(world), 1);
  cr_ok(data_checkpoint_poll(checkpointer, true));
  cr_expect_eq(find_and_check(world), 2);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: a checkpoint of another model is loaded into this one, or a tensor keeps its random start.
Test(checkpoint, other_names_and_shapes_are_errors) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 1, false, 1);
  save(checkpointer, &list, 5, 1.0);
  data_checkpoint_loaded loaded;
  bool found;
  cr_ok(data_checkpoint_find(world, folder, &found, &loaded));
  data_tensor other = list.items[1];
  other.rows--;
  cr_expect_eq(data_checkpoint_read(&loaded, device, &other, 1), NN_ERR_INPUT);
  cr_expect_not_null(strstr(nn_error_text(), "expected [63, 33], found [64, 33]"), "%s", nn_error_text());
  nn_error_clear();
  other = list.items[1];
  snprintf(other.name, sizeof other.name, "param/layer.9.weight");
  cr_expect_eq(data_checkpoint_read(&loaded, device, &other, 1), NN_ERR_INPUT);
  cr_expect_not_null(strstr(nn_error_text(), "param/layer.9.weight"), "%s", nn_error_text());
  data_checkpoint_loaded_free(&loaded);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: the disk fills up with old checkpoints, or the best one is thrown away.
Test(checkpoint, keeps_the_newest_and_the_best) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, true, 1);
  const double losses[] = {3.0, 1.5, (double)NAN, 2.0, 1.7, (double)NAN};
  for (int64_t step = 1; step <= 6; step++) {
    save(checkpointer, &list, step, losses[step - 1]);
    for (int64_t old = 1; old <= step; old++) {
      int64_t best = step == 1 ? 1 : 2;
      cr_expect_eq(has_checkpoint(old), old > step - 2 || old == best, "step %lld after %lld", (long long)old,
                   (long long)step);
    }
  }
  data_checkpoint_loaded loaded;
  bool found;
  cr_ok(data_checkpoint_find_best(world, folder, &found, &loaded));
  cr_expect(found && loaded.step == 2);
  data_checkpoint_loaded_free(&loaded);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: a run that went back to step 20, since step 30 was damaged, loses what it writes next.
Test(checkpoint, a_run_that_went_back_keeps_what_it_writes) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 5, false, 1);
  save(checkpointer, &list, 20, 1.0);
  save(checkpointer, &list, 30, 1.0);
  data_checkpointer_free(checkpointer);
  char path[512];
  snprintf(path, sizeof path, "%s/step-000000030/part-000.h5", folder);
  cr_assert_eq(truncate(path, 100), 0);
  cr_expect_eq(find_and_check(world), 20);

  checkpointer = open_checkpointer(world, &list, 1, false, 1);
  save(checkpointer, &list, 25, 1.0);
  cr_expect_eq(find_and_check(world), 25);
  save(checkpointer, &list, 30, 1.0); // takes the place of the damaged one
  cr_expect_eq(find_and_check(world), 30);
  cr_expect_not(has_checkpoint(20) || has_checkpoint(25));
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: a run that is killed while it replaces its only checkpoint, on a file system that cannot exchange
// names, has none left.
Test(checkpoint, a_replacement_leaves_no_moment_without) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 1, false, 1);
  save(checkpointer, &list, 10, 1.0);
  data_checkpointer_free(checkpointer);
  char final[512], partial[544], aside[544];
  snprintf(final, sizeof final, "%s/step-000000010", folder);
  snprintf(partial, sizeof partial, "%s.partial", final);
  snprintf(aside, sizeof aside, "%s.aside", final);

  cr_assert_eq(rename(final, aside), 0); // killed between the two renames
  cr_ok(data_folder_create(partial));
  data_checkpointer_free(open_checkpointer(world, &list, 1, false, 1));
  cr_expect_eq(find_and_check(world), 10);
  cr_expect_neq(access(partial, F_OK), 0);

  cr_ok(data_folder_create(aside)); // killed before the old one was removed
  data_checkpointer_free(open_checkpointer(world, &list, 1, false, 1));
  cr_expect_eq(find_and_check(world), 10);
  cr_expect_neq(access(aside, F_OK), 0);

  cr_assert_eq(rename(final, partial), 0); // the whole of it
  cr_ok(data_folder_create(final));
  cr_ok(data_checkpoint_replace(folder, 10));
  cr_expect_eq(find_and_check(world), 10);
  cr_expect(access(partial, F_OK) != 0 && access(aside, F_OK) != 0);
  free_tensors(&list);
}

// Broken: nothing to resume from looks like an error, or leftovers of a killed run look like something.
Test(checkpoint, an_empty_folder_holds_none) {
  data_checkpoint_loaded loaded;
  bool found = true;
  char partial[512];
  snprintf(partial, sizeof partial, "%s/step-000000009.partial", folder);
  cr_ok(data_folder_create(partial));
  cr_ok(data_checkpoint_find(world, folder, &found, &loaded));
  cr_expect_not(found);
  tensor_list list = make_tensors();
  data_checkpointer_free(open_checkpointer(world, &list, 1, false, 1));
  cr_expect_neq(access(partial, F_OK), 0, "left-over temporary folders are removed at the start");
  cr_ok(data_folder_remove(folder));
  cr_ok(data_checkpoint_find(world, folder, &found, &loaded));
  cr_expect_not(found);
  free_tensors(&list);
}

// ---- failing saves

static void fail_a_save(const char *fault, const char *reason) {
  tensor_list list = make_tensors();
  unsetenv("NATSFORMER_FAULT");
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 1, false, 1);
  save(checkpointer, &list, 1, 1.0);
  data_checkpointer_free(checkpointer);

  setenv("NATSFORMER_FAULT", fault, 1);
  char log[512];
  snprintf(log, sizeof log, "%s/log", folder);
  cr_assert_not_null(freopen(log, "w", stderr));
  checkpointer = open_checkpointer(world, &list, 1, false, 1);
  save(checkpointer, &list, 2, 1.0);
  cr_expect_eq(data_checkpoint_failures(checkpointer), 1);
  cr_expect_eq(data_checkpoint_last_step(checkpointer), -1);
  cr_expect_eq(find_and_check(world), 1, "the last good one stays");
  save(checkpointer, &list, 3, 1.0); // the fault has passed
  cr_expect_eq(data_checkpoint_failures(checkpointer), 1);
  cr_expect_eq(find_and_check(world), 3);

  char *text;
  size_t bytes;
  cr_ok(data_file_read(log, &text, &bytes));
  cr_expect_not_null(strstr(text, "warning: the checkpoint of step 2 was not written"), "%s", text);
  cr_expect_not_null(strstr(text, reason), "%s", text);
  free(text);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// Broken: a disk that is full for a while ends a run of days, or leaves a checkpoint that is none.
Test(checkpoint, a_failing_disk_costs_one_checkpoint) {
  uint32_t bits[4]; // the part has one write per tensor, the tokenizer one more
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, 0, 0), 0, 0, bits);
  char fault[64];
  snprintf(fault, sizeof fault, "checkpoint-pwrite:%u", 1 + bits[0] % (TENSORS + 1));
  fail_a_save(fault, "No space left on device");
}
Test(checkpoint, a_failing_flush_costs_one_checkpoint) {
  fail_a_save("checkpoint-fsync:2", "Input/output error");
}

static void fill_disk(const char *path) {
  FILE *ballast = fopen(path, "w");
  static const char zeros[4096];
  cr_assert_not_null(ballast);
  setvbuf(ballast, NULL, _IONBF, 0);
  while (fwrite(zeros, 1, sizeof zeros, ballast) == sizeof zeros)
    ;
  fclose(ballast);
}

// Broken: the same, on a disk that is really full: before the save, and from the middle of it.
Test(checkpoint, a_full_disk_costs_one_checkpoint) {
  if (mount("tmpfs", folder, "tmpfs", 0, "size=2m") != 0)
    cr_skip_test("needs the right to mount a small disk");
  char ballast[512];
  snprintf(ballast, sizeof ballast, "%s/ballast", folder);
  tensor_list list = make_tensors();
  setenv("NATSFORMER_FAULT", "checkpoint-slow:50", 1);
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 1);
  save(checkpointer, &list, 1, 1.0);

  fill_tensors(&list, 2);
  data_checkpoint_info info = info_of(2, 1.0);
  cr_ok(data_checkpoint_save(checkpointer, &info));
  fill_disk(ballast); // while the writer sleeps
  cr_ok(data_checkpoint_poll(checkpointer, true));
  cr_expect_eq(data_checkpoint_failures(checkpointer), 1);
  cr_expect_eq(find_and_check(world), 1);

  save(checkpointer, &list, 3, 1.0);
  cr_expect_eq(data_checkpoint_failures(checkpointer), 2);
  cr_expect_eq(find_and_check(world), 1);

  cr_assert_eq(unlink(ballast), 0);
  save(checkpointer, &list, 4, 1.0);
  cr_expect_eq(data_checkpoint_failures(checkpointer), 2);
  cr_expect_eq(find_and_check(world), 4);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
  cr_assert_eq(umount(folder), 0);
}

// Saves step after step and reports each completed one, until it is killed.
static _Noreturn void save_until_killed(int report) {
  tensor_list list = make_tensors();
  data_checkpoint_config config = {.folder = folder, .keep = 1, .writers = 1};
  data_checkpointer *checkpointer;
  if (data_checkpointer_create(world, device, &config, list.items, TENSORS, &checkpointer) != NN_OK)
    _exit(1);
  for (int64_t step = 1;; step++) {
    fill_tensors(&list, step);
    data_checkpoint_info info = info_of(step, (double)NAN);
    if (data_checkpoint_save(checkpointer, &info) != NN_OK ||
        data_checkpoint_poll(checkpointer, true) != NN_OK || write(report, &step, sizeof step) != sizeof step)
      _exit(1);
  }
}

// Broken: a node that dies while it saves takes the checkpoint before along.
Test(checkpoint, a_killed_writer_leaves_the_one_before) {
  enum { ROUNDS = 12 };
  for (uint32_t round = 0; round < ROUNDS; round++) {
    int report[2];
    uint32_t bits[4];
    cr_assert_eq(pipe(report), 0);
    cr_ok(data_folder_remove(folder));
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0)
      save_until_killed(report[1]);
    close(report[1]);
    int64_t step = 0, last = 0;
    cr_assert_eq(read(report[0], &last, sizeof last), (ssize_t)sizeof last);
    nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, round, 0), 0, 0, bits);
    usleep(bits[0] % 40000);
    kill(child, SIGKILL);
    cr_assert_eq(waitpid(child, NULL, 0), child);
    while (read(report[0], &step, sizeof step) == (ssize_t)sizeof step)
      last = step;
    close(report[0]);
    int64_t found = find_and_check(world);
    cr_expect(found == last || found == last + 1, "completed %lld, found %lld", (long long)last,
              (long long)found);
  }
}

// ---- the lock

// Broken: two runs write into one folder and ruin both.
Test(checkpoint, one_run_a_folder) {
  int ready[2], hold[2], fd;
  cr_assert(pipe(ready) == 0 && pipe(hold) == 0);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    bool locked = data_run_lock(world, folder, &fd) == NN_OK;
    if (write(ready[1], &locked, sizeof locked) != sizeof locked)
      _exit(1);
    pause();
  }
  bool locked = false;
  cr_assert_eq(read(ready[0], &locked, sizeof locked), (ssize_t)sizeof locked);
  cr_assert(locked);
  cr_expect_eq(data_run_lock(world, folder, &fd), NN_ERR_USAGE);
  char pid[32];
  snprintf(pid, sizeof pid, "process %d on ", child);
  cr_expect_not_null(strstr(nn_error_text(), pid), "%s", nn_error_text());
  nn_error_clear();
  kill(child, SIGKILL); // frees the lock
  cr_assert_eq(waitpid(child, NULL, 0), child);
  cr_ok(data_run_lock(world, folder, &fd));
  data_run_unlock(fd);
}
