// Whole files and folders: reading, writing that survives a power cut, hashing, removing.
//
// Every failure names the path and what the operating system said: NN_ERR_IO, or NN_ERR_MEMORY.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

// The contents of a file, malloc'ed, with a zero byte after the last one.
nn_status data_file_read(const char *path, char **bytes, size_t *count);

// Creates or replaces a file and flushes it to disk.
nn_status data_file_write(const char *path, const void *bytes, size_t count);
// The same through PATH.tmp and a rename: whoever reads sees the old contents or the new, never a part.
// A failure leaves PATH as it was, and no PATH.tmp.
nn_status data_file_replace(const char *path, const void *bytes, size_t count);

// XXH3-64 of a file's contents, and its size (`size` may be NULL).
nn_status data_file_hash(const char *path, uint64_t *hash, int64_t *size);

// A hash as it stands in manifests: 16 hexadecimal digits. parse accepts nothing else.
enum { DATA_HASH_DIGITS = 16 };
void data_hash_format(uint64_t hash, char text[DATA_HASH_DIGITS + 1]);
bool data_hash_parse(const char *text, uint64_t *hash);

nn_status data_folder_create(const char *path); // and its parents; one that is there already is fine
nn_status data_folder_sync(const char *path);   // makes names in it durable: after a rename or a new file
nn_status data_folder_remove(const char *path); // with all that is in it; one that is gone already is fine
