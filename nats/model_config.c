// What a model's configuration may be.
#include <math.h> // isfinite

#include "nats/model.h"

// So that every product of two dimensions fits an int64_t and doubled ones an int32_t.
enum { LARGEST_DIMENSION = 1 << 24, MOST_LAYERS = 10000 };

static nn_status check_dimension(const char *field, int32_t value, int32_t most) {
  if (value < 1 || value > most)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected 1 to %d, found %d", field, (int)most, (int)value);
  return NN_OK;
}

static nn_status check_heads(const nats_model_config *config) {
  NN_TRY(check_dimension("model.heads", config->heads, LARGEST_DIMENSION));
  NN_TRY(check_dimension("model.kv_heads", config->kv_heads, LARGEST_DIMENSION));
  if (config->heads % config->kv_heads != 0)
    return NN_FAIL(NN_ERR_USAGE, "model.kv_heads: expected a divisor of model.heads (%d), found %d",
                   (int)config->heads, (int)config->kv_heads);
  NN_TRY(check_dimension("model.head_size", config->head_size, 1 << 16));
  if (config->head_size % 2 != 0)
    return NN_FAIL(NN_ERR_USAGE, "model.head_size: expected an even number (RoPE turns pairs), found %d",
                   (int)config->head_size);
  int64_t packed = ((int64_t)config->heads + 2 * (int64_t)config->kv_heads) * config->head_size;
  if (packed > LARGEST_DIMENSION)
    return NN_FAIL(NN_ERR_USAGE, "model.heads: %d heads of size %d are more than %d numbers a token",
                   (int)config->heads, (int)config->head_size, (int)LARGEST_DIMENSION);
  return NN_OK;
}

static nn_status check_numbers(const nats_model_config *config) {
  if (!(config->rope_theta >= 1.0) || !isfinite(config->rope_theta))
    return NN_FAIL(NN_ERR_USAGE, "model.rope_theta: expected at least 1, found %g", config->rope_theta);
  if (!(config->norm_eps > 0.0f) || !isfinite(config->norm_eps))
    return NN_FAIL(NN_ERR_USAGE, "model.norm_eps: expected more than 0, found %g", (double)config->norm_eps);
  if (!(config->init_std >= 0.0f) || !isfinite(config->init_std))
    return NN_FAIL(NN_ERR_USAGE, "model.init_std: expected 0 or more, found %g", (double)config->init_std);
  return NN_OK;
}

static nn_status check_types(const nats_model_config *config) {
  NN_TRY(check_dimension("nats.type_chunk", config->type_chunk, LARGEST_DIMENSION));
  if (!(config->type_tau > 0.0f) || !isfinite(config->type_tau))
    return NN_FAIL(NN_ERR_USAGE, "nats.tau: expected more than 0, found %g", (double)config->type_tau);
  float clip = config->type_grad_clip;
  if (!(clip == 0.0f || clip >= 1.0f) || !isfinite(clip))
    return NN_FAIL(NN_ERR_USAGE, "nats.type_grad_clip: expected 0 (no cap) or at least 1, found %g",
                   (double)clip);
  if (!(config->type_grad_rows > 0.0f && config->type_grad_rows <= 1.0f))
    return NN_FAIL(NN_ERR_USAGE, "nats.type_grad_rows: expected a share above 0 and at most 1, found %g",
                   (double)config->type_grad_rows);
  if (!isfinite(config->scorer_bias))
    return NN_FAIL(NN_ERR_USAGE, "nats.scorer_bias: expected a finite number, found %g",
                   (double)config->scorer_bias);
  return NN_OK;
}

nn_status nats_model_config_check(const nats_model_config *config) {
  NN_TRY(check_dimension("model.layers", config->layers, MOST_LAYERS));
  NN_TRY(check_dimension("model.width", config->width, LARGEST_DIMENSION));
  NN_TRY(check_heads(config));
  NN_TRY(check_dimension("model.mlp_size", config->mlp_size, LARGEST_DIMENSION));
  NN_TRY(check_dimension("model.vocab", config->vocab, LARGEST_DIMENSION));
  NN_TRY(check_numbers(config));
  if (config->attention != NATS_ATTENTION_DENSE)
    NN_TRY(check_dimension("model.window", config->window, LARGEST_DIMENSION));
  if (config->attention == NATS_ATTENTION_NATS)
    NN_TRY(check_types(config));
  return NN_OK;
}
