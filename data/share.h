// What rank 0 reads, for all ranks: they judge the same bytes, and a shared file system is asked once instead
// of once by each of thousands.
#pragma once

#include <stddef.h>

#include "dist/group.h"

// `status`, `bytes` and `count` are rank 0's; on all ranks the buffer is malloc'ed then. Collective, agreed.
nn_status data_share_bytes(dist_group *world, nn_status status, char **bytes, size_t *count);
// The contents of a file, with a zero byte after the last one.
nn_status data_share_file(dist_group *world, const char *path, char **bytes, size_t *count);
