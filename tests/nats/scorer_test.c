// The scorer on every device against plain loops in float64.
#include "attention_case.h"

#include <math.h>

#include "../nn/fresh_seed.h"

// Odd sizes, and widths of whole 16-byte pieces, which GPUs take on tensor cores where there are more than
// 8,192 logits.
typedef struct {
  int32_t rows, width, out;
} scorer_shape;
static const scorer_shape SHAPES[] = {{70, 37, 9},   {1, 8, 3},      {33, 40, 12}, {100, 136, 36},
                                      {17, 264, 48}, {50, 72, 96},   {19, 64, 99}, {300, 16, 6},
                                      {700, 72, 12}, {190, 136, 48}, {90, 72, 96}};

typedef struct {
  nn_device *device;
  nats_scorer op; // device memory
  // host: what the device holds, and what was there before that is added to
  float *x, *weight, *bias, *dlogits, *dx, *dweight, *dbias;
} scorer_case;

static float *normal(uint64_t seed, int64_t count, const nn_device *rounded) {
  float *values = test_host((size_t)count * sizeof *values);
  for (int64_t i = 0; i < count; i++) {
    values[i] = random_normal(seed, (uint64_t)i);
    values[i] = rounded != NULL ? test_round(rounded, values[i]) : values[i];
  }
  return values;
}

static void scorer_open(scorer_case *c, nn_device *device, scorer_shape shape, uint64_t seed) {
  const int64_t x = (int64_t)shape.rows * shape.width, weights = (int64_t)shape.out * shape.width;
  const int64_t logits = (int64_t)shape.rows * shape.out;
  *c = (scorer_case){.device = device,
                     .x = normal(seed, x, device),
                     .weight = normal(seed + 1, weights, device),
                     .bias = normal(seed + 2, shape.out, device),
                     .dlogits = normal(seed + 3, logits, NULL),
                     .dx = normal(seed + 4, x, device),
                     .dweight = normal(seed + 5, weights, NULL),
                     .dbias = normal(seed + 6, shape.out, NULL)};
  c->op = (nats_scorer){.rows = shape.rows,
                        .width = shape.width,
                        .out = shape.out,
                        .x = test_acts(device, c->x, x),
                        .weight = test_acts(device, c->weight, weights),
                        .bias = test_acts(device, c->bias, shape.out),
                        .logits = test_floats(device, NULL, logits),
                        .dlogits = test_floats(device, c->dlogits, logits),
                        .dx = test_acts(device, c->dx, x),
                        .dweight = test_floats(device, c->dweight, weights),
                        .dbias = test_floats(device, c->dbias, shape.out)};
}

// `terms` numbers of about 1 were added up; what is stored in bf16 is rounded by up to 2^-9 of itself.
static void expect_near(const scorer_case *c, const char *what, double found, double expected, int32_t terms,
                        double bf16) {
  const double stored = test_tolerance(c->device, 1e-6, fmin(bf16, 4e-3)) * fabs(expected);
  const double tolerance = test_tolerance(c->device, 1e-5, bf16) * (3 + sqrt(terms)) + stored;
  cr_expect(fabs(found - expected) <= tolerance, "%dx%d->%d: %s is %g, expected %g", (int)c->op.rows,
            (int)c->op.width, (int)c->op.out, what, found, expected);
}

static void check_logits(const scorer_case *c) {
  const int32_t width = c->op.width, out = c->op.out;
  const float *logits = test_read_floats(c->device, c->op.logits, c->op.rows * out);
  for (int32_t r = 0; r < c->op.rows; r++)
    for (int32_t a = 0; a < out; a++) {
      double sum = (double)c->bias[a];
      for (int32_t i = 0; i < width; i++)
        sum += (double)c->x[r * width + i] * (double)c->weight[a * width + i];
      expect_near(c, "a logit", (double)logits[r * out + a], sum, width, 1e-5); // float32 from exact products
    }
}

static void check_dx(const scorer_case *c) {
  const int32_t width = c->op.width, out = c->op.out;
  const float *dx = test_read_acts(c->device, c->op.dx, c->op.rows * width);
  for (int32_t r = 0; r < c->op.rows; r++)
    for (int32_t i = 0; i < width; i++) {
      double sum = (double)c->dx[r * width + i];
      for (int32_t a = 0; a < out; a++)
        sum += (double)c->dlogits[r * out + a] * (double)c->weight[a * width + i];
      expect_near(c, "an entry of dx", (double)dx[r * width + i], sum, out, 1e-2);
    }
}

static void check_parameters(const scorer_case *c) {
  const int32_t width = c->op.width, out = c->op.out, rows = (int32_t)c->op.rows;
  const float *dweight = test_read_floats(c->device, c->op.dweight, out * width);
  const float *dbias = test_read_floats(c->device, c->op.dbias, out);
  for (int32_t a = 0; a < out; a++) {
    double total = (double)c->dbias[a];
    for (int32_t r = 0; r < rows; r++)
      total += (double)c->dlogits[r * out + a];
    expect_near(c, "an entry of dbias", (double)dbias[a], total, rows, 1e-5);
    for (int32_t i = 0; i < width; i++) {
      double sum = (double)c->dweight[a * width + i];
      for (int32_t r = 0; r < rows; r++)
        sum += (double)c->dlogits[r * out + a] * (double)c->x[r * width + i];
      expect_near(c, "an entry of dweight", (double)dweight[a * width + i], sum, rows, 1e-2);
    }
  }
}

// What breaks: types are chosen from wrong logits, or the scorer and what feeds it learn a wrong gradient.
DEVICE_TEST(scorer, is_an_affine_map) {
  const uint64_t seed = fresh_seed();
  for (size_t i = 0; i < sizeof SHAPES / sizeof *SHAPES; i++) {
    scorer_case c;
    scorer_open(&c, device, SHAPES[i], seed + 10 * i);
    MUST(nats_scorer_forward(device, &c.op));
    MUST(nats_scorer_backward(device, &c.op));
    check_logits(&c);
    check_dx(&c);
    check_parameters(&c);
  }
}

// What breaks: a run that is repeated or resumed is not the same run.
DEVICE_TEST(scorer, repeats_bit_for_bit) {
  const uint64_t seed = fresh_seed();
  const float *first[3] = {0};
  for (int repeat = 0; repeat < 2; repeat++) {
    scorer_case c;
    const scorer_shape shape = {300, 72, 36};
    scorer_open(&c, device, shape, seed);
    MUST(nats_scorer_backward(device, &c.op));
    const int64_t counts[] = {300 * 72, 36 * 72, 36};
    const float *found[] = {test_read_acts(device, c.op.dx, counts[0]),
                            test_read_floats(device, c.op.dweight, counts[1]),
                            test_read_floats(device, c.op.dbias, counts[2])};
    for (int i = 0; i < 3; i++) {
      first[i] = repeat == 0 ? found[i] : first[i];
      cr_expect_arr_eq(first[i], found[i], (size_t)counts[i] * sizeof(float));
    }
  }
}

// What breaks: fine-tuning of scorers alone (scorer_detach) changes what it must leave alone.
DEVICE_TEST(scorer, a_detached_input_gets_no_gradient) {
  scorer_case c;
  const scorer_shape shape = {20, 24, 6};
  scorer_open(&c, device, shape, fresh_seed());
  const void *dx = c.op.dx;
  c.op.dx = NULL;
  MUST(nats_scorer_backward(device, &c.op));
  check_parameters(&c);
  cr_expect_arr_eq(test_read_acts(device, dx, 20 * 24), c.dx, 20 * 24 * sizeof(float));
}
