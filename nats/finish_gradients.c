#include "nats/finish_gradients.h"

#include "nn/ops.h"

static nn_status turn(nn_device *device, const nats_attention *op, int32_t heads, nn_act *x) {
  return nn_rope_backward(device, &(nn_rope){
                                      .rows = (int64_t)op->batch * op->length,
                                      .heads = heads,
                                      .head_size = op->head_size,
                                      .row_stride = op->token_stride,
                                      .table = op->rope,
                                      .positions = op->length,
                                      .period = op->length,
                                      .x = x,
                                  });
}

// As a projection of which no other gradient is wanted.
static nn_status add_bias(nn_device *device, const nats_attention *op) {
  return nn_linear_backward(device, &(nn_linear){
                                        .rows = (int64_t)op->batch * op->length,
                                        .in = 1,
                                        .out = (int32_t)op->token_stride,
                                        .dy = op->dq,
                                        .dbias = op->dbias,
                                    });
}

nn_status nats_finish_gradients(nn_device *device, const nats_attention *op) {
  if (op->rope != NULL) {
    NN_TRY(turn(device, op, op->heads, op->dq));
    NN_TRY(turn(device, op, op->kv_heads, op->dk));
  }
  return op->dbias != NULL ? add_bias(device, op) : NN_OK;
}
