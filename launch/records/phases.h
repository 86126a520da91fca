// The phases of a search for token types (docs/method.md): a dense warm-up in which every token is global, a
// ramp of the cache's price lambda from 0, then a constant lambda or one that is driven to a KV target.
#pragma once

#include "launch/config/config.h"

typedef struct {
  int64_t warmup; // steps in which every token is global and the scorer does not learn
  int64_t ramp;   // steps after those over which lambda rises to `price`
  double price;   // nats
  double target;  // KV fraction; 0: none
  double eta;
  double dual; // lambda where there is a target: part of a checkpoint
} launch_phases;

launch_phases launch_phases_make(const launch_config *config);

// Of step `step`, which counts from 0.
bool launch_phases_dense(const launch_phases *phases, int64_t step);
double launch_phases_lambda(const launch_phases *phases, int64_t step);

// Dual ascent after step `step`: lambda += eta (KV fraction - target), never below 0. `kv_fraction` is that
// of all ranks.
void launch_phases_follow(launch_phases *phases, int64_t step, double kv_fraction);
