// Masked attention on every device against the definition in float64 (reference.c).
#include "attention_case.h"

#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "../nn/fresh_seed.h"
#include "nn/ops.h"

static const attention_spec SPECS[] = {
    {.name = "one token", .batch = 1, .length = 1, .heads = 1, .kv_heads = 1, .head_size = 4, .chunk = 1},
    {.name = "tiny",
     .batch = 2,
     .length = 5,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 4,
     .chunk = 1,
     .window = 1,
     .global = .3,
     .local = .4},
    {.name = "random types",
     .batch = 2,
     .length = 150,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 16,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .5},
    {.name = "capped",
     .batch = 2,
     .length = 150,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 16,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .5,
     .clip = 1},
    {.name = "cap of 1.5",
     .batch = 1,
     .length = 97,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 3,
     .global = .1,
     .local = .5,
     .clip = 1.5f},
    {.name = "rare globals",
     .batch = 1,
     .length = 201,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 16,
     .global = .015,
     .local = .6,
     .clip = 1},
    {.name = "groups of 4",
     .batch = 2,
     .length = 96,
     .heads = 8,
     .kv_heads = 2,
     .head_size = 32,
     .chunk = 1,
     .window = 16,
     .global = .1,
     .local = .5},
    {.name = "groups of 3, capped",
     .batch = 1,
     .length = 131,
     .heads = 3,
     .kv_heads = 1,
     .head_size = 20,
     .chunk = 1,
     .window = 5,
     .global = .1,
     .local = .4,
     .clip = 1},
    {.name = "all local",
     .batch = 1,
     .length = 130,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 4,
     .local = 1},
    {.name = "all global",
     .batch = 1,
     .length = 130,
     .heads = 2,
     .kv_heads = 1,
     .head_size = 8,
     .chunk = 1,
     .window = 4,
     .global = 1},
    {.name = "all window",
     .batch = 2,
     .length = 140,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 9},
    {.name = "window 0",
     .batch = 1,
     .length = 140,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 0,
     .global = .1,
     .local = .4},
    {.name = "window 1",
     .batch = 1,
     .length = 140,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 1,
     .global = .1,
     .local = .4,
     .clip = 1},
    {.name = "window past the end",
     .batch = 1,
     .length = 100,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 1000,
     .global = .1,
     .local = .4},
    {.name = "head size 64",
     .batch = 1,
     .length = 129,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 64,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .4},
    {.name = "head size 128",
     .batch = 1,
     .length = 70,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 128,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .4,
     .clip = 1},
    {.name = "head size 100",
     .batch = 1,
     .length = 66,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 100,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .4},
    {.name = "head size 256",
     .batch = 1,
     .length = 65,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 256,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .4},
    {.name = "head size 6, unused end of rows",
     .batch = 2,
     .length = 90,
     .heads = 4,
     .kv_heads = 2,
     .head_size = 6,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .4,
     .gap = 5},
    {.name = "several strips of chunks",
     .batch = 1,
     .length = 1100,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 4,
     .chunk = 1,
     .window = 8,
     .global = .005,
     .local = .5},
    {.name = "chunks of 3",
     .batch = 2,
     .length = 100,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 3,
     .window = 7,
     .global = .2,
     .local = .5},
    {.name = "chunks of 8, whole",
     .batch = 1,
     .length = 160,
     .heads = 4,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 8,
     .window = 16,
     .global = .2,
     .local = .5,
     .clip = 1},
    {.name = "chunks of 8, a part left",
     .batch = 1,
     .length = 157,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 8,
     .window = 0,
     .global = .2,
     .local = .5},
    {.name = "chunks of 100",
     .batch = 1,
     .length = 230,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 100,
     .window = 20,
     .global = .2,
     .local = .5},
    {.name = "nothing but an unfinished chunk",
     .batch = 1,
     .length = 30,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 8,
     .chunk = 50,
     .window = 2,
     .local = 1},
    {.name = "chunks, all local",
     .batch = 1,
     .length = 90,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 8,
     .chunk = 4,
     .window = 2,
     .local = 1},
    {.name = "1 thread",
     .batch = 1,
     .length = 200,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 8,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .5,
     .clip = 1,
     .threads = 1},
    {.name = "3 threads, 2 heads",
     .batch = 1,
     .length = 200,
     .heads = 4,
     .kv_heads = 2,
     .head_size = 8,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .5,
     .clip = 1,
     .threads = 3,
     .gap = 3},
    {.name = "5 threads, 1 head",
     .batch = 1,
     .length = 200,
     .heads = 2,
     .kv_heads = 1,
     .head_size = 8,
     .chunk = 5,
     .window = 8,
     .global = .1,
     .local = .5,
     .threads = 5},
    {.name = "more threads than blocks",
     .batch = 1,
     .length = 70,
     .heads = 1,
     .kv_heads = 1,
     .head_size = 8,
     .chunk = 1,
     .window = 8,
     .global = .1,
     .local = .5,
     .threads = 7},
    {.name = "large scores",
     .batch = 1,
     .length = 200,
     .heads = 2,
     .kv_heads = 2,
     .head_size = 16,
     .chunk = 1,
     .window = 8,
     .global = .2,
     .local = .5,
     .clip = 1,
     .gain = 60},
};
enum { SPECS_COUNT = sizeof SPECS / sizeof *SPECS };

// Lengths around the blocks of rows and the tiles of keys in which devices work, at head sizes that GPUs
// multiply on tensor cores; groups, chunks, windows and caps change along.
static const int32_t BORDERS[] = {1, 15, 63, 64, 65, 127, 129, 200, 257};
enum { BORDER_COUNT = sizeof BORDERS / sizeof *BORDERS, ALL_SPECS = SPECS_COUNT + 2 * BORDER_COUNT };

static attention_spec border_spec(int32_t i) {
  static const double globals[] = {0.05, 0.3, 0, 0.01}, locals[] = {0.5, 0.3, 1, 0.2};
  return (attention_spec){
      .name = i % 2 == 0 ? "borders, head size 64" : "borders, head size 128",
      .batch = i % 3 == 0 ? 2 : 1,
      .length = BORDERS[i / 2],
      .heads = i % 4 == 0 ? 2 : 3,
      .kv_heads = i % 4 == 0   ? 2
                  : i % 4 == 2 ? 3
                               : 1,
      .head_size = i % 2 == 0 ? 64 : 128,
      .chunk = i % 5 == 4 ? 3 : 1,
      .window = i % 3 == 2 ? 70 : i % 3 * 9,
      .global = globals[i % 4],
      .local = locals[i % 4],
      .clip = i % 2 == 0 ? 1 : 0,
      .gap = i % 7 == 6 ? 8 : 0,
  };
}

// The specs that a device can do in reasonable time.
static bool spec_at(const nn_device *device, int i, attention_spec *spec) {
  *spec = i < SPECS_COUNT ? SPECS[i] : border_spec(i - SPECS_COUNT);
  return !case_is_large(device, spec);
}

// NaN is larger than any number.
static double larger(double most, double x) {
  return x <= most ? most : isnan(x) ? INFINITY : x;
}

// The largest difference over the largest expected entry, or over `least` where that is more.
// found[t * stride + x], expected[t * width + x].
static double difference(const float *found, int64_t stride, const double *expected, int64_t tokens,
                         int64_t width, double least) {
  double largest = least, most = 0;
  for (int64_t t = 0; t < tokens; t++)
    for (int64_t x = 0; x < width; x++) {
      const double off = fabs((double)found[t * stride + x] - expected[t * width + x]);
      largest = fmax(largest, fabs(expected[t * width + x]));
      most = larger(most, off);
    }
  return largest == 0 ? most : most / largest;
}

static void agrees(const attention_case *c, const reference *r, int32_t batch) {
  const attention_spec *s = &c->spec;
  const int64_t stride = c->op.token_stride, first = (int64_t)batch * s->length * stride;
  const int64_t dense = (int64_t)s->heads * s->head_size, keys = (int64_t)s->kv_heads * s->head_size;
  const int64_t types = (int64_t)s->kv_heads * c->chunks * 3;
  const float *d_qkv = c->d_qkv + first, *lse = c->lse + (int64_t)batch * s->heads * s->length;
  const struct {
    const char *name;
    double error, bf16;
  } tensors[] = {
      {"o", difference(c->o + batch * s->length * dense, dense, r->o, s->length, dense, 0), 1e-2},
      // a logarithm: 0 is a number like others
      {"lse", difference(lse, s->length, r->lse, s->heads, s->length, 1), 1e-4},
      {"dq", difference(d_qkv, stride, r->dq, s->length, dense, 0), 2e-2},
      {"dk", difference(d_qkv + dense, stride, r->dk, s->length, keys, 0), 2e-2},
      {"dv", difference(d_qkv + dense + keys, stride, r->dv, s->length, keys, 0), 2e-2},
      // sums over pairs whose terms cancel, their rounding does not
      {"dtypes", difference(c->dtypes + batch * types, types, r->dtypes, 1, types, 0), 6e-2},
  };
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    // Scores in the hundreds are themselves rounded at 1e-5.
    const double float32 = s->gain > 10 ? 1e-3 : 1e-5;
    // Among few entries, or where softmax picks one key, the largest entry of a gradient may be small beside
    // what was rounded.
    const double bf16 = tensors[i].bf16 * (s->length < 32 || s->gain > 10 ? 4 : 1);
    const double tolerance = test_tolerance(c->device, float32, fmax(bf16, float32));
    cr_expect_leq(tensors[i].error, tolerance, "%s, T %d: %s is off by %.2e (sequence %d)", s->name,
                  (int)s->length, tensors[i].name, tensors[i].error, batch);
  }
}

// What breaks: training follows a wrong gradient, or the mask hides what it should show.
DEVICE_TEST(attention, agrees_with_the_definition) {
  const uint64_t seed = fresh_seed();
  for (int i = 0; i < ALL_SPECS; i++) {
    attention_spec spec;
    attention_case c;
    if (!spec_at(device, i, &spec))
      continue;
    case_open(&c, device, &spec, seed + 100 * (uint64_t)i);
    case_run(&c, true);
    for (int32_t batch = 0; batch < spec.batch; batch++) {
      reference r = case_reference(&c, batch);
      agrees(&c, &r, batch);
      reference_free(&r);
    }
    omp_set_num_threads(2);
  }
  cr_log_info("NN_TEST_SEED=%llu", (unsigned long long)seed);
}

// What breaks: long sequences. Tiles pass through rings in shared memory, which go round only there.
DEVICE_TEST(attention, agrees_over_many_tiles) {
  const uint64_t seed = fresh_seed();
  const bool fast = nn_device_get_kind(device) != NN_DEVICE_CPU && !test_is_emulated(device);
  for (int32_t i = 0; i < (fast ? 4 : 2); i++) {
    const attention_spec spec = {.name = "many tiles",
                                 .batch = fast ? 2 : 1,
                                 .length = fast ? 900 + i : 330 + i,
                                 .heads = fast ? 4 : 1,
                                 .kv_heads = fast ? 2 : 1,
                                 .head_size = i % 2 == 0 ? 64 : 128,
                                 .chunk = 1,
                                 .window = 24,
                                 .global = i < 2 ? .6 : .02,
                                 .local = i < 2 ? .2 : .5,
                                 .clip = 1};
    attention_case c;
    case_open(&c, device, &spec, seed + (uint64_t)i);
    case_run(&c, true);
    reference r = case_reference(&c, spec.batch - 1);
    agrees(&c, &r, spec.batch - 1);
    reference_free(&r);
  }
}

// What breaks: the interval of rows in which a key lives is not the mask of the method, and the cache of
// decoding, which works by expiry too, keeps other tokens than training saw.
DEVICE_TEST(attention, expiry_is_the_mask) {
  const uint64_t seed = fresh_seed();
  for (int i = 0; i < ALL_SPECS; i++) {
    attention_spec spec;
    attention_case c;
    spec_at(device, i, &spec);
    spec.head_size = 1; // the mask knows nothing of it
    case_open(&c, device, &spec, seed + 100 * (uint64_t)i);
    reference r = case_reference(&c, 0);
    for (int32_t h = 0; h < spec.kv_heads; h++)
      for (int32_t j = 0; j < spec.length; j++)
        for (int32_t row = j; row < spec.length; row++)
          cr_assert_eq(row <= c.expiry[h * spec.length + j], reference_mask(&r, h, row, j) == 1,
                       "%s: seed %llu, head %d, query %d, key %d", spec.name, (unsigned long long)seed, h,
                       row, j);
    reference_free(&r);
    omp_set_num_threads(2);
  }
}

// Random types; with head sizes for plain kernels and for tensor cores.
static attention_spec usual_spec(int tiles, int32_t gap) {
  attention_spec spec = SPECS[2];
  spec.gap = gap;
  spec.head_size = tiles ? 64 : spec.head_size;
  spec.length = tiles ? 97 : spec.length;
  return spec;
}

// What breaks: gradients leak into other tensors of a packed row, or a row is left as it was.
DEVICE_TEST(attention, writes_all_of_its_outputs_and_nothing_else) {
  for (int tiles = 0; tiles < 2; tiles++) {
    const attention_spec spec = usual_spec(tiles, 8);
    attention_case c;
    case_open(&c, device, &spec, fresh_seed());
    case_run(&c, true);
    const int64_t used = c.op.token_stride - spec.gap;
    for (int64_t x = 0; x < c.qkv_count; x++)
      cr_assert_eq(isnan(c.d_qkv[x]) != 0, x % c.op.token_stride >= used, "element %lld", (long long)x);
  }
}

// dbias [token_stride] is `before` and the sums of the packed gradients over all tokens.
static void expect_sums(const attention_case *c, const float *dbias, float before) {
  const int64_t width = c->op.token_stride;
  const float *found = test_read_floats(c->device, dbias, width);
  double most = 0, off = 0;
  for (int64_t x = 0; x < width; x++) {
    double sum = 0;
    for (int64_t at = x; at < c->qkv_count; at += width)
      sum += (double)c->d_qkv[at];
    most = fmax(most, fabs(sum));
    off = larger(off, fabs((double)found[x] - (double)before - sum));
  }
  cr_expect_leq(off, most * test_tolerance(c->device, 1e-5, 1e-2), "heads of %d: off by %g of %g",
                c->spec.head_size, off, most);
}

// What breaks: training with positions, or with biases, follows a wrong gradient.
DEVICE_TEST(attention, turns_gradients_back_and_sums_them) {
  for (int tiles = 0; tiles < 3; tiles++) { // plain kernels; tensor cores with heads of 64 and of 128
    attention_spec spec = usual_spec(tiles, 0);
    spec.heads = 2 * spec.kv_heads;
    if (tiles == 2)
      spec.head_size = 128;
    const uint64_t seed = fresh_seed();
    attention_case plain, turned;
    case_open(&plain, device, &spec, seed);
    case_open(&turned, device, &spec, seed);
    const int64_t width = plain.op.token_stride;
    float *table = test_floats(device, NULL, (int64_t)spec.length * spec.head_size);
    float *before = test_host((size_t)width * sizeof *before);
    MUST(nn_rope_table(device, spec.length, spec.head_size, 100, table));
    for (int64_t x = 0; x < width; x++)
      before[x] = 3;
    turned.op.rope = table;
    turned.op.dbias = test_floats(device, before, width);
    case_run(&plain, true);
    case_run(&turned, true);
    MUST(nn_rope_backward(device, &(nn_rope){.rows = (int64_t)spec.batch * spec.length,
                                             .heads = spec.heads + spec.kv_heads, // q and k
                                             .head_size = spec.head_size,
                                             .row_stride = width,
                                             .table = table,
                                             .positions = spec.length,
                                             .period = spec.length,
                                             .x = plain.op.dq}));
    case_read(&plain);
    double most = 0, off = 0;
    for (int64_t x = 0; x < plain.qkv_count; x++) {
      most = fmax(most, fabs((double)plain.d_qkv[x]));
      off = larger(off, fabs((double)plain.d_qkv[x] - (double)turned.d_qkv[x]));
    }
    cr_expect_leq(off, most * test_tolerance(device, 1e-6, 1e-2), "heads of %d, seed %llu: off by %g of %g",
                  spec.head_size, (unsigned long long)seed, off, most);
    expect_sums(&turned, turned.op.dbias, before[0]);
  }
}

// What breaks: a model that does not learn types, or is evaluated, differs from one that does.
DEVICE_TEST(attention, the_gradient_of_types_changes_no_other) {
  for (int tiles = 0; tiles < 2; tiles++) {
    const attention_spec spec = usual_spec(tiles, 0);
    const uint64_t seed = fresh_seed();
    attention_case with, without;
    case_open(&with, device, &spec, seed);
    case_open(&without, device, &spec, seed);
    case_run(&with, true);
    case_run(&without, false);
    cr_expect_arr_eq(with.d_qkv, without.d_qkv, (size_t)with.qkv_count * sizeof(float), "seed %llu",
                     (unsigned long long)seed);
  }
}

// What breaks: a run that is repeated or resumed is not the same run.
DEVICE_TEST(attention, repeats_bit_for_bit) {
  const uint64_t seed = fresh_seed();
  const bool on_cpu = nn_device_get_kind(device) == NN_DEVICE_CPU;
  for (int32_t threads = 1; threads <= (on_cpu ? 4 : 3); threads++) {
    attention_spec spec = SPECS[6];
    if (threads > 1 && !on_cpu)
      spec = usual_spec(threads % 2, 0);
    spec.threads = threads;
    attention_case c;
    size_t bytes, again_bytes;
    case_open(&c, device, &spec, seed);
    case_run(&c, true);
    float *once = case_results(&c, &bytes);
    const int repeats = test_is_emulated(device) ? 1 : 5;
    for (int repeat = 0; repeat < repeats; repeat++) {
      case_run(&c, true);
      float *again = case_results(&c, &again_bytes);
      cr_expect_arr_eq(once, again, bytes, "%d threads, seed %llu", threads, (unsigned long long)seed);
    }
  }
}

// Turns k and v of one token of sequence 0 into something else.
static void disturb(attention_case *c, int32_t token) {
  const int64_t row = c->op.token_stride, q = (int64_t)c->spec.heads * c->spec.head_size;
  for (int64_t x = token * row + q; x < (token + 1) * row; x++)
    c->qkv[x] = test_round(c->device, -3 * c->qkv[x] + 1);
  test_fill_acts(c->device, (nn_act *)c->op.q, c->qkv, c->qkv_count);
}

// What breaks: hidden keys leak into what the model predicts.
DEVICE_TEST(attention, hidden_keys_have_no_influence) {
  for (int tiles = 0; tiles < 2; tiles++) {
    const attention_spec spec = usual_spec(tiles, 0);
    const uint64_t seed = fresh_seed();
    attention_case c;
    case_open(&c, device, &spec, seed);
    case_run(&c, false);
    const float *before = c.o;
    const int32_t j = 40;
    disturb(&c, j);
    case_run(&c, false);
    int seen = 0;
    for (int32_t t = 0; t < spec.length; t++)
      for (int32_t h = 0; h < spec.heads; h++) {
        const int64_t at = ((int64_t)t * spec.heads + h) * spec.head_size;
        const bool same = memcmp(before + at, c.o + at, (size_t)spec.head_size * sizeof(float)) == 0;
        const bool visible = t >= j && t <= c.expiry[h * spec.length + j];
        // bf16 rounds the influence of a small weight away
        cr_expect(visible ? !same || test_is_bf16(device) : same, "head %d, query %d, seed %llu", h, t,
                  (unsigned long long)seed);
        seen += visible;
      }
    cr_expect_gt(seen, 0);
  }
}

// What breaks: mistakes of a caller become wrong numbers instead of an error.
DEVICE_TEST(attention, refuses_what_cannot_be) {
  attention_case c;
  case_open(&c, device, &SPECS[2], 1);
  nats_attention op = c.op;
  op.heads = 3; // kv_heads 2
  cr_expect_eq(nats_attention_forward(c.device, &op), NN_ERR_INTERNAL);
  cr_expect(strstr(nn_error_text(), "kv_heads") != NULL, "%s", nn_error_text());
  nn_error_clear();
  op = c.op;
  op.token_stride = 3;
  cr_expect_eq(nats_attention_forward(c.device, &op), NN_ERR_INTERNAL);
  const float clips[] = {0.5f, -1};
  for (int i = 0; i < 2; i++) {
    op = c.op;
    op.type_grad_clip = clips[i];
    cr_expect_eq(nats_attention_backward(c.device, &op), NN_ERR_INTERNAL);
  }
  const float shares[] = {0, 1.5f};
  for (int i = 0; i < 2; i++) {
    op = c.op;
    op.type_grad_rows = shares[i];
    cr_expect_eq(nats_attention_backward(c.device, &op), NN_ERR_INTERNAL);
  }
}
