// The CPU's rows of nats_ops_table.
#pragma once

#include "nats/ops_table.h"

nn_status nats_cpu_types_forward(nn_device *device, const nats_types *op);
nn_status nats_cpu_types_backward(nn_device *device, const nats_types *op);
nn_status nats_cpu_scorer_forward(nn_device *device, const nats_scorer *op);
nn_status nats_cpu_scorer_backward(nn_device *device, const nats_scorer *op);
nn_status nats_cpu_kv_cost_forward(nn_device *device, const nats_kv_cost *op);
nn_status nats_cpu_kv_cost_backward(nn_device *device, const nats_kv_cost *op);
nn_status nats_cpu_attention_forward(nn_device *device, const nats_attention *op);
nn_status nats_cpu_attention_backward(nn_device *device, const nats_attention *op);
size_t nats_cpu_attention_forward_workspace(const nats_attention *op);
size_t nats_cpu_attention_backward_workspace(const nats_attention *op);
