// Private to the files of the cache: cache.c (its life and its numbers), cache_evict.c (asking the policy and
// doing what it says), cache_tables.c (what operators read), cache_step.c (what a token does), cache_fill.c
// (what a prompt leaves behind).
#pragma once

#include "nats/cache.h"
#include "nats/cache_list.h"

// What a hook did to one list.
typedef struct {
  int32_t dropped, moved, merged; // slots; entries of the list's slot_moves and merge_to
  int32_t merge_from;             // slot
  float merge_factor;
} nats_list_change;

// A thread that asks the policy about one list after the other.
typedef struct {
  int32_t *drop, *merge_to; // [slots] scratch of a list
  nats_slot_move *slot_moves;
  int64_t slots;
  nats_cache_move *moves; // [move_count] what its lists changed
  nats_cache_addition *additions;
  int64_t move_count, move_capacity, addition_count, addition_capacity;
  int64_t dropped;      // tokens
  int64_t new_capacity; // pages that tables have got room for
  int32_t longest;      // of its lists, now
  nn_status status;
} nats_cache_worker;

// The tables of a step: in host memory while they are made, and a copy in device memory.
typedef struct {
  nats_cache_row *rows;           // [layers, S, Hk]
  int32_t *turns;                 // [turn_count]
  nats_cache_entry *entries;      // [entry_count]
  nats_cache_addition *additions; // [addition_count]
  nats_cache_move *moves;         // [move_count]
} nats_cache_tables;

// How far the tables of changes are filled.
typedef struct {
  int64_t additions, moves;
} nats_cache_changes;

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

  // the step that runs
  int32_t position, prompt;
  bool is_due, weighs;    // the policy's `after` is asked; it reads attention weights
  int32_t longest;        // no list is longer
  int32_t item_tokens;    // and in a layer:
  int32_t item_count;     // more than are needed, so that it seldom changes
  nats_cache_item *items; // [layers, item_count] device
  nats_cache_tables made, sent;
  nats_cache_changes left; // by the step before: they come first, and the others may build on them
  int64_t turn_count, turn_capacity, entry_count, addition_count, addition_capacity, move_count,
      move_capacity;
  char *packed, *device_packed; // [packed_capacity] the tables one after the other: host, device
  int64_t packed_capacity;
  nn_act **page_table; // [layers, S, Hk, page_stride] device
  int32_t page_stride;

  nn_event *fetched; // what hooks read has come to the host
  // what hooks read: device memory and a copy in host memory
  float *device_logits, *logits;   // [layers, S, Hk, 3]
  float *device_weights, *weights; // [layers, S, Hk, longest]
  int64_t weight_capacity;

  nats_cache_worker *workers; // [worker_count] of the threads that ask hooks
  int32_t worker_count;
  int64_t *turn_room; // [turn_room_capacity] of policies that number tokens anew
  int64_t turn_room_capacity;

  // scratch of prompts
  nats_policy_pairs *prompt_pairs; // [S, Hk]
  nats_cache_stored *stored;       // [S, Hk]
  uint8_t *types;                  // [type_capacity]
  float *prompt_logits;            // [prompt_logit_capacity] of unfinished chunks
  double *harmonic;                // [harmonic_capacity]
  int64_t type_capacity, prompt_logit_capacity, harmonic_capacity;

  int64_t positions; // that all layers have seen
  double stepmean;   // sum over positions and lists of live / seen
  int64_t live_tokens, peak_live_tokens;
  int64_t table_bytes, peak_bytes;
};

static inline bool nats_cache_has_scores(const nats_cache *cache) {
  return cache->choice.policy->keeps_scores;
}

// Lists of a layer; list i of all is list i % nats_cache_layer_size of its layer.
static inline int32_t nats_cache_layer_size(const nats_cache *cache) {
  return cache->shape.sequences * cache->shape.kv_heads;
}

int64_t nats_cache_bytes(const nats_cache *cache); // allocated now

// ---- cache_evict.c

// Room for `count` items, with some to spare; what was there is kept.
nn_status nats_cache_reserve(void **items, int64_t *capacity, int64_t count, size_t size);

// Tables with room for `length` tokens, counted.
nn_status nats_cache_fit(nats_cache *cache, nats_cache_list *list, int32_t length);

void nats_cache_note_peaks(nats_cache *cache);

// What a policy knows about list `i` of all at the step that runs.
nats_policy_step nats_cache_step_of(const nats_cache *cache, int64_t i);

typedef int32_t (*nats_policy_hook)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);

// What happens to every list: a hook (NULL: none) is asked and obeyed, then the step's token is appended.
typedef struct {
  nats_policy_hook hook;
  // what it sees, NULL where it may see nothing
  const float *logits;  // [layers, S, Hk, 3]
  const float *weights; // [layers, S, Hk, longest]
  bool append;
} nats_cache_asked;

// Changes the tables of all lists, returns and takes pages, and notes which pages the device is to enter, and
// which values and tokens it is to add and to move.
nn_status nats_cache_change(nats_cache *cache, const nats_cache_asked *asked);

void nats_cache_free_workers(nats_cache *cache);

// Counts what a list attended to in `causal` pairs.
void nats_cache_count_pairs(nats_cache *cache, int32_t layer, int32_t head, nats_policy_pairs pairs,
                            double causal);

// ---- cache_tables.c

// Makes the page table wide enough for lists of `tokens`.
nn_status nats_cache_widen(nats_cache *cache, int32_t tokens);

// Sends the pages of lists [first, first + count).
nn_status nats_cache_send_pages(nats_cache *cache, int64_t first, int32_t count);

// Room for the items of all lists, `most_tokens` of them in a layer.
nn_status nats_cache_reserve_items(nats_cache *cache, int64_t most_tokens);

// Sends what was made and cuts the lists into items; then enters pages, adds values and moves tokens, which
// are forgotten.
nn_status nats_cache_send(nats_cache *cache);

nats_cache_pages nats_cache_pages_of(const nats_cache *cache, int64_t first); // of list `first` and others
