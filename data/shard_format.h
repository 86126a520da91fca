// Private to this room: what shards and the virtual data sets over them have in common.
#pragma once

#include "data/hdf5_write.h"
#include "data/shard.h"

#define DATA_SHARD_FORMAT "natsformer shard"
#define DATA_VIEW_FORMAT  "natsformer view"

// How tokens of this vocabulary are stored.
static inline hid_t data_token_type(const data_format *format) {
  return format->vocab <= UINT16_MAX + 1 ? H5T_STD_U16LE : H5T_STD_U32LE;
}

// The attributes; `what` is one of the formats above.
nn_status data_format_write(const char *path, hid_t file, const char *what, const data_format *format);
nn_status data_counts_write(const char *path, hid_t file, const data_counts *counts);
