// Sums gradients over ranks in buckets, while backward still runs.
//
// The gradient arena is cut into buckets from its end to its start, the order in which backward completes it.
// The listener marks ranges as ready; a bucket whose whole range is ready is posted as a non-blocking
// all-reduce, and every call also polls those under way. dist_reducer_finish waits for the rest. Buckets are
// posted in the order of the layout only, so ranks need not agree on the order in which ranges become ready.
//
// With a shard (dist/shards.h) the sums of a bucket go to their owners only, by a reduce-scatter. Where
// backward works in a window (nn_params.sum), each range that is ready is copied out of it into a bucket of
// the reducer's own, and what arrives is added to nn_params.sum: then every pass of a step is reduced, not
// only the last.
//
// A bucket that is told of more elements than it has, or of fewer by dist_reducer_finish, is an error, in a
// group of one too, where nothing is sent. After a failure only dist_abort may follow: buckets may still be
// under way.
#pragma once

#include <stdint.h>

#include "dist/group.h"
#include "dist/shards.h"

typedef struct dist_reducer dist_reducer;

// `bucket_bytes` is the target size of a bucket; a fixed layout repeats bit for bit.
nn_status dist_reducer_create(dist_group *group, const nn_params *params, int64_t bucket_bytes,
                              dist_reducer **out);
// For params with a shard; `shards` is who has which. Arguments must outlive the reducer.
nn_status dist_reducer_create_sharded(dist_group *group, const nn_params *params, const dist_shards *shards,
                                      dist_reducer **out);
void dist_reducer_free(dist_reducer *reducer);

// Memory that a reducer takes for buckets of its own; with a window only.
int64_t dist_reducer_window_bytes(const dist_shards *shards);

// Start of the backward pass that completes the gradients (the last micro-batch of a step; with a window
// any).
void dist_reducer_begin(dist_reducer *reducer);
nn_grad_listener dist_reducer_listener(dist_reducer *reducer);
nn_status dist_reducer_poll(dist_reducer *reducer);
nn_status dist_reducer_finish(dist_reducer *reducer);

// Communication that the last backward did not hide: on CPUs the seconds that dist_reducer_finish waited; on
// GPUs, where the host waits for its own kernels too, those by which the last reduction ended after them.
double dist_reducer_exposed_seconds(const dist_reducer *reducer);
