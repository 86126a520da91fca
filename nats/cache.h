// The decoding cache: every (sequence, layer, kv head) has a list of its living tokens, in pages from one
// pool. An eviction policy decides what dies; holes are filled from the end of the list, and a page that runs
// empty goes back to the pool.
//
// Counted bytes of a list of n tokens: ceil(n / page_tokens) pages of keys and values, and tables (page
// numbers, positions, types, and scores where the policy has them) with room for the next power of two of
// pages. So they depend on n alone, and shrink with it.
#pragma once

#include "nats/decoder.h"
#include "nats/policy.h"

typedef struct nats_cache nats_cache;

typedef struct {
  int32_t sequences, layers, heads, kv_heads, head_size;
  int32_t page_tokens;
  int32_t chunk; // tokens that share a type
  float scale;   // of attention: 1 / sqrt(D)
} nats_cache_shape;

nn_status nats_cache_create(nn_device *device, const nats_cache_shape *shape,
                            const nats_policy_choice *choice, nats_cache **out);
void nats_cache_free(nats_cache *cache);
void nats_cache_reset(nats_cache *cache); // empty, counts from 0

// What a layer hands over. Rows are tokens `token_stride` elements apart; k was turned to its position.
typedef struct {
  int64_t token_stride;
  const nn_act *q;     // [S, H, D]
  const nn_act *k, *v; // [S * T, Hk, D]
  const float *logits; // [S * T, Hk, 3] device memory, NULL in models without scorers
  nn_act *o;           // [S, H, D]
} nats_cache_tokens;

// Position `position` of one layer, for all sequences (T = 1): evict, append, attend into `o`, evict.
// `prompt`: tokens of the prompt that this position belongs to, 0 outside of one.
nn_status nats_cache_step(nats_cache *cache, int32_t layer, int32_t position, int32_t prompt,
                          const nats_cache_tokens *tokens);

// The state of one layer after positions 0 to length - 1, of which [S, length] rows were computed in
// parallel: the policy's decisions are replayed and only what lives is stored. q and o are not used. Peaks
// count what was really stored. Errors: NN_ERR_INTERNAL for a policy that asks for attention weights.
nn_status nats_cache_fill(nats_cache *cache, int32_t layer, int32_t length, const nats_cache_tokens *tokens);

// All layers have seen `positions` more positions.
void nats_cache_advance(nats_cache *cache, int32_t positions);

void nats_cache_stats_read(const nats_cache *cache, nats_cache_stats *stats);
void nats_cache_per_head(const nats_cache *cache, double *per_head); // [layers, Hk, 2] live, causal

// The living positions of a list in ascending order, [length] into `positions` where not NULL; returns
// length.
int32_t nats_cache_positions(const nats_cache *cache, int32_t sequence, int32_t layer, int32_t head,
                             int32_t *positions);
