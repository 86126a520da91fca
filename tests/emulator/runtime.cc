// The host functions of the CUDA runtime over host memory.
#include "tests/emulator/emulator.h"

#include <map>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { POISON = 0xff, ALIGN = 256, RESERVED = 1 << 10 /* of shared memory, by the driver */ };

double emulator_milliseconds = 0;
struct emulator_event {
  double milliseconds; // when it was recorded
};

static std::map<const char *, size_t> allocations; // device memory: address and bytes
static cudaError_t last_error = cudaSuccess;

static cudaError_t result(cudaError_t error) {
  if (error != cudaSuccess)
    last_error = error;
  return error;
}

// True when all of the range lies in one allocation of device memory; *outside: when none of it does.
static bool on_device(const void *memory, size_t bytes, bool *outside) {
  const char *begin = static_cast<const char *>(memory);
  auto after = allocations.upper_bound(begin);
  *outside = after == allocations.end() || begin + bytes <= after->first;
  if (after == allocations.begin())
    return false;
  auto found = std::prev(after);
  const char *end = found->first + found->second;
  if (begin < end)
    *outside = false;
  return begin < end && begin + bytes <= end;
}

static bool range_is(const void *memory, size_t bytes, bool device) {
  bool outside, inside = on_device(memory, bytes, &outside);
  if (device ? inside : outside)
    return true;
  fprintf(stderr, "emulator: a copy or fill of %zu bytes at %p: not %s\n", bytes, memory,
          device ? "inside one allocation of device memory" : "host memory");
  return false;
}

extern "C" {

const char *cudaGetErrorString(cudaError_t error) {
  switch (error) {
  case cudaSuccess: return "no error";
  case cudaErrorInvalidValue: return "invalid argument";
  case cudaErrorMemoryAllocation: return "out of memory";
  case cudaErrorInvalidConfiguration: return "invalid configuration argument";
  case cudaErrorInvalidDevice: return "invalid device ordinal";
  default: return "an error of the emulated runtime";
  }
}
cudaError_t cudaGetLastError(void) {
  cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}

cudaError_t cudaDriverGetVersion(int *version) {
  *version = CUDART_VERSION;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceCount(int *count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) { return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice); }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp *properties, int device) {
  *properties = {};
  snprintf(properties->name, sizeof properties->name, "emulated GPU");
  properties->totalGlobalMem = static_cast<size_t>(8) << 30;
  properties->major = emulator_capability() / 10;
  properties->minor = emulator_capability() % 10;
  properties->multiProcessorCount = emulator_processors();
  properties->sharedMemPerBlockOptin = emulator_shared_limit();
  properties->sharedMemPerMultiprocessor = emulator_shared_limit() + RESERVED;
  return result(device == 0 ? cudaSuccess : cudaErrorInvalidDevice);
}
cudaError_t cudaMemGetInfo(size_t *available, size_t *total) {
  *available = *total = static_cast<size_t>(8) << 30;
  return cudaSuccess;
}

// Of exactly that size, so that AddressSanitizer sees the first byte beyond.
cudaError_t cudaMalloc(void **memory, size_t bytes) {
  *memory = nullptr;
  if (bytes == 0)
    return cudaSuccess;
  if (posix_memalign(memory, ALIGN, bytes) != 0)
    return result(cudaErrorMemoryAllocation);
  memset(*memory, POISON, bytes);
  allocations[static_cast<const char *>(*memory)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void *memory) {
  if (memory != nullptr && allocations.erase(static_cast<const char *>(memory)) == 0)
    return result(cudaErrorInvalidValue);
  free(memory);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void **memory, size_t bytes, unsigned) {
  *memory = malloc(bytes > 0 ? bytes : 1);
  return result(*memory != nullptr ? cudaSuccess : cudaErrorMemoryAllocation);
}
cudaError_t cudaFreeHost(void *memory) {
  free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind) {
  if (bytes == 0)
    return cudaSuccess;
  bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (kind != cudaMemcpyDefault && (!range_is(to, bytes, to_device) || !range_is(from, bytes, from_device)))
    return result(cudaErrorInvalidValue);
  memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  return cudaMemcpy(to, from, bytes, kind);
}
cudaError_t cudaMemset(void *memory, int value, size_t bytes) {
  if (bytes == 0)
    return cudaSuccess;
  if (!range_is(memory, bytes, true))
    return result(cudaErrorInvalidValue);
  memset(memory, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t) {
  return cudaMemset(memory, value, bytes);
}

// Streams and events hold nothing: everything is done when it is asked for.
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
  *stream = static_cast<cudaStream_t>(malloc(1));
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  free(stream);
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t, enum cudaStreamCaptureStatus *status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
  *event = static_cast<cudaEvent_t>(malloc(sizeof **event));
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t *event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  free(event);
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->milliseconds = emulator_milliseconds;
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float *milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = static_cast<float>(end->milliseconds - start->milliseconds);
  return cudaSuccess;
}
}
