#include <stdlib.h> // malloc

#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

// Computed on the host, so that runs on CPUs and GPUs start with the same bits; once a run, in pieces.
static nn_status upload_initial(nn_device *device, const nn_params *params, uint64_t seed, float *values,
                                int64_t most) {
  for (int32_t i = 0; i < params->table->count; i++) {
    const nn_param *param = &params->table->items[i];
    for (int64_t begin = 0; begin < param->count; begin += most) {
      int64_t end = param->count - begin < most ? param->count : begin + most;
      nn_param_initial(param, seed, begin, end, values);
      NN_TRY(nn_device_upload(device, params->master + param->offset + begin, values,
                              (size_t)(end - begin) * sizeof(float)));
    }
  }
  return NN_OK;
}

extern "C" nn_status nn_cuda_params_init(nn_device *device, nn_params *params, uint64_t seed) {
  const int64_t most = (int64_t)1 << 22; // 16 MiB
  float *values = static_cast<float *>(malloc((size_t)most * sizeof(float)));
  if (values == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: initial values on their way to the GPU");
  nn_status status = upload_initial(device, params, seed, values, most);
  free(values);
  return status;
}

// ---- the copy in the compute type

enum { THREADS = 256, PACK = 4 };

__global__ static void round_masters(int64_t packs, const float *master, nn_bf16 *compute) {
  int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * PACK;
  if (at >= packs * PACK)
    return;
  float values[PACK];
  nn_load_floats(master + at, values);
  nn_store_floats(compute + at, values);
}

extern "C" nn_status nn_cuda_params_refresh(nn_device *device, nn_params *params) {
  if (nn_device_compute_type(device) == NN_F32)
    return NN_OK;                              // operators read `master` itself
  int64_t packs = params->table->total / PACK; // arenas end at a multiple of NN_PARAM_ALIGN
  return NN_LAUNCH(device, round_masters, dim3((unsigned)nn_ceil_div(packs, (int64_t)THREADS)), dim3(THREADS),
                   0, packs, params->master, params->compute);
}
