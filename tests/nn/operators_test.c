// Runs every row of the operator table on a device. When one fails, the model computes something else than
// documented: a wrong value or gradient trains, but to a worse loss, and nothing else would tell.
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/random.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"
#include "tests/nn/operator_table.h"

enum { SLOPES_MAX = 40 }; // elements of a gradient that are checked, drawn at random

// Largest error allowed: relative to the largest entry of the tensor, or to 0.05 where all are smaller, since
// inputs are about 1 and a small result is a difference of larger numbers.
static double allowed_error(const nn_device *device, const float *x, int64_t count) {
  double most = 0.05;
  for (int64_t i = 0; i < count; i++)
    most = fmax(most, fabs((double)x[i]));
  return most * (nn_device_compute_type(device) == NN_BF16 ? 3e-2 : 2e-5);
}

// ---- tensors

static float round_to_bf16(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&value, &bits, sizeof bits);
  return value;
}

static bool is_bf16(const operator_case *c, tensor_type type) {
  return type == TENSOR_ACT && nn_device_compute_type(c->device) == NN_BF16;
}

static double normal(operator_case *c, int64_t element) {
  uint32_t bits[4];
  float pair[2];
  nn_random_key key = nn_random_key_make(c->seed, NN_RANDOM_TEST, (uint64_t)(c->row - OPERATOR_ROWS), 0);
  nn_random_u32x4(key, (uint64_t)c->count, (uint64_t)element, bits);
  nn_random_normal2(bits[0], bits[1], pair);
  return pair[0];
}

static tensor *add(operator_case *c, const char *name, tensor_type type, int64_t count) {
  cr_assert_lt(c->count, TENSORS_MAX);
  tensor *t = &c->tensors[c->count];
  *t = (tensor){.name = name, .type = type, .count = count};
  t->value = calloc((size_t)count, sizeof *t->value);
  t->slope = calloc((size_t)count, sizeof *t->slope);
  cr_assert(t->value && t->slope);
  size_t bytes = (size_t)count * (is_bf16(c, type) ? 2 : 4);
  cr_assert_eq(nn_device_alloc(c->device, bytes, name, &t->memory), NN_OK);
  for (int64_t i = 0; i < count; i++) {
    float slope = (float)normal(c, -1 - i);
    t->slope[i] = is_bf16(c, type) ? round_to_bf16(slope) : slope;
  }
  c->count++;
  return t;
}

tensor *add_input(operator_case *c, const char *name, tensor_type type, int64_t count, double scale,
                  gradient_kind gradient) {
  tensor *t = add(c, name, type, count);
  t->gradient = gradient;
  for (int64_t i = 0; i < count; i++) {
    float value = (float)(normal(c, i) * scale);
    t->value[i] = is_bf16(c, type) ? round_to_bf16(value) : value;
  }
  if (gradient != GRADIENT_NONE)
    cr_assert_eq(nn_device_alloc(c->device, (size_t)count * 4, name, &t->slope_memory), NN_OK);
  return t;
}

tensor *add_output(operator_case *c, const char *name, tensor_type type, int64_t count) {
  tensor *t = add(c, name, type, count);
  t->is_output = true;
  cr_assert_eq(nn_device_alloc(c->device, (size_t)count * 4, name, &t->slope_memory), NN_OK);
  return t;
}

tensor *add_indices(operator_case *c, const char *name, int64_t count, int32_t limit) {
  tensor *t = add(c, name, TENSOR_I32, count);
  for (int64_t i = 0; i < count; i++)
    t->value[i] = floor(fmod(fabs(normal(c, i)) * 1e3, (double)limit));
  return t;
}

const tensor *find(const operator_case *c, const char *name) {
  for (int i = 0; i < c->count; i++)
    if (strcmp(c->tensors[i].name, name) == 0)
      return &c->tensors[i];
  return NULL;
}

double *values(const operator_case *c, const char *name) {
  const tensor *t = find(c, name);
  return t != NULL ? t->value : NULL;
}

void *memory(const operator_case *c, const char *name) {
  const tensor *t = find(c, name);
  return t != NULL ? t->memory : NULL;
}

void *slope_memory(const operator_case *c, const char *name) {
  const tensor *t = find(c, name);
  return t != NULL ? t->slope_memory : NULL;
}

static void free_case(operator_case *c) {
  for (int i = 0; i < c->count; i++) {
    free(c->tensors[i].value);
    free(c->tensors[i].slope);
    nn_device_free(c->device, c->tensors[i].memory);
    nn_device_free(c->device, c->tensors[i].slope_memory);
  }
}

// ---- between host and device. `from` NULL fills with NaN: what must be overwritten starts poisoned.

static tensor_type slope_type(const tensor *t) {
  return t->gradient == GRADIENT_PARAMETER ? TENSOR_F32 : t->type;
}

static bool is_added(const tensor *t) {
  return t->gradient == GRADIENT_ADDED || t->gradient == GRADIENT_PARAMETER;
}

static void upload(const operator_case *c, void *to, tensor_type type, int64_t count, const double *from) {
  uint32_t *words = calloc((size_t)count, sizeof *words);
  bool narrow = is_bf16(c, type);
  for (int64_t i = 0; i < count; i++) {
    float value = from != NULL ? (float)from[i] : NAN;
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (type == TENSOR_I32)
      bits = (uint32_t)(int32_t)value;
    if (narrow)
      ((uint16_t *)words)[i] = (uint16_t)(bits >> 16);
    else
      words[i] = bits;
  }
  cr_assert_eq(nn_device_upload(c->device, to, words, (size_t)count * (narrow ? 2 : 4)), NN_OK);
  cr_assert_eq(nn_device_sync(c->device), NN_OK);
  free(words);
}

static void download(const operator_case *c, const void *from, tensor_type type, int64_t count, float *to) {
  bool narrow = is_bf16(c, type);
  cr_assert_eq(nn_device_download(c->device, to, from, (size_t)count * (narrow ? 2 : 4)), NN_OK);
  cr_assert_eq(nn_device_sync(c->device), NN_OK);
  for (int64_t i = count - 1; narrow && i >= 0; i--) { // widened in place, from the end
    uint32_t bits = (uint32_t)((uint16_t *)to)[i] << 16;
    memcpy(&to[i], &bits, sizeof bits);
  }
}

// ---- one run: everything uploaded afresh, forward, backward

static void prepare(const operator_case *c) {
  for (int i = 0; i < c->count; i++) {
    const tensor *t = &c->tensors[i];
    upload(c, t->memory, t->type, t->count, t->is_output ? NULL : t->value);
    if (t->slope_memory != NULL)
      upload(c, t->slope_memory, slope_type(t), t->count, t->is_output || is_added(t) ? t->slope : NULL);
  }
}

static void run(const operator_case *c) {
  prepare(c);
  cr_assert_eq(c->row->functions->forward(c), NN_OK, "%s: %s", c->row->name, nn_error_text());
  if (c->row->functions->backward != NULL)
    cr_assert_eq(c->row->functions->backward(c), NN_OK, "%s: %s", c->row->name, nn_error_text());
}

// Values of outputs, then gradients of inputs, one after the other.
static int64_t collect(const operator_case *c, float *results) {
  int64_t used = 0;
  for (int i = 0; i < c->count; i++) {
    const tensor *t = &c->tensors[i];
    bool gradient = t->gradient != GRADIENT_NONE && c->row->functions->backward != NULL;
    if (!t->is_output && !gradient)
      continue;
    if (results != NULL)
      download(c, t->is_output ? t->memory : t->slope_memory, t->is_output ? t->type : slope_type(t),
               t->count, results + used);
    used += t->count;
  }
  return used;
}

// ---- what is expected

static double loss(const operator_case *c) {
  double sum = 0.0;
  c->row->functions->reference(c);
  for (int i = 0; i < c->count; i++)
    for (int64_t e = 0; c->tensors[i].is_output && e < c->tensors[i].count; e++)
      sum += c->tensors[i].value[e] * c->tensors[i].slope[e];
  return sum;
}

// Central difference of the reference's loss.
static double expected_slope(const operator_case *c, const tensor *t, int64_t element) {
  const double h = 1e-5;
  double kept = t->value[element];
  t->value[element] = kept + h;
  double above = loss(c);
  t->value[element] = kept - h;
  double below = loss(c);
  t->value[element] = kept;
  return (above - below) / (2.0 * h) + (is_added(t) ? t->slope[element] : 0.0);
}

static void check_values(const operator_case *c, const tensor *t, const float *found) {
  double allowed = allowed_error(c->device, found, t->count);
  for (int64_t i = 0; i < t->count; i++)
    if (!(fabs((double)found[i] - t->value[i]) <= allowed)) {
      cr_expect_fail("%s, seed %llu: %s[%lld] is %.9g, expected %.9g", c->row->name,
                     (unsigned long long)c->seed, t->name, (long long)i, (double)found[i], t->value[i]);
      return;
    }
}

static void check_slopes(const operator_case *c, const tensor *t, const float *found) {
  double allowed = allowed_error(c->device, found, t->count);
  int64_t checked = t->count < SLOPES_MAX ? t->count : SLOPES_MAX;
  for (int64_t i = 0; i < t->count; i++)
    cr_assert(isfinite(found[i]), "%s: the gradient of %s[%lld] is %g", c->row->name, t->name, (long long)i,
              (double)found[i]);
  for (int64_t k = 0; k < checked; k++) {
    uint32_t bits[4];
    nn_random_u32x4(nn_random_key_make(c->seed, NN_RANDOM_TEST, 1, 1), 0, (uint64_t)k, bits);
    int64_t element = t->count <= SLOPES_MAX ? k : (int64_t)bits[0] % t->count;
    double expected = expected_slope(c, t, element);
    if (!(fabs((double)found[element] - expected) <= allowed)) {
      cr_expect_fail("%s, seed %llu: the gradient of %s[%lld] is %.9g, expected %.9g", c->row->name,
                     (unsigned long long)c->seed, t->name, (long long)element, (double)found[element],
                     expected);
      return;
    }
  }
}

static void check(const operator_case *c, const float *results) {
  c->row->functions->reference(c);
  int64_t used = 0;
  for (int i = 0; i < c->count; i++) { // values first: differences overwrite what the reference wrote
    const tensor *t = &c->tensors[i];
    bool gradient = t->gradient != GRADIENT_NONE && c->row->functions->backward != NULL;
    if (t->is_output)
      check_values(c, t, results + used);
    used += t->is_output || gradient ? t->count : 0;
  }
  used = 0;
  for (int i = 0; i < c->count; i++) {
    const tensor *t = &c->tensors[i];
    bool gradient = t->gradient != GRADIENT_NONE && c->row->functions->backward != NULL;
    if (gradient)
      check_slopes(c, t, results + used);
    used += t->is_output || gradient ? t->count : 0;
  }
}

static void check_row(nn_device *device, const operator_row *row, uint64_t seed) {
  operator_case c = {.row = row, .device = device, .seed = seed};
  row->functions->build(&c);
  int64_t count = collect(&c, NULL);
  float *first = calloc((size_t)count, sizeof *first), *again = calloc((size_t)count, sizeof *again);
  cr_assert(first && again);
  run(&c);
  collect(&c, first);
  run(&c);
  collect(&c, again);
  cr_expect(memcmp(first, again, (size_t)count * sizeof *first) == 0, "%s: two runs differ", row->name);
  check(&c, first);
  free(again);
  free(first);
  free_case(&c);
}

DEVICE_TEST(operators, table) {
  uint64_t seed = fresh_seed();
  for (int i = 0; i < OPERATOR_ROW_COUNT; i++)
    check_row(device, &OPERATOR_ROWS[i], seed);
}
