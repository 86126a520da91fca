// RoPE's part of attention's backward pass, where the kernels do not do it on the way.
#pragma once

#include "nats/attention.h"

// Turns dq and dk back where the operator has a table.
nn_status nats_turn_back(nn_device *device, const nats_attention *op);
