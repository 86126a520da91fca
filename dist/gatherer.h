// Brings updated parameters from the ranks that own them to all, bucket by bucket in the order of the forward
// pass, which asks for each part when it comes to it: what arrives later travels while earlier layers
// compute.
#pragma once

#include "dist/group.h"
#include "dist/shards.h"

typedef struct dist_gatherer dist_gatherer;

// `params` in the compute type, or masters where operators read these. Arguments must outlive it.
nn_status dist_gatherer_create(dist_group *group, const nn_params *params, const dist_shards *shards,
                               dist_gatherer **out);
void dist_gatherer_free(dist_gatherer *gatherer); // waits for what is under way; NULL is allowed

// After this rank's shard was updated: posts all buckets. Those of the last time have been waited for.
nn_status dist_gatherer_start(dist_gatherer *gatherer);
// For the forward pass; it costs next to nothing when all has arrived.
nn_param_source dist_gatherer_source(dist_gatherer *gatherer);
nn_status dist_gatherer_finish(dist_gatherer *gatherer); // waits for all that is left

// Seconds that were waited since dist_gatherer_start. On a GPU the host waits while earlier layers may still
// compute: an upper bound.
double dist_gatherer_exposed_seconds(const dist_gatherer *gatherer);
