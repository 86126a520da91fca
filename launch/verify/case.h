// What `natsformer verify` does with one case.
#pragma once

#include "data/cases.h"
#include "nn/device.h"

// The tensors that are compared, in the order of the table.
enum {
  LAUNCH_VERIFY_O,
  LAUNCH_VERIFY_LSE,
  LAUNCH_VERIFY_DQ,
  LAUNCH_VERIFY_DK,
  LAUNCH_VERIFY_DV,
  LAUNCH_VERIFY_DTYPES,
  LAUNCH_VERIFY_DTYPES_CLIP1,
  LAUNCH_VERIFY_LIVE,
  LAUNCH_VERIFY_KV_FRACTION,
  LAUNCH_VERIFY_TENSORS,
};

// Runs the operators on a case. errors [LAUNCH_VERIFY_TENSORS]: the largest difference of each tensor over
// its largest recorded entry (of `live`, over each entry). `path` is the file, for messages.
nn_status launch_verify_case(nn_device *device, const char *path, const data_case *one, double *errors);
