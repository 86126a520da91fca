// What is left of attention's backward pass where the kernels do not do it on the way.
#pragma once

#include "nats/attention.h"

// RoPE's part of dq and dk, and dbias, where these are wanted.
nn_status nats_finish_gradients(nn_device *device, const nats_attention *op);
