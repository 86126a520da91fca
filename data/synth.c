#include "data/synth.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

#include "data/output.h"
#include "nn/random.h"

// Tokens of a shard, about: small enough that a few ranks share a modest data set.
enum { SHARD_TOKENS = 4 << 20 };

// Random numbers of one sample, one behind the other.
typedef struct {
  nn_random_key key;
  uint64_t counter;
  uint32_t numbers[4];
  int left;
} stream;

// Uniform in [0, count). The bias of the multiplication is below count / 2^32.
static int32_t below(stream *random, int32_t count) {
  if (random->left == 0) {
    nn_random_u32x4(random->key, 0, random->counter++, random->numbers);
    random->left = 4;
  }
  return (int32_t)(((uint64_t)random->numbers[--random->left] * (uint64_t)count) >> 32);
}

typedef struct task task;
struct task {
  const data_synth *synth;
  const data_synth_mqar *mqar;
  const data_synth_passkey *passkey;
  void (*generate)(const task *, stream *, int32_t *scratch, int32_t *tokens, int32_t *labels);
  int32_t scratch; // numbers that generate needs
};

// ---- mqar

// The first `count` of a random permutation of [0, total).
static void choose(stream *random, int32_t total, int32_t count, int32_t *out) {
  for (int32_t i = 0; i < total; i++)
    out[i] = i;
  for (int32_t i = 0; i < count && i < total; i++) {
    int32_t j = i + below(random, total - i), other = out[j];
    out[j] = out[i];
    out[i] = other;
  }
}

// A free position in [first, length): drawn until one is free, then the next free one. There is one: the
// options were checked.
static int32_t free_position(stream *random, int32_t first, int32_t length, const int32_t *labels) {
  int32_t at = first;
  for (int tries = 0; tries < 64; tries++) {
    at = first + below(random, length - first);
    if (labels[at] < 0)
      return at;
  }
  while (labels[at] >= 0)
    at = at + 1 < length ? at + 1 : first;
  return at;
}

static void generate_mqar(const task *job, stream *random, int32_t *scratch, int32_t *tokens,
                          int32_t *labels) {
  int32_t length = job->synth->length, pairs = job->mqar->pairs, keys = job->synth->vocab / 4;
  int32_t filler = job->synth->vocab - 2 * keys;
  int32_t *order = scratch + keys; // of the queries' pairs
  choose(random, keys, pairs, scratch);
  for (int32_t t = 0; t < length; t++) {
    tokens[t] = 2 * keys + below(random, filler);
    labels[t] = -1;
  }
  for (int32_t i = 0; i < pairs; i++) {
    tokens[2 * i] = scratch[i];
    tokens[2 * i + 1] = keys + below(random, keys);
  }
  for (int32_t q = 0; q < job->mqar->queries; q++) {
    if (q % pairs == 0)
      choose(random, pairs, pairs, order);
    int32_t key = 2 * order[q % pairs], first = key + 1 + job->synth->window + 1;
    int32_t at = free_position(random, first > 2 * pairs ? first : 2 * pairs, length, labels);
    tokens[at] = tokens[key];
    labels[at] = tokens[key + 1];
  }
}

static nn_status check_mqar(const data_synth *synth, const data_synth_mqar *mqar) {
  int32_t keys = synth->vocab / 4, pairs = mqar->pairs;
  if (pairs < 1 || mqar->queries < 1)
    return NN_FAIL(NN_ERR_USAGE, "mqar: %" PRId32 " pairs and %" PRId32 " queries; both must be positive",
                   pairs, mqar->queries);
  if (pairs > keys)
    return NN_FAIL(NN_ERR_USAGE,
                   "mqar: a vocabulary of %" PRId32 " has %" PRId32 " keys, %" PRId32 " pairs need more",
                   synth->vocab, keys, pairs);
  int64_t first = 2 * (int64_t)pairs + synth->window; // of the last pair's query
  if (synth->length - first < mqar->queries)
    return NN_FAIL(NN_ERR_USAGE,
                   "mqar: %" PRId32 " queries more than %" PRId32 " tokens behind %" PRId32
                   " pairs do not fit into %" PRId32 " tokens; at least %" PRId64 " are needed",
                   mqar->queries, synth->window, pairs, synth->length, first + mqar->queries);
  return NN_OK;
}

// ---- passkey

enum { DIGITS = 10, MARK = DIGITS, ASK, FILLER };

static int32_t last_needle(const data_synth *synth, int32_t digits) {
  return synth->length - 2 * digits - synth->window - 1;
}

static void generate_passkey(const task *job, stream *random, int32_t *scratch, int32_t *tokens,
                             int32_t *labels) {
  (void)scratch;
  int32_t length = job->synth->length, digits = job->passkey->digits;
  int32_t places = last_needle(job->synth, digits) + 1, ask = length - digits;
  for (int32_t t = 0; t < length; t++) {
    tokens[t] = FILLER + below(random, job->synth->vocab - FILLER);
    labels[t] = -1;
  }
  int32_t needle =
      job->passkey->depth < 0 ? below(random, places) : (int32_t)(job->passkey->depth * (places - 1) + 0.5);
  tokens[needle] = MARK;
  tokens[ask] = ASK;
  for (int32_t i = 0; i < digits; i++) {
    int32_t digit = below(random, DIGITS);
    tokens[needle + 1 + i] = digit;
    labels[ask + i] = digit;
    if (i + 1 < digits)
      tokens[ask + 1 + i] = digit;
  }
}

static nn_status check_passkey(const data_synth *synth, const data_synth_passkey *passkey) {
  if (passkey->digits < 1)
    return NN_FAIL(NN_ERR_USAGE, "passkey: %" PRId32 " digits; there must be one", passkey->digits);
  if (!(passkey->depth <= 1))
    return NN_FAIL(NN_ERR_USAGE, "passkey: the depth is %g, not in 0 to 1", passkey->depth);
  if (synth->vocab <= FILLER)
    return NN_FAIL(NN_ERR_USAGE, "passkey: a vocabulary of %" PRId32 " leaves no filler; at least %d",
                   synth->vocab, FILLER + 1);
  if ((int64_t)synth->length - 2 * (int64_t)passkey->digits - synth->window - 1 < 0)
    return NN_FAIL(NN_ERR_USAGE,
                   "passkey: %" PRId32 " digits more than %" PRId32
                   " tokens before the question do not fit into %" PRId32 " tokens",
                   passkey->digits, synth->window, synth->length);
  return NN_OK;
}

// ---- writing

static nn_status check_common(const data_synth *synth) {
  if (synth->samples < 1 || synth->val_samples < 0)
    return NN_FAIL(NN_ERR_USAGE, "%" PRId64 " samples and %" PRId64 " for validation cannot be",
                   synth->samples, synth->val_samples);
  if (synth->length < 1 || synth->vocab < 1 || synth->window < 0)
    return NN_FAIL(NN_ERR_USAGE,
                   "length %" PRId32 ", vocabulary %" PRId32 " and window %" PRId32 " cannot be",
                   synth->length, synth->vocab, synth->window);
  return NN_OK;
}

static nn_status write_shard(const task *job, const data_format *format, const data_output *output, int split,
                             int64_t index, int64_t first, int64_t end, int32_t *buffer,
                             data_counts *counts) {
  char path[PATH_MAX];
  data_shard_writer *writer = NULL;
  nn_status status = NN_OK;
  int32_t length = job->synth->length, *tokens = buffer, *labels = buffer + length;
  NN_TRY(data_output_path(output, split, index, path));
  NN_TRY(data_shard_create(path, format, NULL, &writer));
  for (int64_t sample = first; sample < end; sample++) {
    stream random = {
        .key = nn_random_key_make(job->synth->seed, NN_RANDOM_SYNTH, (uint64_t)split, (uint64_t)sample)};
    job->generate(job, &random, labels + length, tokens, labels);
    NN_GOTO(status, done, data_shard_append(writer, tokens, labels, length));
    NN_GOTO(status, done, data_shard_end_document(writer, 0));
  }
  NN_GOTO(status, done, data_shard_finish(writer, counts));
done:
  data_shard_writer_free(writer);
  return status;
}

// Shards of this rank: every size-th.
static nn_status write_split(dist_group *world, const task *job, const data_format *format,
                             data_output *output, int split, int64_t samples, int32_t *buffer) {
  int64_t each = SHARD_TOKENS / job->synth->length;
  each = each > 0 ? each : 1;
  for (int64_t index = dist_rank(world); index * each < samples; index += dist_size(world)) {
    int64_t first = index * each, end = samples - first < each ? samples : first + each;
    data_counts counts;
    NN_TRY(write_shard(job, format, output, split, index, first, end, buffer, &counts));
    NN_TRY(data_output_add(output, split, index, &counts));
  }
  return NN_OK;
}

static nn_status write_task(dist_group *world, const task *job, json_t *source, data_manifest *manifest) {
  const data_synth *synth = job->synth;
  const data_format format = {
      .vocab = synth->vocab, .end_of_text = -1, .labelled = true, .tokenizer_kind = "none"};
  char *text = source != NULL ? json_dumps(source, JSON_COMPACT) : NULL;
  json_decref(source);
  int32_t *buffer = malloc((2 * (size_t)synth->length + (size_t)job->scratch) * sizeof *buffer);
  data_output *output = NULL;
  nn_status status =
      text != NULL && buffer != NULL
          ? NN_OK
          : NN_FAIL(NN_ERR_MEMORY, "no memory for samples of %" PRId32 " tokens", synth->length);
  NN_GOTO(status, done, dist_agree(world, status));
  NN_GOTO(status, done, data_output_begin(world, synth->folder, synth->force, &output));
  nn_status mine = write_split(world, job, &format, output, DATA_TRAIN, synth->samples, buffer);
  if (mine == NN_OK)
    mine = write_split(world, job, &format, output, DATA_VAL, synth->val_samples, buffer);
  status = data_output_commit(output, mine, &format, text, manifest);
done:
  data_output_free(output);
  free(buffer);
  free(text);
  return status;
}

nn_status data_synth_write_mqar(dist_group *world, const data_synth *synth, const data_synth_mqar *mqar,
                                data_manifest *manifest) {
  NN_TRY(check_common(synth));
  NN_TRY(check_mqar(synth, mqar));
  task job = {
      .synth = synth, .mqar = mqar, .generate = generate_mqar, .scratch = synth->vocab / 4 + mqar->pairs};
  json_t *source =
      json_pack("{s:s, s:I, s:i, s:i, s:i, s:i}", "task", "mqar", "seed", (json_int_t)synth->seed, "length",
                synth->length, "window", synth->window, "pairs", mqar->pairs, "queries", mqar->queries);
  return write_task(world, &job, source, manifest);
}

nn_status data_synth_write_passkey(dist_group *world, const data_synth *synth,
                                   const data_synth_passkey *passkey, data_manifest *manifest) {
  NN_TRY(check_common(synth));
  NN_TRY(check_passkey(synth, passkey));
  task job = {.synth = synth, .passkey = passkey, .generate = generate_passkey};
  json_t *source = json_pack("{s:s, s:I, s:i, s:i, s:i, s:f}", "task", "passkey", "seed",
                             (json_int_t)synth->seed, "length", synth->length, "window", synth->window,
                             "digits", passkey->digits, "depth", passkey->depth);
  return write_task(world, &job, source, manifest);
}
