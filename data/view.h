// The virtual data set of a split: one HDF5 file that shows all its shards as one to h5py and h5dump. This
// program never reads through it: a missing source reads as the fill value, silently.
#pragma once

#include "data/manifest.h"

// Writes `path`, whose sources are the split's shards, by name, in the folder where the view will stand.
//   tokens, labels, documents: those of the shards, one behind the other
//   shards [shards, 2] int64: first token and first document of each (starts in `documents` are relative)
// A source that is missing reads as the largest token, INT32_MIN in labels and -1 in documents.
nn_status data_view_create(const char *path, const data_format *format, const data_manifest_split *split);
