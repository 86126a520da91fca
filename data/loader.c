#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/dataset_read.h"
#include "nn/random.h"

struct data_loader {
  data_set *set; // not owned
  data_sample_kind kind;
  int32_t length; // T
  uint64_t seed;
  bool shuffle;
  int64_t samples;      // of one epoch
  int32_t pad;          // token that fills short documents
  int32_t *piece_bytes; // [vocab] source bytes of a token
  int32_t *window;      // [T + 1]
};

nn_status data_loader_create(data_set *set, data_sample_kind kind, int32_t length, uint64_t seed,
                             bool shuffle, data_loader **out) {
  nn_status status = NN_OK;
  if (length < 1)
    return NN_FAIL(NN_ERR_USAGE, "a sample of %" PRId32 " tokens cannot be", length);
  const data_format *format = data_set_format(set);
  int64_t samples = data_set_documents(set);
  if (kind == DATA_SAMPLE_STREAM)
    samples = (data_set_tokens(set) - 1) / length;
  if (samples < 1)
    return NN_FAIL(NN_ERR_INPUT, "%s: %" PRId64 " tokens make no sample of %" PRId32 " + 1",
                   data_set_folder(set), data_set_tokens(set), length);
  data_loader *loader = calloc(1, sizeof *loader);
  if (loader == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a loader");
  *loader = (data_loader){.set = set,
                          .kind = kind,
                          .length = length,
                          .seed = seed,
                          .shuffle = shuffle,
                          .samples = samples,
                          .pad = format->end_of_text >= 0 ? format->end_of_text : 0};
  loader->window = malloc(((size_t)length + 1) * sizeof *loader->window);
  loader->piece_bytes = malloc((size_t)format->vocab * sizeof *loader->piece_bytes);
  if (loader->window == NULL || loader->piece_bytes == NULL)
    NN_GOTO(status, fail, NN_FAIL(NN_ERR_MEMORY, "no memory for samples of %" PRId32 " tokens", length));
  NN_GOTO(status, fail, data_set_piece_bytes(set, loader->piece_bytes));
  *out = loader;
  return NN_OK;
fail:
  data_loader_free(loader);
  return status;
}

void data_loader_free(data_loader *loader) {
  if (loader == NULL)
    return;
  free(loader->piece_bytes);
  free(loader->window);
  free(loader);
}

int64_t data_loader_samples(const data_loader *loader) {
  return loader->samples;
}

bool data_loader_uniform(const data_loader *loader, int64_t *scored) {
  *scored = loader->length;
  return loader->kind == DATA_SAMPLE_STREAM && !data_set_labelled(loader->set);
}

// Which sample of the set the run's sample `global` is.
static int64_t sample_of(const data_loader *loader, int64_t global) {
  int64_t epoch = global / loader->samples, index = global % loader->samples;
  if (!loader->shuffle)
    return index;
  nn_random_key key = nn_random_key_make(loader->seed, NN_RANDOM_DATA_ORDER, (uint64_t)epoch, 0);
  return (int64_t)nn_random_permute(key, (uint64_t)loader->samples, (uint64_t)index);
}

// Where the sample lies in the split: `inputs` positions from `first` on, of at most `available` tokens.
static nn_status locate(const data_loader *loader, int64_t index, int64_t *first, int32_t *inputs) {
  if (loader->kind == DATA_SAMPLE_STREAM) {
    *first = index * loader->length;
    *inputs = loader->length;
    return NN_OK;
  }
  int64_t count = 0, source_bytes = 0;
  NN_TRY(data_set_document(loader->set, index, first, &count, &source_bytes));
  if (!data_set_labelled(loader->set) && count > 0)
    count--; // the last token has no next one
  *inputs = (int32_t)(count < loader->length ? count : loader->length);
  return NN_OK;
}

// One sample: tokens and targets [T]; returns its inputs and the source bytes of its targets.
static nn_status read_sample(data_loader *loader, int64_t index, int32_t *tokens, int32_t *targets,
                             int32_t *inputs, int64_t *bytes) {
  bool labelled = data_set_labelled(loader->set);
  int64_t first = 0;
  NN_TRY(locate(loader, index, &first, inputs));
  int32_t count = *inputs;
  if (labelled) {
    NN_TRY(data_set_read_tokens(loader->set, first, count, tokens));
    NN_TRY(data_set_read_labels(loader->set, first, count, targets));
  } else if (count > 0) {
    NN_TRY(data_set_read_tokens(loader->set, first, count + 1, loader->window));
    memcpy(tokens, loader->window, (size_t)count * sizeof *tokens);
    memcpy(targets, loader->window + 1, (size_t)count * sizeof *targets);
  }
  for (int32_t t = count; t < loader->length; t++) {
    tokens[t] = loader->pad;
    targets[t] = -1;
  }
  *bytes = 0;
  for (int32_t t = 0; t < count; t++)
    *bytes += targets[t] >= 0 ? loader->piece_bytes[targets[t]] : 0;
  return NN_OK;
}

nn_status data_loader_read(data_loader *loader, int64_t first, int32_t batch, int32_t *tokens,
                           int32_t *targets, int32_t *lengths, int64_t *sample, int64_t *bytes) {
  if (first < 0 || batch < 0)
    return NN_FAIL(NN_ERR_INTERNAL, "no samples %" PRId64 " to %" PRId64, first, first + batch);
  for (int32_t b = 0; b < batch; b++) {
    int64_t offset = (int64_t)b * loader->length, source = 0;
    int32_t inputs = 0;
    NN_TRY(read_sample(loader, sample_of(loader, first + b), tokens + offset, targets + offset, &inputs,
                       &source));
    if (lengths != NULL)
      lengths[b] = inputs;
    if (sample != NULL)
      sample[b] = first + b;
    if (bytes != NULL)
      bytes[b] = source;
  }
  return NN_OK;
}
