#include "nn/params.h"

#include <stdlib.h>
#include <string.h>

#include "nn/device_table.h"
#include "nn/ops_table.h"
#include "nn/random.h"

// ---- the table

static nn_status grow(nn_param_table *table) {
  if (table->count < table->capacity)
    return NN_OK;
  int32_t capacity = table->capacity > 0 ? 2 * table->capacity : 64;
  nn_param *items = realloc(table->items, (size_t)capacity * sizeof *items);
  if (items == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: a table of %d parameters", capacity);
  table->items = items;
  table->capacity = capacity;
  return NN_OK;
}

nn_status nn_param_add(nn_param_table *table, const char *name, int32_t rank, int64_t rows, int64_t columns,
                       nn_init init, float init_value, bool decay, nn_param_group group, int32_t *index) {
  size_t length = strlen(name);
  if (length == 0 || length >= sizeof table->items->name)
    return NN_FAIL(NN_ERR_INTERNAL, "parameter '%s': expected a name of 1 to %zu characters", name,
                   sizeof table->items->name - 1);
  if (nn_param_find(table, name) != NULL)
    return NN_FAIL(NN_ERR_INTERNAL, "parameter '%s': the name is taken", name);
  if (rank < 1 || rank > 2 || rows < 1 || columns < 1 || (rank == 1 && columns != 1) ||
      rows > INT64_MAX / 8 / columns - table->total)
    return NN_FAIL(NN_ERR_INTERNAL, "parameter '%s': impossible shape, rank %d of %lld x %lld", name, rank,
                   (long long)rows, (long long)columns);
  if (group < 0 || group >= NN_GROUPS)
    return NN_FAIL(NN_ERR_INTERNAL, "parameter '%s': unknown group %d", name, (int)group);
  NN_TRY(grow(table));
  nn_param *param = &table->items[table->count];
  *param = (nn_param){.rank = rank,
                      .shape = {rows, columns},
                      .init = init,
                      .init_value = init_value,
                      .decay = decay,
                      .group = group,
                      .block = table->block,
                      .offset = table->total,
                      .count = rows * columns};
  memcpy(param->name, name, length + 1);
  table->total += (param->count + NN_PARAM_ALIGN - 1) / NN_PARAM_ALIGN * NN_PARAM_ALIGN;
  if (index != NULL)
    *index = table->count;
  table->count++;
  return NN_OK;
}

const nn_param *nn_param_find(const nn_param_table *table, const char *name) {
  for (int32_t i = 0; i < table->count; i++)
    if (strcmp(table->items[i].name, name) == 0)
      return &table->items[i];
  return NULL;
}

int64_t nn_param_values(const nn_param_table *table) {
  int64_t values = 0;
  for (int32_t i = 0; i < table->count; i++)
    values += table->items[i].count;
  return values;
}

void nn_param_table_free(nn_param_table *table) {
  free(table->items);
  *table = (nn_param_table){0};
}

// ---- the arenas

static int64_t kept_elements(const nn_param_table *table) {
  int32_t row = 0;
  while (row < table->count && table->items[row].block == NN_BLOCK_KEPT)
    row++;
  return row < table->count ? table->items[row].offset : table->total;
}

// The offset at which the block of row `index` begins.
static int64_t block_begin(const nn_param_table *table, int32_t index) {
  while (index > 0 && table->items[index - 1].block == table->items[index].block)
    index--;
  return table->items[index].offset;
}

int64_t nn_params_window(const nn_param_table *table) {
  int64_t most = 0;
  for (int32_t i = 0; i < table->count; i++) {
    int64_t end = i + 1 < table->count ? table->items[i + 1].offset : table->total;
    int64_t count = end - block_begin(table, i);
    if (table->items[i].block != NN_BLOCK_KEPT && count > most)
      most = count;
  }
  return kept_elements(table) + most;
}

static nn_status alloc_floats(nn_device *device, int64_t elements, const char *what, float **out) {
  return nn_device_alloc(device, (size_t)elements * sizeof(float), what, (void **)out);
}

static nn_status create_arenas(nn_params *params, bool training, bool window) {
  nn_device *device = params->device;
  int64_t total = params->table->total, owned = nn_params_owned(params);
  bool copies = nn_device_compute_type(device) != NN_F32;
  NN_TRY(alloc_floats(device, copies ? owned : total, "parameters", &params->master));
  params->compute = params->master;
  if (copies)
    NN_TRY(nn_device_alloc(device, (size_t)total * nn_device_act_size(device),
                           "parameters in the compute type", &params->compute));
  if (!training)
    return NN_OK;
  params->grad_total = window ? nn_params_window(params->table) : total;
  NN_TRY(alloc_floats(device, params->grad_total, "gradients", &params->grad));
  if (window)
    NN_TRY(alloc_floats(device, owned, "sums of gradients", &params->sum));
  NN_TRY(alloc_floats(device, owned, "first moments", &params->moment1));
  return alloc_floats(device, owned, "second moments", &params->moment2);
}

static nn_status create(nn_device *device, const nn_param_table *table, const nn_shard *shard, bool training,
                        bool window, nn_params *out) {
  *out = (nn_params){.device = device, .table = table, .shard = shard};
  if (device == NULL || table == NULL || table->count == 0)
    return NN_FAIL(NN_ERR_INTERNAL,
                   "nn_params_create: needs a device and a table with at least one parameter");
  nn_status status = create_arenas(out, training, window);
  if (status != NN_OK)
    nn_params_free(out);
  return status;
}

nn_status nn_params_create(nn_device *device, const nn_param_table *table, bool training, nn_params *out) {
  return create(device, table, NULL, training, false, out);
}

nn_status nn_params_create_shard(nn_device *device, const nn_param_table *table, const nn_shard *shard,
                                 nn_shard_kind kind, nn_params *out) {
  return create(device, table, shard, true, shard != NULL && kind == NN_SHARD_GRADIENTS, out);
}

void nn_params_free(nn_params *params) {
  nn_device *device = params->device;
  if (device != NULL) {
    nn_device_free(device, params->moment2);
    nn_device_free(device, params->moment1);
    nn_device_free(device, params->sum);
    nn_device_free(device, params->grad);
    if (params->compute != params->master)
      nn_device_free(device, params->compute);
    nn_device_free(device, params->master);
  }
  *params = (nn_params){0};
}

nn_act *nn_params_weight(const nn_params *params, int32_t index) {
  return nn_act_at(params->device, params->compute, params->table->items[index].offset);
}

static float *grad_of(const nn_params *params, int32_t index, int64_t offset) {
  const nn_param_table *table = params->table;
  if (params->sum == NULL || table->items[index].block == NN_BLOCK_KEPT)
    return params->grad + offset;
  return params->grad + kept_elements(table) + (offset - block_begin(table, index));
}

float *nn_params_grad(const nn_params *params, int32_t index) {
  return grad_of(params, index, params->table->items[index].offset);
}

float *nn_params_grad_at(const nn_params *params, int64_t offset) {
  const nn_param_table *table = params->table;
  int32_t index = table->count - 1;
  while (index > 0 && table->items[index].offset > offset)
    index--;
  return grad_of(params, index, offset);
}

// ---- initial values

// Element i is number i % 4 of the four that counter i / 4 gives, whatever piece it is asked for in.
static void fill_normal(const nn_param *param, uint64_t seed, int64_t begin, int64_t end, float *values) {
  nn_random_key key =
      nn_random_key_make(seed, NN_RANDOM_INIT, nn_random_hash(param->name, strlen(param->name)), 0);
#pragma omp parallel for if (end - begin > 1 << 16)
  for (int64_t block = begin / 4; block < (end + 3) / 4; block++) {
    uint32_t bits[4];
    float normal[4];
    nn_random_u32x4(key, 0, (uint64_t)block, bits);
    nn_random_normal2(bits[0], bits[1], normal);
    nn_random_normal2(bits[2], bits[3], normal + 2);
    for (int64_t i = 0; i < 4; i++)
      if (block * 4 + i >= begin && block * 4 + i < end)
        values[block * 4 + i - begin] = normal[i] * param->init_value;
  }
}

void nn_param_initial(const nn_param *param, uint64_t seed, int64_t begin, int64_t end, float *values) {
  bool scorer_bias = param->init == NN_INIT_SCORER && param->rank == 1;
  if (param->init == NN_INIT_NORMAL || (param->init == NN_INIT_SCORER && !scorer_bias)) {
    fill_normal(param, seed, begin, end, values);
    return;
  }
  for (int64_t i = begin; i < end; i++) {
    float bias = scorer_bias && i % 3 == 0 ? param->init_value : 0.0f;
    values[i - begin] = param->init == NN_INIT_ONE ? 1.0f : bias;
  }
}
