#include "nn/gpus.h"

#ifdef NN_WITH_CUDA
#include <cuda_runtime_api.h>
#include <stdio.h>  // snprintf
#include <string.h> // memcpy

#include "nn/cuda/stream.h"

int32_t nn_gpu_count(void) {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess)
    return count;
  (void)cudaGetLastError(); // no driver or no GPU: not a failure of whoever asks
  return 0;
}

nn_status nn_gpu_identify(int32_t gpu, nn_gpu_id *out) {
  struct cudaDeviceProp properties;
  NN_CUDA_TRY(cudaGetDeviceProperties(&properties, gpu));
  _Static_assert(sizeof out->bytes == sizeof properties.uuid.bytes, "a GPU's UUID has 16 bytes");
  memcpy(out->bytes, properties.uuid.bytes, sizeof out->bytes);
  return NN_OK;
}

void nn_gpu_versions(char *text, size_t size) {
#ifdef CUDART_VERSION
  const int version = CUDART_VERSION;
  int driver = 0; // stays 0 where there is none
  (void)cudaDriverGetVersion(&driver);
  snprintf(text, size, "CUDA %d.%d, driver for %d.%d", version / 1000, version % 1000 / 10, driver / 1000,
           driver % 1000 / 10);
#else
  snprintf(text, size, "emulated CUDA");
#endif
}

nn_status nn_device_memory(const nn_device *device, int64_t *available, int64_t *total) {
  *available = *total = 0;
  if (nn_device_get_kind(device) != NN_DEVICE_CUDA)
    return NN_OK;
  size_t free_bytes = 0, all_bytes = 0;
  NN_CUDA_TRY(cudaMemGetInfo(&free_bytes, &all_bytes));
  *available = (int64_t)free_bytes;
  *total = (int64_t)all_bytes;
  return NN_OK;
}

#else

int32_t nn_gpu_count(void) {
  return 0;
}

nn_status nn_gpu_identify(int32_t gpu, nn_gpu_id *out) {
  *out = (nn_gpu_id){{0}};
  return NN_FAIL(NN_ERR_UNSUPPORTED, "GPU %d: this program was built without CUDA", gpu);
}

void nn_gpu_versions(char *text, size_t size) {
  if (size > 0)
    text[0] = '\0';
}

nn_status nn_device_memory(const nn_device *device, int64_t *available, int64_t *total) {
  (void)device;
  *available = *total = 0;
  return NN_OK;
}
#endif
