// Private to this room: every rank gets the records of all ranks.
#pragma once

#include "dist/group.h"

// Collective. `items`: malloc'ed array of *count records of `size` bytes; replaced by those of all ranks, in
// the order of the ranks. A rank that runs out of memory fails on all.
nn_status data_gather(dist_group *world, void **items, int64_t *count, size_t size);
