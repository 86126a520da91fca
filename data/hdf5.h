// Private to this room: how HDF5 failures become ours. One HDF5 call at a time, from one thread.
#pragma once

#include <hdf5.h>

#include "nn/status.h"

// HDF5 prints its own stack of errors unless told otherwise; call this before the first use in a function.
void data_hdf5_quiet(void);

// Fails with "path: what: the innermost message of HDF5's error stack". NN_ERR_IO when the operating system
// refused, NN_ERR_INPUT otherwise.
nn_status data_hdf5_fail_at(const char *file, int line, const char *path, const char *what);
#define DATA_HDF5_FAIL(path, what) data_hdf5_fail_at(__FILE__, __LINE__, (path), (what))
