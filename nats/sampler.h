// Draws the next token from logits: temperature, then the k most likely (Fan et al. 2018, arXiv 1805.04833),
// then the smallest set of those that holds a share p of their probability (Holtzman et al. 2019, arXiv
// 1904.09751). The random number is a function of (seed, sequence, position), so a text can be drawn again
// from any place, alone or among others.
#pragma once

#include <stdint.h>

#include "nn/status.h"

typedef struct nats_sampler nats_sampler;

typedef struct {
  float temperature; // 0: always the most likely token
  int32_t top_k;     // 0: all
  float top_p;       // above 0, at most 1: all
  uint64_t seed;
} nats_sampler_config;

// Errors: NN_ERR_USAGE (a number out of range).
nn_status nats_sampler_create(const nats_sampler_config *config, int32_t vocab, nats_sampler **out);
void nats_sampler_free(nats_sampler *sampler);

// logits: [vocab] host. The lower id wins a tie. Errors: NN_ERR_NUMERIC (a NaN, or no finite logit).
nn_status nats_sampler_draw(nats_sampler *sampler, const float *logits, uint64_t sequence, uint64_t position,
                            int32_t *token);
