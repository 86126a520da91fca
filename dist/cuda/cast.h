// Between float32 gradients and the bf16 that travels, on a stream of the caller's. All pointers are memory
// of the current GPU, aligned to 16 bytes.
#pragma once

#include <cuda_runtime_api.h>
#include <stdint.h>

#include "nn/status.h"

#ifdef __cplusplus
extern "C" {
#endif

nn_status dist_cuda_to_bf16(cudaStream_t stream, const float *from, void *to, int64_t count);
nn_status dist_cuda_from_bf16(cudaStream_t stream, const void *from, float *to, int64_t count);

#ifdef __cplusplus
}
#endif
