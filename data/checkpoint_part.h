// Private: one part of a checkpoint, an HDF5 file with a row-aligned range of every tensor.
//
// HDF5 only lays the file out. The tensors' bytes are put there by data/checkpoint_writer.c with plain system
// calls, because a thread inside HDF5 would hold its global lock against the loader.
#pragma once

#include "data/checkpoint_manifest.h"

// Creates the file of part `part` of `parts`: contiguous float32 datasets named like the tensors, allocated
// but not written. offsets: [count], where the bytes of each tensor's rows begin in the file; -1 where this
// part has no rows of it.
nn_status data_part_create(const char *path, const data_tensor *tensors, int32_t count, int32_t part,
                           int32_t parts, int64_t *offsets);

// Reads what `path`, part `part` of the checkpoint that `manifest` describes, holds of `tensors` into the
// memory of `device`.
nn_status data_part_read(const char *path, const data_checkpoint_manifest *manifest, int32_t part,
                         nn_device *device, const data_tensor *tensors, int32_t count);
