// The GPUs that this process sees, before one of them is opened, and the memory of a device. In a build
// without CUDA there are none.
#pragma once

#include <stdint.h>

#include "nn/device.h"

// How many; 0 also where no driver answers.
int32_t nn_gpu_count(void);

// What tells a GPU from every other one of the cluster, whatever number CUDA_VISIBLE_DEVICES gives it.
typedef struct {
  uint8_t bytes[16];
} nn_gpu_id;
nn_status nn_gpu_identify(int32_t gpu, nn_gpu_id *out);

// "CUDA 13.0, driver for 13.1"; "" in a build without CUDA.
void nn_gpu_versions(char *text, size_t size);

// Bytes of the device's memory. Both 0 for a CPU.
nn_status nn_device_memory(const nn_device *device, int64_t *available, int64_t *total);
