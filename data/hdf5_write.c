#include "data/hdf5_write.h"

#include <errno.h>
#include <fcntl.h> // open
#include <stdbool.h>
#include <string.h>
#include <unistd.h> // fsync

nn_status data_hdf5_create(const char *path, hid_t *file) {
  nn_status status = NN_OK;
  data_hdf5_quiet();
  hid_t creation = H5Pcreate(H5P_FILE_CREATE), access = H5Pcreate(H5P_FILE_ACCESS);
  if (creation < 0 || access < 0 || H5Pset_obj_track_times(creation, false) < 0 ||
      H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(path, "cannot prepare the file"));
  *file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
  if (*file < 0)
    status = DATA_HDF5_FAIL(path, "cannot create the file");
done:
  H5Pclose(creation);
  H5Pclose(access);
  return status;
}

nn_status data_hdf5_finish(const char *path, hid_t file) {
  if (H5Fclose(file) < 0)
    return DATA_HDF5_FAIL(path, "cannot write the end of the file");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  nn_status status = NN_OK;
  if (fd < 0 || fsync(fd) != 0)
    status = NN_FAIL(NN_ERR_IO, "%s: cannot flush: %s", path, strerror(errno));
  if (fd >= 0)
    close(fd);
  return status;
}

static nn_status put_attribute(const char *path, hid_t file, const char *name, hid_t type, hid_t memory,
                               const void *value) {
  nn_status status = NN_OK;
  hid_t space = H5Screate(H5S_SCALAR);
  hid_t attribute = H5Acreate2(file, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
  if (attribute < 0 || H5Awrite(attribute, memory, value) < 0)
    status = DATA_HDF5_FAIL(path, name);
  H5Aclose(attribute);
  H5Sclose(space);
  return status;
}

nn_status data_hdf5_put_int(const char *path, hid_t file, const char *name, int64_t value) {
  return put_attribute(path, file, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

nn_status data_hdf5_put_text(const char *path, hid_t file, const char *name, const char *value) {
  nn_status status = NN_OK;
  hid_t type = H5Tcopy(H5T_C_S1);
  if (type < 0 || H5Tset_size(type, strlen(value) + 1) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
    status = DATA_HDF5_FAIL(path, name);
  else
    status = put_attribute(path, file, name, type, type, value);
  H5Tclose(type);
  return status;
}
