// The share of the cache that types keep and its price, by counting pairs of the mask.
#include "attention_case.h"

#include <math.h>

#include "../nn/fresh_seed.h"

static const attention_spec SPECS[] = {
    {.name = "tokens",
     .batch = 3,
     .length = 40,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 4,
     .chunk = 1,
     .window = 6,
     .global = .15,
     .local = .45},
    {.name = "chunks",
     .batch = 3,
     .length = 43,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 4,
     .chunk = 4,
     .window = 6,
     .global = .2,
     .local = .5},
    {.name = "window past the end",
     .batch = 3,
     .length = 30,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 4,
     .chunk = 1,
     .window = 99,
     .global = .15,
     .local = .45},
};
enum { SPECS_COUNT = 3 };
static const int32_t LENGTHS[2][3] = {{40, 17, 1}, {30, 30, 29}};

static nats_kv_cost cost_of(const attention_case *c, const int32_t *lengths) {
  return (nats_kv_cost){.batch = c->spec.batch,
                        .length = c->spec.length,
                        .kv_heads = c->spec.kv_heads,
                        .chunk = c->spec.chunk,
                        .window = c->spec.window,
                        .lengths = lengths,
                        .types = c->op.types,
                        .expiry = c->op.expiry};
}

// Pairs among the first `length` tokens that the mask shows, in the columns [first, end).
static double count_pairs(const reference *r, int32_t head, int32_t first, int32_t end, int32_t length) {
  double pairs = 0;
  for (int32_t j = first; j < end && j < length; j++)
    for (int32_t i = j; i < length; i++)
      pairs += reference_mask(r, head, i, j);
  return pairs;
}

// What breaks: the KV fraction that is reported, and that kv_target steers, is not that of the mask.
Test(kv_cost, counts_the_pairs_of_the_mask) {
  for (int i = 0; i < SPECS_COUNT; i++)
    for (int padded = 0; padded < 2; padded++) {
      attention_case c;
      case_open(&c, &SPECS[i], fresh_seed());
      const int32_t *lengths = padded ? LENGTHS[i == 2] : NULL;
      nn_sums sums = {.visible = 100, .causal = 200};
      double per_head[4] = {1, 2, 3, 4}, expected[4] = {1, 2, 3, 4};
      nats_kv_cost op = cost_of(&c, lengths);
      op.sums = &sums;
      op.per_head = per_head;
      MUST(nats_kv_cost_forward(c.device, &op));
      double visible = 100, causal = 200;
      for (int32_t b = 0; b < SPECS[i].batch; b++) {
        reference r = case_reference(&c, b);
        const int32_t length = padded ? lengths[b] : SPECS[i].length;
        for (int32_t h = 0; h < SPECS[i].kv_heads; h++) {
          const double pairs = count_pairs(&r, h, 0, length, length);
          visible += pairs;
          causal += length * (length + 1) / 2;
          expected[2 * h] += pairs;
          expected[2 * h + 1] += length * (length + 1) / 2;
        }
        reference_free(&r);
      }
      cr_expect_eq(sums.visible, visible, "%s: %g, expected %g", SPECS[i].name, sums.visible, visible);
      cr_expect_eq(sums.causal, causal);
      for (int h = 0; h < 4; h++)
        cr_expect_eq(per_head[h], expected[h], "%s: head %d", SPECS[i].name, h / 2);
      case_close(&c);
    }
}

// What breaks: lambda pushes types by something else than what they cost.
Test(kv_cost, price_is_what_each_type_would_keep) {
  const float lambda = 0.3f, pair_scale = 1.0f / 1024;
  for (int i = 0; i < SPECS_COUNT; i++) {
    attention_case c;
    case_open(&c, &SPECS[i], fresh_seed());
    const int32_t *lengths = LENGTHS[i == 2];
    const int32_t chunk = SPECS[i].chunk;
    nats_kv_cost op = cost_of(&c, lengths);
    op.lambda = &lambda;
    op.pair_scale = &pair_scale;
    op.dtypes = c.op.dtypes;
    for (int32_t x = 0; x < SPECS[i].batch * SPECS[i].kv_heads * c.chunks * 3; x++)
      op.dtypes[x] = 0.25f;
    MUST(nats_kv_cost_backward(c.device, &op));
    for (int32_t b = 0; b < SPECS[i].batch; b++) {
      reference r = case_reference(&c, b);
      for (int32_t h = 0; h < SPECS[i].kv_heads; h++)
        for (int32_t a = 0; a < c.chunks; a++)
          for (int type = 0; type < 3; type++) {
            // the pairs of this chunk's keys, had it this type
            double *weights = (double *)r.weights + (h * c.chunks + a) * 3;
            const double kept[3] = {weights[0], weights[1], weights[2]};
            for (int other = 0; other < 3; other++)
              weights[other] = other == type;
            double pairs = count_pairs(&r, h, a * chunk, (a + 1) * chunk, lengths[b]);
            for (int other = 0; other < 3; other++)
              weights[other] = kept[other];
            if ((a + 1) * chunk > SPECS[i].length)
              pairs = 0; // unfinished: no type
            const float found = op.dtypes[((b * SPECS[i].kv_heads + h) * c.chunks + a) * 3 + type];
            cr_expect_float_eq((double)found, 0.25 + 0.3 * pairs / 1024, 1e-5,
                               "%s: %d %d %d %d: %g pairs, found %g", SPECS[i].name, b, h, a, type, pairs,
                               (double)found);
          }
      reference_free(&r);
    }
    case_close(&c);
  }
}
