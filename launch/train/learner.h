// What learns: a model with its parameters, gradients and optimizer state, and one step of training over all
// ranks. It knows neither data sets nor run folders: `train` and `bench train` feed it.
//
// A step is: begin, passes (forward and backward, micro-batch by micro-batch, gradients reduced on the way),
// agree (are all gradients finite?), update.
#pragma once

#include "dist/gatherer.h"
#include "dist/group.h"
#include "dist/reducer.h"
#include "launch/config/config.h"
#include "launch/records/phases.h"
#include "launch/train/faults.h"
#include "nats/model.h"
#include "nn/params.h"

// The numbers of a step, in device memory and on the host.
typedef struct {
  nn_sums sums;
  nn_step step;
  float lambda;
  float pair_scale; // 1 / (causal pairs of the step over layers and kv heads)
} launch_numbers;

typedef struct {
  const launch_config *config;
  nats_model_config model_config;
  dist_group *world;     // counts
  dist_group *gradients; // arenas
  nn_device *device;     // not owned
  nn_param_table table;
  nn_params params;
  nats_model *model;
  bool sharded; // ranks share the optimizer's work: `shards` says how, `shard` is this rank's part
  dist_shards shards;
  nn_shard shard;
  dist_reducer *reducer;
  dist_gatherer *gatherer;       // with shards
  nn_param_source params_source; // with shards: updated parameters may be on their way
  double exposed;                // communication of the step that computing did not hide, seconds
  launch_phases phases;
  int64_t updates[NN_GROUPS]; // made so far
  int64_t first, count;       // samples of every step's batch that are this rank's
  int32_t micro_batch;        // sequences of a pass, at most
  int64_t most_passes;        // of a rank in a step; others may have one less
  launch_numbers host;
  launch_numbers *numbers; // device memory
  launch_faults faults;
  bool spoil_loss; // of the step under way
} launch_learner;

// This rank's part of a batch of `batch` sequences: contiguous, uneven where the ranks do not divide it.
int64_t launch_share_first(int64_t batch, int32_t rank, int32_t ranks);

// Sequences of a pass of this configuration on this rank.
int32_t launch_learner_micro_batch(const launch_config *config, const dist_group *world);

// Bytes of a gradient bucket: small ones overlap best where the host moves them, GPUs want fewer and larger.
int64_t launch_learner_bucket_bytes(const launch_config *config, const nn_device *device);

// Bytes of the arenas on the rank that has most of them, with dist.shard as `shard` says.
typedef struct {
  int64_t parameters, gradients, moments;
} launch_arenas;
nn_status launch_learner_arenas(const launch_config *config, const nn_device *device,
                                const nn_param_table *table, int32_t ranks, const char *shard,
                                launch_arenas *out);

// What this device cannot do of a configuration, before anything is taken or written.
nn_status launch_learner_check(const launch_config *config, const nn_device *device);

// Takes all memory of training. `config` and `world` must outlive the learner. Collective.
nn_status launch_learner_open(dist_group *world, nn_device *device, const launch_config *config,
                              const nats_model_config *model, launch_learner *out);
void launch_learner_close(launch_learner *learner);

// After master parameters were written from outside. Collective.
nn_status launch_learner_refresh(launch_learner *learner);
// For passes outside of training: NULL when no parameter can be on its way.
static inline const nn_param_source *launch_learner_source(const launch_learner *learner) {
  return learner->sharded ? &learner->params_source : NULL;
}
// Waits until all parameters are here, before anything but a pass reads them. Collective.
nn_status launch_learner_settle(launch_learner *learner);

// What a step's batch holds, over all ranks.
typedef struct {
  int64_t scored; // tokens
  int64_t pairs;  // causal pairs of one layer and kv head
} launch_batch_counts;

// Step `step` counts from 0.
nn_status launch_learner_begin(launch_learner *learner, int64_t step, const launch_batch_counts *counts);
// `share`: this rank's samples of the step.
nn_status launch_learner_passes(launch_learner *learner, int64_t step, const nats_batch *share);

// What came of a step, the same on all ranks.
typedef struct {
  nn_sums sums;
  bool finite;
  double grad_norm, lr, lambda;
} launch_step_result;
nn_status launch_learner_agree(launch_learner *learner, launch_step_result *result);
// Applies the gradients of a step that was finite on all ranks.
nn_status launch_learner_update(launch_learner *learner, int64_t step, const launch_step_result *result);

static inline double launch_kv_fraction(const nn_sums *sums) {
  return sums->causal > 0 ? sums->visible / sums->causal : 1;
}
