// The model as its callers see it: created, fed a batch, evaluated or trained.
#include <stdlib.h> // calloc, free

#include "nats/model_internal.h"

static nn_status allocate(nats_model *m) {
  size_t bytes = nats_model_lay_out(m, NULL);
  NN_TRY(nn_device_alloc(m->device, bytes, "activations", &m->memory));
  nats_model_lay_out(m, m->memory);
  m->host_per_head = calloc((size_t)m->config.layers * (size_t)m->config.kv_heads * 2, sizeof(double));
  if (!m->host_per_head)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for counts per head");
  return nn_rope_table(m->device, m->positions, m->config.head_size, m->config.rope_theta, m->rope);
}

static nn_status check_use(const nats_model_config *config, nats_attention_kind kind, const nn_params *params,
                           bool training) {
  if (kind == NATS_ATTENTION_NATS && config->attention != NATS_ATTENTION_NATS)
    return NN_FAIL(NN_ERR_USAGE, "model.attention: token types need a model with scorers (attention: nats)");
  if (training && !params->grad)
    return NN_FAIL(NN_ERR_INTERNAL, "model: training needs parameters with gradients");
  return NN_OK;
}

nn_status nats_model_create_as(const nats_model_config *config, nats_attention_kind kind,
                               const nn_params *params, nats_model_size size, nats_model **out) {
  nn_status status;
  *out = NULL;
  nats_model *m = calloc(1, sizeof *m);
  if (!m)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a model");
  NN_GOTO(status, failed, nats_model_plan(config, kind, params->device, size, m));
  NN_GOTO(status, failed, check_use(config, kind, params, size.training));
  m->params = *params;
  NN_GOTO(status, failed, nats_param_index_create(config, params->table, &m->index));
  NN_GOTO(status, failed, allocate(m));
  *out = m;
  return NN_OK;
failed:
  nats_model_free(m);
  return status;
}

nn_status nats_model_create(const nats_model_config *config, const nn_params *params, int32_t batch,
                            int32_t length, bool training, nats_model **out) {
  nats_model_size size = {batch, length, length, training};
  return nats_model_create_as(config, config->attention, params, size, out);
}

void nats_model_free(nats_model *m) {
  if (!m)
    return;
  free(m->host_per_head);
  nn_device_free(m->device, m->memory);
  nats_param_index_free(&m->index);
  free(m->layers);
  free(m);
}

const nats_model_config *nats_model_get_config(const nats_model *m) {
  return &m->config;
}

static nn_status check_ids(const char *what, const int32_t *ids, int64_t count, int32_t least,
                           int32_t vocab) {
  for (int64_t i = 0; i < count; i++)
    if (ids[i] < least || ids[i] >= vocab)
      return NN_FAIL(NN_ERR_INPUT, "batch: %s %d at %lld: expected %d to %d (model.vocab %d)", what,
                     (int)ids[i], (long long)i, (int)least, (int)vocab - 1, (int)vocab);
  return NN_OK;
}

static nn_status check_batch(const nats_model *m, const nats_batch *batch) {
  if (batch->batch < 1 || batch->batch > m->max_batch || batch->length < 1 || batch->length > m->max_length)
    return NN_FAIL(NN_ERR_INTERNAL, "batch of [%d, %d] tokens, the model has room for [%d, %d]",
                   (int)batch->batch, (int)batch->length, (int)m->max_batch, (int)m->max_length);
  int64_t count = (int64_t)batch->batch * batch->length;
  NN_TRY(check_ids("token", batch->tokens, count, 0, m->config.vocab));
  if (batch->targets)
    NN_TRY(check_ids("target", batch->targets, count, -1, m->config.vocab));
  for (int32_t b = 0; batch->lengths && b < batch->batch; b++)
    if (batch->lengths[b] < 0 || batch->lengths[b] > batch->length)
      return NN_FAIL(NN_ERR_INTERNAL, "batch: length %d of sequence %d: expected 0 to %d",
                     (int)batch->lengths[b], (int)b, (int)batch->length);
  return NN_OK;
}

static nn_status check_pass(const nats_model *m, const nats_batch *batch, const nats_pass *pass) {
  if (m->kind != NATS_ATTENTION_NATS)
    return NN_OK;
  if (pass->types == NATS_TYPES_FIXED)
    return NN_FAIL(NN_ERR_INTERNAL, "pass: a model with scorers needs a mode of choosing types");
  if (pass->types == NATS_TYPES_SAMPLED && (!m->training || !batch->sample))
    return NN_FAIL(NN_ERR_INTERNAL, "pass: sampled types need a training model and sample indices");
  return NN_OK;
}

nn_status nats_model_begin(nats_model *m, const nats_batch *batch, const nats_pass *pass) {
  NN_TRY(check_batch(m, batch));
  NN_TRY(check_pass(m, batch, pass));
  m->batch = batch->batch;
  m->length = batch->length;
  m->pass = *pass;
  if (m->kind != NATS_ATTENTION_NATS)
    m->pass.types = NATS_TYPES_FIXED;
  m->has_lengths = batch->lengths != NULL;
  size_t ids = (size_t)nats_rows(m) * sizeof(int32_t), sequences = (size_t)batch->batch;
  NN_TRY(nn_device_upload(m->device, m->tokens, batch->tokens, ids));
  if (batch->targets)
    NN_TRY(nn_device_upload(m->device, m->targets, batch->targets, ids));
  if (batch->lengths)
    NN_TRY(nn_device_upload(m->device, m->lengths, batch->lengths, sequences * sizeof *batch->lengths));
  if (batch->sample)
    NN_TRY(nn_device_upload(m->device, m->sample, batch->sample, sequences * sizeof *batch->sample));
  return NN_OK;
}

static nn_status check_targets(const nats_batch *batch) {
  if (!batch->targets)
    return NN_FAIL(NN_ERR_INTERNAL, "batch: targets are missing");
  return NN_OK;
}

// Waits for the numbers that the caller wants on the host.
static nn_status fetch(nats_model *m, float *nll, double *per_head) {
  int64_t counts = (int64_t)m->config.layers * m->config.kv_heads * 2;
  if (nll)
    NN_TRY(nn_device_download(m->device, nll, m->nll, (size_t)nats_rows(m) * sizeof *nll));
  if (per_head)
    NN_TRY(nn_device_download(m->device, m->host_per_head, m->per_head, (size_t)counts * sizeof *per_head));
  if (nll || per_head)
    NN_TRY(nn_device_sync(m->device));
  for (int64_t i = 0; per_head && i < counts; i++)
    per_head[i] += m->host_per_head[i];
  return NN_OK;
}

nn_status nats_model_evaluate(nats_model *m, const nats_batch *batch, const nats_pass *pass, float *nll,
                              double *per_head) {
  NN_TRY(check_targets(batch));
  NN_TRY(nats_model_begin(m, batch, pass));
  m->wants_per_head = per_head != NULL;
  if (per_head) {
    size_t counts = (size_t)m->config.layers * (size_t)m->config.kv_heads * 2;
    NN_TRY(nn_device_zero(m->device, m->per_head, counts * sizeof *per_head));
  }
  NN_TRY(nats_model_forward(m, (nats_mixer){.mix = nats_mix_parallel}));
  nn_classifier op = nats_classifier_op(m);
  op.nll = nll ? m->nll : NULL;
  NN_TRY(nn_classifier_run(m->device, &op));
  return fetch(m, nll, per_head);
}

static nn_status check_training(const nats_model *m, const nats_pass *pass) {
  if (!m->training)
    return NN_FAIL(NN_ERR_INTERNAL, "model: was created for evaluation");
  if (!pass->grad_scale)
    return NN_FAIL(NN_ERR_INTERNAL, "pass: grad_scale is missing");
  bool sampled = m->kind == NATS_ATTENTION_NATS && pass->types == NATS_TYPES_SAMPLED;
  if (sampled && (!pass->lambda || !pass->pair_scale))
    return NN_FAIL(NN_ERR_INTERNAL, "pass: sampled types need lambda and pair_scale");
  return NN_OK;
}

nn_status nats_model_train(nats_model *m, const nats_batch *batch, const nats_pass *pass,
                           const nn_grad_listener *listener) {
  NN_TRY(check_training(m, pass));
  NN_TRY(check_targets(batch));
  NN_TRY(nats_model_begin(m, batch, pass));
  m->wants_per_head = false;
  NN_TRY(nats_model_forward(m, (nats_mixer){.mix = nats_mix_parallel}));
  nn_classifier op = nats_classifier_op(m);
  op.grad_scale = pass->grad_scale;
  op.dx = m->delta;
  op.dweight = nn_params_grad(&m->params, m->index.head);
  NN_TRY(nn_classifier_run(m->device, &op));
  return nats_model_backward(m, listener);
}

nn_status nats_model_read_types(nats_model *m, int32_t layer, uint8_t *types) {
  if (layer < 0 || layer >= m->config.layers)
    return NN_FAIL(NN_ERR_INTERNAL, "layer %d of a model with %d", (int)layer, (int)m->config.layers);
  size_t count = (size_t)m->batch * (size_t)m->config.kv_heads * (size_t)nats_chunks(m->length, m->chunk);
  NN_TRY(nn_device_download(m->device, types, m->layers[layer].types, count * sizeof *types));
  return nn_device_sync(m->device);
}
