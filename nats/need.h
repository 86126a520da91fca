// Checks of operator arguments, for the files that dispatch to a device's table.
#pragma once

#include "nats/ops_table.h"

// The device's table in `table`.
static inline nn_status nats_need_ops(const nn_device *device, const nats_ops_table **table) {
  *table = nats_ops_of(device);
  if (*table == NULL)
    return NN_FAIL(NN_ERR_UNSUPPORTED, "this build has no attention for %s", nn_device_describe(device));
  return NN_OK;
}
