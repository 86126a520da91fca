#include "nats/turn_back.h"

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

nn_status nats_turn_back(nn_device *device, const nats_attention *op) {
  if (op->rope == NULL)
    return NN_OK;
  NN_TRY(turn(device, op, op->heads, op->dq));
  return turn(device, op, op->kv_heads, op->dk);
}
