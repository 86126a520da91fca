// `natsformer verify`, the program itself, on cases made here.
#include <criterion/criterion.h>
#include <hdf5.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h> // WEXITSTATUS
#include <unistd.h>

#include "../cases/make_cases.h"
#include "../nn/fresh_seed.h"

static char path[256];

static void new_cases(void) {
  const char *parent = getenv("TMPDIR");
  snprintf(path, sizeof path, "%s/natsformer-cases-XXXXXX", parent != NULL ? parent : "/tmp");
  const int file = mkstemp(path);
  cr_assert_geq(file, 0);
  close(file);
  make_cases(path, fresh_seed());
}

static void remove_cases(void) {
  unlink(path);
}

// The exit code of `verify PATH OPTIONS`; what it prints to `output` (both streams where `errors`).
static int verify(const char *options, bool errors, char *output, size_t room) {
  char command[1024];
  snprintf(command, sizeof command, "CUDA_VISIBLE_DEVICES= '%s' verify '%s' %s %s", TEST_PROGRAM, path, options,
           errors ? "2>&1" : "2>/dev/null");
  FILE *pipe = popen(command, "r");
  cr_assert_not_null(pipe);
  output[fread(output, 1, room - 1, pipe)] = '\0';
  const int status = pclose(pipe);
  cr_assert(WIFEXITED(status), "%s", command);
  return WEXITSTATUS(status);
}

static hid_t edit(void) {
  hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
  cr_assert_geq(file, 0);
  return file;
}

// Adds `more` units to entry `index` of a data set; returns the unit. 0: one that no tolerance covers, more
// than the largest entry.
static double tamper(const char *name, size_t index, double more, double unit) {
  hid_t file = edit(), dataset = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(dataset);
  const size_t count = (size_t)H5Sget_simple_extent_npoints(space);
  double *values = malloc(count * sizeof *values), largest = 0;
  cr_assert(index < count);
  H5Dread(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  for (size_t i = 0; unit == 0 && i < count; i++)
    largest = fmax(largest, fabs(values[i]));
  unit = unit > 0 ? unit : 1 + largest;
  values[index] += more * unit;
  H5Dwrite(dataset, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
  free(values);
  H5Sclose(space);
  H5Dclose(dataset);
  H5Fclose(file);
  return unit;
}

// What breaks: nobody can tell whether a machine computes the method.
Test(verify, passes_what_is_right, .init = new_cases, .fini = remove_cases) {
  char output[16384];
  cr_assert_eq(verify("", true, output, sizeof output), 0, "%s", output);
  int rows = 0;
  for (const char *at = output; (at = strstr(at, "  ok\n")) != NULL; at++)
    rows++;
  cr_expect_eq(rows, 3 * 9, "%s", output);

  cr_assert_eq(verify("--json --device cpu", false, output, sizeof output), 0);
  json_t *all = json_loads(output, 0, NULL);
  cr_assert_not_null(all, "%s", output);
  cr_expect(json_is_true(json_object_get(all, "passed")));
  const json_t *chunks = json_object_get(json_object_get(all, "cases"), "chunks");
  cr_expect_eq(json_object_size(chunks), 9);
  const double error = json_real_value(json_object_get(chunks, "dtypes_clip1"));
  cr_expect(error > 0 && error < 1e-4, "%g", error);
  json_decref(all);
}

// What breaks: a wrong kernel passes.
Test(verify, finds_one_wrong_number_in_every_tensor, .init = new_cases, .fini = remove_cases) {
  const char *tensors[] = {"o", "lse", "dq", "dk", "dv", "dtypes", "dtypes_clip1", "live"};
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    char output[16384], name[64], told[64];
    snprintf(name, sizeof name, "groups/%s", tensors[i]);
    snprintf(told, sizeof told, "case 'groups', %s", tensors[i]);
    const double unit = tamper(name, 20, 1, 0);
    cr_expect_eq(verify("", true, output, sizeof output), 1);
    cr_expect(strstr(output, told) != NULL, "%s", output);
    tamper(name, 20, -1, unit);
  }
  char output[16384];
  cr_expect_eq(verify("--tolerance 1e-12", true, output, sizeof output), 1); // no float32 is so exact
}

static void no_cases(void) {
  H5Fclose(H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT));
}

static void no_hdf5(void) {
  FILE *file = fopen(path, "w");
  fputs("not HDF5\n", file);
  fclose(file);
}

static void no_file(void) {
  unlink(path);
}

static void half_a_file(void) {
  cr_assert_eq(truncate(path, 3000), 0);
}

static void without_dk(void) {
  hid_t file = edit();
  H5Ldelete(file, "groups/dk", H5P_DEFAULT);
  H5Fclose(file);
}

static void without_window(void) {
  hid_t file = edit();
  H5Adelete_by_name(file, "groups", "window", H5P_DEFAULT);
  H5Fclose(file);
}

static void other_shape(void) {
  hid_t file = edit();
  H5Ldelete(file, "groups/k", H5P_DEFAULT);
  H5Lcreate_hard(file, "tokens/k", file, "groups/k", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
}

static void flat_queries(void) {
  hid_t file = edit();
  H5Ldelete(file, "groups/q", H5P_DEFAULT);
  H5Lcreate_hard(file, "groups/lse", file, "groups/q", H5P_DEFAULT, H5P_DEFAULT);
  H5Fclose(file);
}

static void unknown_type(void) {
  tamper("groups/types", 30, 9, 1);
}

static void first_is_local(void) {
  tamper("groups/types", 0, 1, 1);
}

// What breaks: a damaged file crashes the program, or passes.
Test(verify, names_what_is_wrong_with_a_file) {
  const struct {
    void (*damage)(void);
    const char *told;
  } rows[] = {
      {no_cases, "holds no case"},
      {no_hdf5, "is no HDF5 file"},
      {no_file, "is no HDF5 file"},
      {half_a_file, "natsformer-cases"},
      {without_dk, "case 'groups' has no data set 'dk'"},
      {without_window, "case 'groups' has no attribute 'window'"},
      {other_shape, "case 'groups': 'k' is [2, 70, 8], expected [2, 41, 12]"},
      {flat_queries, "case 'groups': 'q' has 2 dimensions, expected 3"},
      {unknown_type, "case 'groups': types[0, 30] is"},
      {first_is_local, "case 'groups': types[0, 0] is 1, expected 0"},
  };
  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    char output[16384];
    new_cases();
    rows[i].damage();
    cr_expect_eq(verify("", true, output, sizeof output), 1, "%s", rows[i].told);
    cr_expect(strstr(output, rows[i].told) != NULL, "expected '%s':\n%s", rows[i].told, output);
    remove_cases();
  }
}

// What breaks: a mistyped command looks like a passed check.
Test(verify, refuses_a_wrong_command_line, .init = new_cases, .fini = remove_cases) {
  const char *options[] = {"--device quantum", "--tolerance much", "--tolerance -1", "--tolerances 1",
                           "another.h5"};
  for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
    char output[16384];
    cr_expect_eq(verify(options[i], true, output, sizeof output), 2, "%s", options[i]);
  }
}
