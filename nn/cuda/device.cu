// A GPU as a device: one stream on which everything runs, memory, copies, events.
#include "nn/cuda/device.h"

#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc, free
#include <string.h> // memcpy

// ---- nn/cuda/stream.h

extern "C" cudaStream_t nn_cuda_stream(const nn_device *device) {
  return nn_cuda_gpu_of(device)->stream;
}

extern "C" int nn_cuda_ordinal(const nn_device *device) {
  return nn_cuda_gpu_of(device)->ordinal;
}

extern "C" int nn_cuda_processors(const nn_device *device) {
  return nn_cuda_gpu_of(device)->processors;
}

extern "C" bool nn_cuda_has_hopper_code(const nn_device *device) {
#ifdef NN_CUDA_SM90A // cmake/Cuda.cmake: sm_90a is among the architectures
  return nn_cuda_gpu_of(device)->capability == 90;
#else
  (void)device;
  return false;
#endif
}

extern "C" int nn_cuda_block_shared(const nn_device *device) {
  return nn_cuda_gpu_of(device)->block_shared;
}

static nn_status status_of(cudaError_t error) {
  switch (error) {
  case cudaSuccess:
    return NN_OK;
  case cudaErrorMemoryAllocation:
    return NN_ERR_MEMORY;
  case cudaErrorNoDevice:
  case cudaErrorInsufficientDriver:
    return NN_ERR_UNSUPPORTED;
  default:
    return NN_ERR_INTERNAL;
  }
}

extern "C" nn_status nn_cuda_status(cudaError_t error, const char *what, const char *file, int line) {
  if (error == cudaSuccess)
    return NN_OK;
  (void)cudaGetLastError(); // or the next launch would report this error again
  return nn_fail(status_of(error), file, line, "cuda: %s: %s", what, cudaGetErrorString(error));
}

#define TRY(call, what) NN_TRY(nn_cuda_status((call), (what), __FILE__, __LINE__))

// ---- memory

static nn_status cuda_zero(nn_device *device, void *memory, size_t bytes) {
  if (bytes > 0)
    TRY(cudaMemsetAsync(memory, 0, bytes, nn_cuda_stream(device)), "filling memory with zeros");
  return NN_OK;
}

static nn_status out_of_memory(const char *what, size_t bytes) {
  size_t available = 0, all = 0;
  (void)cudaGetLastError();
  (void)cudaMemGetInfo(&available, &all);
  return NN_FAIL(NN_ERR_MEMORY, "out of GPU memory: %s needs %.1f MiB, %.1f of %.1f MiB are free", what,
                 (double)bytes / (1 << 20), (double)available / (1 << 20), (double)all / (1 << 20));
}

static void cuda_free(nn_device *device, void *memory) {
  (void)cudaStreamSynchronize(nn_cuda_stream(device)); // it may be in use; errors show at the next call
  (void)cudaFree(memory);
}

static nn_status cuda_alloc(nn_device *device, size_t bytes, const char *what, void **out) {
  cudaError_t error = cudaMalloc(out, bytes > 0 ? bytes : 1);
  if (error == cudaErrorMemoryAllocation) {
    *out = NULL;
    return out_of_memory(what, bytes);
  }
  TRY(error, "allocating memory");
  nn_status status = cuda_zero(device, *out, bytes);
  if (status != NN_OK) {
    cuda_free(device, *out);
    *out = NULL;
  }
  return status;
}

static nn_status cuda_host_alloc(nn_device *device, size_t bytes, const char *what, void **out) {
  (void)device;
  const cudaError_t error = cudaHostAlloc(out, bytes > 0 ? bytes : 1, cudaHostAllocDefault);
  if (error != cudaErrorMemoryAllocation)
    return nn_cuda_status(error, "allocating page-locked memory", __FILE__, __LINE__);
  (void)cudaGetLastError();
  return NN_FAIL(NN_ERR_MEMORY, "out of memory: %s needs %.1f MiB that stay in place", what,
                 (double)bytes / (1 << 20));
}

static void cuda_host_free(nn_device *device, void *memory) {
  (void)cudaStreamSynchronize(nn_cuda_stream(device)); // a copy may be under way
  (void)cudaFreeHost(memory);
}

// ---- copies

static nn_status cuda_upload(nn_device *device, void *to, const void *from, size_t bytes) {
  nn_cuda_staging *staging = &nn_cuda_gpu_of(device)->staging;
  for (size_t at = 0; at < bytes; at += NN_CUDA_STAGING_BYTES) {
    size_t some = bytes - at < NN_CUDA_STAGING_BYTES ? bytes - at : NN_CUDA_STAGING_BYTES;
    int part = staging->next;
    char *pinned = staging->memory + part * NN_CUDA_STAGING_BYTES;
    staging->next = (part + 1) % NN_CUDA_STAGING_PARTS;
    TRY(cudaEventSynchronize(staging->done[part]), "waiting for an earlier copy to the GPU");
    memcpy(pinned, (const char *)from + at, some);
    TRY(cudaMemcpyAsync((char *)to + at, pinned, some, cudaMemcpyHostToDevice, nn_cuda_stream(device)),
        "copying to the GPU");
    TRY(cudaEventRecord(staging->done[part], nn_cuda_stream(device)), "copying to the GPU");
  }
  return NN_OK;
}

// To pageable memory the driver copies at once, by pinned memory of its own, and the caller waits for it; to
// memory of cuda_host_alloc it goes by itself.
static nn_status cuda_download(nn_device *device, void *to, const void *from, size_t bytes) {
  if (bytes > 0)
    TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, nn_cuda_stream(device)),
        "copying from the GPU");
  return NN_OK;
}

static nn_status cuda_copy(nn_device *device, void *to, const void *from, size_t bytes) {
  if (bytes > 0)
    TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, nn_cuda_stream(device)),
        "copying on the GPU");
  return NN_OK;
}

static nn_status cuda_sync(nn_device *device) {
  TRY(cudaStreamSynchronize(nn_cuda_stream(device)), "running operators");
  return NN_OK;
}

// ---- events: nn_event.own is the cudaEvent_t

static nn_status cuda_event_create(nn_device *device, nn_event **out) {
  cudaEvent_t mark = NULL;
  nn_event *event = static_cast<nn_event *>(calloc(1, sizeof *event));
  if (event == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: an event");
  nn_status status = nn_cuda_status(cudaEventCreateWithFlags(&mark, cudaEventDisableTiming),
                                    "creating an event", __FILE__, __LINE__);
  if (status != NN_OK) {
    free(event);
    return status;
  }
  event->device = device;
  event->own = mark;
  *out = event;
  return NN_OK;
}

static cudaEvent_t mark_of(const nn_event *event) {
  return static_cast<cudaEvent_t>(event->own);
}

static void cuda_event_destroy(nn_event *event) {
  (void)cudaEventDestroy(mark_of(event));
  free(event);
}

static nn_status cuda_event_record(nn_event *event) {
  TRY(cudaEventRecord(mark_of(event), nn_cuda_stream(event->device)), "recording an event");
  return NN_OK;
}

static nn_status cuda_event_done(nn_event *event, bool *done) {
  cudaError_t error = cudaEventQuery(mark_of(event));
  *done = error == cudaSuccess;
  if (error == cudaErrorNotReady) {
    (void)cudaGetLastError();
    return NN_OK;
  }
  return nn_cuda_status(error, "running operators", __FILE__, __LINE__);
}

// ---- closing and opening

// Also of a device that was opened in part.
static void cuda_close(nn_device *device) {
  nn_cuda_gpu *gpu = nn_cuda_gpu_of(device);
  if (gpu->stream != NULL)
    (void)cudaStreamSynchronize(gpu->stream);
  nn_cuda_plans_free(gpu->plans);
  (void)cudaFree(gpu->blas_workspace);
  if (gpu->blas != NULL)
    (void)cublasLtDestroy(gpu->blas);
  for (int part = 0; part < NN_CUDA_STAGING_PARTS; part++)
    if (gpu->staging.done[part] != NULL)
      (void)cudaEventDestroy(gpu->staging.done[part]);
  (void)cudaFreeHost(gpu->staging.memory);
  if (gpu->stream != NULL)
    (void)cudaStreamDestroy(gpu->stream);
  free(gpu);
  free(device);
}

static const nn_device_table cuda_table = {
    .close = cuda_close,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .host_alloc = cuda_host_alloc,
    .host_free = cuda_host_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .event_create = cuda_event_create,
    .event_destroy = cuda_event_destroy,
    .event_record = cuda_event_record,
    .event_done = cuda_event_done,
};

// No driver and no GPU are what `auto` answers with the CPU; any other trouble is reported.
static nn_status count_gpus(int *count) {
  int driver = 0;
  cudaError_t error = cudaGetDeviceCount(count);
  if (error == cudaErrorNoDevice || (error == cudaSuccess && *count == 0)) {
    (void)cudaGetLastError();
    return NN_FAIL(NN_ERR_UNSUPPORTED, "device: no GPU is visible (nvidia-smi lists those of this machine, "
                                       "CUDA_VISIBLE_DEVICES may hide some); device=cpu works without one");
  }
  if (error != cudaErrorInsufficientDriver)
    return nn_cuda_status(error, "looking for GPUs", __FILE__, __LINE__);
  (void)cudaGetLastError();
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return NN_FAIL(NN_ERR_UNSUPPORTED,
                   "device: this machine has no NVIDIA driver; device=cpu works without one");
  return NN_FAIL(NN_ERR_UNSUPPORTED,
                 "device: the NVIDIA driver serves CUDA up to %d.%d, this program was built with %d.%d: "
                 "update the driver, or use device=cpu",
                 driver / 1000, driver % 1000 / 10, CUDART_VERSION / 1000, CUDART_VERSION % 1000 / 10);
}

static nn_status choose_gpu(int32_t local_rank, cudaDeviceProp *properties) {
  int count = 0;
  NN_TRY(count_gpus(&count));
  if (local_rank < 0)
    return NN_FAIL(NN_ERR_INTERNAL, "device: local rank %d", (int)local_rank);
  if (local_rank >= count)
    return NN_FAIL(NN_ERR_USAGE,
                   "device: local rank %d needs GPU %d, but %d %s visible: start at most %d rank%s on each "
                   "machine, or use device=cpu",
                   (int)local_rank, (int)local_rank, count, count == 1 ? "is" : "are", count,
                   count == 1 ? "" : "s");
  TRY(cudaSetDevice(local_rank), "choosing a GPU");
  TRY(cudaGetDeviceProperties(properties, local_rank), "asking for the properties of a GPU");
  if (properties->major < 8)
    return NN_FAIL(NN_ERR_UNSUPPORTED,
                   "device: GPU %d, %s, has compute capability %d.%d; 8.0 (Ampere) is the least",
                   (int)local_rank, properties->name, properties->major, properties->minor);
  return NN_OK;
}

static nn_status open_parts(nn_device *device, nn_cuda_gpu *gpu) {
  nn_cuda_staging *staging = &gpu->staging;
  TRY(cudaStreamCreateWithFlags(&gpu->stream, cudaStreamNonBlocking), "creating a stream");
  TRY(cudaHostAlloc((void **)&staging->memory, NN_CUDA_STAGING_PARTS * NN_CUDA_STAGING_BYTES,
                    cudaHostAllocDefault),
      "allocating pinned memory");
  for (int part = 0; part < NN_CUDA_STAGING_PARTS; part++)
    TRY(cudaEventCreateWithFlags(&staging->done[part], cudaEventDisableTiming), "creating an event");
  NN_TRY(cuda_alloc(device, NN_CUDA_BLAS_BYTES, "the workspace of cuBLASLt", &gpu->blas_workspace));
  NN_TRY(nn_cuda_blas_status(cublasLtCreate(&gpu->blas), "opening cuBLASLt", __FILE__, __LINE__));
  return nn_cuda_plans_create(&gpu->plans);
}

extern "C" nn_status nn_cuda_device_open(int32_t local_rank, nn_dtype compute_type, nn_device **out) {
  cudaDeviceProp properties;
  NN_TRY(choose_gpu(local_rank, &properties));
  nn_device *device = static_cast<nn_device *>(calloc(1, sizeof *device));
  nn_cuda_gpu *gpu = static_cast<nn_cuda_gpu *>(calloc(1, sizeof *gpu));
  if (device == NULL || gpu == NULL) {
    free(device);
    free(gpu);
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: the CUDA device");
  }
  gpu->ordinal = local_rank;
  gpu->capability = 10 * properties.major + properties.minor;
  gpu->processors = properties.multiProcessorCount;
  gpu->shared_bytes = (int)properties.sharedMemPerMultiprocessor;
  gpu->block_shared = (int)properties.sharedMemPerBlockOptin;
  device->table = &cuda_table;
  device->ops = &nn_cuda_ops;
  device->kind = NN_DEVICE_CUDA;
  device->compute_type = compute_type;
  device->own = gpu;
  snprintf(device->description, sizeof device->description, "GPU %d, %.64s, %d multiprocessors, %s",
           gpu->ordinal, properties.name, gpu->processors, compute_type == NN_BF16 ? "bf16" : "float32");
  nn_status status = open_parts(device, gpu);
  if (status != NN_OK) {
    cuda_close(device);
    return status;
  }
  *out = device;
  return NN_OK;
}
