// Private to this room: the bytes of an input file from its start to its end, decompressed, a piece at a
// time. What kind of file it is, its name says: ".zst" at its end is Zstandard.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

typedef struct data_input_file data_input_file;

nn_status data_input_file_open(const char *path, data_input_file **out);
void data_input_file_close(data_input_file *file); // NULL is allowed

// The next piece: valid until the next call; *count is 0 at the end of the file. Errors: NN_ERR_IO,
// NN_ERR_INPUT (damaged or cut off), NN_ERR_UNSUPPORTED (this build reads no .zst).
nn_status data_input_file_next(data_input_file *file, const char **bytes, size_t *count);
// Continues at byte `offset` of the decompressed contents. A compressed file is decompressed up to there, so
// only forward from where it is.
nn_status data_input_file_seek(data_input_file *file, int64_t offset);

int64_t data_input_file_size(const data_input_file *file); // on disk
int64_t data_input_file_read(const data_input_file *file); // bytes of the disk read so far, for progress
