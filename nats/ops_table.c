#include "nats/ops_table.h"

const nats_ops_table *nats_ops_of(const nn_device *device) {
  switch (nn_device_get_kind(device)) {
  case NN_DEVICE_CPU:
    return &nats_cpu_ops;
#ifdef NN_WITH_CUDA
  case NN_DEVICE_CUDA:
    return &nats_cuda_ops;
#endif
  default:
    return NULL;
  }
}
