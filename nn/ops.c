// Checks the dimensions and pointers of every operator once, for all devices, and hands it to the device's
// table.
#include "nn/ops.h"

#include <math.h> // sqrt, isfinite

#include "nn/device_table.h"
#include "nn/ops_table.h"

nn_status nn_embedding_forward(nn_device *device, const nn_embedding *op) {
  NN_NEED(op->rows > 0 && op->vocab > 0 && op->width > 0);
  NN_NEED(op->tokens && op->table && op->y);
  return device->ops->embedding_forward(device, op);
}

nn_status nn_embedding_backward(nn_device *device, const nn_embedding *op) {
  NN_NEED(op->rows > 0 && op->vocab > 0 && op->width > 0);
  NN_NEED(op->tokens && op->dy && op->dtable);
  return device->ops->embedding_backward(device, op);
}

nn_status nn_linear_forward(nn_device *device, const nn_linear *op) {
  NN_NEED(op->rows > 0 && op->rows <= INT32_MAX && op->in > 0 && op->out > 0);
  NN_NEED(op->x && op->weight && op->y);
  return device->ops->linear_forward(device, op);
}

nn_status nn_linear_backward(nn_device *device, const nn_linear *op) {
  NN_NEED(op->rows > 0 && op->rows <= INT32_MAX && op->in > 0 && op->out > 0);
  NN_NEED(op->dy && (op->weight || !op->dx) && (op->x || !op->dweight));
  NN_NEED((op->bias != NULL) == (op->dbias != NULL) || !op->dweight);
  NN_NEED(!op->gelu_of || !op->dx_accumulate);
  return device->ops->linear_backward(device, op);
}

nn_status nn_norm_forward(nn_device *device, const nn_norm *op) {
  NN_NEED(op->kind == NN_NORM_RMS || op->kind == NN_NORM_LAYER);
  NN_NEED(op->rows > 0 && op->width > 0);
  NN_NEED(op->x && op->weight && op->y && op->rstd);
  NN_NEED(op->sum || !op->delta);
  NN_NEED(op->mean || op->kind != NN_NORM_LAYER);
  return device->ops->norm_forward(device, op);
}

nn_status nn_norm_backward(nn_device *device, const nn_norm *op) {
  NN_NEED(op->kind == NN_NORM_RMS || op->kind == NN_NORM_LAYER);
  NN_NEED(op->rows > 0 && op->width > 0);
  NN_NEED((op->delta ? op->sum : op->x) && op->weight && op->rstd && op->dy && op->dx && op->dweight);
  NN_NEED(op->mean || op->kind != NN_NORM_LAYER);
  NN_NEED((op->bias != NULL) == (op->dbias != NULL));
  return device->ops->norm_backward(device, op);
}

static nn_status check_rope(const nn_rope *op) {
  NN_NEED(op->rows > 0 && op->heads > 0 && op->head_size > 0 && op->head_size % 2 == 0);
  NN_NEED(op->row_stride >= (int64_t)op->heads * op->head_size && op->positions > 0);
  NN_NEED(op->position || (op->period > 0 && op->period <= op->positions));
  NN_NEED(op->table && op->x);
  return NN_OK;
}

nn_status nn_rope_forward(nn_device *device, const nn_rope *op) {
  NN_TRY(check_rope(op));
  return device->ops->rope_forward(device, op);
}

nn_status nn_rope_backward(nn_device *device, const nn_rope *op) {
  NN_TRY(check_rope(op));
  return device->ops->rope_backward(device, op);
}

nn_status nn_rope_table(nn_device *device, int32_t positions, int32_t head_size, double theta, float *table) {
  NN_NEED(positions > 0 && head_size > 0 && head_size % 2 == 0 && theta > 0.0 && table);
  return device->ops->rope_table(device, positions, head_size, theta, table);
}

nn_status nn_activation_forward(nn_device *device, const nn_activation *op) {
  NN_NEED(op->kind == NN_MLP_SWIGLU || op->kind == NN_MLP_GELU);
  NN_NEED(op->rows > 0 && op->width > 0);
  NN_NEED(op->x && op->y);
  return device->ops->activation_forward(device, op);
}

nn_status nn_activation_backward(nn_device *device, const nn_activation *op) {
  NN_NEED(op->kind == NN_MLP_SWIGLU || op->kind == NN_MLP_GELU);
  NN_NEED(op->rows > 0 && op->width > 0);
  NN_NEED(op->x && op->dy && op->dx);
  return device->ops->activation_backward(device, op);
}

nn_status nn_classifier_run(nn_device *device, const nn_classifier *op) {
  NN_NEED(op->rows > 0 && op->rows <= INT32_MAX && op->width > 0 && op->vocab > 0);
  NN_NEED(op->x && op->weight && op->targets && op->sums);
  NN_NEED(!op->dx || (op->dweight && op->grad_scale));
  return device->ops->classifier_run(device, op);
}

size_t nn_classifier_workspace(const nn_device *device, const nn_classifier *op) {
  return device->ops->classifier_workspace(device, op);
}

nn_status nn_logits_forward(nn_device *device, const nn_logits *op) {
  NN_NEED(op->rows > 0 && op->rows <= INT32_MAX && op->width > 0 && op->vocab > 0);
  NN_NEED(op->x && op->weight && op->y);
  return device->ops->logits_forward(device, op);
}

nn_status nn_grad_norm(nn_device *device, const nn_params *params, nn_step *step) {
  NN_NEED(params->table && params->grad && step);
  return device->ops->grad_norm(device, params, step);
}

void nn_step_set_norm(nn_step *step, double squares) {
  double norm = sqrt(squares), most = (double)step->max_norm;
  step->squares = squares;
  step->non_finite = !isfinite(squares);
  step->grad_norm = (float)norm;
  step->clip_factor = most > 0.0 && norm > most ? (float)(most / norm) : 1.0f;
}

nn_status nn_adamw(nn_device *device, const nn_params *params, const nn_step *step) {
  NN_NEED(params->table && params->master && params->grad && params->moment1 && params->moment2 && step);
  return device->ops->adamw(device, params, step);
}

nn_status nn_accumulate(nn_device *device, float *to, const float *from, int64_t count) {
  NN_NEED(count >= 0 && to && from);
  return count > 0 ? device->ops->accumulate(device, to, from, count) : NN_OK;
}

nn_status nn_params_init(nn_params *params, uint64_t seed) {
  NN_NEED(params->device && params->table && params->master);
  NN_TRY(params->device->ops->params_init(params->device, params, seed));
  return nn_params_refresh_compute(params);
}

nn_status nn_params_refresh_compute(nn_params *params) {
  NN_NEED(params->device && params->master && params->compute);
  return params->device->ops->params_refresh(params->device, params);
}
