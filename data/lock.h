// Exclusive use of a folder: an fcntl write lock on a file in it. The kernel frees it with the process,
// however that ends, kill -9 included. It holds between processes only: one process can take the same lock
// twice, and frees it by closing any descriptor of the file. So nothing else opens that file.
#pragma once

#include "nn/status.h"

// Takes the lock FOLDER/NAME, or fails at once. Errors: NN_ERR_USAGE where another process has it, "FOLDER:
// process PID on HOST is USE"; NN_ERR_IO. Not collective: one rank takes it.
nn_status data_lock_take(const char *folder, const char *name, const char *use, int *fd);
// Frees the lock; -1 is none. The file may stay, or goes too.
void data_lock_free(int fd);
void data_lock_remove(const char *folder, const char *name, int fd);
