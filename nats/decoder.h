// Token-by-token decoding with a cache that really evicts.
//
// The cache is ragged: every (sequence, layer, kv head) holds its own living tokens in pages taken from one
// pool, and gives pages back when tokens die. At step i, per layer and kv head: (1) drop what the policy lets
// expire before i, (2) append i, (3) attend to all that is left, (4) classify i (or its chunk), (5) drop what
// that ends. Outputs equal the masked parallel pass with the same (argmax) types, to rounding.
#pragma once

#include "nats/policy.h"

typedef struct nats_decoder nats_decoder;

// After a failure (no memory for a page, a token outside of the vocabulary) a decoder can be reset or freed.

typedef struct {
  int32_t sequences;   // decoded in lockstep
  int32_t max_length;  // positions, for the RoPE table; the cache itself grows only with living tokens
  int32_t page_tokens; // tokens of a page; 0: 16
  uint64_t seed;       // of policies that draw
  const char *policy;  // NAME or NAME:KEY=VALUE,... of nats/policy.h; NULL: what the model was trained with
  // [layers, Hk] use of the cache, any scale, of which only the order counts: for policies that treat heads
  // apart (needs_head_use). Read by create alone; NULL where nobody knows.
  const double *head_use;
} nats_decoder_config;

// Bytes that a list (a sequence, layer and kv head) of `tokens` tokens takes in a cache, counted as in
// nats_cache_stats; page_tokens as in nats_decoder_config. A policy with a size in
// tokens allocates at most this times the number of lists.
int64_t nats_decoder_list_bytes(const nats_policy *policy, const nats_model_config *config,
                                const nn_device *device, int32_t page_tokens, int32_t tokens);

nn_status nats_decoder_create(const nats_model_config *config, const nn_params *params,
                              const nats_decoder_config *decoder, nats_decoder **out);
void nats_decoder_free(nats_decoder *decoder);

// Empties the cache: the next step is position 0. Pages go back to the pool.
nn_status nats_decoder_reset(nats_decoder *decoder);

// Says which samples the sequences are, [S]: policies that draw then draw the same for a sample, whatever is
// decoded beside it. Stays until the next call; 0, 1, ... where nobody says.
void nats_decoder_set_samples(nats_decoder *decoder, const int64_t *sample);

// Feeds one token per sequence and computes the logits of the next. tokens: [S] host; logits: [S, V] host,
// NULL where not wanted; fastest in memory of nn_device_host_alloc.
nn_status nats_decoder_step(nats_decoder *decoder, const int32_t *tokens, float *logits);

// Feeds one token per sequence and scores the given next token: nll [S] host (0 where target is -1).
nn_status nats_decoder_score(nats_decoder *decoder, const int32_t *tokens, const int32_t *targets,
                             float *nll);

// Runs a prompt ([S, T0], all of one length) through the parallel pass, fills the cache with what is alive
// after it and computes the logits that follow; the same state as T0 steps, to rounding. Only on an empty
// decoder.
nn_status nats_decoder_prefill(nats_decoder *decoder, const int32_t *tokens, int32_t length, float *logits);

// Counts since the last reset, over sequences, layers and kv heads.
typedef struct {
  int64_t steps;
  int64_t live_pairs;   // sum over steps of tokens attended to: the visible pairs of the mask
  int64_t causal_pairs; // what a dense cache would have attended to
  double stepmean;      // mean over steps of live / seen: kv_fraction_stepmean
  int64_t live_tokens;  // in the cache now
  int64_t peak_live_tokens;
  int64_t bytes; // allocated now: pages in use, page tables and metadata
  int64_t peak_bytes;
  int64_t pool_bytes;  // held from the device for pages, in use or not: whole slabs of pages
  int64_t dense_bytes; // what the dense policy would have allocated at this length
} nats_cache_stats;
nn_status nats_decoder_stats(nats_decoder *decoder, nats_cache_stats *stats);

// Live pairs and causal pairs per layer and kv head, [layers, Hk, 2], host.
nn_status nats_decoder_per_head(nats_decoder *decoder, double *per_head);
