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
  int32_t positions;      // that will be seen at most
  int32_t chunk;          // tokens that share a type
  float scale;            // of attention: 1 / sqrt(D)
  uint64_t seed;          // of policies that draw
  const double *head_use; // [layers, Hk] use of the cache, read by create alone; NULL where nobody knows
} nats_cache_shape;

// Errors: NN_ERR_USAGE (an impossible shape; a policy needs the use per head and there is none),
// NN_ERR_MEMORY.
nn_status nats_cache_create(nn_device *device, const nats_cache_shape *shape,
                            const nats_policy_choice *choice, nats_cache **out);
void nats_cache_free(nats_cache *cache);
void nats_cache_reset(nats_cache *cache); // empty, counts from 0

// Which samples the sequences are, [S]: a key of random numbers. 0, 1, ... where nobody says.
void nats_cache_set_samples(nats_cache *cache, const int64_t *sample);

// What a layer hands over. Rows are tokens `token_stride` elements apart; k was turned to its position.
typedef struct {
  int64_t token_stride;
  const nn_act *q;     // [S, H, D]
  const nn_act *k, *v; // [S * T, Hk, D]
  const float *logits; // [S * T, Hk, 3] of a prompt, device memory, NULL in models without scorers
  const uint8_t
      *types;        // [S, Hk, T / C rounded up] of a prompt, device memory, NULL in models without scorers
  nn_act *o;         // [S, H, D]
  const float *rope; // [positions, D/2, 2] device memory: how keys were turned
  int32_t positions; // rows of it
} nats_cache_tokens;

// A step: `begin`, then every layer, `fetch` and `end`. Nobody waits for the device but `fetch`, and that
// only where the policy reads what was computed; layers send nothing to it, and read tables that `begin` has
// sent.

// All lists drop what expires before `position` and get room for its token. `prompt`: tokens of the prompt
// that this position belongs to, 0 outside of one.
nn_status nats_cache_begin(nats_cache *cache, int32_t position, int32_t prompt);

// Where the scorers of a layer write their logits, [S, Hk, 3] device memory; NULL where the policy reads
// none.
float *nats_cache_logits(nats_cache *cache, int32_t layer);

// What the launches of all layers depend on; no gaps, so that it can be compared by bytes.
typedef struct {
  const void *pages, *rows, *items, *turns, *weights;
  int64_t stride, longest; // longest: only with weights
  int32_t item_count, item_tokens;
} nats_cache_launches;
nats_cache_launches nats_cache_get_launches(const nats_cache *cache);

// One layer, for all sequences (T = 1): appends k and v, and attends into `o`.
nn_status nats_cache_layer(nats_cache *cache, int32_t layer, const nats_cache_tokens *tokens);

// What the policy reads of the step comes to the host.
nn_status nats_cache_fetch(nats_cache *cache);

// All lists drop what the token ends.
nn_status nats_cache_end(nats_cache *cache);

// The rows of sequences [first, first + count) of a prompt, [count, length].
typedef struct {
  int32_t first, count, length;
} nats_cache_prompt;

// The state of one layer after positions 0 to length - 1 of some sequences, which were computed in parallel:
// only what lives is stored. q and o are not used. Peaks count what was really stored. Errors:
// NN_ERR_INTERNAL for a policy without a mask.
nn_status nats_cache_fill(nats_cache *cache, int32_t layer, const nats_cache_prompt *prompt,
                          const nats_cache_tokens *tokens);

// All layers have seen `positions` more positions.
void nats_cache_advance(nats_cache *cache, int32_t positions);

void nats_cache_stats_read(const nats_cache *cache, nats_cache_stats *stats);
void nats_cache_per_head(const nats_cache *cache, double *per_head); // [layers, Hk, 2] live, causal

// Bytes of a list of `tokens` under a policy, with all that the cache counts; `page_bytes`: keys and values
// of a page.
int64_t nats_cache_list_bytes(const nats_policy *policy, int32_t page_tokens, int64_t page_bytes,
                              int32_t tokens);

// The living positions of a list in ascending order, [length] into `positions` where not NULL; returns
// length.
int32_t nats_cache_positions(const nats_cache *cache, int32_t sequence, int32_t layer, int32_t head,
                             int32_t *positions);
