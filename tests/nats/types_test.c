// Choosing types, what they cost, and the scorer, against plain loops in float64.
#include "attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../nn/fresh_seed.h"
#include "nn/random.h"

enum { BATCH = 3, LENGTH = 50, HEADS = 2, CHUNK = 4, CHUNKS = 13, COMPLETE = 12 }; // two tokens are left over

typedef struct {
  nn_device *device;
  nats_types op;
  float logits[BATCH * LENGTH * HEADS * 3], dtypes[BATCH * HEADS * CHUNKS * 3];
  float dlogits[BATCH * LENGTH * HEADS * 3], y[BATCH * HEADS * CHUNKS * 3];
  uint8_t types[BATCH * HEADS * CHUNKS];
  int32_t expiry[BATCH * HEADS * LENGTH];
  int64_t sample[BATCH];
} types_case;

static void types_open(types_case *c, nats_type_mode mode, uint64_t seed) {
  MUST(nn_device_open("cpu", "auto", 0, &c->device));
  for (int i = 0; i < BATCH * LENGTH * HEADS * 3; i++)
    c->logits[i] = random_normal(seed, (uint64_t)i);
  for (int i = 0; i < BATCH * HEADS * CHUNKS * 3; i++)
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
                       .logits = c->logits,
                       .seed = seed,
                       .step = 12,
                       .layer = 3,
                       .sample = c->sample,
                       .types = c->types,
                       .y = c->y,
                       .expiry = c->expiry,
                       .dtypes = c->dtypes,
                       .dlogits = c->dlogits};
}

// The relaxed weights of a complete chunk in float64.
static void relaxed(const types_case *c, int b, int h, int a, bool noise, double y[3]) {
  uint32_t bits[4];
  const nn_random_key key = nn_random_key_make(c->op.seed, NN_RANDOM_GUMBEL, 12, 3);
  nn_random_u32x4(key, (uint64_t)c->op.sample[b], (uint64_t)h << 32 | (uint64_t)a, bits);
  double sum = 0;
  for (int type = 0; type < 3; type++) {
    double logit = noise ? (double)nn_random_gumbel(bits[type]) : 0;
    for (int t = a * c->op.chunk; t < (a + 1) * c->op.chunk; t++)
      logit += (double)c->op.logits[((b * LENGTH + t) * HEADS + h) * 3 + type] / c->op.chunk;
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
Test(types, follow_logits_and_noise) {
  static types_case c;
  const nats_type_mode modes[] = {NATS_TYPES_SAMPLED, NATS_TYPES_ARGMAX};
  for (int m = 0; m < 2; m++) {
    const bool sampled = modes[m] == NATS_TYPES_SAMPLED;
    types_open(&c, modes[m], fresh_seed());
    MUST(nats_types_forward(c.device, &c.op));
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
    nn_device_close(c.device);
  }
}

// What breaks: the same run on another number of ranks, or with other micro-batches, draws other types.
Test(types, noise_belongs_to_the_sample) {
  static types_case all, one;
  const uint64_t seed = fresh_seed();
  types_open(&all, NATS_TYPES_SAMPLED, seed);
  MUST(nats_types_forward(all.device, &all.op));
  for (int b = BATCH - 1; b >= 0; b--) {
    types_open(&one, NATS_TYPES_SAMPLED, seed);
    one.op.batch = 1;
    one.op.logits = one.logits + b * LENGTH * HEADS * 3;
    one.op.sample = one.sample + b;
    MUST(nats_types_forward(one.device, &one.op));
    cr_expect_arr_eq(one.types, all.types + b * HEADS * CHUNKS, HEADS * CHUNKS);
    cr_expect_arr_eq(one.y, all.y + b * HEADS * CHUNKS * 3, HEADS * CHUNKS * 3 * sizeof(float));
    nn_device_close(one.device);
  }
  nn_device_close(all.device);
}

// What breaks: exploration is not in proportion to what the scorer says.
Test(types, noise_draws_in_proportion) {
  enum { DRAWS = 40000 };
  const float logits[2 * 3 * 3] = {0, 0, 0, 1, 0, -1}; // tokens 0, 1, 2; the first and the last are forced
  float *all = calloc(DRAWS * 9, sizeof *all), *y = calloc(DRAWS * 9, sizeof *y);
  uint8_t *types = calloc(DRAWS * 3, 1);
  int32_t *expiry = calloc(DRAWS * 3, sizeof *expiry);
  int64_t *sample = calloc(DRAWS, sizeof *sample);
  for (int64_t i = 0; i < DRAWS; i++) {
    memcpy(all + i * 9, logits, 9 * sizeof *all);
    sample[i] = i;
  }
  nn_device *device;
  MUST(nn_device_open("cpu", "auto", 0, &device));
  MUST(nats_types_forward(device, &(nats_types){.batch = DRAWS,
                                                .length = 3,
                                                .kv_heads = 1,
                                                .chunk = 1,
                                                .kind = NATS_ATTENTION_NATS,
                                                .mode = NATS_TYPES_SAMPLED,
                                                .tau = 1,
                                                .logits = all,
                                                .seed = fresh_seed(),
                                                .sample = sample,
                                                .types = types,
                                                .y = y,
                                                .expiry = expiry}));
  int count[3] = {0};
  for (int i = 0; i < DRAWS; i++) {
    count[types[i * 3 + 1]]++;
    cr_assert(types[i * 3] == NATS_GLOBAL && types[i * 3 + 2] == NATS_GLOBAL, "an end is not global");
  }
  const double sum = exp(1) + 1 + exp(-1);
  for (int type = 0; type < 3; type++) {
    const double p = exp(1 - type) / sum;
    cr_expect_lt(fabs(count[type] - p * DRAWS), 6 * sqrt(p * (1 - p) * DRAWS),
                 "type %d: %d of %d, expected %g", type, count[type], DRAWS, p * DRAWS);
  }
  nn_device_close(device);
  free(all);
  free(y);
  free(types);
  free(expiry);
  free(sample);
}

// What breaks: the scorer learns something else than the straight-through gradient of its types.
Test(types, backward_is_the_slope_of_softmax) {
  static types_case c;
  types_open(&c, NATS_TYPES_SAMPLED, fresh_seed());
  MUST(nats_types_forward(c.device, &c.op));
  for (int i = 0; i < BATCH * LENGTH * HEADS * 3; i++)
    c.dlogits[i] = NAN;
  MUST(nats_types_backward(c.device, &c.op));
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
  nn_device_close(c.device);
}

// What breaks: the dense warm-up trains the scorer, or hides keys.
Test(types, all_global_learns_nothing) {
  static types_case c;
  types_open(&c, NATS_TYPES_ALL_GLOBAL, fresh_seed());
  MUST(nats_types_forward(c.device, &c.op));
  for (int i = 0; i < BATCH * HEADS * LENGTH; i++)
    cr_expect_eq(c.expiry[i], LENGTH - 1);
  for (int i = 0; i < BATCH * LENGTH * HEADS * 3; i++)
    c.dlogits[i] = NAN;
  MUST(nats_types_backward(c.device, &c.op));
  for (int i = 0; i < BATCH * LENGTH * HEADS * 3; i++)
    cr_expect_eq(c.dlogits[i], 0);
  nn_device_close(c.device);
}

// What breaks: the dense and sliding-window models, to which everything is compared, see other keys.
Test(types, models_without_a_scorer) {
  static types_case c;
  types_open(&c, NATS_TYPES_FIXED, 1);
  c.op.chunk = 1;
  uint8_t types[BATCH * HEADS * LENGTH];
  c.op.types = types;
  c.op.logits = NULL;
  c.op.kind = NATS_ATTENTION_DENSE;
  MUST(nats_types_forward(c.device, &c.op));
  for (int i = 0; i < BATCH * HEADS * LENGTH; i++)
    cr_expect(c.expiry[i] == LENGTH - 1 && types[i] == NATS_GLOBAL);
  c.op.kind = NATS_ATTENTION_WINDOW;
  MUST(nats_types_forward(c.device, &c.op));
  for (int i = 0; i < BATCH * HEADS * LENGTH; i++) {
    const int j = i % LENGTH, last = j == 0 || j + 5 >= LENGTH ? LENGTH - 1 : j + 5;
    cr_expect_eq(c.expiry[i], last, "key %d", j);
    cr_expect_eq(types[i], j == 0 ? NATS_GLOBAL : NATS_WINDOW);
  }
  nn_device_close(c.device);
}

// What breaks: a caller's mistake becomes wrong types instead of an error.
Test(types, refuses_what_cannot_be) {
  static types_case c;
  types_open(&c, NATS_TYPES_SAMPLED, 1);
  nats_types op = c.op;
  op.sample = NULL;
  cr_expect_eq(nats_types_forward(c.device, &op), NN_ERR_INTERNAL);
  op = c.op;
  op.kind = NATS_ATTENTION_DENSE; // but mode SAMPLED
  cr_expect_eq(nats_types_forward(c.device, &op), NN_ERR_INTERNAL);
  op = c.op;
  op.chunk = 0;
  cr_expect_eq(nats_types_forward(c.device, &op), NN_ERR_INTERNAL);
  nn_device_close(c.device);
}
