#include "data/share.h"

#include <inttypes.h>
#include <stdlib.h>

#include "data/files.h"

nn_status data_share_bytes(dist_group *world, nn_status status, char **bytes, size_t *count) {
  int64_t size = (int64_t)*count;
  NN_TRY(dist_agree(world, status));
  NN_TRY(dist_broadcast(world, &size, (int64_t)sizeof size, 0));
  if (dist_rank(world) != 0) {
    *bytes = calloc((size_t)size + 1, 1);
    *count = (size_t)size;
  }
  status = *bytes != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for %" PRId64 " bytes of a file", size);
  NN_TRY(dist_agree(world, status));
  return dist_broadcast(world, *bytes, size, 0);
}

nn_status data_share_file(dist_group *world, const char *path, char **bytes, size_t *count) {
  *bytes = NULL;
  *count = 0;
  nn_status status = dist_rank(world) == 0 ? data_file_read(path, bytes, count) : NN_OK;
  return data_share_bytes(world, status, bytes, count);
}
