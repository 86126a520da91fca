#include "data/train_tokenizer.h"

#include <errno.h>
#include <libgen.h> // dirname
#include <limits.h> // PATH_MAX
#include <stdio.h>  // snprintf
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/build_plan.h"
#include "data/files.h"
#include "data/sentencepiece.h"
#include "data/text_source.h"
#include "data/utf8.h"
#include "nn/log.h"
#include "nn/random.h"

// SentencePiece skips longer stretches (4,192 bytes) with no more than a count.
enum { STRETCH = 4000, ROOM = 64 << 10 };

#ifdef DATA_WITH_SENTENCEPIECE
typedef struct {
  const data_tokenizer_training *training;
  double share; // of the stretches that are kept
  uint64_t stretch;
  int64_t input; // the one that is open, or comes next
  data_text_source *source;
  bool document_ended;
  char text[ROOM];
  size_t start, end; // of what is left in text
} sampler;

// Where a stretch of at most `most` bytes ends: behind a line or before a space, else between characters.
static size_t stretch_length(const char *text, size_t bytes, size_t most) {
  if (bytes <= most)
    return bytes;
  for (size_t at = most; at > most / 2; at--)
    if (text[at - 1] == '\n' || (text[at] == ' ' && text[at - 1] != ' '))
      return at;
  return data_utf8_whole(text, most);
}

// Reads until a stretch or the rest of a document is there; leaves start == end when all inputs are read.
static nn_status fill(sampler *from) {
  while (from->end - from->start <= STRETCH && !(from->document_ended && from->end > from->start)) {
    memmove(from->text, from->text + from->start, from->end - from->start);
    from->end -= from->start;
    from->start = 0;
    if (from->source == NULL) {
      if (from->input == from->training->input_count)
        return NN_OK;
      NN_TRY(
          data_text_source_open(from->training->inputs[from->input++], from->training->field, &from->source));
    }
    size_t count = 0;
    NN_TRY(data_text_source_read(from->source, from->text + from->end, ROOM - from->end, &count,
                                 &from->document_ended));
    from->end += count;
    if (count == 0 && !from->document_ended) {
      data_text_source_close(from->source);
      from->source = NULL;
    }
  }
  return NN_OK;
}

static nn_status next_stretch(void *context, const char **text, size_t *bytes) {
  sampler *from = context;
  nn_random_key key = nn_random_key_make(from->training->seed, NN_RANDOM_SPLIT, 1, 0);
  for (;;) {
    uint32_t numbers[4];
    NN_TRY(fill(from));
    *text = from->text + from->start;
    *bytes = stretch_length(*text, from->end - from->start, STRETCH);
    from->start += *bytes;
    nn_random_u32x4(key, 0, from->stretch++, numbers);
    if (*bytes == 0 || nn_random_uniform(numbers[0]) < from->share)
      return NN_OK;
  }
}

static nn_status train(const data_tokenizer_training *training, int64_t text_bytes) {
  void *model = NULL;
  size_t bytes = 0;
  sampler *from = calloc(1, sizeof *from);
  if (from == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory to read text");
  from->training = training;
  from->share =
      text_bytes <= training->sample_bytes ? 2 : (double)training->sample_bytes / (double)text_bytes;
  nn_info("training a %s model of %d pieces on %.1f of %.1f MB", training->type, training->vocab,
          1e-6 * (double)(from->share > 1 ? text_bytes : training->sample_bytes), 1e-6 * (double)text_bytes);
  nn_status status = data_sp_train(training->type, training->vocab, training->coverage, "<|endoftext|>",
                                   next_stretch, from, &model, &bytes);
  if (status == NN_OK)
    status = data_file_replace(training->out, model, bytes);
  data_text_source_close(from->source);
  free(from);
  free(model);
  return status;
}
#else
static nn_status train(const data_tokenizer_training *training, int64_t text_bytes) {
  (void)training, (void)text_bytes;
  return NN_OK; // refused before
}
#endif

static nn_status check(const data_tokenizer_training *training) {
#ifndef DATA_WITH_SENTENCEPIECE
  return NN_FAIL(NN_ERR_UNSUPPORTED,
                 "training a tokenizer needs SentencePiece, which was left out of this build "
                 "(NATSFORMER_SENTENCEPIECE=OFF)");
#endif
  if (training->input_count < 1)
    return NN_FAIL(NN_ERR_USAGE, "data train-tokenizer: no input files");
  if (strcmp(training->type, "bpe") != 0 && strcmp(training->type, "unigram") != 0)
    return NN_FAIL(NN_ERR_USAGE, "data train-tokenizer: --type is bpe or unigram, not '%.40s'",
                   training->type);
  if (!(training->coverage >= 0.98 && training->coverage <= 1)) // what the library takes
    return NN_FAIL(NN_ERR_USAGE, "data train-tokenizer: --coverage is a share from 0.98 to 1, not %g",
                   training->coverage);
  return NN_OK;
}

// Found out now rather than after the training.
static nn_status check_out(const data_tokenizer_training *training) {
  char folder[PATH_MAX];
  if (snprintf(folder, sizeof folder, "%s", training->out) >= (int)sizeof folder)
    return NN_FAIL(NN_ERR_USAGE, "%s: the name is too long", training->out);
  if (!training->force && access(training->out, F_OK) == 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: is there already; --force replaces it", training->out);
  if (access(dirname(folder), W_OK) != 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot be written: %s", training->out, strerror(errno));
  return NN_OK;
}

nn_status data_train_tokenizer(dist_group *world, const data_tokenizer_training *training) {
  data_plan plan;
  nn_status status = NN_OK;
  NN_TRY(check(training));
  if (dist_rank(world) == 0)
    status = check_out(training);
  NN_TRY(dist_agree(world, status));
  NN_TRY(data_plan_make(world, training->inputs, training->input_count, training->field, 0, &plan));
  if (dist_rank(world) == 0)
    status = train(training, plan.bytes);
  data_plan_free(&plan);
  return dist_agree(world, status);
}
