#include "data/view.h"

#include <stdlib.h>

#include "data/shard_format.h"

typedef int64_t (*rows_of)(const data_counts *counts);

static int64_t token_rows(const data_counts *counts) {
  return counts->tokens;
}

static int64_t document_rows(const data_counts *counts) {
  return counts->documents;
}

// Maps the data set `name` of every shard behind the one before.
static nn_status map_shards(const char *path, hid_t creation, const char *name, rows_of rows, hsize_t columns,
                            const data_manifest_split *split) {
  int dimensions = columns > 0 ? 2 : 1;
  hsize_t start[2] = {0, 0}, total[2] = {(hsize_t)rows(&split->counts), columns};
  nn_status status = NN_OK;
  hid_t whole = H5Screate_simple(dimensions, total, NULL);
  for (int32_t i = 0; i < split->shards && status == NN_OK; i++) {
    hsize_t count[2] = {(hsize_t)rows(&split->shard[i].counts), columns};
    hid_t source = H5Screate_simple(dimensions, count, NULL);
    if (H5Sselect_hyperslab(whole, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
        H5Pset_virtual(creation, whole, split->shard[i].name, name, source) < 0)
      status = DATA_HDF5_FAIL(path, name);
    H5Sclose(source);
    start[0] += count[0];
  }
  H5Sclose(whole);
  return status;
}

static nn_status create_virtual(const char *path, hid_t file, const char *name, hid_t type, rows_of rows,
                                hsize_t columns, int64_t missing, const data_manifest_split *split) {
  nn_status status = NN_OK;
  hsize_t total[2] = {(hsize_t)rows(&split->counts), columns};
  hid_t space = H5Screate_simple(columns > 0 ? 2 : 1, total, NULL), dataset = -1;
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  if (space < 0 || creation < 0 || H5Pset_obj_track_times(creation, false) < 0 ||
      H5Pset_fill_value(creation, H5T_NATIVE_INT64, &missing) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(path, name));
  NN_GOTO(status, done, map_shards(path, creation, name, rows, columns, split));
  dataset = H5Dcreate2(file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  if (dataset < 0 || H5Dclose(dataset) < 0)
    status = DATA_HDF5_FAIL(path, name);
done:
  H5Pclose(creation);
  H5Sclose(space);
  return status;
}

static nn_status write_starts(const char *path, hid_t file, const data_manifest_split *split) {
  int64_t *starts = malloc(2 * (size_t)split->shards * sizeof *starts), token = 0, document = 0;
  if (starts == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %d shards", path, split->shards);
  for (int32_t i = 0; i < split->shards; i++) {
    starts[2 * i] = token;
    starts[2 * i + 1] = document;
    token += split->shard[i].counts.tokens;
    document += split->shard[i].counts.documents;
  }
  nn_status status = NN_OK;
  hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
  hid_t space = H5Screate_simple(2, (hsize_t[]){(hsize_t)split->shards, 2}, NULL), dataset = -1;
  if (creation < 0 || space < 0 || H5Pset_obj_track_times(creation, false) < 0 ||
      (dataset = H5Dcreate2(file, "shards", H5T_STD_I64LE, space, H5P_DEFAULT, creation, H5P_DEFAULT)) < 0 ||
      H5Dwrite(dataset, H5T_NATIVE_INT64, H5S_ALL, H5S_ALL, H5P_DEFAULT, starts) < 0)
    status = DATA_HDF5_FAIL(path, "shards");
  H5Dclose(dataset);
  H5Sclose(space);
  H5Pclose(creation);
  free(starts);
  return status;
}

nn_status data_view_create(const char *path, const data_format *format, const data_manifest_split *split) {
  hid_t file = -1;
  nn_status status = NN_OK;
  int64_t largest = format->vocab <= UINT16_MAX + 1 ? UINT16_MAX : UINT32_MAX;
  NN_TRY(data_hdf5_create(path, &file));
  hid_t type = data_token_type(format);
  NN_GOTO(status, done, data_format_write(path, file, DATA_VIEW_FORMAT, format));
  NN_GOTO(status, done, data_counts_write(path, file, &split->counts));
  NN_GOTO(status, done, create_virtual(path, file, "tokens", type, token_rows, 0, largest, split));
  NN_GOTO(status, done, create_virtual(path, file, "documents", H5T_STD_I64LE, document_rows, 2, -1, split));
  if (format->labelled)
    NN_GOTO(status, done,
            create_virtual(path, file, "labels", H5T_STD_I32LE, token_rows, 0, INT32_MIN, split));
  NN_GOTO(status, done, write_starts(path, file, split));
done:
  NN_KEEP(status, data_hdf5_finish(path, file));
  return status;
}
