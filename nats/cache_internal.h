// Private to the files of the cache: cache.c (its life and its numbers) and cache_step.c (what a token does).
#pragma once

#include "nats/cache.h"
#include "nats/cache_list.h"

struct nats_cache {
  nn_device *device;
  nats_cache_shape shape;
  nats_policy_choice choice;
  nats_page_pool pool;
  nats_cache_list *lists; // [layers, S, Hk]
  int64_t list_count;
  float *state;  // [layers, S, Hk, state_size]
  double *pairs; // [layers, Hk, 2] live and causal

  // scratch of one layer
  nats_cache_row *rows;            // [S, Hk]
  nats_cache_write *writes;        // [write_capacity]
  nats_cache_move *moves;          // [move_capacity]
  nats_slot_move *slot_moves;      // [slot_capacity]
  int32_t *drop;                   // [slot_capacity]
  float *logits;                   // [logit_capacity] host
  float *device_weights, *weights; // [weight_capacity] device, host
  int64_t write_capacity, move_capacity, slot_capacity, logit_capacity, weight_capacity;

  int64_t positions; // that all layers have seen
  double stepmean;   // sum over positions and lists of live / seen
  int64_t live_tokens, peak_live_tokens;
  int64_t table_bytes, peak_bytes;
};

static inline bool nats_cache_has_scores(const nats_cache *cache) {
  return cache->choice.policy->uses_weights;
}

static inline int32_t nats_cache_layer_size(const nats_cache *cache) {
  return cache->shape.sequences * cache->shape.kv_heads;
}

static inline nats_cache_list *nats_cache_layer(const nats_cache *cache, int32_t layer) {
  return cache->lists + (int64_t)layer * nats_cache_layer_size(cache);
}

int64_t nats_cache_bytes(const nats_cache *cache); // allocated now
