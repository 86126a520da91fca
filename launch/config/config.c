// The configuration as a whole: defaults, printing, and what cannot be across keys.
#include "launch/config/config.h"

#include <math.h>   // sqrt
#include <stdlib.h> // free
#include <string.h>
#include <yaml.h> // libyaml's emitter quotes what needs it

#include "launch/config/table.h"

void launch_config_defaults(launch_config *config) {
  memset(config, 0, sizeof *config);
  for (int i = 0; i < launch_key_count; i++)
    (void)launch_key_set(&launch_keys[i], config, launch_keys[i].fallback,
                         "default"); // a test reads them all
}

// ---- printing ----

static bool emit(yaml_emitter_t *emitter, yaml_event_t *event, int made) {
  return made && yaml_emitter_emit(emitter, event);
}

static bool emit_mapping(yaml_emitter_t *emitter, bool start) {
  yaml_event_t event;
  return emit(emitter, &event,
              start ? yaml_mapping_start_event_initialize(&event, NULL, NULL, 1, YAML_BLOCK_MAPPING_STYLE)
                    : yaml_mapping_end_event_initialize(&event));
}

static bool emit_scalar(yaml_emitter_t *emitter, const char *text, int length, yaml_scalar_style_t style) {
  yaml_event_t event;
  return emit(
      emitter, &event,
      yaml_scalar_event_initialize(&event, NULL, NULL, (const yaml_char_t *)text, length, 1, 1, style));
}

static int section_length(const char *path) {
  const char *dot = strchr(path, '.');
  return dot != NULL ? (int)(dot - path) : 0;
}

static bool emit_keys(yaml_emitter_t *emitter, const launch_config *config) {
  bool done = emit_mapping(emitter, true);
  const char *section = "";
  int length = 0;
  for (int i = 0; done && i < launch_key_count; i++) {
    const launch_key *key = &launch_keys[i];
    int own = section_length(key->path);
    if (own != length || strncmp(section, key->path, (size_t)own) != 0) {
      done = done && (length == 0 || emit_mapping(emitter, false));
      section = key->path;
      length = own;
      done = done && (own == 0 || (emit_scalar(emitter, section, own, YAML_PLAIN_SCALAR_STYLE) &&
                                   emit_mapping(emitter, true)));
    }
    char value[LAUNCH_VALUE];
    launch_key_get(key, config, value);
    bool quoted = key->type == LAUNCH_TEXT; // a folder may be called null
    done =
        done && emit_scalar(emitter, key->path + own + (own > 0), -1, YAML_PLAIN_SCALAR_STYLE) &&
        emit_scalar(emitter, value, -1, quoted ? YAML_DOUBLE_QUOTED_SCALAR_STYLE : YAML_PLAIN_SCALAR_STYLE);
  }
  return done && (length == 0 || emit_mapping(emitter, false)) && emit_mapping(emitter, false);
}

void launch_config_print(const launch_config *config, FILE *stream) {
  yaml_emitter_t emitter;
  yaml_event_t event;
  if (!yaml_emitter_initialize(&emitter))
    return;
  yaml_emitter_set_output_file(&emitter, stream);
  yaml_emitter_set_unicode(&emitter, 1);
  yaml_emitter_set_width(&emitter, -1);
  if (emit(&emitter, &event, yaml_stream_start_event_initialize(&event, YAML_UTF8_ENCODING)) &&
      emit(&emitter, &event, yaml_document_start_event_initialize(&event, NULL, NULL, NULL, 1)) &&
      emit_keys(&emitter, config) && emit(&emitter, &event, yaml_document_end_event_initialize(&event, 1)))
    (void)emit(&emitter, &event, yaml_stream_end_event_initialize(&event));
  yaml_emitter_delete(&emitter);
}

char *launch_config_text(const launch_config *config) {
  char *text = NULL;
  size_t bytes = 0;
  FILE *stream = open_memstream(&text, &bytes);
  if (stream == NULL)
    return NULL;
  launch_config_print(config, stream);
  if (fclose(stream) == 0)
    return text;
  free(text);
  return NULL;
}

char *launch_config_fixed_text(const launch_config *config) {
  char *text = NULL;
  size_t bytes = 0;
  FILE *stream = open_memstream(&text, &bytes);
  if (stream == NULL)
    return NULL;
  for (int i = 0; i < launch_key_count; i++) {
    char value[LAUNCH_VALUE];
    launch_key_get(&launch_keys[i], config, value);
    if (launch_keys[i].fixed)
      fprintf(stream, "%s: %s\n", launch_keys[i].path, value);
  }
  if (fclose(stream) == 0)
    return text;
  free(text);
  return NULL;
}

void launch_config_help(FILE *stream) {
  fprintf(stream, "Keys of the configuration (* must not change when a run is resumed)\n");
  for (int i = 0; i < launch_key_count; i++) {
    const launch_key *key = &launch_keys[i];
    char expected[LAUNCH_VALUE];
    launch_key_expects(key, expected);
    fprintf(stream, "\n%s%s: %s\n    %s; default %s\n", key->path, key->fixed ? " *" : "", key->help,
            expected, key->fallback[0] != '\0' ? key->fallback : "none");
  }
}

// ---- what cannot be ----

static int32_t round_up(int64_t value, int32_t multiple) {
  return (int32_t)((value + multiple - 1) / multiple * multiple);
}

nn_status launch_config_model(const launch_config *config, int32_t data_vocab, nats_model_config *out) {
  int32_t width = config->model.width, heads = config->model.heads;
  if (config->model.head_size == 0 && width % heads != 0)
    return NN_FAIL(NN_ERR_USAGE, "model.width: expected a multiple of model.heads (%d), found %d", heads,
                   width);
  if (config->model.vocab != 0 && config->model.vocab < data_vocab)
    return NN_FAIL(NN_ERR_USAGE, "model.vocab: expected at least %d, the vocabulary of the data, found %d",
                   data_vocab, config->model.vocab);
  nn_mlp_kind mlp = strcmp(config->model.mlp, "gelu") == 0 ? NN_MLP_GELU : NN_MLP_SWIGLU;
  int32_t mlp_default = mlp == NN_MLP_GELU ? 4 * width : round_up((8 * (int64_t)width + 2) / 3, 64);
  *out = (nats_model_config){
      .layers = config->model.layers,
      .width = width,
      .heads = heads,
      .kv_heads = config->model.kv_heads != 0 ? config->model.kv_heads : heads,
      .head_size = config->model.head_size != 0 ? config->model.head_size : width / heads,
      .mlp_size = config->model.mlp_size != 0 ? config->model.mlp_size : mlp_default,
      .vocab = config->model.vocab != 0 ? config->model.vocab : round_up(data_vocab, 64),
      .norm = strcmp(config->model.norm, "layernorm") == 0 ? NN_NORM_LAYER : NN_NORM_RMS,
      .mlp = mlp,
      .bias = config->model.bias,
      .tied = config->model.tied,
      .rope_theta = config->model.rope_theta,
      .norm_eps = (float)config->model.norm_eps,
      .init_std = (float)(config->model.init_std > 0 ? config->model.init_std : sqrt(0.3 / width)),
      .attention = strcmp(config->model.attention, "dense") == 0    ? NATS_ATTENTION_DENSE
                   : strcmp(config->model.attention, "window") == 0 ? NATS_ATTENTION_WINDOW
                                                                    : NATS_ATTENTION_NATS,
      .window = config->model.window,
      .type_chunk = config->nats.type_chunk,
      .type_tau = (float)config->nats.tau,
      .type_grad_clip = (float)config->nats.type_grad_clip,
      .type_grad_rows = (float)config->nats.type_grad_rows,
      .scorer_bias = (float)config->nats.scorer_bias,
      .scorer_detach = config->nats.scorer_detach,
      .recompute = strcmp(config->train.recompute, "block") == 0       ? NATS_RECOMPUTE_BLOCK
                   : strcmp(config->train.recompute, "attention") == 0 ? NATS_RECOMPUTE_ATTENTION
                                                                       : NATS_RECOMPUTE_NONE,
  };
  return nats_model_config_check(out);
}

nn_status launch_config_check(const launch_config *config, int32_t ranks) {
  nats_model_config model;
  int32_t vocab = config->model.vocab != 0 ? config->model.vocab : 1;
  NN_TRY(launch_config_model(config, vocab, &model));
  if (config->train.batch < ranks)
    return NN_FAIL(NN_ERR_USAGE, "train.batch: expected at least one sequence for each of %d ranks, found %d",
                   ranks, config->train.batch);
  if (config->train.skip_spikes > 0 && config->train.skip_spikes <= 1)
    return NN_FAIL(NN_ERR_USAGE, "train.skip_spikes: expected 0 (none) or a factor above 1, found %g",
                   config->train.skip_spikes);
  if (config->nats.type_grad_clip > 0 && config->nats.type_grad_clip < 1)
    return NN_FAIL(NN_ERR_USAGE, "nats.type_grad_clip: expected 0 (no cap) or at least 1, found %g",
                   config->nats.type_grad_clip);
  if (config->nats.type_warmup + config->nats.lambda_ramp > 1 + 1e-9)
    return NN_FAIL(NN_ERR_USAGE, "nats.lambda_ramp: expected at most 1 - nats.type_warmup = %g, found %g",
                   1 - config->nats.type_warmup, config->nats.lambda_ramp);
  if (config->optimizer.lr_min > config->optimizer.lr)
    return NN_FAIL(NN_ERR_USAGE, "optimizer.lr_min: expected at most optimizer.lr (%g), found %g",
                   config->optimizer.lr, config->optimizer.lr_min);
  if (strcmp(config->optimizer.schedule, "wsd") == 0 &&
      config->optimizer.warmup + config->optimizer.decay > config->train.steps)
    return NN_FAIL(
        NN_ERR_USAGE, "optimizer.decay: expected warmup + decay of at most train.steps (%lld), found %lld",
        (long long)config->train.steps, (long long)(config->optimizer.warmup + config->optimizer.decay));
  return NN_OK;
}
