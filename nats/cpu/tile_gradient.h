// The gradient of softmax on a tile, and what a tile adds to the sums of the type gradients.
#pragma once

#include "nats/cpu/columns.h"
#include "nats/cpu/type_sums.h"

// The rows of a query block, for one query head.
typedef struct {
  int32_t row;          // the first
  int lanes;            // rows rounded up to a multiple of 16
  float *lse;           // [64] in units of log 2; so large past the last row that all weights there are 0
  float *delta;         // [64] do . o
  float scale;          // 1 / sqrt(D)
  float cap;            // log2 of the largest e^{s - lse}
  float hidden_weight;  // factor of hidden pairs in the type sums
  nats_type_sums *sums; // NULL: not wanted
} nats_tile_rows;

// scores: to weights e^{s - lse}, 0 where hidden. d_weights = do . v: to the gradient of the scaled scores, 0
// where hidden. In the block's own tile (`own`) lanes left of the diagonal vector of a key are left alone.
void nats_tile_gradient(const nats_tile_rows *rows, int keys, const nats_column *columns, float *scores,
                        float *d_weights);

// The same for keys that the whole block cannot see: only the type sums.
void nats_tile_hidden_gradient(const nats_tile_rows *rows, int keys, const nats_column *columns,
                               const float *scores, const float *d_weights);
