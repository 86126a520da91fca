// type_grad_rows: hidden pairs on a drawn share of the query blocks only.
#include "attention_case.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../nn/fresh_seed.h"

// 5 blocks of 64 rows, of which 2 are drawn; 3 blocks where every pair costs a thousand times as much.
static const attention_spec SPEC = {.name = "rows",
                                    .batch = 1,
                                    .length = 300,
                                    .heads = 2,
                                    .kv_heads = 2,
                                    .head_size = 8,
                                    .chunk = 1,
                                    .window = 70,
                                    .global = .02,
                                    .local = .5,
                                    .clip = 1,
                                    .rows = .4f};

// bf16 takes the kernels on tensor cores.
static attention_spec spec_for(const nn_device *device) {
  attention_spec spec = SPEC;
  if (test_is_bf16(device))
    spec.head_size = 64;
  if (test_is_emulated(device))
    spec.length = 180;
  return spec;
}

static int64_t entries(const attention_case *c) {
  return (int64_t)c->spec.kv_heads * c->chunks * 3;
}

// The gradient of the types with the choice of step `step`, added to sums of values and squares.
static void add_draw(attention_case *c, int64_t step, double *sum, double *squares) {
  c->op.step = step;
  MUST(nats_attention_backward(c->device, &c->op));
  const float *dtypes = case_read_dtypes(c);
  for (int64_t i = 0; i < entries(c); i++) {
    sum[i] += (double)dtypes[i];
    squares[i] += (double)dtypes[i] * (double)dtypes[i];
  }
}

static const float *whole_gradient(const attention_case *c) {
  nats_attention op = c->op;
  op.type_grad_rows = 1;
  MUST(nats_attention_backward(c->device, &op));
  return case_read_dtypes(c);
}

// What breaks: a run with sampled rows learns types of another loss than one without.
DEVICE_TEST(type_rows, the_mean_over_draws_is_the_whole_gradient) {
  for (int chunk = 1; chunk <= 3; chunk += 2) {
    if (test_is_emulated(device) && (chunk == 3) != test_is_bf16(device))
      continue; // one of them in each compute type
    attention_spec spec = spec_for(device);
    spec.chunk = chunk;
    const uint64_t seed = fresh_seed();
    attention_case c;
    case_open(&c, device, &spec, seed);
    case_run(&c, true);
    const size_t count = (size_t)entries(&c);
    double *sum = calloc(count, sizeof *sum), *squares = calloc(count, sizeof *squares);
    const float *whole = whole_gradient(&c);
    const int draws = test_is_emulated(device) ? 60 : 240;
    for (int step = 0; step < draws; step++)
      add_draw(&c, step, sum, squares);
    double largest = 0;
    int varying = 0;
    for (size_t i = 0; i < count; i++)
      largest = fmax(largest, fabs((double)whole[i]));
    for (size_t i = 0; i < count; i++) {
      const double mean = sum[i] / draws, variance = fmax(0, squares[i] / draws - mean * mean);
      const double error = sqrt(variance / draws);
      varying += variance > 1e-8 * largest * largest;
      cr_expect_leq(fabs(mean - (double)whole[i]), 7 * error + 1e-5 * largest,
                    "entry %d: mean %g +- %g, whole %g, chunk %d, seed %llu", (int)i, mean, error,
                    (double)whole[i], chunk, (unsigned long long)seed);
    }
    cr_expect_gt(varying, (int)count / 10, "the draws do not differ");
    free(sum);
    free(squares);
  }
}

// What breaks: sums over visible pairs, which cost nothing extra, become noisy or biased.
DEVICE_TEST(type_rows, visible_sums_do_not_vary) {
  const uint64_t seed = fresh_seed();
  attention_case c;
  const attention_spec spec = spec_for(device);
  case_open(&c, device, &spec, seed);
  case_run(&c, true);
  const float *whole = whole_gradient(&c);
  double largest = 0;
  for (int64_t i = 0; i < entries(&c); i++)
    largest = fmax(largest, fabs((double)whole[i]));
  for (int step = 0; step < (test_is_emulated(device) ? 3 : 20); step++) {
    c.op.step = step;
    MUST(nats_attention_backward(c.device, &c.op));
    const float *dtypes = case_read_dtypes(&c);
    for (int64_t a = 0; a < entries(&c) / 3; a++) {
      const int type = c.type[a];
      for (int other = type == NATS_GLOBAL ? NATS_LOCAL : type; other < NATS_TYPES; other++)
        if (type == NATS_GLOBAL || other == type)
          cr_expect_float_eq(dtypes[a * 3 + other], whole[a * 3 + other], 1e-5 * largest,
                             "token %d of type %d, entry %d, seed %llu", (int)a, type, other,
                             (unsigned long long)seed);
    }
  }
}

// What breaks: the default, all rows, depends on the seed of a choice that it does not make.
DEVICE_TEST(type_rows, all_rows_know_no_chance) {
  attention_spec spec = spec_for(device);
  spec.rows = 1;
  attention_case c;
  size_t bytes;
  case_open(&c, device, &spec, fresh_seed());
  case_run(&c, true);
  float *once = case_results(&c, &bytes);
  c.op.seed++;
  c.op.step = 77;
  c.op.layer = 3;
  case_run(&c, true);
  float *again = case_results(&c, &bytes);
  cr_expect_arr_eq(once, again, bytes);
}

// What breaks: two layers, or two steps, always look at the same rows.
DEVICE_TEST(type_rows, layers_and_steps_draw_differently) {
  attention_case c;
  const attention_spec spec = spec_for(device);
  case_open(&c, device, &spec, fresh_seed());
  case_run(&c, true);
  const size_t bytes = (size_t)entries(&c) * sizeof(float);
  const float *first = c.dtypes;
  bool by_layer = false, by_step = false;
  // 10 pairs of blocks, or 3 blocks: the same 20 times in a row has a chance of 3e-10 at most
  for (int i = 1; i <= 20 && !(by_layer && by_step); i++) {
    c.op.layer = i;
    c.op.step = 0;
    MUST(nats_attention_backward(c.device, &c.op));
    by_layer |= memcmp(first, case_read_dtypes(&c), bytes) != 0;
    c.op.layer = 0;
    c.op.step = i;
    MUST(nats_attention_backward(c.device, &c.op));
    by_step |= memcmp(first, case_read_dtypes(&c), bytes) != 0;
  }
  cr_expect(by_layer);
  cr_expect(by_step);
}
