// The operators of the decoding cache on every device, against plain loops in float64.
#include <math.h>

#include "attention_case.h"
#include "nats/cache_ops.h"
#include "nn/ops.h"

#include "../nn/fresh_seed.h"

enum { LISTS_MAX = 12, POSITIONS = 200 /* of the RoPE table */ };
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
  nn_act **page; // [lists, stride] host
  int32_t rows;  // of a sequence in k and v; a row for each sequence follows, that of the newest token
  int64_t token_stride;
  float *k, *v, *q; // host: [S * rows + S, Hk, D] and [S, H, D], tokens token_stride apart
  nn_act *device_q;
  int32_t length[LISTS_MAX];
  int32_t *row_at[LISTS_MAX]; // [length] row of k and v that lies in a slot
  int32_t *turn[LISTS_MAX];   // [length] or NULL
} cache_case;

static int32_t lists_of(const cache_case *c) {
  return c->shape->sequences * c->shape->kv_heads;
}

static int32_t common_factor(int32_t a, int32_t b) {
  return b == 0 ? a : common_factor(b, a % b);
}

// Pages in an order that has nothing to do with that of the tokens.
static void deal_pages(cache_case *c) {
  const cache_shape *s = c->shape;
  const int32_t pages = (s->longest + s->page_tokens - 1) / s->page_tokens, count = lists_of(c) * pages;
  const int64_t page = 2LL * s->page_tokens * s->head_size;
  nn_act *memory = test_acts(c->device, NULL, count * page);
  nn_act **table = test_bytes(c->device, NULL, (size_t)count * sizeof *table);
  nats_cache_entry *entries = test_host((size_t)count * sizeof *entries);
  int32_t step = count / 2 + 1, next = 0; // a step that shares no factor with count visits every page once
  while (common_factor(count, step) > 1)
    step++;
  c->page = test_host((size_t)count * sizeof *c->page);
  for (int32_t i = 0; i < count; i++, next = (next + step) % count) {
    c->page[i] = nn_act_at(c->device, memory, next * page);
    entries[count - 1 - i] = (nats_cache_entry){i, c->page[i]};
  }
  const nats_cache_enter op = {
      .table = table,
      .entries = test_bytes(c->device, entries, (size_t)count * sizeof *entries),
      .count = count,
  };
  MUST(nats_cache_enter_run(c->device, &op));
  c->pages = (nats_cache_pages){table, pages, s->page_tokens, s->head_size};
}

static float *random_rows(const cache_case *c, uint64_t seed, int64_t rows) {
  float *values = test_host((size_t)(rows * c->token_stride) * sizeof *values);
  for (int64_t i = 0; i < rows * c->token_stride; i++)
    values[i] = test_round(c->device, random_normal(seed, (uint64_t)i));
  return values;
}

static nn_act *slot_of(const cache_case *c, int32_t list, int32_t token) {
  const cache_shape *s = c->shape;
  const int64_t inside = (int64_t)(token % s->page_tokens) * s->head_size;
  return nn_act_at(c->device, c->page[list * c->pages.stride + token / s->page_tokens], inside);
}

// Lists as operators read them.
static nats_cache_row *rows_of(const cache_case *c) {
  nats_cache_row *rows = test_host(LISTS_MAX * sizeof *rows);
  int32_t turn = 0;
  for (int32_t l = 0; l < lists_of(c); l++) {
    rows[l] = (nats_cache_row){.length = c->length[l], .turns = c->turn[l] ? turn : -1};
    turn += c->turn[l] ? c->length[l] : 0;
  }
  return test_bytes(c->device, rows, LISTS_MAX * sizeof *rows);
}

// Which rows the slots of a list get: its last one that of the newest token, those before it in every other
// list all but some rows of the sequence.
static void choose_rows(cache_case *c, int32_t l) {
  const int32_t length = c->length[l], sequence = l / c->shape->kv_heads;
  const int32_t gap = l % 2 == 1 ? c->rows - length : 0;
  c->row_at[l] = test_host((size_t)length * sizeof *c->row_at[l]);
  for (int32_t t = 0; t < length - 1; t++)
    c->row_at[l][t] = sequence * c->rows + t + (t >= length / 2 ? gap : 0);
  c->row_at[l][length - 1] = c->shape->sequences * c->rows + sequence;
}

// All tokens but the newest at once, then that one.
static void fill_lists(cache_case *c) {
  const cache_shape *s = c->shape;
  const int64_t count = ((int64_t)s->sequences * c->rows + s->sequences) * c->token_stride;
  const nn_act *k = test_acts(c->device, c->k, count), *v = test_acts(c->device, c->v, count);
  nats_cache_stored stored[LISTS_MAX];
  for (int32_t l = 0; l < lists_of(c); l++) {
    int32_t *position = test_host((size_t)c->length[l] * sizeof *position);
    choose_rows(c, l);
    for (int32_t t = 0; t < c->length[l] - 1; t++)
      position[t] = c->row_at[l][t] - l / s->kv_heads * c->rows;
    stored[l] = (nats_cache_stored){l % 2 == 1 ? position : NULL, c->length[l] - 1};
  }
  const nats_cache_store store = {
      c->pages, stored, s->sequences, s->kv_heads, c->rows, c->token_stride, k, v,
  };
  MUST(nats_cache_store_run(c->device, &store));
  const int64_t newest = (int64_t)s->sequences * c->rows * c->token_stride;
  const nats_cache_append append = {
      .pages = c->pages,
      .lists = rows_of(c),
      .sequences = s->sequences,
      .kv_heads = s->kv_heads,
      .token_stride = c->token_stride,
      .k = nn_act_at(c->device, k, newest),
      .v = nn_act_at(c->device, v, newest),
  };
  MUST(nats_cache_append_run(c->device, &append));
}

static void cache_open(cache_case *c, nn_device *device, const cache_shape *shape, uint64_t seed) {
  *c = (cache_case){.device = device, .shape = shape, .rows = shape->longest};
  const int64_t rows = (int64_t)shape->sequences * c->rows + shape->sequences;
  c->token_stride = (int64_t)shape->heads * shape->head_size + 2;
  c->k = random_rows(c, seed, rows);
  c->v = random_rows(c, seed + 1, rows);
  c->q = random_rows(c, seed + 2, shape->sequences);
  c->device_q = test_acts(device, c->q, shape->sequences * c->token_stride);
  for (int32_t l = 0; l < lists_of(c); l++)
    c->length[l] =
        l == 0 ? shape->longest : shape->shortest + (l * 37) % (shape->longest - shape->shortest + 1);
  deal_pages(c);
  fill_lists(c);
}

// Lists and their items, with some room to spare, as a device cuts them.
static void cut_lists(const cache_case *c, nats_cache_attention *op) {
  int64_t tokens = 0;
  for (int32_t l = 0; l < lists_of(c); l++)
    tokens += c->length[l];
  MUST(nats_cache_item_tokens(c->device, tokens, &op->item_tokens));
  op->item_count = (int32_t)(tokens / op->item_tokens) + lists_of(c);
  const size_t bytes = (size_t)op->item_count * sizeof *op->items;
  const nats_cache_cut cut = {
      .lists = rows_of(c),
      .layers = 1,
      .lists_of_layer = lists_of(c),
      .items = test_bytes(c->device, test_host(bytes), bytes),
      .item_count = op->item_count,
      .item_tokens = op->item_tokens,
  };
  MUST(nats_cache_cut_run(c->device, &cut));
  op->lists = cut.lists;
  op->items = cut.items;
}

static const int32_t *turns_of(const cache_case *c) {
  int32_t *turns = test_host((size_t)(LISTS_MAX * c->shape->longest) * sizeof *turns), count = 0;
  for (int32_t l = 0; l < lists_of(c); l++)
    for (int32_t t = 0; c->turn[l] && t < c->length[l]; t++)
      turns[count++] = c->turn[l][t];
  return count > 0 ? test_bytes(c->device, turns, (size_t)count * sizeof *turns) : NULL;
}

static nats_cache_attention attention_of(const cache_case *c) {
  const cache_shape *s = c->shape;
  nats_cache_attention op = {
      .pages = c->pages,
      .sequences = s->sequences,
      .heads = s->heads,
      .kv_heads = s->kv_heads,
      .longest = s->longest,
      .scale = 1 / sqrtf((float)s->head_size),
      .token_stride = c->token_stride,
      .q = c->device_q,
      .o = test_acts(c->device, NULL, (int64_t)s->sequences * s->heads * s->head_size),
      .turns = turns_of(c),
      .weights = s->weights ? test_floats(c->device, NULL, (int64_t)lists_of(c) * s->longest) : NULL,
  };
  cut_lists(c, &op);
  return op;
}

// Component d of a key that is turned `turn` positions forward (RoPE, theta THETA).
static double turned(const float *k, int32_t d, int32_t size, int32_t turn) {
  const int32_t half = size / 2, pair = d % half;
  const double angle = turn * pow(THETA, -2.0 * pair / size), a = (double)k[pair], b = (double)k[half + pair];
  return d < half ? a * cos(angle) - b * sin(angle) : a * sin(angle) + b * cos(angle);
}

// o [D] and softmax weights [length] of one query head, the latter added to.
static void attend(const cache_case *c, int32_t list, int32_t head, double *o, double *weights) {
  const cache_shape *s = c->shape;
  const int32_t length = c->length[list], size = s->head_size;
  const float *q = c->q + list / s->kv_heads * c->token_stride + (int64_t)head * size;
  const int64_t at = (int64_t)(list % s->kv_heads) * size;
  double *p = test_host((size_t)length * sizeof *p), sum = 0;
  for (int32_t t = 0; t < length; t++) {
    const float *k = c->k + c->row_at[list][t] * c->token_stride + at;
    const int32_t turn = c->turn[list] ? c->turn[list][t] : 0;
    for (int32_t d = 0; d < size; d++)
      p[t] += (double)q[d] * (turn ? turned(k, d, size, turn) : (double)k[d]) / sqrt(size);
    sum += p[t] = exp(p[t]);
  }
  for (int32_t d = 0; d < size; d++)
    o[d] = 0;
  for (int32_t t = 0; t < length; t++) {
    const float *v = c->v + c->row_at[list][t] * c->token_stride + at;
    weights[t] += p[t] / sum;
    for (int32_t d = 0; d < size; d++)
      o[d] += p[t] / sum * (double)v[d];
  }
}

static void check_attention(const cache_case *c, const nats_cache_attention *op) {
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
      attend(c, l, head, expected, shares);
      for (int32_t d = 0; d < s->head_size; d++)
        cr_expect(fabs((double)found[d] - expected[d]) <= tolerance,
                  "D %d, %d tokens, list %d, head %d: o[%d] is %g, expected %g", (int)s->head_size,
                  (int)c->length[l], (int)l, (int)head, (int)d, (double)found[d], expected[d]);
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
    check_attention(&c, &op);
    const int64_t count = (int64_t)SHAPES[i].sequences * SHAPES[i].heads * SHAPES[i].head_size;
    const float *once = test_read_acts(device, op.o, count);
    MUST(nats_cache_attention_run(device, &op));
    cr_expect_arr_eq(once, test_read_acts(device, op.o, count), (size_t)count * sizeof(float),
                     "two runs differ");
  }
}

// What breaks: blocks of the attention look at other tokens than those of their list.
DEVICE_TEST(cache_ops, lists_are_cut_into_items) {
  enum { LAYERS = 2, LISTS = 1100, ITEM = 64, LONGEST = 300 };
  enum { ITEMS = LISTS * (LONGEST / ITEM + 1) };
  if (nn_device_get_kind(device) == NN_DEVICE_CPU) // takes lists whole
    return;
  nats_cache_row *lists = test_host(LAYERS * LISTS * sizeof *lists);
  for (int32_t l = 0; l < LAYERS * LISTS; l++)
    lists[l] = (nats_cache_row){.length = 1 + (l * 37 + l / 7) % LONGEST, .turns = -1};
  const nats_cache_cut cut = {
      .lists = test_bytes(device, lists, LAYERS * LISTS * sizeof *lists),
      .layers = LAYERS,
      .lists_of_layer = LISTS,
      .items = test_bytes(device, NULL, LAYERS * ITEMS * sizeof(nats_cache_item)),
      .item_count = ITEMS,
      .item_tokens = ITEM,
  };
  MUST(nats_cache_cut_run(device, &cut));
  const nats_cache_row *rows = test_read_bytes(device, cut.lists, LAYERS * LISTS * sizeof *rows);
  const nats_cache_item *items = test_read_bytes(device, cut.items, LAYERS * ITEMS * sizeof *items);
  for (int32_t layer = 0; layer < LAYERS; layer++) {
    int32_t next = 0;
    for (int32_t l = 0; l < LISTS; l++) {
      cr_assert_eq(rows[layer * LISTS + l].first_item, next, "layer %d, list %d", (int)layer, (int)l);
      for (int32_t begin = 0; begin < lists[layer * LISTS + l].length; begin += ITEM, next++)
        cr_assert(items[layer * ITEMS + next].list == l && items[layer * ITEMS + next].begin == begin,
                  "layer %d, list %d, token %d", (int)layer, (int)l, (int)begin);
    }
    for (; next < ITEMS; next++)
      cr_assert_eq(items[layer * ITEMS + next].list, -1);
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
    for (int32_t m = 0; m < 5; m++) {
      moves[m] = (nats_cache_move){.from = slot_of(&c, 0, kept + m), .to = slot_of(&c, 0, holes[m])};
      c.row_at[0][holes[m]] = c.row_at[0][kept + m];
    }
    const nats_cache_compact compact = {
        .page_tokens = shapes[i].page_tokens,
        .head_size = shapes[i].head_size,
        .moves = test_bytes(device, moves, sizeof moves),
        .count = 5,
    };
    MUST(nats_cache_compact_run(device, &compact));
    c.length[0] = kept;
    const nats_cache_attention op = attention_of(&c);
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op);
  }
}

// What breaks: tokens that a policy numbers anew are seen at other places than it says.
DEVICE_TEST(cache_ops, keys_are_turned_for_the_query) {
  const uint64_t seed = fresh_seed();
  for (int i = 0; i < SHAPES_COUNT; i++) {
    const cache_shape *shape = &SHAPES[i];
    cache_case c;
    cache_open(&c, device, shape, seed + 10 * (uint64_t)i);
    for (int32_t l = 0; l < lists_of(&c); l++) {
      int32_t *turn = test_host((size_t)c.length[l] * sizeof *turn);
      for (int32_t t = 0; t < c.length[l]; t++) // some stay, among them whole stretches
        turn[t] = t % 7 == 3 || t < 5 ? (t * 31 + l) % POSITIONS : 0;
      c.turn[l] = l % 3 == 2 ? NULL : turn;
    }
    nats_cache_attention op = attention_of(&c);
    float *table = test_floats(device, NULL, (int64_t)POSITIONS * shape->head_size);
    MUST(nn_rope_table(device, POSITIONS, shape->head_size, THETA, table));
    op.rope = table;
    op.positions = POSITIONS;
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op);
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
        c.v[c.row_at[0][to[a]] * c.token_stride + d] +=
            factor[a] * c.v[c.row_at[0][from[a]] * c.token_stride + d];
    }
    const nats_cache_merge merge = {
        .page_tokens = shapes[i].page_tokens,
        .head_size = shapes[i].head_size,
        .additions = test_bytes(device, additions, sizeof additions),
        .count = 4,
    };
    MUST(nats_cache_merge_run(device, &merge));
    const nats_cache_attention op = attention_of(&c);
    MUST(nats_cache_attention_run(device, &op));
    check_attention(&c, &op);
  }
}
