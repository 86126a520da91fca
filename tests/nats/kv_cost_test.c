// The share of the cache that types keep and its price on every device, by counting pairs of the mask.
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
enum { SPECS_COUNT = sizeof SPECS / sizeof *SPECS };
static const int32_t LENGTHS[SPECS_COUNT][3] = {{40, 17, 1}, {40, 17, 1}, {30, 30, 29}};

static nats_kv_cost cost_of(const attention_case *c, const int32_t *lengths) {
  return (nats_kv_cost){
      .batch = c->spec.batch,
      .length = c->spec.length,
      .kv_heads = c->spec.kv_heads,
      .chunk = c->spec.chunk,
      .window = c->spec.window,
      .lengths =
          lengths == NULL ? NULL : test_bytes(c->device, lengths, (size_t)c->spec.batch * sizeof *lengths),
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
DEVICE_TEST(kv_cost, counts_the_pairs_of_the_mask) {
  for (int i = 0; i < SPECS_COUNT; i++)
    for (int padded = 0; padded < 2; padded++) {
      attention_case c;
      case_open(&c, device, &SPECS[i], fresh_seed());
      const int32_t *lengths = padded ? LENGTHS[i] : NULL;
      nn_sums sums = {.visible = 100, .causal = 200};
      double per_head[4] = {1, 2, 3, 4}, expected[4] = {1, 2, 3, 4};
      nats_kv_cost op = cost_of(&c, lengths);
      op.sums = test_bytes(device, &sums, sizeof sums);
      op.per_head = test_bytes(device, per_head, sizeof per_head);
      MUST(nats_kv_cost_forward(device, &op));
      const nn_sums *found = test_read_bytes(device, op.sums, sizeof sums);
      const double *found_heads = test_read_bytes(device, op.per_head, sizeof per_head);
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
      cr_expect_eq(found->visible, visible, "%s: %g, expected %g", SPECS[i].name, found->visible, visible);
      cr_expect_eq(found->causal, causal);
      for (int h = 0; h < 4; h++)
        cr_expect_eq(found_heads[h], expected[h], "%s: head %d", SPECS[i].name, h / 2);
    }
}

// What breaks: lambda pushes types by something else than what they cost.
DEVICE_TEST(kv_cost, price_is_what_each_type_would_keep) {
  const float lambda = 0.3f, pair_scale = 1.0f / 1024;
  for (int i = 0; i < SPECS_COUNT; i++) {
    attention_case c;
    case_open(&c, device, &SPECS[i], fresh_seed());
    const int32_t *lengths = LENGTHS[i];
    const int32_t chunk = SPECS[i].chunk;
    nats_kv_cost op = cost_of(&c, lengths);
    const int32_t entries = SPECS[i].batch * SPECS[i].kv_heads * c.chunks * 3;
    float *before = test_host((size_t)entries * sizeof *before);
    for (int32_t x = 0; x < entries; x++)
      before[x] = 0.25f;
    op.lambda = test_floats(device, &lambda, 1);
    op.pair_scale = test_floats(device, &pair_scale, 1);
    op.dtypes = test_floats(device, before, entries);
    MUST(nats_kv_cost_backward(device, &op));
    const float *dtypes = test_read_floats(device, op.dtypes, entries);
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
            const float found = dtypes[((b * SPECS[i].kv_heads + h) * c.chunks + a) * 3 + type];
            cr_expect_float_eq((double)found, 0.25 + 0.3 * pairs / 1024, 1e-5 * fmax(1, pairs / 1024),
                               "%s: %d %d %d %d: %g pairs, found %g", SPECS[i].name, b, h, a, type, pairs,
                               (double)found);
          }
      reference_free(&r);
    }
  }
}

// What breaks: long sequences, which take many steps of a scan, have another price than on the CPU.
DEVICE_TEST(kv_cost, long_sequences_cost_the_same) {
  const attention_spec spec = {.name = "long",
                               .batch = 1,
                               .length = 3100,
                               .heads = 1,
                               .kv_heads = 1,
                               .head_size = 1,
                               .chunk = 1,
                               .window = 50,
                               .global = .003,
                               .local = .5};
  const uint64_t seed = fresh_seed();
  const float lambda = 0.3f, pair_scale = 1.0f / 1024;
  nn_device *const devices[] = {device, test_open_cpu()};
  const float *dtypes[2];
  const nn_sums none = {0}, *sums[2];
  for (int i = 0; i < 2; i++) {
    attention_case c;
    case_open(&c, devices[i], &spec, seed);
    nats_kv_cost op = cost_of(&c, (const int32_t[]){3090});
    op.lambda = test_floats(devices[i], &lambda, 1);
    op.pair_scale = test_floats(devices[i], &pair_scale, 1);
    op.dtypes = test_floats(devices[i], test_host(3100 * 3 * sizeof(float)), 3100 * 3);
    op.sums = test_bytes(devices[i], &none, sizeof none);
    MUST(nats_kv_cost_forward(devices[i], &op));
    MUST(nats_kv_cost_backward(devices[i], &op));
    sums[i] = test_read_bytes(devices[i], op.sums, sizeof none);
    dtypes[i] = test_read_floats(devices[i], op.dtypes, 3100 * 3);
  }
  cr_expect_eq(sums[0]->visible, sums[1]->visible);
  cr_expect_eq(sums[0]->causal, sums[1]->causal);
  cr_expect_arr_eq(dtypes[0], dtypes[1], 3100 * 3 * sizeof(float));
}
