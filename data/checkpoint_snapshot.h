// Private: the copy of the tensors in host memory that a checkpoint is written from, and which rank writes
// which part of it.
#pragma once

#include "data/checkpoint.h"
#include "dist/group.h"

// The part that rank `rank` of `size` writes, -1: none; and the rank that writes part `part`. The writers are
// spread evenly over the ranks, and so over the machines.
int32_t data_part_of_rank(int32_t rank, int32_t size, int32_t parts);
int32_t data_part_writer(int32_t part, int32_t size, int32_t parts);

int64_t data_part_rows(const data_tensor *tensor, int32_t part, int32_t parts);

// Fills `snapshot` with the rows of every tensor that belong to this rank's part, one tensor after the other.
// Collective where tensors have shards: their owners send each piece straight to the rank that writes it, and
// no rank holds more than its part and one piece.
nn_status data_snapshot_take(dist_group *world, nn_device *device, const data_tensor *tensors, int32_t count,
                             int32_t parts, float *snapshot);
