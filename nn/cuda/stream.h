// What rooms above nn may know of a CUDA device, for their own CUDA code: its stream.
#pragma once

#include <cuda_runtime_api.h>

#ifdef __cplusplus
extern "C" {
#endif

#include "nn/device.h"

// The stream on which all operators of the device run.
cudaStream_t nn_cuda_stream(const nn_device *device);

// Number of the GPU (of those visible to this process), and how many multiprocessors it has.
int nn_cuda_ordinal(const nn_device *device);
int nn_cuda_processors(const nn_device *device);

// Whether the GPU has Hopper's own instructions (compute capability 9.0) and this build has code with them.
bool nn_cuda_has_hopper_code(const nn_device *device);

// Bytes of shared memory that a thread block can have: 227 KiB on Hopper, 163 on A100, 99 on other GPUs since
// Ampere.
int nn_cuda_block_shared(const nn_device *device);

// NN_OK, or a failure that names what was attempted: "cuda: copying to the GPU: out of memory". Running out
// of memory is NN_ERR_MEMORY, no GPU and no fitting driver are NN_ERR_UNSUPPORTED, all else NN_ERR_INTERNAL.
nn_status nn_cuda_status(cudaError_t error, const char *what, const char *file, int line);

#ifdef __cplusplus
}
#endif

#define NN_CUDA_TRY(call) NN_TRY(nn_cuda_status((call), #call, __FILE__, __LINE__))
