#include "data/cases.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/hdf5.h"

struct data_cases {
  char *path;
  hid_t file;
  int32_t count;
  char (*names)[64];
};

// The case that is being read.
typedef struct {
  const char *path, *name;
  hid_t group;
} reader;

enum { RANK_MAX = 3 };
static const int64_t ELEMENTS_MAX = INT64_C(1) << 30; // of a data set; more is taken for damage

// "[2, 48, 16]"
static void shape_text(char *text, size_t room, int rank, const hsize_t *shape) {
  size_t used = (size_t)snprintf(text, room, "[");
  for (int i = 0; i < rank && used < room; i++)
    used += (size_t)snprintf(text + used, room - used, "%s%" PRIu64, i > 0 ? ", " : "", (uint64_t)shape[i]);
  if (used < room)
    snprintf(text + used, room - used, "]");
}

// Opens a data set of three or fewer dimensions and tells its shape.
static nn_status open_dataset(const reader *r, const char *name, int rank, hid_t *dataset, hsize_t *shape) {
  nn_status status = NN_OK;
  hid_t space = -1;
  if (H5Lexists(r->group, name, H5P_DEFAULT) <= 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: case '%s' has no data set '%s'", r->path, r->name, name);
  if ((*dataset = H5Dopen2(r->group, name, H5P_DEFAULT)) < 0 || (space = H5Dget_space(*dataset)) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(r->path, name));
  const int found = H5Sget_simple_extent_ndims(space);
  if (found != rank)
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_INPUT, "%s: case '%s': '%s' has %d dimensions, expected %d", r->path, r->name,
                    name, found, rank));
  if (H5Sget_simple_extent_dims(space, shape, NULL) != rank)
    NN_GOTO(status, done, DATA_HDF5_FAIL(r->path, name));
done:
  H5Sclose(space);
  return status;
}

// Reads a data set of exactly this shape into new memory.
static nn_status read_dataset(const reader *r, const char *name, hid_t type, int rank, const hsize_t *shape,
                              void *out) {
  nn_status status = NN_OK;
  hid_t dataset = -1;
  hsize_t found[RANK_MAX];
  void *memory = NULL;
  NN_GOTO(status, done, open_dataset(r, name, rank, &dataset, found));
  if (memcmp(found, shape, (size_t)rank * sizeof *shape) != 0) {
    char is[96], expected[96];
    shape_text(is, sizeof is, rank, found);
    shape_text(expected, sizeof expected, rank, shape);
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_INPUT, "%s: case '%s': '%s' is %s, expected %s", r->path, r->name, name, is,
                    expected));
  }
  size_t count = 1;
  for (int i = 0; i < rank; i++)
    count *= (size_t)shape[i];
  memory = malloc(count * H5Tget_size(type));
  if (memory == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory for case '%s'", r->path, r->name));
  if (H5Dread(dataset, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, memory) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(r->path, name));
  memcpy(out, &memory, sizeof memory);
  memory = NULL;
done:
  free(memory);
  H5Dclose(dataset);
  return status;
}

static nn_status read_attribute(const reader *r, const char *name, hid_t type, void *out) {
  nn_status status = NN_OK;
  hid_t attribute = -1, space = -1;
  if (H5Aexists(r->group, name) <= 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: case '%s' has no attribute '%s'", r->path, r->name, name);
  if ((attribute = H5Aopen(r->group, name, H5P_DEFAULT)) < 0 || (space = H5Aget_space(attribute)) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(r->path, name));
  if (H5Sget_simple_extent_npoints(space) != 1)
    NN_GOTO(
        status, done,
        NN_FAIL(NN_ERR_INPUT, "%s: case '%s': the attribute '%s' is not one number", r->path, r->name, name));
  if (H5Aread(attribute, type, out) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(r->path, name));
done:
  H5Sclose(space);
  H5Aclose(attribute);
  return status;
}

static nn_status read_whole(const reader *r, const char *name, int64_t least, int64_t most, int32_t *out) {
  int64_t value = 0;
  NN_TRY(read_attribute(r, name, H5T_NATIVE_INT64, &value));
  if (value < least || value > most)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: case '%s': the attribute '%s' is %" PRId64 ", expected %" PRId64 " to %" PRId64,
                   r->path, r->name, name, value, least, most);
  *out = (int32_t)value;
  return NN_OK;
}

// H, Hk, T, D from the shapes of q and k.
static nn_status read_sizes(const reader *r, data_case *one) {
  hsize_t q[RANK_MAX], k[RANK_MAX];
  const char *names[2] = {"q", "k"};
  hsize_t *shapes[2] = {q, k};
  for (int i = 0; i < 2; i++) {
    hid_t dataset = -1;
    nn_status status = open_dataset(r, names[i], RANK_MAX, &dataset, shapes[i]);
    H5Dclose(dataset);
    NN_TRY(status);
    double elements = 1;
    for (int d = 0; d < RANK_MAX; d++)
      elements *= (double)shapes[i][d];
    if (elements < 1 || elements > (double)ELEMENTS_MAX)
      return NN_FAIL(NN_ERR_INPUT, "%s: case '%s': '%s' has %.0f elements", r->path, r->name, names[i],
                     elements);
  }
  if (q[0] % k[0] != 0)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: case '%s': %" PRIu64 " query heads are no multiple of %" PRIu64 " kv heads", r->path,
                   r->name, (uint64_t)q[0], (uint64_t)k[0]);
  one->heads = (int32_t)q[0];
  one->length = (int32_t)q[1];
  one->head_size = (int32_t)q[2];
  one->kv_heads = (int32_t)k[0];
  return NN_OK;
}

// Types are read as wide integers, so that no conversion hides one that is out of range.
static nn_status read_types(const reader *r, hsize_t chunks, data_case *one) {
  const hsize_t shape[2] = {(hsize_t)one->kv_heads, chunks};
  const int64_t count = (int64_t)(shape[0] * shape[1]);
  int64_t *wide = NULL;
  NN_TRY(read_dataset(r, "types", H5T_NATIVE_INT64, 2, shape, &wide));
  nn_status status = NN_OK;
  one->types = malloc((size_t)count);
  if (one->types == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "%s: no memory for case '%s'", r->path, r->name);
  for (int64_t i = 0; i < count && status == NN_OK; i++) {
    if (wide[i] < 0 || wide[i] > 2)
      status = NN_FAIL(NN_ERR_INPUT,
                       "%s: case '%s': types[%" PRId64 ", %" PRId64 "] is %" PRId64 ", expected 0, 1 or 2",
                       r->path, r->name, i / (int64_t)chunks, i % (int64_t)chunks, wide[i]);
    else
      one->types[i] = (uint8_t)wide[i];
  }
  free(wide);
  return status;
}

static nn_status read_case(const reader *r, data_case *one) {
  NN_TRY(read_sizes(r, one));
  NN_TRY(read_whole(r, "window", 0, INT32_MAX, &one->window));
  one->chunk = 1;
  if (H5Aexists(r->group, "chunk") > 0)
    NN_TRY(read_whole(r, "chunk", 1, ELEMENTS_MAX, &one->chunk));
  NN_TRY(read_attribute(r, "kv_fraction", H5T_NATIVE_DOUBLE, &one->kv_fraction));

  const hsize_t tokens = (hsize_t)one->length, size = (hsize_t)one->head_size;
  const hsize_t chunks = (tokens - 1) / (hsize_t)one->chunk + 1;
  const hsize_t query[3] = {(hsize_t)one->heads, tokens, size};
  const hsize_t key[3] = {(hsize_t)one->kv_heads, tokens, size};
  const hsize_t type[3] = {(hsize_t)one->kv_heads, chunks, 3};
  NN_TRY(read_types(r, chunks, one));
  NN_TRY(read_dataset(r, "q", H5T_NATIVE_FLOAT, 3, query, &one->q));
  NN_TRY(read_dataset(r, "k", H5T_NATIVE_FLOAT, 3, key, &one->k));
  NN_TRY(read_dataset(r, "v", H5T_NATIVE_FLOAT, 3, key, &one->v));
  NN_TRY(read_dataset(r, "do", H5T_NATIVE_FLOAT, 3, query, &one->d_o));
  NN_TRY(read_dataset(r, "o", H5T_NATIVE_DOUBLE, 3, query, &one->o));
  NN_TRY(read_dataset(r, "lse", H5T_NATIVE_DOUBLE, 2, query, &one->lse));
  NN_TRY(read_dataset(r, "dq", H5T_NATIVE_DOUBLE, 3, query, &one->dq));
  NN_TRY(read_dataset(r, "dk", H5T_NATIVE_DOUBLE, 3, key, &one->dk));
  NN_TRY(read_dataset(r, "dv", H5T_NATIVE_DOUBLE, 3, key, &one->dv));
  NN_TRY(read_dataset(r, "dtypes", H5T_NATIVE_DOUBLE, 3, type, &one->dtypes));
  NN_TRY(read_dataset(r, "dtypes_clip1", H5T_NATIVE_DOUBLE, 3, type, &one->dtypes_clip1));
  return read_dataset(r, "live", H5T_NATIVE_INT64, 2, key, &one->live);
}

nn_status data_cases_read(data_cases *cases, int32_t index, data_case *out) {
  data_hdf5_quiet();
  *out = (data_case){0};
  memcpy(out->name, cases->names[index], sizeof out->name);
  reader r = {cases->path, out->name, H5Gopen2(cases->file, out->name, H5P_DEFAULT)};
  if (r.group < 0)
    return DATA_HDF5_FAIL(cases->path, out->name);
  nn_status status = read_case(&r, out);
  H5Gclose(r.group);
  return status;
}

void data_case_free(data_case *one) {
  void *all[] = {one->q,   one->d_o, one->k,  one->v,      one->types,        one->o,   one->dq,
                 one->lse, one->dk,  one->dv, one->dtypes, one->dtypes_clip1, one->live};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    free(all[i]);
  *one = (data_case){0};
}

// Keeps the names of the groups among the file's objects.
static nn_status read_names(data_cases *cases) {
  H5G_info_t info;
  if (H5Gget_info(cases->file, &info) < 0)
    return DATA_HDF5_FAIL(cases->path, "its root group");
  cases->names = calloc(info.nlinks > 0 ? info.nlinks : 1, sizeof *cases->names);
  if (cases->names == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", cases->path);
  for (hsize_t i = 0; i < info.nlinks; i++) {
    char *name = cases->names[cases->count];
    const ssize_t length = H5Lget_name_by_idx(cases->file, ".", H5_INDEX_NAME, H5_ITER_INC, i, name,
                                              sizeof *cases->names, H5P_DEFAULT);
    if (length < 0)
      return DATA_HDF5_FAIL(cases->path, "the name of a case");
    if (length >= (ssize_t)sizeof *cases->names)
      return NN_FAIL(NN_ERR_INPUT, "%s: the name '%s...' is too long", cases->path, name);
    const hid_t object = H5Oopen(cases->file, name, H5P_DEFAULT);
    if (object < 0)
      return DATA_HDF5_FAIL(cases->path, name);
    cases->count += H5Iget_type(object) == H5I_GROUP;
    H5Oclose(object);
  }
  if (cases->count == 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: holds no case (a group with q, k, v, do, types and results)",
                   cases->path);
  return NN_OK;
}

nn_status data_cases_open(const char *path, data_cases **out) {
  nn_status status = NN_OK;
  data_hdf5_quiet();
  data_cases *cases = calloc(1, sizeof *cases);
  if (cases == NULL || (cases->path = strdup(path)) == NULL) {
    free(cases);
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", path);
  }
  cases->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (cases->file < 0)
    NN_GOTO(status, fail, DATA_HDF5_FAIL(path, "is no HDF5 file that can be opened"));
  NN_GOTO(status, fail, read_names(cases));
  *out = cases;
  return NN_OK;
fail:
  data_cases_close(cases);
  return status;
}

void data_cases_close(data_cases *cases) {
  if (cases == NULL)
    return;
  H5Fclose(cases->file);
  free(cases->names);
  free(cases->path);
  free(cases);
}

int32_t data_cases_count(const data_cases *cases) {
  return cases->count;
}
