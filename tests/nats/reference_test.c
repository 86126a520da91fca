// The float64 reference itself, against central differences.
#include "attention_case.h"

#include <math.h>
#include <stdlib.h>

#include "../nn/fresh_seed.h"

// d loss / d value[index] by central differences
static double slope(reference *r, double *value, double step) {
  const double kept = *value;
  *value = kept + step;
  const double above = reference_forward(r);
  *value = kept - step;
  const double below = reference_forward(r);
  *value = kept;
  return (above - below) / (2 * step);
}

static void check(reference *r, const double *values, const double *gradient, int64_t count, const char *name,
                  uint64_t seed) {
  double largest = 0;
  for (int64_t i = 0; i < count; i++)
    largest = fmax(largest, fabs(gradient[i]));
  // A hidden pair may weigh e^(s - lse) >> 1; the error of a difference grows with its square.
  const double step = 1e-5 / fmax(1, largest);
  for (int64_t i = 0; i < count; i++) {
    const double expected = slope(r, (double *)values + i, step);
    cr_expect_leq(fabs(expected - gradient[i]), 1e-6 * largest, "%s[%d] is %g, differences say %g, seed %llu",
                  name, (int)i, gradient[i], expected, (unsigned long long)seed);
  }
}

static void is_derivative(nn_device *device) {
  const attention_spec specs[] = {
      {.name = "tokens",
       .batch = 1,
       .length = 17,
       .heads = 2,
       .kv_heads = 1,
       .head_size = 4,
       .chunk = 1,
       .window = 2,
       .global = .3,
       .local = .5},
      {.name = "chunks",
       .batch = 1,
       .length = 23,
       .heads = 2,
       .kv_heads = 2,
       .head_size = 4,
       .chunk = 3,
       .window = 2,
       .global = .3,
       .local = .5},
  };
  const uint64_t seed = fresh_seed();
  for (int i = 0; i < 2; i++) {
    attention_case c;
    case_open(&c, device, &specs[i], seed);
    reference r = case_reference(&c, 0);
    const int64_t queries = (int64_t)specs[i].length * specs[i].heads * 4;
    const int64_t keys = (int64_t)specs[i].length * specs[i].kv_heads * 4;
    check(&r, r.q, r.dq, queries, "dq", seed);
    check(&r, r.k, r.dk, keys, "dk", seed);
    check(&r, r.v, r.dv, keys, "dv", seed);
    check(&r, r.weights, r.dtypes, (int64_t)specs[i].kv_heads * c.chunks * 3, "dtypes", seed);
    reference_free(&r);
  }
}

// What breaks: every other test here compares with a reference that is wrong.
Test(reference, is_the_derivative_of_its_forward_pass) {
  test_on_device("cpu", "float32", is_derivative);
}
