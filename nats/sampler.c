#include "nats/sampler.h"

#include <math.h>   // exp, isfinite, isnan
#include <stdlib.h> // malloc, free

#include "nn/random.h"

struct nats_sampler {
  nats_sampler_config config;
  int32_t vocab;
  int32_t *heap;       // [vocab] ids; the most likely one is at the root
  int32_t *candidates; // [vocab]
  double *weights;     // [vocab] e^((logit - max) / temperature) of a candidate
};

static nn_status check(const nats_sampler_config *config, int32_t vocab) {
  if (!(config->temperature >= 0.0f) || !isfinite(config->temperature))
    return NN_FAIL(NN_ERR_USAGE, "temperature: expected 0 or more, found %g", (double)config->temperature);
  if (config->top_k < 0)
    return NN_FAIL(NN_ERR_USAGE, "top_k: expected 0 (all) or more, found %d", (int)config->top_k);
  if (!(config->top_p > 0.0f && config->top_p <= 1.0f))
    return NN_FAIL(NN_ERR_USAGE, "top_p: expected a share above 0 and at most 1, found %g",
                   (double)config->top_p);
  if (vocab < 1)
    return NN_FAIL(NN_ERR_INTERNAL, "sampler: a vocabulary of %d", (int)vocab);
  return NN_OK;
}

nn_status nats_sampler_create(const nats_sampler_config *config, int32_t vocab, nats_sampler **out) {
  *out = NULL;
  NN_TRY(check(config, vocab));
  nats_sampler *s = calloc(1, sizeof *s);
  if (!s)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a sampler");
  s->config = *config;
  s->vocab = vocab;
  s->heap = malloc((size_t)vocab * sizeof *s->heap);
  s->candidates = malloc((size_t)vocab * sizeof *s->candidates);
  s->weights = malloc((size_t)vocab * sizeof *s->weights);
  if (!s->heap || !s->candidates || !s->weights) {
    nats_sampler_free(s);
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a sampler over %d tokens", (int)vocab);
  }
  *out = s;
  return NN_OK;
}

void nats_sampler_free(nats_sampler *s) {
  if (!s)
    return;
  free(s->weights);
  free(s->candidates);
  free(s->heap);
  free(s);
}

// The most likely token. An infinite logit cannot be weighed against others, and a NaN is above nothing.
static nn_status find_best(const float *logits, int32_t vocab, int32_t *best) {
  *best = 0;
  for (int32_t id = 0; id < vocab; id++) {
    if (isnan(logits[id]) || logits[id] == INFINITY)
      return NN_FAIL(NN_ERR_NUMERIC, "sampler: logit of token %d is %g", (int)id, (double)logits[id]);
    if (logits[id] > logits[*best])
      *best = id;
  }
  if (!isfinite(logits[*best]))
    return NN_FAIL(NN_ERR_NUMERIC, "sampler: no logit is finite");
  return NN_OK;
}

// ---- tokens from the most likely on, without sorting those that are never asked for

static bool is_before(const float *logits, int32_t a, int32_t b) {
  return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
}

static void sift_down(int32_t *heap, int32_t count, int32_t at, const float *logits) {
  int32_t id = heap[at];
  for (int32_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && is_before(logits, heap[child + 1], heap[child]))
      child++;
    if (!is_before(logits, heap[child], id))
      break;
    heap[at] = heap[child];
  }
  heap[at] = id;
}

static void build_heap(nats_sampler *s, const float *logits) {
  for (int32_t id = 0; id < s->vocab; id++)
    s->heap[id] = id;
  for (int32_t at = s->vocab / 2 - 1; at >= 0; at--)
    sift_down(s->heap, s->vocab, at, logits);
}

static int32_t pop(int32_t *heap, int32_t *count, const float *logits) {
  int32_t id = heap[0];
  heap[0] = heap[--*count];
  sift_down(heap, *count, 0, logits);
  return id;
}

// ---- candidates

static bool is_limited(const nats_sampler *s) {
  return s->config.top_k > 0 && s->config.top_k < s->vocab;
}

static double weight_of(const nats_sampler *s, const float *logits, int32_t id, int32_t best) {
  return exp(((double)logits[id] - (double)logits[best]) / (double)s->config.temperature);
}

static int32_t take_all(nats_sampler *s, const float *logits, int32_t best, double *sum) {
  *sum = 0.0;
  for (int32_t id = 0; id < s->vocab; id++) {
    s->candidates[id] = id;
    s->weights[id] = weight_of(s, logits, id, best);
    *sum += s->weights[id];
  }
  return s->vocab;
}

// The most likely tokens, most likely first, with their weights and sum; returns how many. Without top_k the
// sum of all is known before, so those past the share top_p need not be found.
static int32_t take_likely(nats_sampler *s, const float *logits, int32_t best, double *sum) {
  int32_t k = is_limited(s) ? s->config.top_k : s->vocab;
  double wanted = INFINITY;
  if (!is_limited(s)) {
    take_all(s, logits, best, sum);
    wanted = (double)s->config.top_p * *sum;
  }
  int32_t left = s->vocab, count = 0;
  build_heap(s, logits);
  for (*sum = 0.0; count < k && *sum < wanted; count++) {
    s->candidates[count] = pop(s->heap, &left, logits);
    s->weights[count] = weight_of(s, logits, s->candidates[count], best);
    *sum += s->weights[count];
  }
  return count;
}

// Of `count` candidates, most likely first, those that hold a share p; at least one.
static int32_t take_top_p(const nats_sampler *s, int32_t count, double *sum) {
  double wanted = (double)s->config.top_p * *sum, held = 0.0;
  for (int32_t c = 0; c < count; c++) {
    held += s->weights[c];
    if (held >= wanted) {
      *sum = held;
      return c + 1;
    }
  }
  return count;
}

// In (0, 1), from 53 bits.
static double uniform(uint64_t seed, uint64_t sequence, uint64_t position) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_GENERATE, sequence, 0), 0, position, bits);
  uint64_t number = ((uint64_t)bits[0] << 32 | bits[1]) >> 11;
  return ((double)number + 0.5) * 0x1p-53;
}

nn_status nats_sampler_draw(nats_sampler *s, const float *logits, uint64_t sequence, uint64_t position,
                            int32_t *token) {
  int32_t best;
  NN_TRY(find_best(logits, s->vocab, &best));
  *token = best;
  if (s->config.temperature == 0.0f)
    return NN_OK;
  bool all = !is_limited(s) && s->config.top_p >= 1.0f;
  double sum;
  int32_t count = all ? take_all(s, logits, best, &sum) : take_likely(s, logits, best, &sum);
  if (is_limited(s))
    count = take_top_p(s, count, &sum);
  double left = uniform(s->config.seed, sequence, position) * sum;
  for (int32_t c = 0; c < count; c++) {
    left -= s->weights[c];
    if (left < 0.0 || (c == count - 1 && s->weights[c] > 0.0)) {
      *token = s->candidates[c];
      return NN_OK;
    }
  }
  return NN_OK; // rounding ran past the end of tokens that cannot be drawn
}
