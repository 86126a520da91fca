#include "data/checkpoint_part.h"

#include <endian.h> // __BYTE_ORDER
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/hdf5_write.h"

// The writer copies floats as they lie in memory into datasets of type H5T_IEEE_F32LE.
_Static_assert(__BYTE_ORDER == __LITTLE_ENDIAN, "checkpoints are written as the host's floats");

// ---- laying out

// Groups on the way to the dataset "param/layer.0.weight", without time stamps (as the datasets).
static nn_status create_groups(hid_t file, const char *path, const char *name, hid_t group_list) {
  char group[sizeof((data_tensor *)0)->name];
  for (const char *slash = strchr(name, '/'); slash != NULL; slash = strchr(slash + 1, '/')) {
    snprintf(group, sizeof group, "%.*s", (int)(slash - name), name);
    htri_t there = H5Lexists(file, group, H5P_DEFAULT);
    if (there > 0)
      continue;
    hid_t id = there == 0 ? H5Gcreate2(file, group, H5P_DEFAULT, group_list, H5P_DEFAULT) : -1;
    if (id < 0 || H5Gclose(id) < 0)
      return DATA_HDF5_FAIL(path, "cannot create a group");
  }
  return NN_OK;
}

static nn_status create_dataset(hid_t file, const char *path, const data_tensor *tensor, int64_t rows,
                                hid_t dataset_list, int64_t *offset) {
  nn_status status = NN_OK;
  hid_t set = -1;
  hid_t space = H5Screate_simple(2, (hsize_t[]){(hsize_t)rows, (hsize_t)tensor->columns}, NULL);
  if (space >= 0)
    set = H5Dcreate2(file, tensor->name, H5T_IEEE_F32LE, space, H5P_DEFAULT, dataset_list, H5P_DEFAULT);
  haddr_t place = set >= 0 ? H5Dget_offset(set) : HADDR_UNDEF;
  if (place == HADDR_UNDEF)
    status = DATA_HDF5_FAIL(path, "cannot lay out a tensor");
  *offset = (int64_t)place;
  if (set >= 0)
    H5Dclose(set);
  if (space >= 0)
    H5Sclose(space);
  return status;
}

static nn_status create_datasets(hid_t file, const char *path, const data_tensor *tensors, int32_t count,
                                 int32_t part, int32_t parts, int64_t *offsets) {
  nn_status status = NN_OK;
  hid_t groups = H5Pcreate(H5P_GROUP_CREATE), sets = H5Pcreate(H5P_DATASET_CREATE);
  if (H5Pset_obj_track_times(groups, false) < 0 || H5Pset_obj_track_times(sets, false) < 0 ||
      H5Pset_layout(sets, H5D_CONTIGUOUS) < 0 || H5Pset_alloc_time(sets, H5D_ALLOC_TIME_EARLY) < 0 ||
      H5Pset_fill_time(sets, H5D_FILL_TIME_NEVER) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(path, "cannot prepare the layout"));
  for (int32_t i = 0; i < count; i++) {
    int64_t rows =
        data_part_begin(tensors[i].rows, part + 1, parts) - data_part_begin(tensors[i].rows, part, parts);
    offsets[i] = -1;
    if (rows == 0)
      continue;
    NN_GOTO(status, done, create_groups(file, path, tensors[i].name, groups));
    NN_GOTO(status, done, create_dataset(file, path, &tensors[i], rows, sets, &offsets[i]));
  }
done:
  H5Pclose(sets);
  H5Pclose(groups);
  return status;
}

nn_status data_part_create(const char *path, const data_tensor *tensors, int32_t count, int32_t part,
                           int32_t parts, int64_t *offsets) {
  hid_t file;
  NN_TRY(data_hdf5_create(path, &file));
  nn_status status = create_datasets(file, path, tensors, count, part, parts, offsets);
  if (H5Fclose(file) < 0) // the writer flushes it to disk, with the data
    NN_KEEP(status, DATA_HDF5_FAIL(path, "cannot write the layout"));
  return status;
}

// ---- reading

enum { STAGING_BYTES = 8 << 20 };

static nn_status check_dataset(hid_t set, const char *path, const char *name, int64_t rows, int64_t columns) {
  hsize_t shape[2] = {0, 0};
  hid_t space = H5Dget_space(set), type = H5Dget_type(set);
  bool fits = H5Sget_simple_extent_ndims(space) == 2 && H5Sget_simple_extent_dims(space, shape, NULL) == 2 &&
              shape[0] == (hsize_t)rows && shape[1] == (hsize_t)columns && H5Tequal(type, H5T_IEEE_F32LE) > 0;
  H5Tclose(type);
  H5Sclose(space);
  return fits ? NN_OK
              : NN_FAIL(NN_ERR_INPUT,
                        "%s: %s: expected float32 [%" PRId64 ", %" PRId64 "] as the manifest says", path,
                        name, rows, columns);
}

// Rows [first, first + rows) of a dataset.
static nn_status read_rows(hid_t set, const char *path, int64_t first, int64_t rows, int64_t columns,
                           float *to) {
  hsize_t start[2] = {(hsize_t)first, 0}, size[2] = {(hsize_t)rows, (hsize_t)columns};
  hid_t file_space = H5Dget_space(set), memory_space = H5Screate_simple(2, size, NULL);
  nn_status status = NN_OK;
  if (H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, size, NULL) < 0 ||
      H5Dread(set, H5T_NATIVE_FLOAT, memory_space, file_space, H5P_DEFAULT, to) < 0)
    status = DATA_HDF5_FAIL(path, "cannot read a tensor");
  H5Sclose(memory_space);
  H5Sclose(file_space);
  return status;
}

// What a rank wants of a part: rows [begin, begin + rows) of the tensor, by way of a staging buffer.
typedef struct {
  hid_t set;
  const char *path;
  nn_device *device;
  const data_tensor *tensor;
  int64_t begin, rows;
  float *staging;
  int64_t staging_rows; // at least 1
} part_rows;

static nn_status read_whole(const part_rows *p) {
  const data_tensor *tensor = p->tensor;
  for (int64_t row = 0; row < p->rows; row += p->staging_rows) {
    int64_t some = p->rows - row < p->staging_rows ? p->rows - row : p->staging_rows;
    NN_TRY(read_rows(p->set, p->path, row, some, tensor->columns, p->staging));
    NN_TRY(nn_device_upload(p->device, tensor->data + (p->begin + row) * tensor->columns, p->staging,
                            (size_t)(some * tensor->columns) * sizeof(float)));
    NN_TRY(nn_device_sync(p->device)); // the staging buffer is used again
  }
  return NN_OK;
}

// Elements [from, to) of the tensor, which lie at `data` on this rank: of the rows that hold them.
static nn_status read_piece(const part_rows *p, int64_t from, int64_t to, float *data) {
  int64_t columns = p->tensor->columns;
  while (from < to) {
    int64_t row = from / columns, last = (to - 1) / columns;
    int64_t some = last + 1 - row < p->staging_rows ? last + 1 - row : p->staging_rows;
    int64_t stop = (row + some) * columns < to ? (row + some) * columns : to;
    NN_TRY(read_rows(p->set, p->path, row - p->begin, some, columns, p->staging));
    NN_TRY(nn_device_upload(p->device, data, p->staging + (from - row * columns),
                            (size_t)(stop - from) * sizeof(float)));
    NN_TRY(nn_device_sync(p->device));
    data += stop - from;
    from = stop;
  }
  return NN_OK;
}

static nn_status read_shard(const part_rows *p) {
  const data_tensor *tensor = p->tensor;
  int64_t at = p->begin * tensor->columns, end = (p->begin + p->rows) * tensor->columns;
  while (at < end) {
    dist_place place = dist_shards_find(tensor->shards, tensor->offset + at);
    int64_t stop = place.end - tensor->offset < end ? place.end - tensor->offset : end;
    if (place.owner == tensor->shards->rank)
      NN_TRY(read_piece(p, at, stop, tensor->data + place.at));
    at = stop;
  }
  return NN_OK;
}

// Rows [begin, begin + rows) of a tensor, which are this part's.
static nn_status read_tensor(hid_t file, const char *path, nn_device *device, const data_tensor *tensor,
                             int64_t begin, int64_t rows, float *staging, int64_t staging_rows) {
  hid_t set = H5Dopen2(file, tensor->name, H5P_DEFAULT);
  if (set < 0)
    return DATA_HDF5_FAIL(path, tensor->name);
  part_rows p = {.set = set,
                 .path = path,
                 .device = device,
                 .tensor = tensor,
                 .begin = begin,
                 .rows = rows,
                 .staging = staging,
                 .staging_rows = staging_rows};
  nn_status status = check_dataset(set, path, tensor->name, rows, tensor->columns);
  if (status == NN_OK)
    status = tensor->shards != NULL ? read_shard(&p) : read_whole(&p);
  H5Dclose(set);
  return status;
}

static nn_status read_tensors(hid_t file, const char *path, const data_checkpoint_manifest *manifest,
                              int32_t part, nn_device *device, const data_tensor *tensors, int32_t count) {
  nn_status status = NN_OK;
  float *staging = NULL;
  int64_t capacity = 0; // elements
  for (int32_t i = 0; i < count && status == NN_OK; i++) {
    const int64_t *starts = data_checkpoint_manifest_find(manifest, tensors[i].name)->starts;
    int64_t begin = starts[part], rows = starts[part + 1] - begin, columns = tensors[i].columns;
    if (rows == 0)
      continue;
    int64_t wanted = STAGING_BYTES / (int64_t)sizeof(float);
    if (wanted < columns)
      wanted = columns;
    if (wanted > capacity) {
      free(staging);
      capacity = wanted;
      staging = malloc((size_t)capacity * sizeof(float));
    }
    if (staging == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for a row of %s", path, tensors[i].name);
    status = read_tensor(file, path, device, &tensors[i], begin, rows, staging, capacity / columns);
  }
  free(staging);
  return status;
}

nn_status data_part_read(const char *path, const data_checkpoint_manifest *manifest, int32_t part,
                         nn_device *device, const data_tensor *tensors, int32_t count) {
  data_hdf5_quiet();
  hid_t access = H5Pcreate(H5P_FILE_ACCESS);
  H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
  hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
  H5Pclose(access);
  if (file < 0)
    return DATA_HDF5_FAIL(path, "cannot open");
  nn_status status = read_tensors(file, path, manifest, part, device, tensors, count);
  if (H5Fclose(file) < 0)
    NN_KEEP(status, DATA_HDF5_FAIL(path, "cannot close"));
  return status;
}
