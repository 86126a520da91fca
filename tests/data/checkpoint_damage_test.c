// Damage of every kind to every file of a checkpoint: always found before HDF5 opens anything, never fatal
// while an older checkpoint is whole.
#include <xxhash.h>

#include "data/checkpoint_manifest.h"
#include "dist/group_table.h"
#include "tests/data/checkpoint_fixture.h"

static dist_group *world;
static uint64_t draws;

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

TestSuite(damage, .init = start, .fini = end, .timeout = 120);

static uint32_t draw(uint32_t below) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, 1, 1), 1, draws++, bits);
  return bits[0] % below;
}

typedef enum { FLIP_A_BIT, CUT_SHORT, APPEND_A_BYTE, EMPTY, REMOVE, KINDS } damage_kind;

static void damage(damage_kind kind, const char *path, char *bytes, size_t count) {
  size_t position = draw((uint32_t)count);
  FILE *file;
  switch (kind) {
  case FLIP_A_BIT:
    bytes[position] = (char)(bytes[position] ^ (1 << draw(8)));
    cr_ok(data_file_write(path, bytes, count));
    break;
  case CUT_SHORT:
    cr_assert_eq(truncate(path, (off_t)position), 0);
    break;
  case APPEND_A_BYTE:
    cr_assert_not_null(file = fopen(path, "a"));
    fputc('\n', file);
    fclose(file);
    break;
  case EMPTY:
    cr_assert_eq(truncate(path, 0), 0);
    break;
  default:
    cr_assert_eq(unlink(path), 0);
  }
}

// Broken: a run resumes from damaged weights, hangs inside HDF5, or refuses to start although an older
// checkpoint is whole.
Test(damage, of_every_kind_to_every_file_falls_back) {
  static const char *const names[] = {"manifest.json", "part-000.h5", "tokenizer.bin"};
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 1);
  save(checkpointer, &list, 1, 1.0);
  save(checkpointer, &list, 2, 0.5);
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
  cr_assert_eq(find_and_check(world), 2);

  cr_assert_not_null(freopen("/dev/null", "w", stderr));
  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    for (int round = 0; round < 8 * KINDS; round++) {
      char path[512], *bytes, *whole;
      size_t count, again;
      damage_kind kind = (damage_kind)(round % KINDS);
      snprintf(path, sizeof path, "%s/step-000000002/%s", folder, names[i]);
      cr_ok(data_file_read(path, &bytes, &count));
      cr_ok(data_file_read(path, &whole, &again));
      damage(kind, path, bytes, count);
      cr_expect_eq(find_and_check(world), 1, "%s, damage of kind %d, seed %llu", names[i], (int)kind,
                   (unsigned long long)seed);
      cr_ok(data_file_write(path, whole, count));
      free(bytes);
      free(whole);
    }
  cr_expect_eq(find_and_check(world), 2, "the repaired one counts again");
}

// Broken: a run whose checkpoints are all damaged quietly starts anew and writes over them.
Test(damage, of_all_checkpoints_is_an_error) {
  tensor_list list = make_tensors();
  data_checkpointer *checkpointer = open_checkpointer(world, &list, 2, false, 1);
  char path[512];
  for (int64_t step = 1; step <= 2; step++) {
    save(checkpointer, &list, step, 1.0);
    snprintf(path, sizeof path, "%s/step-%09lld/part-000.h5", folder, (long long)step);
    cr_assert_eq(truncate(path, 1000), 0);
  }
  data_checkpoint_loaded loaded;
  bool found;
  cr_expect_eq(data_checkpoint_find(world, folder, &found, &loaded), NN_ERR_INPUT);
  cr_expect_not_null(strstr(nn_error_text(), "none of the 2 checkpoints verifies"), "%s", nn_error_text());
  data_checkpointer_free(checkpointer);
  free_tensors(&list);
}

// ---- manifests that are whole but wrong

// Parses a good manifest in which `from` was replaced by `to`, under a hash that fits.
static nn_status parse_changed(const char *from, const char *to) {
  static const char seal[] = ",\n \"xxh3\": \"";
  static const data_tensor tensor = {.name = "param/a", .rows = 6, .columns = 2};
  data_checkpoint_info info = info_of(3, 1.25);
  data_checkpoint_manifest manifest;
  char *text, *end = NULL, changed[4096], hash[DATA_HASH_DIGITS + 1];
  size_t bytes;
  cr_ok(data_checkpoint_manifest_make(&info, &tensor, 1, 2, &manifest));
  cr_ok(data_checkpoint_manifest_print(&manifest, &text, &bytes));
  data_checkpoint_manifest_free(&manifest);
  for (char *at = text; (at = strstr(at, seal)) != NULL; at++)
    end = at; // the last one seals the file
  char *place = strstr(text, from);
  cr_assert(end != NULL && place != NULL, "'%s' is not in %s", from, text);
  *end = '\0';
  int length =
      snprintf(changed, sizeof changed, "%.*s%s%s", (int)(place - text), text, to, place + strlen(from));
  data_hash_format(XXH3_64bits(changed, (size_t)length), hash);
  length += snprintf(changed + length, sizeof changed - (size_t)length, "%s%s\"\n}\n", seal, hash);
  free(text);
  nn_status status = data_checkpoint_manifest_parse("M", changed, (size_t)length, &manifest);
  data_checkpoint_manifest_free(&manifest);
  return status;
}

// Broken: a manifest of another version, or one edited by hand, is believed and leads outside of its tensors.
Test(damage, manifests_are_read_strictly) {
  cr_ok(parse_changed("\"step\": 3", "\"step\": 4"));
  static const struct {
    const char *from, *to, *says;
  } cases[] = {
      {"\"version\": 1", "\"version\": 2", "version 2"},
      {"\"step\": 3", "\"step\": -3", "step"},
      {"\"step\": 3", "\"step\": 3.5", "integer"},
      {"\"step\": 3,", "", "step"},
      {"\"step\": 3", "\"step\": 3, \"step\": 3", "duplicate"},
      {"\"step\": 3", "\"step\": 3, \"stride\": 3", "stride"},
      {"\"loss\": 1.25", "\"loss\": \"low\"", "loss"},
      {"\"rows\": 6", "\"rows\": 7", "starts"},
      {"\"columns\": 2", "\"columns\": 0", "shape"},
      {"\"columns\": 2", "\"columns\": 4611686018427387904", "shape"},
      {"    3,", "    7,", "starts"},
      {"    3,", "", "starts"},
      {"part-001.h5", "../part-001.h5", "part-001.h5"},
      {"\"xxh3\": \"0000000000000000\"", "\"xxh3\": \"000000000000000G\"", "xxh3"},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    cr_expect_eq(parse_changed(cases[i].from, cases[i].to), NN_ERR_INPUT, "%s", cases[i].to);
    cr_expect_not_null(strstr(nn_error_text(), cases[i].says), "%s: %s", cases[i].to, nn_error_text());
    nn_error_clear();
  }
}
