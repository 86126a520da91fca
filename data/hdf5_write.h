// Private to this room: new HDF5 files whose bytes depend on their contents alone (no times of creation; the
// file format of HDF5 1.10, whose metadata carries checksums). Errors name the file and the item.
#pragma once

#include <stdint.h>

#include "data/hdf5.h"

// Creates or replaces the file.
nn_status data_hdf5_create(const char *path, hid_t *file);
// Closes and flushes to disk. The file is closed whatever happens.
nn_status data_hdf5_finish(const char *path, hid_t file);

// Attributes of the root group.
nn_status data_hdf5_put_int(const char *path, hid_t file, const char *name, int64_t value);
nn_status data_hdf5_put_text(const char *path, hid_t file, const char *name, const char *value);
