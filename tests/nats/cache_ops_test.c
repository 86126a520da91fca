// The operators of the decoding cache on every device, against plain loops in float64.
#include <math.h>

#include "attention_case.h"
#include "nats/cache_ops.h"
#include "nn/ops.h"

#include "../nn/fresh_seed.h"

enum { SLAB_PAGES = 4, LISTS_MAX = 12, POSITIONS = 200 /* of the RoPE table */ };
static const double THETA = 1000;

typedef struct {
  int32_t sequences, heads, kv_heads, head_size, page_tokens;
  int32_t longest, shortest; // list l has a length between them
  bool weights;
} cache_shape;

// Lengths around the items into which devices cut lists (64, 128, ..), group sizes, and head sizes that are
// not whole vectors.
static const cache_shape SHAPES[] = {
    {1, 1, 1, 64, 16, 1, 1, true},     {2, 4, 2, 64, 16, 67, 3, false},  {1, 3, 1, 6, 4, 20, 20, true},
    {3, 2, 2, 128, 5, 64, 63, false},  {1, 8, 1, 64, 1, 65, 65, true},   {2, 6, 2, 20, 3, 130, 1, true},
    {1, 12, 1, 32, 16, 40, 40, false}, {1, 2, 2, 256, 16, 33, 9, true},  {1, 1, 1, 300, 2, 9, 9, false},
    {1, 2, 1, 100, 7, 70, 70, true},   {4, 3, 3, 16, 16, 300, 2, false}, {1, 4, 1, 8, 8, 700, 700, true},
};
enum { SHAPES_COUNT = sizeof SHAPES / sizeof *SHAPES };

typedef struct {
  nn_device *device;
  const cache_shape *shape;
  nats_cache_pages pages;
  nats_cache_row lists[LISTS_MAX];
  int32_t rows; // of k and v: every list takes one row after the other
  int64_t token_stride;
  // host: [rows, Hk, D] and [S, H, D], tokens token_stride apart
  float *k, *v, *q;
  nn_act *device_q;
} cache_case;

static int32_t common_factor(int32_t a, int32_t b) {
  return b == 0 ? a : common_factor(b, a % b);
}

// Pages in an order that has nothing to do with that of the tokens.
static void deal_pages(cache_case *c) {
  const cache_shape *s = c->shape;
  const int32_t lists = s->sequences * s->kv_heads, pages = (c->rows + s->page_tokens - 1) / s->page_tokens;
  const int32_t slabs = (lists * pages + SLAB_PAGES - 1) / SLAB_PAGES, count = slabs * SLAB_PAGES;
  nn_act **of_slabs = test_host((size_t)slabs * sizeof *of_slabs);
  const int64_t page = 2LL * s->page_tokens * s->head_size;
  for (int32_t i = 0; i < slabs; i++)
    of_slabs[i] = test_acts(c->device, NULL, SLAB_PAGES * page);
  c->pages = (nats_cache_pages){of_slabs, SLAB_PAGES, s->page_tokens, s->head_size};
  int32_t step = count / 2 + 1, next = 0; // a step that shares no factor with count visits every page once
  while (common_factor(count, step) > 1)
    step++;
  for (int32_t l = 0; l < lists; l++) {
    int32_t *table = test_host((size_t)pages * sizeof *table);
    for (int32_t p = 0; p < pages; p++, next = (next + step) % count)
      table[p] = next;
    c->lists[l].pages = table;
    const int32_t more = s->longest - s->shortest;
    c->lists[l].length = l == 0 ? s->longest : s->shortest + (l * 37) % (more + 1);
  }
}

static float *random_rows(const cache_case *c, uint64_t seed, int64_t rows) {
  float *values = test_host((size_t)(rows * c->token_stride) * sizeof *values);
  for (int64_t i = 0; i < rows * c->token_stride; i++)
    values[i] = test_round(c->device, random_normal(seed, (uint64_t)i));
  return values;
}

static int64_t slot_of(const cache_case *c, int32_t list, int32_t token) {
  const int32_t page = c->shape->page_tokens;
  return (int64_t)c->lists[list].pages[token / page] * page + token % page;
}

// Every list l holds rows 0 to length - 1 of its head.
static void append_all(cache_case *c) {
  const cache_shape *s = c->shape;
  nats_cache_write *writes = test_host((size_t)(LISTS_MAX * c->rows) * sizeof *writes);
  int64_t count = 0;
  for (int32_t l = 0; l < s->sequences * s->kv_heads; l++)
    for (int32_t t = 0; t < c->lists[l].length; t++)
      writes[count++] = (nats_cache_write){slot_of(c, l, t), t, l % s->kv_heads};
  const nats_cache_append op = {.pages = c->pages,
                                .writes = writes,
                                .count = count,
                                .token_stride = c->token_stride,
                                .k = test_acts(c->device, c->k, c->rows * c->token_stride),
                                .v = test_acts(c->device, c->v, c->rows * c->token_stride)};
  MUST(nats_cache_append_run(c->device, &op));
}

static void cache_open(cache_case *c, nn_device *device, const cache_shape *shape, uint64_t seed) {
  *c = (cache_case){.device = device, .shape = shape, .rows = shape->longest};
  c->token_stride = (int64_t)shape->heads * shape->head_size + 2;
  c->k = random_rows(c, seed, c->rows);
  c->v = random_rows(c, seed + 1, c->rows);
  c->q = random_rows(c, seed + 2, shape->sequences);
  c->device_q = test_acts(device, c->q, shape->sequences * c->token_stride);
  deal_pages(c);
  append_all(c);
}

static nats_cache_attention attention_of(const cache_case *c) {
  const cache_shape *s = c->shape;
  const int64_t weights = (int64_t)s->sequences * s->kv_heads * s->longest;
  return (nats_cache_attention){
      .pages = c->pages,
      .lists = c->lists,
      .sequences = s->sequences,
      .heads = s->heads,
      .kv_heads = s->kv_heads,
      .longest = s->longest,
      .scale = 1 / sqrtf((float)s->head_size),
      .token_stride = c->token_stride,
      .q = c->device_q,
      .o = test_acts(c->device, NULL, (int64_t)s->sequences * s->heads * s->head_size),
      .weights = s->weights ? test_floats(c->device, NULL, weights) : NULL,
  };
}

// Component d of a key that is turned `turn` positions forward (RoPE, theta THETA).
static double turned(const float *k, int32_t d, int32_t size, int32_t turn) {
  const int32_t half = size / 2, pair = d % half;
  const double angle = turn * pow(THETA, -2.0 * pair / size), a = (double)k[pair], b = (double)k[half + pair];
  return d < half ? a * cos(angle) - b * sin(angle) : a * sin(angle) + b * cos(angle);
}

// o [D] and softmax weights [length] of one query head, the latter added to. `row_at` maps a slot of the list
// to the row that lies there; NULL: in order.
static void attend(const cache_case *c, int32_t list, int32_t head, const int32_t *row_at, double *o,
                   double *weights) {
  const cache_shape *s = c->shape;
  const int32_t length = c->lists[list].length, size = s->head_size;
  const float *q = c->q + list / s->kv_heads * c->token_stride + (int64_t)head * size;
  const int64_t at = (int64_t)(list % s->kv_heads) * size;
  double *p = test_host((size_t)length * sizeof *p), sum = 0;
  for (int32_t t = 0; t < length; t++) {
    const float *k = c->k + (row_at ? row_at[t] : t) * c->token_stride + at;
    const int32_t turn = c->lists[list].turn ? c->lists[list].turn[t] : 0;
    for (int32_t d = 0; d < size; d++)
      p[t] += (double)q[d] * (turn ? turned(k, d, size, turn) : (double)k[d]) / sqrt(size);
    sum += p[t] = exp(p[t]);
  }
  for (int32_t d = 0; d < size; d++)
    o[d] = 0;
  for (int32_t t = 0; t < length; t++) {
    const float *v = c->v + (row_at ? row_at[t] : t) * c->token_stride + at;
    weights[t] += p[t] / sum;
    for (int32_t d = 0; d < size; d++)
      o[d] += p[t] / sum * (double)v[d];
  }
}

static void check_attention(const cache_case *c, const nats_cache_attention *op, const int32_t *row_at) {
  const cache_shape *s = c->shape;
  const int32_t group = s->heads / s->kv_heads, lists = s->sequences * s->kv_heads;
  const float *o = test_read_acts(c->device, op->o, (int64_t)s->sequences * s->heads * s->head_size);
  const float *weights =
      s->weights ? test_read_floats(c->device, op->weights, (int64_t)lists * s->longest) : NULL;
  const double tolerance = test_tolerance(c->device, 1e-5, 1e-2);
  for (int32_t l = 0; l < lists; l++) {
    double *expected = test_host((size_t)s->head_size * sizeof *expected);
    double *shares = test_host((size_t)s->longest * sizeof *shares); // 0 past the end of the list
    for (int32_t g = 0; g < group; g++) {
      const int32_t head = l % s->kv_heads * group + g;
      const float *found = o + ((int64_t)(l / s->kv_heads) * s->heads + head) * s->head_size;
      attend(c, l, head, row_at, expected, shares);
      for (int32_t d = 0; d < s->head_size; d++)
        cr_expect(fabs((double)found[d] - expected[d]) <= tolerance,
                  "D %d, %d tokens, list %d, head %d: o[%d] is %g, expected %g", (int)s->head_size,
                  (int)c->lists[l].length, (int)l, (int)head, (int)d, (double)found[d], expected[d]);
    }
    for (int32_t t = 0; weights && t < s->longest; t++)
      cr_expect(fabs((double)weights[l * s->longest + t] - shares[t]) <= 1e-5,
                "D %d, list %d: weight %d is %g, expected %g", (int)s->head_size, (int)l, (int)t,
                (double)weights[l * s->longest + t], shares[t]);
  }
}

// What breaks: a decoded token attends to something else than its cache, at some head size, group or length.
DEVICE_TEST(cache_ops, attend_to_all_of_a_list) {
  const uint64_t seed = fresh_seed();
  for (int i = 0; i < SHAPES_COUNT; i++) {
    cache_case c;
    cache_open(&c, device, &SHAPES[i], seed + 10 * (uint64_t)i);
    const nats_cache_attention op = attention_of(&c);
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op, NULL);
    const int64_t count = (int64_t)SHAPES[i].sequences * SHAPES[i].heads * SHAPES[i].head_size;
    const float *once = test_read_acts(device, op.o, count);
    MUST(nats_cache_attention_run(device, &op));
    cr_expect_arr_eq(once, test_read_acts(device, op.o, count), (size_t)count * sizeof(float),
                     "two runs differ");
  }
}

// What breaks: eviction damages the tokens that it moves, or others.
DEVICE_TEST(cache_ops, moves_fill_holes) {
  static const cache_shape shapes[] = {{1, 2, 1, 64, 16, 50, 50, true}, {1, 1, 1, 5, 3, 50, 50, true}};
  for (int i = 0; i < 2; i++) {
    cache_case c;
    cache_open(&c, device, &shapes[i], fresh_seed());
    const int32_t holes[] = {0, 7, 16, 30, 44}, kept = 45; // slots 45 to 49 move there
    nats_cache_move moves[5];
    int32_t row_at[50];
    for (int32_t t = 0; t < 50; t++)
      row_at[t] = t;
    for (int32_t m = 0; m < 5; m++) {
      moves[m] = (nats_cache_move){.from = slot_of(&c, 0, kept + m), .to = slot_of(&c, 0, holes[m])};
      row_at[holes[m]] = kept + m;
    }
    MUST(nats_cache_compact_run(device, &(nats_cache_compact){c.pages, moves, 5}));
    c.lists[0].length = kept;
    const nats_cache_attention op = attention_of(&c);
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op, row_at);
  }
}

// What breaks: tokens that a policy numbers anew are seen at other places than it says.
DEVICE_TEST(cache_ops, keys_are_turned_for_the_query) {
  const uint64_t seed = fresh_seed();
  for (int i = 0; i < SHAPES_COUNT; i++) {
    const cache_shape *shape = &SHAPES[i];
    cache_case c;
    cache_open(&c, device, shape, seed + 10 * (uint64_t)i);
    for (int32_t l = 0; l < shape->sequences * shape->kv_heads; l++) {
      int32_t *turn = test_host((size_t)c.lists[l].length * sizeof *turn);
      for (int32_t t = 0; t < c.lists[l].length; t++) // some stay, among them whole stretches
        turn[t] = t % 7 == 3 || t < 5 ? (t * 31 + l) % POSITIONS : 0;
      c.lists[l].turn = l % 3 == 2 ? NULL : turn;
    }
    nats_cache_attention op = attention_of(&c);
    float *table = test_floats(device, NULL, (int64_t)POSITIONS * shape->head_size);
    MUST(nn_rope_table(device, POSITIONS, shape->head_size, THETA, table));
    op.rope = table;
    op.positions = POSITIONS;
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op, NULL);
    op.rope = NULL;
    cr_expect_eq(nats_cache_attention_run(device, &op), NN_ERR_INTERNAL);
    nn_error_clear();
  }
}

// What breaks: the value of a token that leaves goes to others than those that the policy names, or is added
// to keys.
DEVICE_TEST(cache_ops, values_are_added_to_others) {
  static const cache_shape shapes[] = {{1, 2, 1, 64, 16, 50, 50, true}, {1, 1, 1, 5, 3, 50, 50, true}};
  static const int32_t from[] = {2, 2, 2, 40}, to[] = {3, 31, 49, 8};
  static const float factor[] = {0.25f, 0.25f, 0.25f, -2.0f};
  for (int i = 0; i < 2; i++) {
    cache_case c;
    cache_open(&c, device, &shapes[i], fresh_seed());
    nats_cache_addition additions[4];
    for (int32_t a = 0; a < 4; a++) {
      additions[a] = (nats_cache_addition){slot_of(&c, 0, from[a]), slot_of(&c, 0, to[a]), factor[a]};
      for (int32_t d = 0; d < shapes[i].head_size; d++)
        c.v[to[a] * c.token_stride + d] += factor[a] * c.v[from[a] * c.token_stride + d];
    }
    MUST(nats_cache_merge_run(device, &(nats_cache_merge){c.pages, additions, 4}));
    const nats_cache_attention op = attention_of(&c);
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op, NULL);
  }
}
