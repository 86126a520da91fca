// The elementary functions that kernels share. Their error adds to that of every softmax and activation.
#include <criterion/criterion.h>
#include <math.h>

#include "nn/cpu/vector.h"
#include "nn/random.h"
#include "tests/nn/fresh_seed.h"

typedef struct {
  float exp[NN_LANES], sigmoid[NN_LANES], tanh[NN_LANES];
} functions;

NN_CLONES static void evaluate(const float *x, functions *out) {
  nn_v16 v = nn_v16_load(x);
  nn_v16_store(out->exp, nn_v16_exp(v));
  nn_v16_store(out->sigmoid, nn_v16_sigmoid(v));
  nn_v16_store(out->tanh, nn_v16_tanh(v));
}

// Distance in units of the last place of the expected float32.
static double ulps(float found, double expected) {
  int exponent;
  frexp(expected, &exponent);
  return fabs((double)found - expected) / ldexp(1.0, (exponent < -125 ? -125 : exponent) - 24);
}

Test(vector, functions_are_accurate) {
  static const float ranges[] = {0.01f, 1.0f, 10.0f, 87.0f};
  nn_random_key key = nn_random_key_make(fresh_seed(), NN_RANDOM_TEST, 0, 0);
  for (uint64_t round = 0; round < 40000; round++) {
    float x[NN_LANES];
    functions f;
    for (uint64_t i = 0; i < NN_LANES; i += 4) {
      uint32_t bits[4];
      nn_random_u32x4(key, round, i, bits);
      for (int k = 0; k < 4; k++)
        x[i + (uint64_t)k] = (2.0f * nn_random_uniform(bits[k]) - 1.0f) * ranges[round % 4];
    }
    evaluate(x, &f);
    for (int i = 0; i < NN_LANES; i++) {
      double v = (double)x[i];
      cr_assert_leq(ulps(f.exp[i], exp(v)), 2.0, "exp(%.9g) = %.9g", v, (double)f.exp[i]);
      cr_assert_leq(ulps(f.sigmoid[i], 1.0 / (1.0 + exp(-v))), 4.0, "sigmoid(%.9g) = %.9g", v,
                    (double)f.sigmoid[i]);
      cr_assert_leq(ulps(f.tanh[i], tanh(v)), 4.0, "tanh(%.9g) = %.9g", v, (double)f.tanh[i]);
    }
  }
}

// A masked logit is -infinity and must count 0; a NaN must stay one, or a broken step would go unnoticed.
Test(vector, limits) {
  const float x[NN_LANES] = {0.0f,    -0.0f,   INFINITY, -INFINITY, NAN,    88.7f, 89.0f,  1e30f,
                             -103.0f, -104.0f, -200.0f,  -1e30f,    1e-30f, 20.0f, -20.0f, -87.4f};
  functions f;
  evaluate(x, &f);
  for (int i = 0; i < NN_LANES; i++) {
    double v = (double)x[i];
    if (isnan(x[i])) {
      cr_expect(isnan(f.exp[i]) && isnan(f.sigmoid[i]) && isnan(f.tanh[i]));
      continue;
    }
    cr_expect(f.exp[i] == (float)exp(v) || ulps(f.exp[i], exp(v)) <= 2.0, "exp(%g) = %g", v,
              (double)f.exp[i]);
    cr_expect_float_eq(f.sigmoid[i], 1.0 / (1.0 + exp(-v)), 1e-7, "sigmoid(%g) = %g", v,
                       (double)f.sigmoid[i]);
    cr_expect_float_eq(f.tanh[i], tanh(v), 1e-7, "tanh(%g) = %g", v, (double)f.tanh[i]);
    cr_expect_eq(signbit(f.tanh[i]), signbit(x[i]), "tanh(%g) = %g", v, (double)f.tanh[i]);
  }
}

// Partial loads and stores touch only their lanes; sums and maxima see all of them.
Test(vector, lanes) {
  float x[NN_LANES + 1], y[NN_LANES];
  for (int i = 0; i <= NN_LANES; i++)
    x[i] = (float)(i * i);
  for (int n = 0; n <= NN_LANES; n++) {
    for (int i = 0; i < NN_LANES; i++)
      y[i] = -1.0f;
    nn_v16 v = nn_v16_load_n(x + 1, n, 0.5f);
    nn_v16_store_n(y, v, n);
    float sum = 0.0f, most = 0.5f;
    for (int i = 0; i < NN_LANES; i++) {
      cr_expect_eq(y[i], i < n ? x[i + 1] : -1.0f);
      sum += i < n ? x[i + 1] : 0.5f;
      most = i < n ? x[i + 1] : most;
    }
    cr_expect_eq(nn_v16_sum(v), sum);
    cr_expect_eq(nn_v16_largest(v), most);
    cr_expect_eq(nn_d8_sum(nn_d8_add_v16((nn_d8){0}, v)), (double)sum);
  }
}
