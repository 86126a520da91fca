// The parameters of a model: one named table over flat arenas. The gradient reducer, the checkpoint, clipping
// and the optimizer all walk this table; nobody counts tensors by index.
//
// The table is in the order of the forward pass, so that backward finishes ranges from the end to the start.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/device.h"

typedef enum {
  NN_INIT_ZERO,
  NN_INIT_ONE,
  NN_INIT_NORMAL, // mean 0, standard deviation init_value
  // The scorer of token types, three rows per kv head: global, local, window. A weight (rank 2) is normal
  // with standard deviation init_value. A bias (rank 1) is init_value at every element whose index is a
  // multiple of 3, the logit of `global`, and 0 elsewhere.
  NN_INIT_SCORER,
} nn_init;

// Parameters in one group share a learning-rate factor.
typedef enum { NN_GROUP_WEIGHTS = 0, NN_GROUP_SCORER = 1, NN_GROUPS } nn_param_group;

typedef struct {
  char name[64];    // "layer.3.attention.qkv.weight"
  int32_t rank;     // 1 or 2
  int64_t shape[2]; // row-major; shape[1] is 1 when rank is 1
  nn_init init;
  float init_value;
  bool decay; // weight decay: matrices only
  nn_param_group group;
  int64_t offset; // in elements, into every arena; a multiple of NN_PARAM_ALIGN
  int64_t count;  // elements
} nn_param;

enum { NN_PARAM_ALIGN = 16 }; // elements; gaps between parameters are zero in every arena

typedef struct {
  nn_param *items;
  int32_t count;
  int32_t capacity;
  int64_t total; // elements of an arena, gaps included
} nn_param_table;

// Adds a row at the end and returns its index in *index. Errors: NN_ERR_INTERNAL (name taken or too long).
nn_status nn_param_add(nn_param_table *table, const char *name, int32_t rank, int64_t rows, int64_t columns,
                       nn_init init, float init_value, bool decay, nn_param_group group, int32_t *index);
const nn_param *nn_param_find(const nn_param_table *table, const char *name); // NULL where there is none
int64_t nn_param_values(const nn_param_table *table);                         // elements without gaps
void nn_param_table_free(nn_param_table *table);

// The arenas in device memory, all of table->total elements.
typedef struct {
  nn_device *device;
  const nn_param_table *table;
  float *master;   // what the optimizer updates
  nn_act *compute; // what operators read: `master` itself where the compute type is float32
  float *grad;     // NULL for a model that is only evaluated; so are the moments
  float *moment1;
  float *moment2;
} nn_params;

nn_status nn_params_create(nn_device *device, const nn_param_table *table, bool training, nn_params *out);
void nn_params_free(nn_params *params);

// Fills `master` from the counter-based generator (key: seed, name, element), the same on every rank and
// device, then refreshes `compute`.
nn_status nn_params_init(nn_params *params, uint64_t seed);

// The initial values of one parameter, elements [begin, end), into host memory: values[0] is element `begin`.
void nn_param_initial(const nn_param *param, uint64_t seed, int64_t begin, int64_t end, float *values);

nn_status nn_params_refresh_compute(nn_params *params); // after master was written from outside

// Pointers of row `index` of the table.
nn_act *nn_params_weight(const nn_params *params, int32_t index);
float *nn_params_grad(const nn_params *params, int32_t index);

// How backward tells that the gradients of [offset, offset + count) are complete. Called in the order in
// which they become complete; ranges do not overlap and together cover the arena. It may do work (post a
// reduction, poll outstanding ones) and may fail; the failure ends backward.
typedef struct {
  nn_status (*ready)(void *context, int64_t offset, int64_t count);
  void *context;
} nn_grad_listener;
