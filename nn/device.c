#include "nn/device.h"

#include <string.h> // strcmp

#include "nn/device_table.h"

static nn_status open_cuda(nn_dtype compute_type, int32_t local_rank, nn_device **out) {
#ifdef NN_WITH_CUDA
  return nn_cuda_device_open(local_rank, compute_type, out);
#else
  (void)compute_type;
  (void)local_rank;
  (void)out;
  return NN_FAIL(NN_ERR_UNSUPPORTED,
                 "device: this program was built without CUDA; use device=cpu or auto, or "
                 "build it where nvcc is found");
#endif
}

nn_status nn_device_open(const char *name, const char *precision, int32_t local_rank, nn_device **out) {
  if (name == NULL || precision == NULL || out == NULL)
    return NN_FAIL(NN_ERR_INTERNAL, "nn_device_open: needs a name, a precision and a place for the device");
  *out = NULL;
  const bool bf16 = strcmp(precision, "bf16") == 0, float32 = strcmp(precision, "float32") == 0;
  const bool any = strcmp(name, "auto") == 0;
  if (!bf16 && !float32 && strcmp(precision, "auto") != 0)
    return NN_FAIL(NN_ERR_USAGE, "precision: expected auto, float32 or bf16, found '%s'", precision);
  if (!any && strcmp(name, "cpu") != 0 && strcmp(name, "cuda") != 0)
    return NN_FAIL(NN_ERR_USAGE, "device: expected cpu, cuda or auto, found '%s'", name);
  if (any || strcmp(name, "cuda") == 0) {
    nn_status status = open_cuda(float32 ? NN_F32 : NN_BF16, local_rank, out);
    if (!any || status != NN_ERR_UNSUPPORTED)
      return status;
    nn_error_clear(); // no CUDA in this build, or no GPU in this machine: not a failure of "auto"
  }
  if (bf16)
    return NN_FAIL(NN_ERR_USAGE, "precision: bf16 needs a GPU; the CPU computes in float32");
  return nn_cpu_device_open(local_rank, out);
}

void nn_device_close(nn_device *device) {
  if (device == NULL)
    return;
  device->table->free(device, device->workspace);
  device->table->close(device);
}

nn_device_kind nn_device_get_kind(const nn_device *device) {
  return device->kind;
}

const char *nn_device_describe(const nn_device *device) {
  return device->description;
}

nn_dtype nn_device_compute_type(const nn_device *device) {
  return device->compute_type;
}

size_t nn_device_act_size(const nn_device *device) {
  return device->compute_type == NN_BF16 ? 2 : sizeof(float);
}

nn_act *nn_act_at(const nn_device *device, const nn_act *base, int64_t elements) {
  return (char *)base + elements * (int64_t)nn_device_act_size(device);
}

nn_status nn_device_alloc(nn_device *device, size_t bytes, const char *what, void **out) {
  *out = NULL;
  return device->table->alloc(device, bytes, what, out);
}

void nn_device_free(nn_device *device, void *memory) {
  if (memory != NULL)
    device->table->free(device, memory);
}

nn_status nn_device_host_alloc(nn_device *device, size_t bytes, const char *what, void **out) {
  *out = NULL;
  return device->table->host_alloc(device, bytes, what, out);
}

void nn_device_host_free(nn_device *device, void *memory) {
  if (memory != NULL)
    device->table->host_free(device, memory);
}

nn_status nn_device_workspace(nn_device *device, size_t bytes, void **out) {
  if (bytes > device->workspace_bytes) {
    nn_device_free(device, device->workspace);
    device->workspace = NULL;
    device->workspace_bytes = 0;
    NN_TRY(nn_device_alloc(device, bytes, "the workspace of operators", &device->workspace));
    device->workspace_bytes = bytes;
  }
  *out = device->workspace;
  return NN_OK;
}

size_t nn_device_workspace_bytes(const nn_device *device) {
  return device->workspace_bytes;
}

nn_status nn_device_upload(nn_device *device, void *to_device, const void *from_host, size_t bytes) {
  return device->table->upload(device, to_device, from_host, bytes);
}

nn_status nn_device_download(nn_device *device, void *to_host, const void *from_device, size_t bytes) {
  return device->table->download(device, to_host, from_device, bytes);
}

nn_status nn_device_copy(nn_device *device, void *to, const void *from, size_t bytes) {
  return device->table->copy(device, to, from, bytes);
}

nn_status nn_device_zero(nn_device *device, void *memory, size_t bytes) {
  return device->table->zero(device, memory, bytes);
}

nn_status nn_device_sync(nn_device *device) {
  return device->table->sync(device);
}

nn_status nn_event_create(nn_device *device, nn_event **out) {
  *out = NULL;
  return device->table->event_create(device, out);
}

void nn_event_destroy(nn_event *event) {
  if (event != NULL)
    event->device->table->event_destroy(event);
}

nn_status nn_event_record(nn_event *event) {
  return event->device->table->event_record(event);
}

nn_status nn_event_done(nn_event *event, bool *done) {
  return event->device->table->event_done(event, done);
}
