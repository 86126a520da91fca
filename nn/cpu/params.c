#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"

nn_status nn_cpu_params_init(nn_device *device, nn_params *params, uint64_t seed) {
  (void)device;
  for (int32_t i = 0; i < params->table->count; i++) {
    const nn_param *param = &params->table->items[i];
#pragma omp parallel if (nn_range_is_large(param->count))
    {
      nn_range mine = nn_range_mine(param->count, NN_PARAM_ALIGN);
      nn_param_initial(param, seed, mine.begin, mine.end, params->master + param->offset + mine.begin);
    }
  }
  return NN_OK;
}

nn_status nn_cpu_params_refresh(nn_device *device, nn_params *params) {
  (void)device; // operators read `master` itself
  (void)params;
  return NN_OK;
}
