// Checks of the operators of nats/attention.h, done once for all devices.
#include "nats/attention.h"

#include "nats/need.h"

static nn_status check(const nats_attention *op) {
  NN_NEED(op->batch > 0 && op->length > 0 && op->head_size > 0);
  NN_NEED(op->kv_heads > 0 && op->heads > 0 && op->heads % op->kv_heads == 0);
  NN_NEED(op->token_stride >= (int64_t)op->heads * op->head_size);
  NN_NEED(op->q && op->k && op->v && op->expiry && op->o && op->lse);
  return NN_OK;
}

nn_status nats_attention_forward(nn_device *device, const nats_attention *op) {
  NN_TRY(check(op));
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->attention_forward(device, op);
}

size_t nats_attention_workspace(const nn_device *device, const nats_attention *op) {
  const nats_ops_table *table = nats_ops_of(device);
  return table == NULL ? 0 : table->attention_workspace(device, op);
}

nn_status nats_attention_backward(nn_device *device, const nats_attention *op) {
  NN_TRY(check(op));
  NN_NEED(op->d_o && op->dq && op->dk && op->dv);
  NN_NEED(!op->dbias || op->token_stride == (int64_t)(op->heads + 2 * op->kv_heads) * op->head_size);
  if (op->dtypes != NULL) {
    NN_NEED(op->types && op->chunk > 0 && op->window >= 0);
    NN_NEED(op->type_grad_clip == 0 || op->type_grad_clip >= 1);
    NN_NEED(op->type_grad_rows > 0 && op->type_grad_rows <= 1);
  }
  const nats_ops_table *table;
  NN_TRY(nats_need_ops(device, &table));
  return table->attention_backward(device, op);
}
