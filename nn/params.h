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
  int32_t block;  // see nn_param_table.block
  int64_t offset; // in elements, into every arena; a multiple of NN_PARAM_ALIGN
  int64_t count;  // elements
} nn_param;

enum { NN_PARAM_ALIGN = 16 }; // elements; gaps between parameters are zero in every arena

typedef struct {
  nn_param *items;
  int32_t count;
  int32_t capacity;
  int64_t total; // elements of an arena, gaps included
  // What the next rows are stamped with: backward works on the gradients of one block at a time and completes
  // them together. NN_BLOCK_KEPT, for the first rows only: it comes back to these until its end.
  int32_t block;
} nn_param_table;
enum { NN_BLOCK_KEPT = -1 };

// Adds a row at the end and returns its index in *index. Errors: NN_ERR_INTERNAL (name taken or too long).
nn_status nn_param_add(nn_param_table *table, const char *name, int32_t rank, int64_t rows, int64_t columns,
                       nn_init init, float init_value, bool decay, nn_param_group group, int32_t *index);
const nn_param *nn_param_find(const nn_param_table *table, const char *name); // NULL where there is none
int64_t nn_param_values(const nn_param_table *table);                         // elements without gaps
void nn_param_table_free(nn_param_table *table);

// Where ranks share the optimizer's work, each updates a shard: some ranges of the arenas. What the optimizer
// alone needs is stored for the shard only, piece after piece.
typedef struct {
  int64_t offset, count; // in an arena; multiples of NN_PARAM_ALIGN
  int64_t at;            // where it begins in memory that holds the shard only
} nn_piece;

typedef struct {
  nn_piece *items; // in the order in which they are stored, without holes
  int32_t count;
  int64_t total; // elements
} nn_shard;

typedef enum {
  NN_SHARD_OPTIMIZER, // moments, and masters that operators do not read
  NN_SHARD_GRADIENTS, // and the sums of gradients: backward works in a window, see nn_params.grad
} nn_shard_kind;

// The arenas in device memory, of table->total elements where no other number is said.
typedef struct {
  nn_device *device;
  const nn_param_table *table;
  const nn_shard *shard; // what this rank updates, NULL: everything
  float *master;         // what the optimizer updates; the shard's where `compute` is another arena
  nn_act *compute;       // what operators read: `master` itself where the compute type is float32
  // What backward adds to; NULL for a model that is only evaluated, as are the moments. With `sum` it is a
  // window of grad_total elements: the rows of NN_BLOCK_KEPT, then the one block that backward works on.
  float *grad;
  int64_t grad_total;
  float *sum;     // what the optimizer reads, the shard's; NULL: it reads `grad`
  float *moment1; // the shard's
  float *moment2; // the shard's
} nn_params;

nn_status nn_params_create(nn_device *device, const nn_param_table *table, bool training, nn_params *out);
// For training, with `shard` (NULL: everything), which must outlive the arenas.
nn_status nn_params_create_shard(nn_device *device, const nn_param_table *table, const nn_shard *shard,
                                 nn_shard_kind kind, nn_params *out);
void nn_params_free(nn_params *params);

// Elements of a window, and what an arena of the shard holds.
int64_t nn_params_window(const nn_param_table *table);
static inline int64_t nn_params_owned(const nn_params *params) {
  return params->shard != NULL ? params->shard->total : params->table->total;
}
// Whether `master` holds the shard only.
static inline bool nn_params_master_sharded(const nn_params *params) {
  return params->shard != NULL && params->compute != (nn_act *)params->master;
}
// The pieces that this rank updates: of an unsharded table one, the whole arena.
static inline int32_t nn_params_pieces(const nn_params *params) {
  return params->shard != NULL ? params->shard->count : 1;
}
static inline nn_piece nn_params_piece(const nn_params *params, int32_t index) {
  nn_piece all = {0, params->table->total, 0};
  return params->shard != NULL ? params->shard->items[index] : all;
}

// Fills `master` from the counter-based generator (key: seed, name, element), the same on every rank and
// device, then refreshes `compute`.
nn_status nn_params_init(nn_params *params, uint64_t seed);

// The initial values of one parameter, elements [begin, end), into host memory: values[0] is element `begin`.
void nn_param_initial(const nn_param *param, uint64_t seed, int64_t begin, int64_t end, float *values);

// After master was written from outside. Of sharded masters the shard's part alone; other ranks have the
// rest.
nn_status nn_params_refresh_compute(nn_params *params);

// Pointers of row `index` of the table.
nn_act *nn_params_weight(const nn_params *params, int32_t index);
float *nn_params_grad(const nn_params *params, int32_t index);
// Where backward puts the gradient of element `offset` of the arena, and of those behind it up to the end of
// its block.
float *nn_params_grad_at(const nn_params *params, int64_t offset);

// How backward tells that the gradients of [offset, offset + count) are complete. Called in the order in
// which they become complete; ranges do not overlap and together cover the arena. It may do work (post a
// reduction, poll outstanding ones) and may fail; the failure ends backward.
typedef struct {
  nn_status (*ready)(void *context, int64_t offset, int64_t count);
  void *context;
} nn_grad_listener;

// How the forward pass asks for parameters on their way from other ranks: called before those of
// [0, end) are read, with `end` rising to the arena's.
typedef struct {
  nn_status (*await)(void *context, int64_t end);
  void *context;
} nn_param_source;
