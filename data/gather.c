#include "data/gather.h"

#include <stdlib.h>
#include <string.h>

nn_status data_gather(dist_group *world, void **items, int64_t *count, size_t size) {
  int32_t rank = dist_rank(world), ranks = dist_size(world);
  int64_t *counts = calloc((size_t)ranks, sizeof *counts), total = 0, before = 0;
  char *all = NULL;
  nn_status status = counts != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for %d ranks", ranks);
  NN_GOTO(status, done, dist_agree(world, status));
  NN_GOTO(status, done, dist_allgather(world, count, sizeof *count, counts));
  for (int32_t r = 0; r < ranks; r++)
    total += counts[r];
  all = malloc((size_t)total * size + 1);
  if (all == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "no memory for %lld records of all ranks", (long long)total);
  NN_GOTO(status, done, dist_agree(world, status));
  for (int32_t r = 0; r < ranks; r++) {
    if (r == rank && *count > 0)
      memcpy(all + (size_t)before * size, *items, (size_t)*count * size);
    if (counts[r] > 0)
      NN_GOTO(status, done, dist_broadcast(world, all + (size_t)before * size, counts[r] * (int64_t)size, r));
    before += counts[r];
  }
  free(*items);
  *items = all;
  *count = total;
  all = NULL;
done:
  free(all);
  free(counts);
  return status;
}
