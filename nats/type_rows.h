// On which query blocks hidden pairs are visited for the gradient of the types (type_grad_rows in
// nats/attention.h). Chosen on the host, so that all devices choose the same.
#pragma once

#include "nats/attention.h"

// weight[block] for blocks of 64 rows: 0, or the blocks over the drawn blocks. k = max(1, round(share *
// blocks)) of them are drawn without replacement, the same for all heads of a layer.
void nats_type_block_weights(const nats_attention *op, int32_t blocks, float *weight);
