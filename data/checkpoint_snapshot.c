#include "data/checkpoint_snapshot.h"

#include <stdlib.h> // malloc

#include "data/checkpoint_manifest.h" // data_part_begin

int32_t data_part_writer(int32_t part, int32_t size, int32_t parts) {
  return (int32_t)((int64_t)part * size / parts);
}

int32_t data_part_of_rank(int32_t rank, int32_t size, int32_t parts) {
  int32_t part = (int32_t)(((int64_t)rank * parts + size - 1) / size);
  return part < parts && data_part_writer(part, size, parts) == rank ? part : -1;
}

int64_t data_part_rows(const data_tensor *tensor, int32_t part, int32_t parts) {
  return data_part_begin(tensor->rows, part + 1, parts) - data_part_begin(tensor->rows, part, parts);
}

// ---- what every rank has whole

static nn_status copy_rows(nn_device *device, const data_tensor *tensor, int32_t part, int32_t parts,
                           float *to) {
  int64_t first = data_part_begin(tensor->rows, part, parts) * tensor->columns;
  int64_t count = data_part_rows(tensor, part, parts) * tensor->columns;
  return count > 0 ? nn_device_download(device, to, tensor->data + first, (size_t)count * sizeof(float))
                   : NN_OK;
}

// ---- what the ranks share

typedef struct {
  dist_group *world;
  nn_device *device;
  int32_t parts;
  float *sent; // of one piece, on its way to another rank
} exchange;

enum { TAG = 1 };

// Elements that lie at `from` in the owner's shard, to `to` in the snapshot of the writer.
static nn_status move_piece(const exchange *e, int32_t owner, const float *from, int64_t count,
                            int32_t writer, float *to) {
  int32_t rank = dist_rank(e->world);
  int64_t bytes = count * (int64_t)sizeof(float);
  if (rank == owner) {
    float *copy = owner == writer ? to : e->sent;
    NN_TRY(nn_device_download(e->device, copy, from, (size_t)bytes));
    NN_TRY(nn_device_sync(e->device));
    return owner == writer ? NN_OK : dist_send(e->world, copy, bytes, writer, TAG);
  }
  return rank == writer ? dist_receive(e->world, to, bytes, owner, TAG) : NN_OK;
}

// One part's rows of one tensor. All ranks walk over the same pieces in the same order and wait for each that
// is theirs, so none waits for one that waits for it.
static nn_status gather_rows(const exchange *e, const data_tensor *tensor, int32_t part, float *to) {
  int32_t writer = data_part_writer(part, dist_size(e->world), e->parts);
  int64_t at = tensor->offset + data_part_begin(tensor->rows, part, e->parts) * tensor->columns;
  int64_t end = tensor->offset + data_part_begin(tensor->rows, part + 1, e->parts) * tensor->columns;
  while (at < end) {
    dist_place place = dist_shards_find(tensor->shards, at);
    int64_t count = (place.end < end ? place.end : end) - at;
    NN_TRY(move_piece(e, place.owner, tensor->data + place.at, count, writer, to));
    to += writer == dist_rank(e->world) ? count : 0;
    at += count;
  }
  return NN_OK;
}

static nn_status gather(dist_group *world, nn_device *device, const data_tensor *tensor, int32_t parts,
                        float *to) {
  const dist_shards *shards = tensor->shards;
  size_t most = (size_t)(shards->width / shards->size) * sizeof(float); // the largest piece
  exchange e = {.world = world, .device = device, .parts = parts, .sent = malloc(most)};
  if (e.sent == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a piece of %s: %zu bytes", tensor->name, most);
  nn_status status = NN_OK;
  for (int32_t part = 0; part < parts && status == NN_OK; part++)
    status = gather_rows(&e, tensor, part, to);
  free(e.sent);
  return status;
}

nn_status data_snapshot_take(dist_group *world, nn_device *device, const data_tensor *tensors, int32_t count,
                             int32_t parts, float *snapshot) {
  int32_t part = data_part_of_rank(dist_rank(world), dist_size(world), parts);
  float *to = snapshot;
  for (int32_t i = 0; i < count; i++) {
    if (tensors[i].shards != NULL)
      NN_TRY(gather(world, device, &tensors[i], parts, to));
    else if (part >= 0)
      NN_TRY(copy_rows(device, &tensors[i], part, parts, to));
    to += part >= 0 ? data_part_rows(&tensors[i], part, parts) * tensors[i].columns : 0;
  }
  return nn_device_sync(device);
}
