// Choosing types, on every device, against plain loops in float64.
#include "attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../nn/fresh_seed.h"
#include "nn/random.h"

enum { BATCH = 3, LENGTH = 50, HEADS = 2, CHUNK = 4, CHUNKS = 13, COMPLETE = 12 }; // two tokens are left over

enum { LOGITS = BATCH * LENGTH * HEADS * 3, TYPES = BATCH * HEADS * CHUNKS, KEYS = BATCH * HEADS * LENGTH };

typedef struct {
  nn_device *device;
  nats_types op; // device memory
  float logits[LOGITS], dtypes[TYPES * 3];
  int64_t sample[BATCH];
  // results, after types_forward and types_backward
  const uint8_t *types;
  const float *y, *dlogits;
  const int32_t *expiry;
} types_case;

static void types_open(types_case *c, nn_device *device, nats_type_mode mode, uint64_t seed) {
  *c = (types_case){.device = device};
  for (int i = 0; i < LOGITS; i++)
    c->logits[i] = random_normal(seed, (uint64_t)i);
  for (int i = 0; i < TYPES * 3; i++)
    c->dtypes[i] = random_normal(seed + 1, (uint64_t)i);
  for (int i = 0; i < BATCH; i++)
    c->sample[i] = 1000 + 7 * i;
  c->op = (nats_types){.batch = BATCH,
                       .length = LENGTH,
                       .kv_heads = HEADS,
                       .chunk = CHUNK,
                       .window = 5,
                       .kind = NATS_ATTENTION_NATS,
                       .mode = mode,
                       .tau = 0.7f,
                       .logits = test_floats(device, c->logits, LOGITS),
                       .seed = seed,
                       .step = 12,
                       .layer = 3,
                       .sample = test_bytes(device, c->sample, sizeof c->sample),
                       .types = test_bytes(device, NULL, KEYS), // chunks of 1 are the most
                       .y = test_floats(device, NULL, TYPES * 3),
                       .expiry = test_bytes(device, NULL, KEYS * sizeof(int32_t)),
                       .dtypes = test_floats(device, c->dtypes, TYPES * 3),
                       .dlogits = test_floats(device, NULL, LOGITS)};
}

static void types_forward(types_case *c) {
  MUST(nats_types_forward(c->device, &c->op));
  c->types = test_read_bytes(c->device, c->op.types, KEYS);
  c->y = test_read_floats(c->device, c->op.y, TYPES * 3);
  c->expiry = test_read_bytes(c->device, c->op.expiry, KEYS * sizeof(int32_t));
}

static void types_backward(types_case *c) {
  MUST(nats_types_backward(c->device, &c->op));
  c->dlogits = test_read_floats(c->device, c->op.dlogits, LOGITS);
}

// The relaxed weights of a complete chunk in float64.
static void relaxed(const types_case *c, int b, int h, int a, bool noise, double y[3]) {
  uint32_t bits[4];
  const nn_random_key key = nn_random_key_make(c->op.seed, NN_RANDOM_GUMBEL, 12, 3);
  nn_random_u32x4(key, (uint64_t)c->sample[b], (uint64_t)h << 32 | (uint64_t)a, bits);
  double sum = 0;
  for (int type = 0; type < 3; type++) {
    double logit = noise ? (double)nn_random_gumbel(bits[type]) : 0;
    for (int t = a * c->op.chunk; t < (a + 1) * c->op.chunk; t++)
      logit += (double)c->logits[((b * LENGTH + t) * HEADS + h) * 3 + type] / c->op.chunk;
    sum += y[type] = exp(logit / (double)c->op.tau);
  }
  for (int type = 0; type < 3; type++)
    y[type] /= sum;
}

static int largest(const double y[3]) {
  return y[1] > y[0] ? (y[2] > y[1] ? 2 : 1) : (y[2] > y[0] ? 2 : 0);
}

// What breaks: types do not follow the scorer, or the first chunk or an unfinished one has another type than
// global.
DEVICE_TEST(types, follow_logits_and_noise) {
  static types_case c;
  const nats_type_mode modes[] = {NATS_TYPES_SAMPLED, NATS_TYPES_ARGMAX};
  for (int m = 0; m < 2; m++) {
    const bool sampled = modes[m] == NATS_TYPES_SAMPLED;
    types_open(&c, device, modes[m], fresh_seed());
    types_forward(&c);
    for (int b = 0; b < BATCH; b++)
      for (int h = 0; h < HEADS; h++)
        for (int a = 0; a < CHUNKS; a++) {
          const int at = (b * HEADS + h) * CHUNKS + a;
          const bool forced = a == 0 || a >= COMPLETE;
          double y[3];
          relaxed(&c, b, h, a < COMPLETE ? a : 0, sampled, y);
          cr_expect_eq(c.types[at], forced ? NATS_GLOBAL : largest(y), "sampled %d, %d %d %d", sampled, b, h,
                       a);
          for (int type = 0; sampled && a < COMPLETE && type < 3; type++)
            cr_expect_float_eq((double)c.y[at * 3 + type], y[type], 1e-5);
        }
  }
}

// What breaks: the same run on another number of ranks, or with other micro-batches, draws other types.
DEVICE_TEST(types, noise_belongs_to_the_sample) {
  static types_case all, one;
  const uint64_t seed = fresh_seed();
  types_open(&all, device, NATS_TYPES_SAMPLED, seed);
  types_forward(&all);
  for (int b = BATCH - 1; b >= 0; b--) {
    types_open(&one, device, NATS_TYPES_SAMPLED, seed);
    one.op.batch = 1;
    one.op.logits += b * LENGTH * HEADS * 3;
    one.op.sample += b;
    types_forward(&one);
    cr_expect_arr_eq(one.types, all.types + b * HEADS * CHUNKS, HEADS * CHUNKS);
    cr_expect_arr_eq(one.y, all.y + b * HEADS * CHUNKS * 3, HEADS * CHUNKS * 3 * sizeof(float));
  }
}

// What breaks: exploration is not in proportion to what the scorer says.
DEVICE_TEST(types, noise_draws_in_proportion) {
  const int draws = test_is_emulated(device) ? 4000 : 40000;
  const float logits[] = {0, 0, 0, 1, 0, -1, 0, 0, 0}; // tokens 0, 1, 2; the first and the last are forced
  float *all = test_host((size_t)draws * sizeof logits);
  int64_t *sample = test_host((size_t)draws * sizeof *sample);
  for (int64_t i = 0; i < draws; i++) {
    memcpy(all + i * 9, logits, sizeof logits);
    sample[i] = i;
  }
  const nats_types op = {.batch = draws,
                         .length = 3,
                         .kv_heads = 1,
                         .chunk = 1,
                         .kind = NATS_ATTENTION_NATS,
                         .mode = NATS_TYPES_SAMPLED,
                         .tau = 1,
                         .logits = test_floats(device, all, draws * 9),
                         .seed = fresh_seed(),
                         .sample = test_bytes(device, sample, (size_t)draws * sizeof *sample),
                         .types = test_bytes(device, NULL, (size_t)draws * 3),
                         .y = test_floats(device, NULL, draws * 9),
                         .expiry = test_bytes(device, NULL, (size_t)draws * 3 * sizeof(int32_t))};
  MUST(nats_types_forward(device, &op));
  const uint8_t *types = test_read_bytes(device, op.types, (size_t)draws * 3);
  int count[3] = {0};
  for (int i = 0; i < draws; i++) {
    count[types[i * 3 + 1]]++;
    cr_assert(types[i * 3] == NATS_GLOBAL && types[i * 3 + 2] == NATS_GLOBAL, "an end is not global");
  }
  const double sum = exp(1) + 1 + exp(-1);
  for (int type = 0; type < 3; type++) {
    const double p = exp(1 - type) / sum;
    cr_expect_lt(fabs(count[type] - p * draws), 6 * sqrt(p * (1 - p) * draws),
                 "type %d: %d of %d, expected %g", type, count[type], draws, p * draws);
  }
}

// What breaks: the scorer learns something else than the straight-through gradient of its types.
DEVICE_TEST(types, backward_is_the_slope_of_softmax) {
  static types_case c;
  types_open(&c, device, NATS_TYPES_SAMPLED, fresh_seed());
  types_forward(&c);
  types_backward(&c);
  for (int b = 0; b < BATCH; b++)
    for (int t = 0; t < LENGTH; t++)
      for (int h = 0; h < HEADS; h++)
        for (int type = 0; type < 3; type++) {
          const int a = t / CHUNK, at = ((b * LENGTH + t) * HEADS + h) * 3 + type;
          double slope = 0;
          if (a > 0 && a < COMPLETE) {
            const float kept = c.logits[at], step = 0x1p-6f;
            double above[3], below[3];
            c.logits[at] = kept + step;
            relaxed(&c, b, h, a, true, above);
            c.logits[at] = kept - step;
            relaxed(&c, b, h, a, true, below);
            const double width = (double)(kept + step) - (double)(kept - step);
            c.logits[at] = kept;
            for (int k = 0; k < 3; k++)
              slope +=
                  (double)c.dtypes[((b * HEADS + h) * CHUNKS + a) * 3 + k] * (above[k] - below[k]) / width;
          }
          cr_expect_float_eq((double)c.dlogits[at], slope, 1e-4, "%d %d %d %d: %g, expected %g", b, t, h,
                             type, (double)c.dlogits[at], slope);
        }
}

// What breaks: the dense warm-up trains the scorer, or hides keys.
DEVICE_TEST(types, all_global_learns_nothing) {
  static types_case c;
  types_open(&c, device, NATS_TYPES_ALL_GLOBAL, fresh_seed());
  types_forward(&c);
  for (int i = 0; i < BATCH * HEADS * LENGTH; i++)
    cr_expect_eq(c.expiry[i], LENGTH - 1);
  types_backward(&c);
  for (int i = 0; i < BATCH * LENGTH * HEADS * 3; i++)
    cr_expect_eq(c.dlogits[i], 0);
}

// What breaks: the dense and sliding-window models, to which everything is compared, see other keys.
DEVICE_TEST(types, models_without_a_scorer) {
  static types_case c;
  types_open(&c, device, NATS_TYPES_FIXED, 1);
  c.op.chunk = 1;
  c.op.logits = NULL;
  c.op.kind = NATS_ATTENTION_DENSE;
  types_forward(&c);
  for (int i = 0; i < BATCH * HEADS * LENGTH; i++)
    cr_expect(c.expiry[i] == LENGTH - 1 && c.types[i] == NATS_GLOBAL);
  c.op.kind = NATS_ATTENTION_WINDOW;
  types_forward(&c);
  for (int i = 0; i < BATCH * HEADS * LENGTH; i++) {
    const int j = i % LENGTH, last = j == 0 || j + 5 >= LENGTH ? LENGTH - 1 : j + 5;
    cr_expect_eq(c.expiry[i], last, "key %d", j);
    cr_expect_eq(c.types[i], j == 0 ? NATS_GLOBAL : NATS_WINDOW);
  }
}

// What breaks: a caller's mistake becomes wrong types instead of an error.
DEVICE_TEST(types, refuses_what_cannot_be) {
  static types_case c;
  types_open(&c, device, NATS_TYPES_SAMPLED, 1);
  nats_types op = c.op;
  op.sample = NULL;
  cr_expect_eq(nats_types_forward(c.device, &op), NN_ERR_INTERNAL);
  op = c.op;
  op.kind = NATS_ATTENTION_DENSE; // but mode SAMPLED
  cr_expect_eq(nats_types_forward(c.device, &op), NN_ERR_INTERNAL);
  op = c.op;
  op.chunk = 0;
  cr_expect_eq(nats_types_forward(c.device, &op), NN_ERR_INTERNAL);
}

// ---- large

// A scan over many tiles: no two globals in one block of threads, and long stretches without any.
enum { LONG = 5000 };

static const float *sparse_logits(int32_t chunks) {
  float *logits = test_host((size_t)chunks * 3 * sizeof *logits);
  for (int32_t a = 0; a < chunks; a++)
    logits[3 * a + (a == 31 || a == 32 || a == 1023 || a == 3333 ? 0 : 1 + a % 2)] = 1;
  return logits;
}

// What breaks: long sequences, which take many steps of a scan, keep keys for another time than short ones.
DEVICE_TEST(types, long_sequences_expire_the_same) {
  for (int32_t cut = 0; cut < 3; cut++) {
    const int32_t length = LONG - 977 * cut;
    int32_t next = length - 1;
    const float *logits = sparse_logits(length);
    const nats_types op = {.batch = 1,
                           .length = length,
                           .kv_heads = 1,
                           .chunk = 1,
                           .window = 40,
                           .kind = NATS_ATTENTION_NATS,
                           .mode = NATS_TYPES_ARGMAX,
                           .logits = test_floats(device, logits, (int64_t)length * 3),
                           .types = test_bytes(device, NULL, (size_t)length),
                           .expiry = test_bytes(device, NULL, (size_t)length * sizeof(int32_t))};
    MUST(nats_types_forward(device, &op));
    const uint8_t *types = test_read_bytes(device, op.types, (size_t)length);
    const int32_t *expiry = test_read_bytes(device, op.expiry, (size_t)length * sizeof *expiry);
    for (int32_t j = length - 1; j >= 0; j--) {
      const int32_t ends[] = {length - 1, next, j + 40 < length ? j + 40 : length - 1};
      cr_expect_eq(expiry[j], ends[types[j]], "key %d of %d", (int)j, (int)length);
      next = types[j] == NATS_GLOBAL ? j : next;
    }
  }
}

// What breaks: a run that moves between devices chooses other types.
DEVICE_TEST(types, are_those_of_the_cpu) {
  static types_case here, there;
  const uint64_t seed = fresh_seed();
  types_open(&here, device, NATS_TYPES_SAMPLED, seed);
  types_open(&there, test_open_cpu(), NATS_TYPES_SAMPLED, seed);
  types_forward(&here);
  types_forward(&there);
  types_backward(&here);
  types_backward(&there);
  int different = 0;
  for (int i = 0; i < TYPES; i++)
    different += here.types[i] != there.types[i];
  cr_expect_leq(different, 1, "%d of %d types differ", different, (int)TYPES); // one tie may be
  for (int i = 0; i < TYPES * 3; i++)
    cr_expect_float_eq(here.y[i], there.y[i], 1e-6);
  for (int i = 0; i < LOGITS; i++)
    cr_expect_float_eq(here.dlogits[i], there.dlogits[i], 1e-5);
}
