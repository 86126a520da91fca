// Checks of the operators of nats/types.h, done once for all devices.
#include "nats/types.h"

#include "nats/need.h"

static nn_status check_types(const nats_types *op) {
  NN_NEED(op->batch > 0 && op->length > 0 && op->kv_heads > 0);
  NN_NEED(op->chunk > 0 && op->window >= 0);
  NN_NEED(op->kind == NATS_ATTENTION_DENSE || op->kind == NATS_ATTENTION_NATS ||
          op->kind == NATS_ATTENTION_WINDOW);
  NN_NEED(op->mode >= NATS_TYPES_FIXED && op->mode <= NATS_TYPES_ARGMAX);
  NN_NEED((op->mode == NATS_TYPES_FIXED) == (op->kind != NATS_ATTENTION_NATS));
  return NN_OK;
}

nn_status nats_types_forward(nn_device *device, const nats_types *op) {
  NN_TRY(check_types(op));
  NN_NEED(op->types && op->expiry);
  NN_NEED(op->logits || (op->mode != NATS_TYPES_SAMPLED && op->mode != NATS_TYPES_ARGMAX));
  NN_NEED(op->mode != NATS_TYPES_SAMPLED || (op->y && op->sample && op->tau > 0));
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->types_forward(device, op);
}

nn_status nats_types_backward(nn_device *device, const nats_types *op) {
  NN_TRY(check_types(op));
  NN_NEED(op->dlogits);
  NN_NEED(op->mode != NATS_TYPES_SAMPLED || (op->y && op->dtypes && op->tau > 0));
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->types_backward(device, op);
}

static nn_status check_scorer(const nats_scorer *op) {
  NN_NEED(op->rows > 0 && op->rows <= INT32_MAX && op->width > 0 && op->out > 0);
  NN_NEED(op->x && op->weight);
  return NN_OK;
}

nn_status nats_scorer_forward(nn_device *device, const nats_scorer *op) {
  NN_TRY(check_scorer(op));
  NN_NEED(op->bias && op->logits);
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->scorer_forward(device, op);
}

nn_status nats_scorer_backward(nn_device *device, const nats_scorer *op) {
  NN_TRY(check_scorer(op));
  NN_NEED(op->dlogits && op->dweight && op->dbias);
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->scorer_backward(device, op);
}

static nn_status check_kv_cost(const nats_kv_cost *op) {
  NN_NEED(op->batch > 0 && op->length > 0 && op->kv_heads > 0);
  NN_NEED(op->chunk > 0 && op->window >= 0);
  return NN_OK;
}

nn_status nats_kv_cost_forward(nn_device *device, const nats_kv_cost *op) {
  NN_TRY(check_kv_cost(op));
  NN_NEED(op->expiry && (op->sums || op->per_head));
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->kv_cost_forward(device, op);
}

nn_status nats_kv_cost_backward(nn_device *device, const nats_kv_cost *op) {
  NN_TRY(check_kv_cost(op));
  NN_NEED(op->types && op->lambda && op->pair_scale && op->dtypes);
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->kv_cost_backward(device, op);
}
