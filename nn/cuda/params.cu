#include <stdlib.h> // malloc

#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

// Elements [first, last) of the arena, which `master` points at the beginning of, by way of `values`, [most].
static nn_status upload_range(const nn_params *params, uint64_t seed, int64_t first, int64_t last,
                              float *master, float *values, int64_t most) {
  for (int32_t i = 0; i < params->table->count; i++) {
    const nn_param *param = &params->table->items[i];
    int64_t begin = first > param->offset ? first - param->offset : 0;
    int64_t stop = last - param->offset < param->count ? last - param->offset : param->count;
    for (; begin < stop; begin += most) {
      int64_t end = stop - begin < most ? stop : begin + most;
      nn_param_initial(param, seed, begin, end, values);
      NN_TRY(nn_device_upload(params->device, master + (param->offset + begin - first), values,
                              (size_t)(end - begin) * sizeof(float)));
    }
  }
  return NN_OK;
}

// Computed on the host, so that runs on CPUs and GPUs start with the same bits; once a run, in pieces. Of
// sharded masters this rank's.
static nn_status upload_initial(const nn_params *params, uint64_t seed, float *values, int64_t most) {
  if (!nn_params_master_sharded(params))
    return upload_range(params, seed, 0, params->table->total, params->master, values, most);
  for (int32_t i = 0; i < nn_params_pieces(params); i++) {
    nn_piece piece = nn_params_piece(params, i);
    NN_TRY(upload_range(params, seed, piece.offset, piece.offset + piece.count, params->master + piece.at,
                        values, most));
  }
  return NN_OK;
}

extern "C" nn_status nn_cuda_params_init(nn_device *device, nn_params *params, uint64_t seed) {
  (void)device;
  const int64_t most = (int64_t)1 << 22; // 16 MiB
  float *values = static_cast<float *>(malloc((size_t)most * sizeof(float)));
  if (values == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: initial values on their way to the GPU");
  nn_status status = upload_initial(params, seed, values, most);
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

static nn_status round_range(nn_device *device, const float *master, nn_bf16 *compute, int64_t count) {
  int64_t packs = count / PACK; // arenas and pieces end at a multiple of NN_PARAM_ALIGN
  if (packs == 0)
    return NN_OK;
  return NN_LAUNCH(device, round_masters, dim3((unsigned)nn_ceil_div(packs, (int64_t)THREADS)), dim3(THREADS),
                   0, packs, master, compute);
}

extern "C" nn_status nn_cuda_params_refresh(nn_device *device, nn_params *params) {
  if (nn_device_compute_type(device) == NN_F32)
    return NN_OK; // operators read `master` itself
  nn_bf16 *compute = static_cast<nn_bf16 *>(params->compute);
  for (int32_t i = 0; i < nn_params_pieces(params); i++) {
    nn_piece piece = nn_params_piece(params, i);
    NN_TRY(round_range(device, params->master + piece.at, compute + piece.offset, piece.count));
  }
  return NN_OK;
}
