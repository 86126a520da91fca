// Building data sets. When these fail, people train on other documents than they gave, lose a data set, or
// cannot reproduce one.
#include <signal.h> // kill
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h> // waitpid
#include <unistd.h>

#include "data/dataset.h"
#include "data/dataset_read.h"
#include "data/output.h"
#include "data/synth.h"
#include "data/verify.h"
#include "tests/data/data_fixture.h"

TestSuite(build, .init = scratch_open, .fini = scratch_close);

static void run(build_call *call, data_manifest *made) {
  call->build.inputs = call->inputs;
  call->build.val_inputs = call->val_inputs;
  cr_ok(data_build_run(alone, &call->build, made));
}

static nn_status try_run(build_call *call) {
  call->build.inputs = call->inputs;
  call->build.val_inputs = call->val_inputs;
  return data_build_run(alone, &call->build, NULL);
}

// Document `index` of a split of byte tokens, as text with a zero byte behind it. malloc'ed.
static char *document_text(data_set *set, int64_t index, size_t *bytes) {
  int64_t first = 0, count = 0, source_bytes = 0;
  cr_ok(data_set_document(set, index, &first, &count, &source_bytes));
  int32_t *tokens = malloc((size_t)count * sizeof *tokens);
  char *text = malloc((size_t)count);
  cr_ok(data_set_read_tokens(set, first, count, tokens));
  cr_assert_eq(tokens[count - 1], 256); // every document ends with end-of-text
  cr_assert_eq(source_bytes, count - 1);
  for (int64_t i = 0; i < count - 1; i++) {
    cr_assert_lt(tokens[i], 256);
    text[i] = (char)tokens[i];
  }
  text[count - 1] = '\0';
  *bytes = (size_t)(count - 1);
  free(tokens);
  return text;
}

// The document's number in `made`; each is given out once.
static int which(const documents *made, bool *taken, const char *text, size_t bytes) {
  for (int i = 0; i < made->count; i++)
    if (!taken[i] && made->bytes[i] == bytes && memcmp(made->texts[i], text, bytes) == 0) {
      taken[i] = true;
      return i;
    }
  cr_assert_fail("a document that was not given, or twice, seed %llu", (unsigned long long)test_seed);
  return -1;
}

// Takes the documents of a split, which must come in the order of the input; how many there are.
static int64_t check_split(const char *folder, const char *split, const documents *made, bool *taken) {
  data_set *set = NULL;
  int last = -1;
  int64_t bytes_sum = 0;
  cr_ok(data_set_open(folder, split, &set));
  for (int64_t i = 0; i < data_set_documents(set); i++) {
    size_t bytes = 0;
    char *text = document_text(set, i, &bytes);
    int index = which(made, taken, text, bytes);
    cr_assert_gt(index, last);
    last = index;
    bytes_sum += (int64_t)bytes;
    free(text);
  }
  cr_assert_eq(data_set_source_bytes(set), bytes_sum);
  cr_assert_eq(data_set_tokens(set), bytes_sum + data_set_documents(set));
  int64_t count = data_set_documents(set);
  data_set_close(set);
  return count;
}

// Every document is in one split, whole, whatever the size of shards; the share held out is what was asked.
Test(build, splits_by_document) {
  static const struct {
    double val;
    int64_t held_out;
  } cases[] = {{0.1, 9}, {1e-6, 1}, {0.9999, 92}, {0.5, 47}}; // of 93 documents
  documents made = write_documents(scratch("a.jsonl"), 93, 400);
  for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
    bool taken[93] = {false};
    build_call call = simple_build(scratch("a.jsonl"), scratch("out"));
    data_manifest manifest;
    call.build.val = cases[c].val;
    call.build.seed = test_seed >> 1;
    call.build.force = c > 0;
    call.build.shard_bytes = 1000 + random_below(20000);
    run(&call, &manifest);
    cr_assert_gt(manifest.split[0].shards + manifest.split[1].shards, 2);
    data_manifest_free(&manifest);
    cr_assert_eq(check_split(scratch("out"), "val", &made, taken), cases[c].held_out);
    cr_assert_eq(check_split(scratch("out"), "train", &made, taken), 93 - cases[c].held_out);
  }
  free_documents(&made);
}

// Two seeds hold out other documents.
Test(build, the_seed_chooses) {
  documents made = write_documents(scratch("a.jsonl"), 60, 50);
  size_t first_bytes = 0, second_bytes = 0;
  build_call call = simple_build(scratch("a.jsonl"), scratch("first"));
  call.build.val = 0.3;
  cr_ok(try_run(&call));
  call.build.folder = scratch("second");
  call.build.seed = 2;
  cr_ok(try_run(&call));
  char *first = read_file(scratch("first/val-00000.h5"), &first_bytes);
  char *second = read_file(scratch("second/val-00000.h5"), &second_bytes);
  cr_assert(first_bytes != second_bytes || memcmp(first, second, first_bytes) != 0);
  free(first);
  free(second);
  free_documents(&made);
}

Test(build, named_files_are_the_validation_split) {
  documents train = write_documents(scratch("train.jsonl"), 12, 100);
  documents val = write_documents(scratch("val.jsonl"), 5, 100);
  bool train_taken[12] = {false}, val_taken[5] = {false};
  build_call call = simple_build(scratch("train.jsonl"), scratch("out"));
  call.val_inputs[0] = scratch("val.jsonl");
  call.build.val_input_count = 1;
  cr_ok(try_run(&call));
  cr_assert_eq(check_split(scratch("out"), "train", &train, train_taken), 12);
  cr_assert_eq(check_split(scratch("out"), "val", &val, val_taken), 5);
  call.build.val = 0.1;
  cr_fails(try_run(&call), NN_ERR_USAGE, "--val-input");
  free_documents(&train);
  free_documents(&val);
}

// The same inputs give the same bytes: nothing of the day or the machine is in the files.
Test(build, twice_the_same_bytes) {
  documents made = write_documents(scratch("a.jsonl"), 30, 500);
  build_call call = simple_build(scratch("a.jsonl"), scratch("first"));
  call.build.val = 0.2;
  call.build.shard_bytes = 4000;
  cr_ok(try_run(&call));
  sleep(1); // HDF5 keeps times in seconds
  call.build.folder = scratch("second");
  cr_ok(try_run(&call));
  check_same_folder(scratch("first"), scratch("second"));
  free_documents(&made);
}

// A document that does not fit into memory at once has the tokens that it would have in one piece.
static void check_long_document(const char *spec) {
  size_t bytes = 0;
  char *text = random_text(2500000, &bytes);
  data_tokenizer *tokenizer = NULL;
  data_tokens expected = {0};
  data_set *set = NULL;
  write_file(scratch("long.txt"), text, bytes);
  build_call call = simple_build(scratch("long.txt"), scratch("out"));
  call.build.tokenizer = spec;
  call.build.force = true;
  cr_ok(try_run(&call));
  cr_ok(data_tokenizer_open(spec, &tokenizer));
  cr_ok(data_tokenizer_encode(tokenizer, text, bytes, &expected));
  cr_ok(data_set_open(scratch("out"), "train", &set));
  cr_assert_eq(data_set_tokens(set), expected.count + 1);
  int32_t *tokens = malloc((size_t)(expected.count + 1) * sizeof *tokens);
  cr_ok(data_set_read_tokens(set, 0, expected.count + 1, tokens));
  cr_assert_eq(memcmp(tokens, expected.items, (size_t)expected.count * sizeof *tokens), 0);
  cr_assert_eq(tokens[expected.count], data_tokenizer_end_of_text(tokenizer));
  cr_assert_eq(data_set_tokenizer_hash(set), data_tokenizer_hash(tokenizer));
  data_set_close(set);
  data_tokenizer_free(tokenizer);
  free(expected.items);
  free(tokens);
  free(text);
}

Test(build, long_documents_keep_their_tokens) {
  check_long_document("byte");
#ifdef DATA_WITH_PCRE2
  check_long_document(write_gpt2_files());
#endif
}

// A vocabulary beyond 65,536 needs wider tokens; labels and the last shards of a synthetic set use them too.
Test(build, shards_hold_every_token_of_large_vocabularies) {
  const data_format format = {.vocab = 70000, .end_of_text = -1, .labelled = true, .tokenizer_kind = "none"};
  data_shard_writer *writer = NULL;
  data_shard *shard = NULL;
  data_counts counts;
  int32_t tokens[] = {0, 65535, 65536, 69999}, labels[] = {-1, 69999, 0, -1}, out[4];
  cr_ok(data_shard_create(scratch("a.h5"), &format, NULL, &writer));
  cr_ok(data_shard_append(writer, tokens, labels, 4));
  cr_ok(data_shard_end_document(writer, 0));
  cr_ok(data_shard_finish(writer, &counts));
  data_shard_writer_free(writer);
  cr_ok(data_shard_open(scratch("a.h5"), &shard));
  cr_ok(data_shard_tokens(shard, 0, 4, out));
  cr_assert_eq(memcmp(out, tokens, sizeof tokens), 0);
  cr_ok(data_shard_labels(shard, 0, 4, out));
  cr_assert_eq(memcmp(out, labels, sizeof labels), 0);
  cr_fails(data_shard_tokens(shard, 2, 3, out), NN_ERR_INTERNAL, "rows 2 to 5");
  data_shard_close(shard);
}

// ---- what is refused leaves nothing behind

static void check_refused(const char *input, nn_status code, const char *says) {
  build_call call = simple_build(input, scratch("new"));
  cr_fails(try_run(&call), code, says);
  cr_assert_neq(access(scratch("new"), F_OK), 0, "a folder was left behind by: %s", says);
}

Test(build, bad_inputs_leave_nothing) {
  write_file(scratch("empty.txt"), "", 0);
  check_refused(scratch("empty.txt"), NN_ERR_INPUT, "empty.txt: holds no text");
  write_file(scratch("empty.jsonl"), "\n\n", 2);
  check_refused(scratch("empty.jsonl"), NN_ERR_INPUT, "empty.jsonl: holds no text");
  write_file(scratch("hollow.jsonl"), "{\"text\": \"\"}\n", 13);
  check_refused(scratch("hollow.jsonl"), NN_ERR_INPUT, "hollow.jsonl: holds no text");
  write_file(scratch("latin1.txt"), "caf\xE9 au lait", 12);
  check_refused(scratch("latin1.txt"), NN_ERR_INPUT, "latin1.txt: line 1, byte 3");
  write_file(scratch("other.jsonl"), "{\"content\": \"a\"}\n", 17);
  check_refused(scratch("other.jsonl"), NN_ERR_INPUT, "other.jsonl: line 1: no field 'text'");
  check_refused(scratch("missing.txt"), NN_ERR_INPUT, "missing.txt: cannot be read");
  check_refused(scratch("a.pdf"), NN_ERR_INPUT, "a.pdf");
}

Test(build, bad_options_leave_nothing) {
  write_file(scratch("a.txt"), "one", 3);
  build_call call = simple_build(scratch("a.txt"), scratch("new"));
  call.build.val = 0.1;
  cr_fails(try_run(&call), NN_ERR_INPUT, "one document cannot be split");
  call.build.val = 1;
  cr_fails(try_run(&call), NN_ERR_USAGE, "--val");
  call.build.val = 0;
  call.build.input_count = 0;
  cr_fails(try_run(&call), NN_ERR_USAGE, "no input files");
  call.build.input_count = 1;
  call.build.tokenizer = "sp:/nowhere";
  cr_assert_neq(try_run(&call), NN_OK);
  nn_error_clear();
  cr_assert_neq(access(scratch("new"), F_OK), 0);
  write_file(scratch("file"), "x", 1);
  call.build.tokenizer = "byte";
  call.build.folder = scratch("file");
  cr_assert_neq(try_run(&call), NN_OK);
  nn_error_clear();
}

// A data set is replaced only when that is asked for, and only by a whole one. Files that are not the data
// set's stay.
Test(build, an_old_data_set_is_safe) {
  size_t before_bytes = 0, after_bytes = 0;
  documents made = write_documents(scratch("a.jsonl"), 20, 500);
  documents few = write_documents(scratch("b.jsonl"), 3, 500);
  build_call call = simple_build(scratch("a.jsonl"), scratch("out"));
  call.build.shard_bytes = 2000;
  cr_ok(try_run(&call));
  char *before = read_file(scratch("out/manifest.json"), &before_bytes);
  cr_fails(try_run(&call), NN_ERR_USAGE, "already holds a data set; --force replaces it");
  write_file(scratch("bad.jsonl"), "{\"text\": \"a\"}\n{\n", 16);
  call.inputs[0] = scratch("bad.jsonl");
  call.build.force = true;
  cr_fails(try_run(&call), NN_ERR_INPUT, "bad.jsonl: line 2");
  char *after = read_file(scratch("out/manifest.json"), &after_bytes);
  cr_assert(before_bytes == after_bytes && memcmp(before, after, before_bytes) == 0);
  data_verification found;
  cr_ok(data_verify(alone, scratch("out"), &found));
  cr_assert_eq(found.damaged, 0);
  data_verification_free(&found);
  write_file(scratch("out/notes.txt"), "mine", 4);
  call.inputs[0] = scratch("b.jsonl");
  call.build.shard_bytes = 0;
  cr_ok(try_run(&call));
  cr_assert_eq(count_files(scratch("out")), 4); // manifest, shard, view, and what was not ours
  cr_assert_eq(access(scratch("out/notes.txt"), F_OK), 0);
  free(before);
  free(after);
  free_documents(&made);
  free_documents(&few);
}

// The remains of a build that was killed are in nobody's way.
Test(build, remains_of_a_killed_build_are_swept) {
  documents made = write_documents(scratch("a.jsonl"), 3, 100);
  build_call call = simple_build(scratch("a.jsonl"), scratch("out"));
  cr_assert_eq(mkdir(scratch("out"), 0777), 0);
  cr_assert_eq(mkdir(scratch("out/.building"), 0777), 0);
  write_file(scratch("out/.building/train-0.part"), "half of a shard", 15);
  cr_ok(try_run(&call));
  cr_assert_eq(count_files(scratch("out")), 3);
  free_documents(&made);
}

// ---- two at a time

// Another process that writes a data set of one shard to `folder`: it stops when that is half done, until
// its `go_on` is closed.
typedef struct {
  pid_t pid;
  int go_on;
} other_build;

static nn_status write_slowly(const char *folder, int ready, int go_on) {
  const data_format format = {.vocab = 9, .end_of_text = -1, .tokenizer_kind = "none"};
  const int32_t tokens[] = {1, 2, 3, 4, 5};
  data_output *output = NULL;
  data_shard_writer *writer = NULL;
  data_counts counts;
  char path[PATH_MAX], byte = 1;
  NN_TRY(data_output_begin(alone, folder, false, &output));
  NN_TRY(data_output_path(output, DATA_TRAIN, 0, path));
  NN_TRY(data_shard_create(path, &format, NULL, &writer));
  NN_TRY(data_shard_append(writer, tokens, NULL, 5));
  NN_TRY(data_shard_end_document(writer, 0));
  NN_TRY(data_shard_finish(writer, &counts));
  data_shard_writer_free(writer);
  if (write(ready, &byte, 1) != 1 || read(go_on, &byte, 1) != 0)
    return NN_FAIL(NN_ERR_IO, "the test itself has gone");
  nn_status mine = data_output_add(output, DATA_TRAIN, 0, &counts);
  nn_status status = data_output_commit(output, mine, &format, NULL, NULL);
  data_output_free(output);
  return status;
}

static other_build start_other(const char *folder) {
  int ready[2], go_on[2];
  char byte = 0;
  cr_assert(pipe(ready) == 0 && pipe(go_on) == 0);
  pid_t child = fork();
  cr_assert_geq(child, 0);
  if (child == 0) {
    close(go_on[1]);
    _exit(write_slowly(folder, ready[1], go_on[0]) == NN_OK ? 0 : 1);
  }
  close(ready[1]);
  close(go_on[0]);
  cr_assert_eq(read(ready[0], &byte, 1), 1, "the other build did not begin");
  close(ready[0]);
  return (other_build){.pid = child, .go_on = go_on[1]};
}

// Broken: the second removes what the first has written, and both report success on a damaged data set.
Test(build, one_at_a_time_in_a_folder) {
  const data_synth synth = {
      .folder = scratch("out"), .samples = 5, .length = 100, .vocab = 100, .window = 4, .force = true};
  const data_synth_mqar mqar = {.pairs = 2, .queries = 2};
  documents made = write_documents(scratch("a.jsonl"), 3, 100);
  build_call call = simple_build(scratch("a.jsonl"), scratch("out"));
  data_verification found;
  char names_it[100];
  int exit_status = -1;
  call.build.force = true;
  other_build other = start_other(scratch("out"));
  snprintf(names_it, sizeof names_it, "out: process %d on ", (int)other.pid);
  cr_fails(try_run(&call), NN_ERR_USAGE, names_it);
  cr_fails(try_run(&call), NN_ERR_USAGE, "is writing a data set here");
  cr_fails(data_synth_write_mqar(alone, &synth, &mqar, NULL), NN_ERR_USAGE, names_it);
  close(other.go_on);
  cr_assert_eq(waitpid(other.pid, &exit_status, 0), other.pid);
  cr_assert_eq(exit_status, 0);
  cr_ok(data_verify(alone, scratch("out"), &found));
  cr_assert_eq(found.damaged, 0);
  cr_assert_eq(found.manifest.split[0].counts.tokens, 5);
  data_verification_free(&found);
  cr_assert_eq(count_files(scratch("out")), 3); // manifest, shard and view
  call.build.force = false;
  cr_fails(try_run(&call), NN_ERR_USAGE, "already holds a data set");
  cr_assert_eq(count_files(scratch("out")), 3);
  free_documents(&made);
}

// Broken: after a crash nobody can build there until someone finds and removes a hidden file.
Test(build, a_killed_build_locks_nobody_out) {
  documents made = write_documents(scratch("a.jsonl"), 3, 100);
  build_call call = simple_build(scratch("a.jsonl"), scratch("out"));
  other_build other = start_other(scratch("out"));
  kill(other.pid, SIGKILL);
  cr_assert_eq(waitpid(other.pid, NULL, 0), other.pid);
  cr_assert_eq(access(scratch("out/.lock"), F_OK), 0);
  cr_ok(try_run(&call));
  cr_assert_eq(count_files(scratch("out")), 3);
  close(other.go_on);
  free_documents(&made);
}

// A python3 that has h5py: the first one in PATH, or the distribution's; NULL: neither has.
static const char *python_with_h5py(void) {
  static const char *const names[] = {"python3", "/usr/bin/python3"};
  for (int i = 0; i < 2; i++) {
    char command[100];
    snprintf(command, sizeof command, "%s -c 'import h5py' >/dev/null 2>&1", names[i]);
    if (system(command) == 0)
      return names[i];
  }
  return NULL;
}

// Python reads a split as one, through the virtual data set, and finds what is documented.
Test(build, h5py_reads_a_split) {
  const char *python = python_with_h5py();
  if (python == NULL)
    cr_skip_test("python3 with h5py is not there (Debian: python3-h5py)");
  documents made = write_documents(scratch("a.jsonl"), 30, 300);
  build_call call = simple_build(scratch("a.jsonl"), scratch("out"));
  call.build.shard_bytes = 3000;
  cr_ok(try_run(&call));
  FILE *expected = fopen(scratch("expected"), "wb");
  for (int i = 0; i < made.count; i++)
    fwrite(made.texts[i], 1, made.bytes[i], expected);
  fclose(expected);
  static const char script[] =
      "import h5py, numpy, sys\n"
      "f = h5py.File(sys.argv[1] + '/train.h5', 'r')\n"
      "tokens, documents, shards = f['tokens'][:], f['documents'][:], f['shards'][:]\n"
      "assert f.attrs['format'] == b'natsformer view' and f.attrs['vocab'] == 257\n"
      "assert tokens.dtype == numpy.uint16 and len(tokens) == f.attrs['tokens']\n"
      "assert len(documents) == f.attrs['documents'] == 30 and len(shards) > 1\n"
      "starts = documents[:, 0] + numpy.repeat(shards[:, 0], numpy.diff(list(shards[:, 1]) + [30]))\n"
      "ends = numpy.append(starts[1:], len(tokens))\n"
      "assert (tokens[ends - 1] == 256).all() and (ends - starts - 1 == documents[:, 1]).all()\n"
      "text = open(sys.argv[2], 'rb').read()\n"
      "assert bytes(tokens[tokens < 256].astype(numpy.uint8)) == text\n"
      "s = h5py.File(sys.argv[1] + '/train-00000.h5', 'r')\n"
      "assert s['tokens'].fletcher32 and s.attrs['tokenizer_kind'] == b'byte'\n"
      "assert (s['piece_bytes'][:] == [1] * 256 + [0]).all()\n";
  char command[1600];
  write_file(scratch("read.py"), script, sizeof script - 1);
  snprintf(command, sizeof command, "cd / && %s %s %s %s", python, scratch("read.py"), scratch("out"),
           scratch("expected"));
  cr_assert_eq(system(command), 0);
  free_documents(&made);
}
