// Data sets made and checked by several ranks. When these fail, a data set depends on how many ranks made it,
// or a failure of one rank leaves the others waiting.
#include <stdio.h> // snprintf
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h> // waitpid
#include <unistd.h>

#include "data/files.h"
#include "data/lock.h"
#include "data/synth.h"
#include "data/verify.h"
#include "tests/data/data_fixture.h"
#include "tests/rank_tests.h"

static dist_group *world;
static char shared[512]; // folder of rank 0, for all

static void start(void) {
  cr_assert_eq(dist_init(NULL, NULL, &world), NN_OK, "%s", nn_error_text());
  dist_set_deadline(world, 60);
}

static void end(void) {
  dist_finalize(world);
}

TestSuite(ranks, .init = start, .fini = end);

static void open_shared_folder(void) {
  scratch_open();
  strcpy(shared, scratch(""));
  cr_ok(dist_broadcast(world, shared, sizeof shared, 0));
}

static void close_shared_folder(void) {
  dist_barrier(world);
  scratch_close();
}

static const char *common(const char *name) {
  static char paths[8][700];
  static int next = 0;
  char *path = paths[next++ % 8];
  snprintf(path, sizeof paths[0], "%s%s", shared, name);
  return path;
}

// Three inputs of documents; made by rank 0.
static void write_inputs(void) {
  if (dist_rank(world) == 0) {
    documents a = write_documents(common("a.jsonl"), 40, 300),
              b = write_documents(common("b.jsonl"), 7, 2000);
    size_t bytes = 0;
    char *text = random_text(3000, &bytes);
    write_file(common("c.txt"), text, bytes);
    free(text);
    free_documents(&a);
    free_documents(&b);
  }
  cr_ok(dist_barrier(world));
}

static data_build build_of(const char *const *inputs, const char *folder) {
  return (data_build){.inputs = inputs,
                      .input_count = 3,
                      .field = "text",
                      .tokenizer = "byte",
                      .folder = folder,
                      .val = 0.2,
                      .seed = 5,
                      .shard_bytes = 2500};
}

static void build_is_the_same_on_any_number(void) {
  write_inputs();
  const char *inputs[] = {common("a.jsonl"), common("c.txt"), common("b.jsonl")};
  data_build all = build_of(inputs, common("all")), one = build_of(inputs, common("one"));
  data_manifest made = {0};
  cr_ok(data_build_run(world, &all, &made));
  if (dist_rank(world) == 0) {
    cr_assert_gt(made.split[0].shards, 4);
    cr_ok(data_build_run(alone, &one, NULL));
    check_same_folder(common("all"), common("one"));
  }
  data_manifest_free(&made);
}

static void synth_is_the_same_on_any_number(void) {
  data_synth synth = {.folder = common("all"),
                      .seed = 5,
                      .samples = 500,
                      .val_samples = 70,
                      .length = 20000, // several shards
                      .vocab = 100,
                      .window = 30};
  const data_synth_mqar mqar = {.pairs = 20, .queries = 30};
  cr_ok(data_synth_write_mqar(world, &synth, &mqar, NULL));
  if (dist_rank(world) == 0) {
    synth.folder = common("one");
    cr_ok(data_synth_write_mqar(alone, &synth, &mqar, NULL));
    check_same_folder(common("all"), common("one"));
  }
}

// All ranks fail alike, with the text of the one that found it, and nothing stays.
static void a_bad_input_fails_on_all(void) {
  write_inputs();
  if (dist_rank(world) == 0)
    write_file(common("c.txt"), "\xFF", 1);
  cr_ok(dist_barrier(world));
  const char *inputs[] = {common("a.jsonl"), common("c.txt"), common("b.jsonl")};
  data_build build = build_of(inputs, common("out"));
  cr_fails(data_build_run(world, &build, NULL), NN_ERR_INPUT, "c.txt: line 1, byte 0");
  cr_assert_neq(access(common("out"), F_OK), 0);
}

// Broken: only rank 0 learns that another process is writing there; the others wait for it for ever.
static void all_hear_of_another_build(void) {
  int ready[2], hold[2], fd = -1;
  pid_t child = -1;
  write_inputs();
  const char *inputs[] = {common("a.jsonl"), common("c.txt"), common("b.jsonl")};
  data_build build = build_of(inputs, common("out"));
  if (dist_rank(world) == 0) {
    bool locked = false;
    cr_assert(pipe(ready) == 0 && pipe(hold) == 0);
    cr_ok(data_folder_create(build.folder));
    child = fork();
    if (child == 0) {
      locked = data_lock_take(build.folder, ".lock", "busy", &fd) == NN_OK;
      close(hold[1]);
      _exit(write(ready[1], &locked, sizeof locked) == sizeof locked && read(hold[0], &locked, 1) == 0 ? 0
                                                                                                       : 1);
    }
    cr_assert(read(ready[0], &locked, sizeof locked) == (ssize_t)sizeof locked && locked);
  }
  cr_fails(data_build_run(world, &build, NULL), NN_ERR_USAGE, "is writing a data set here");
  if (child > 0) {
    close(hold[1]);
    cr_assert_eq(waitpid(child, NULL, 0), child);
  }
  cr_ok(dist_barrier(world));
  cr_ok(data_build_run(world, &build, NULL));
}

// Every damaged file is named, whichever rank looked at it, and every rank knows.
static void verify_finds_damage_wherever_it_is(void) {
  write_inputs();
  const char *inputs[] = {common("a.jsonl"), common("c.txt"), common("b.jsonl")};
  data_build build = build_of(inputs, common("out"));
  data_verification found;
  cr_ok(data_build_run(world, &build, NULL));
  cr_ok(data_verify(world, common("out"), &found));
  cr_assert_eq(found.damaged, 0);
  int64_t files = found.count;
  data_verification_free(&found);
  if (dist_rank(world) == 0) {
    static const char *const names[] = {"out/train-00001.h5", "out/train-00004.h5", "out/train.h5",
                                        "out/val.h5"};
    for (int i = 0; i < 4; i++) {
      size_t count = 0;
      char *bytes = read_file(common(names[i]), &count);
      size_t at = random_below((uint32_t)count);
      bytes[at] = (char)(bytes[at] ^ 1 << random_below(8));
      write_file(common(names[i]), bytes, i == 1 ? count - 1 : count);
      free(bytes);
    }
    unlink(common("out/train-00002.h5"));
  }
  cr_ok(dist_barrier(world));
  cr_ok(data_verify(world, common("out"), &found));
  cr_assert_eq(found.count, files);
  cr_assert_eq(found.damaged, 5);
  for (int64_t i = 0; i < files; i++) {
    const data_verified_file *file = &found.files[i];
    cr_assert_eq(file->index, i);
    if (file->problem[0] != '\0')
      cr_assert_not_null(strstr(file->problem, file->name), "'%s' does not name %s", file->problem,
                         file->name);
  }
  data_verification_free(&found);
}

Test(ranks, all) {
  static const rank_test tests[] = {
      RANK_TEST(build_is_the_same_on_any_number),    RANK_TEST(synth_is_the_same_on_any_number),
      RANK_TEST(a_bad_input_fails_on_all),           RANK_TEST(all_hear_of_another_build),
      RANK_TEST(verify_finds_damage_wherever_it_is),
  };
  run_rank_tests(tests, sizeof tests / sizeof *tests, open_shared_folder, close_shared_folder);
}
