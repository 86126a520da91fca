// Private: the thread that writes a checkpoint's files. It uses open, pwrite, fsync and XXH3 only: no HDF5
// call (its lock would stall the loader) and no MPI call.
//
// For tests, the environment variable NATSFORMER_FAULT makes it fail or dawdle; a comma-separated list of
//   checkpoint-pwrite:N   the N-th pwrite of this process fails as on a full disk (ENOSPC)
//   checkpoint-fsync:N    the N-th fsync fails as on a broken disk (EIO)
//   checkpoint-slow:MS    every pwrite first sleeps MS milliseconds
#pragma once

#include <limits.h> // PATH_MAX
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

// Bytes that go to one place of a file.
typedef struct {
  const void *bytes;
  size_t count;
  int64_t offset;
} data_extent;

typedef struct {
  char path[PATH_MAX];
  bool create; // false: it is there, laid out
  const data_extent *extents;
  int32_t count;
  // filled in by the writer
  int64_t size;
  uint64_t hash; // XXH3-64 of the whole file
} data_writer_file;

typedef struct data_writer data_writer;

// Errors: NN_ERR_USAGE (NATSFORMER_FAULT is not understood), NN_ERR_MEMORY.
nn_status data_writer_create(data_writer **out);
void data_writer_free(data_writer *writer); // waits for a write under way; NULL is allowed

// Starts writing; `files` and what it points at stay untouched until data_writer_join. One at a time. A
// thread that cannot be started shows as a failure of data_writer_join.
void data_writer_start(data_writer *writer, data_writer_file *files, int32_t count);
bool data_writer_done(const data_writer *writer); // true also when nothing was started
// Waits for the thread and returns what came of it, with the text recorded on the calling thread.
nn_status data_writer_join(data_writer *writer);
