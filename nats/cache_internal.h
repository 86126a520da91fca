// Private to the files of the cache: cache.c (its life and its numbers), cache_evict.c (asking the policy and
// doing what it says), cache_step.c (what a token does), cache_fill.c (what a prompt leaves behind).
#pragma once

#include "nats/cache.h"
#include "nats/cache_list.h"

// What a hook did to one list.
typedef struct {
  int32_t dropped, moved, merged; // slots; entries of the list's slot_moves and merge_to
  int32_t merge_from;             // slot
  float merge_factor;
} nats_list_change;

struct nats_cache {
  nn_device *device;
  nats_cache_shape shape;
  nats_policy_choice choice;
  nats_page_pool pool;
  nats_cache_list *lists; // [layers, S, Hk]
  int64_t list_count;
  float *state;       // [layers, S, Hk, state_size]
  double *pairs;      // [layers, Hk, 2] live and causal
  int32_t *head_rank; // [layers, Hk] by falling use of the cache
  int64_t *sample;    // [S]

  // scratch of one layer
  nats_cache_row *rows;      // [S, Hk]
  nats_list_change *changes; // [S, Hk]
  // of a prompt
  nats_policy_pairs *prompt_pairs; // [S, Hk]
  nats_cache_stored *stored;       // [S, Hk]
  uint8_t *types;                  // [type_capacity] host
  double *harmonic;                // [harmonic_capacity]
  int64_t type_capacity, harmonic_capacity;
  nats_cache_write *writes;        // [write_capacity]
  nats_cache_move *moves;          // [move_capacity]
  nats_cache_addition *additions;  // [addition_capacity]
  float *logits;                   // [logit_capacity] host
  float *device_weights, *weights; // [weight_capacity] device, host
  int64_t write_capacity, move_capacity, addition_capacity, logit_capacity, weight_capacity;
  // of hooks: a stretch of `slot_stride` for every list or thread that is asked at the same time
  int32_t *drop, *merge_to;   // [slot_capacity]
  nats_slot_move *slot_moves; // [slot_capacity]
  int64_t slot_capacity, slot_stride;
  // of policies that number tokens anew, [S, Hk, longest]
  int32_t *turns;     // [turn_capacity]
  int64_t *turn_room; // [turn_capacity]
  int64_t turn_capacity;

  int64_t positions; // that all layers have seen
  double stepmean;   // sum over positions and lists of live / seen
  int64_t live_tokens, peak_live_tokens;
  int64_t table_bytes, peak_bytes;
};

static inline bool nats_cache_has_scores(const nats_cache *cache) {
  return cache->choice.policy->keeps_scores;
}

static inline int32_t nats_cache_layer_size(const nats_cache *cache) {
  return cache->shape.sequences * cache->shape.kv_heads;
}

static inline nats_cache_list *nats_cache_layer(const nats_cache *cache, int32_t layer) {
  return cache->lists + (int64_t)layer * nats_cache_layer_size(cache);
}

int64_t nats_cache_bytes(const nats_cache *cache); // allocated now

// ---- cache_evict.c

// Room for `count` items, with some to spare; what was there is kept.
nn_status nats_cache_reserve(void **items, int64_t *capacity, int64_t count, size_t size);

// Scratch for hooks of `parts` lists at a time, `length` slots each.
nn_status nats_cache_reserve_slots(nats_cache *cache, int32_t parts, int32_t length);

// Tables with room for `length` tokens, counted.
nn_status nats_cache_fit(nats_cache *cache, nats_cache_list *list, int32_t length);

void nats_cache_note_peaks(nats_cache *cache);

// What a policy knows about list `l` of a layer.
nats_policy_step nats_cache_step_of(const nats_cache *cache, int32_t layer, int32_t l, int32_t position,
                                    int32_t prompt);

typedef int32_t (*nats_policy_hook)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);

// Asks a hook about one list and takes the dropped tokens off its tables; `part` of the scratch is used.
nats_list_change nats_cache_ask(nats_cache *cache, nats_policy_hook hook, const nats_policy_step *step,
                                nats_policy_list *tokens, int64_t part);

// What a hook sees of a position of a layer.
typedef struct {
  int32_t layer, position, prompt;
  const float *logits;  // [S, Hk, 3] or NULL
  const float *weights; // [S, Hk, longest] or NULL
  int32_t longest;
} nats_cache_moment;

// Asks one hook (NULL: none) about every list of a layer, merges values, fills the holes and returns pages.
nn_status nats_cache_evict(nats_cache *cache, nats_policy_hook hook, const nats_cache_moment *moment);

// ---- cache_step.c

// The scorer's logits on the host, [rows, Hk, 3], or NULL.
nn_status nats_cache_fetch_logits(nats_cache *cache, const nats_cache_tokens *tokens, int64_t rows,
                                  const float **out);

// Counts what list `l` attended to in `causal` pairs.
void nats_cache_count_pairs(nats_cache *cache, int32_t layer, int32_t l, nats_policy_pairs pairs,
                            double causal);
