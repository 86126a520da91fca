// A device: where tensors live and operators run. Opaque; a CPU and (when built with it) a CUDA GPU.
//
// Everything here is stream-ordered: a call may return before its work is done, calls on one device happen in
// the order in which they were made, and no call returns a number computed on the device. Read results with
// nn_device_download followed by nn_device_sync.
#pragma once

#include <stddef.h> // size_t
#include <stdint.h>

#include "nn/status.h"

typedef struct nn_device nn_device;
typedef struct nn_event nn_event;

typedef enum { NN_DEVICE_CPU = 0, NN_DEVICE_CUDA = 1, NN_DEVICE_KINDS } nn_device_kind;

// Activations and the copies of parameters that operators read are in the device's compute type: float32 on
// the CPU, bfloat16 or float32 on CUDA. A pointer to such memory is an `nn_act *`; device code alone knows
// what is behind it. `float *` is float32 on every device.
typedef void nn_act;
typedef enum { NN_F32 = 0, NN_BF16 = 1 } nn_dtype;

// Opens a device. `name` is "cpu", "cuda" or "auto" (CUDA when this build has it and a GPU is visible).
// `precision` is the compute type: "float32", "bf16" (CUDA only) or "auto" (bf16 on CUDA, float32 on the
// CPU). `local_rank` picks the GPU. Errors: NN_ERR_USAGE (unknown name, bf16 on the CPU, more ranks than
// GPUs), NN_ERR_UNSUPPORTED (not in this build, or no GPU).
nn_status nn_device_open(const char *name, const char *precision, int32_t local_rank, nn_device **out);
void nn_device_close(nn_device *device); // NULL is allowed

nn_device_kind nn_device_get_kind(const nn_device *device);
const char *nn_device_describe(const nn_device *device); // "CPU, 2 threads, SkylakeX kernels"
nn_dtype nn_device_compute_type(const nn_device *device);
size_t nn_device_act_size(const nn_device *device); // bytes of one nn_act element: 2 or 4

// `elements` further on in memory of the compute type. The only arithmetic done on nn_act pointers.
nn_act *nn_act_at(const nn_device *device, const nn_act *base, int64_t elements);

// Device memory, 64-byte aligned and zero-filled. `what` names it in an out-of-memory message.
nn_status nn_device_alloc(nn_device *device, size_t bytes, const char *what, void **out);
void nn_device_free(nn_device *device, void *memory); // NULL is allowed

// Host memory that downloads reach fastest and without holding up their caller (page-locked for a GPU). For
// what is copied at every step: there is little of it. Ordinary memory will do everywhere.
nn_status nn_device_host_alloc(nn_device *device, size_t bytes, const char *what, void **out);
void nn_device_host_free(nn_device *device, void *memory); // NULL is allowed

// Scratch of at least `bytes`, valid until the next nn_device_workspace call on this device: an operator asks
// for it at its start and forgets it at its end. It grows on first use and then stays, so a training step
// allocates nothing after the first one. Operators do not nest inside one another.
nn_status nn_device_workspace(nn_device *device, size_t bytes, void **out);
size_t nn_device_workspace_bytes(const nn_device *device); // how much has been reserved so far

// `from_host` has been read when upload returns, and may change then; what download writes to `to_host` is
// there after nn_device_sync.
nn_status nn_device_upload(nn_device *device, void *to_device, const void *from_host, size_t bytes);
nn_status nn_device_download(nn_device *device, void *to_host, const void *from_device, size_t bytes);
nn_status nn_device_copy(nn_device *device, void *to, const void *from, size_t bytes);
nn_status nn_device_zero(nn_device *device, void *memory, size_t bytes);
nn_status nn_device_sync(nn_device *device); // waits; reports what failed on the way

// Events: marks in the stream. On the CPU every event is done as soon as it is recorded.
nn_status nn_event_create(nn_device *device, nn_event **out);
void nn_event_destroy(nn_event *event);
nn_status nn_event_record(nn_event *event);
nn_status nn_event_done(nn_event *event, bool *done);
