#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "nn/ops.h"
#include "nn/random.h"
#include "tests/nn/fresh_seed.h"

// A small table with all that the optimizer distinguishes: matrices and vectors, both groups, odd sizes, and
// one that is large enough for threads.
typedef struct {
  nn_device *device;
  nn_param_table table;
  nn_params params;
  uint64_t seed;
} fixture;

static void set_up(fixture *f) {
  *f = (fixture){.seed = fresh_seed()};
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &f->device), NN_OK);
  static const struct {
    const char *name;
    int64_t rows, columns;
    nn_param_group group;
  } rows[] = {{"weight", 7, 9, NN_GROUP_WEIGHTS},
              {"bias", 17, 1, NN_GROUP_WEIGHTS},
              {"scorer", 6, 33, NN_GROUP_SCORER},
              {"large", 331, 211, NN_GROUP_WEIGHTS}};
  for (int i = 0; i < 4; i++)
    cr_assert_eq(nn_param_add(&f->table, rows[i].name, rows[i].columns > 1 ? 2 : 1, rows[i].rows,
                              rows[i].columns, NN_INIT_NORMAL, 1.0f, rows[i].columns > 1, rows[i].group,
                              NULL),
                 NN_OK);
  cr_assert_eq(nn_params_create(f->device, &f->table, true, &f->params), NN_OK);
  cr_assert_eq(nn_params_init(&f->params, f->seed), NN_OK);
}

static void fill_gradient(fixture *f, uint64_t step, float scale) {
  for (int32_t p = 0; p < f->table.count; p++) {
    nn_param_initial(&f->table.items[p], f->seed + step, 0, f->table.items[p].count,
                     nn_params_grad(&f->params, p));
    for (int64_t i = 0; i < f->table.items[p].count; i++)
      nn_params_grad(&f->params, p)[i] *= scale;
  }
}

static void tear_down(fixture *f) {
  nn_params_free(&f->params);
  nn_param_table_free(&f->table);
  nn_device_close(f->device);
}

static nn_step make_step(void) {
  return (nn_step){.lr = {1e-2f, 3e-2f},
                   .beta1 = 0.9f,
                   .beta2 = 0.95f,
                   .eps = 1e-8f,
                   .weight_decay = 0.1f,
                   .max_norm = 1.0f,
                   .updates = {1, 1}};
}

// AdamW of one element, in float64 and straight from its formula (nn/ops.h).
typedef struct {
  double w, m, v;
} element;

static void reference_update(element *e, double g, const nn_step *step, const nn_param *param) {
  double b1 = (double)step->beta1, b2 = (double)step->beta2, t = (double)step->updates[param->group];
  g *= (double)step->clip_factor;
  e->m = b1 * e->m + (1.0 - b1) * g;
  e->v = b2 * e->v + (1.0 - b2) * g * g;
  double decay = param->decay ? (double)step->weight_decay : 0.0;
  e->w -= (double)step->lr[param->group] *
          (e->m / (1.0 - pow(b1, t)) / (sqrt(e->v / (1.0 - pow(b2, t))) + (double)step->eps) + decay * e->w);
}

// Five updates with clipping: a wrong correction or decay trains, but worse than the published optimizer.
Test(optimizer, adamw_follows_its_formula) {
  fixture f;
  static element expected[80000];
  set_up(&f);
  cr_assert_leq(f.table.total, 80000);
  for (int64_t i = 0; i < f.table.total; i++)
    expected[i] = (element){.w = (double)f.params.master[i]};
  nn_step step = make_step();
  for (int t = 1; t <= 5; t++) {
    step.updates[NN_GROUP_WEIGHTS] = t;
    step.updates[NN_GROUP_SCORER] = t + 3; // groups count their own updates
    fill_gradient(&f, (uint64_t)t, t == 3 ? 1e-6f : 1.0f);
    cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
    cr_assert_eq(nn_adamw(f.device, &f.params, &step), NN_OK);
    for (int32_t p = 0; p < f.table.count; p++) {
      const nn_param *param = &f.table.items[p];
      for (int64_t i = param->offset; i < param->offset + param->count; i++)
        reference_update(&expected[i], (double)f.params.grad[i], &step, param);
    }
  }
  for (int64_t i = 0; i < f.table.total; i++) {
    cr_assert_float_eq(f.params.master[i], expected[i].w, 2e-6, "element %lld: %.9g, expected %.9g",
                       (long long)i, (double)f.params.master[i], expected[i].w);
    cr_assert_float_eq(f.params.moment1[i], expected[i].m, 1e-6);
    cr_assert_float_eq(f.params.moment2[i], expected[i].v, 1e-6);
  }
  tear_down(&f);
}

// Dense warm-up and fine-tuning freeze a group: not its weights, nor its moments, nor its decay may move.
Test(optimizer, group_with_rate_zero_is_untouched) {
  fixture f;
  set_up(&f);
  const nn_param *frozen = nn_param_find(&f.table, "scorer"), *moving = nn_param_find(&f.table, "weight");
  float before[6 * 33];
  memcpy(before, f.params.master + frozen->offset, sizeof before);
  float moved = f.params.master[moving->offset];
  nn_step step = make_step();
  step.lr[NN_GROUP_SCORER] = 0.0f;
  fill_gradient(&f, 1, 1.0f);
  cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
  cr_assert_eq(nn_adamw(f.device, &f.params, &step), NN_OK);
  cr_expect(memcmp(before, f.params.master + frozen->offset, sizeof before) == 0);
  for (int64_t i = 0; i < frozen->count; i++)
    cr_expect(f.params.moment1[frozen->offset + i] == 0.0f && f.params.moment2[frozen->offset + i] == 0.0f);
  cr_expect_neq(moved, f.params.master[moving->offset]);
  tear_down(&f);
}

// Without a gradient only matrices shrink: decay on norms and biases is a known way to train worse.
Test(optimizer, decay_on_matrices_only) {
  fixture f;
  set_up(&f);
  const nn_param *matrix = nn_param_find(&f.table, "weight"), *vector = nn_param_find(&f.table, "bias");
  float w = f.params.master[matrix->offset + 5], b = f.params.master[vector->offset + 5];
  nn_step step = make_step();
  cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
  cr_assert_eq(nn_adamw(f.device, &f.params, &step), NN_OK);
  cr_expect_float_eq(f.params.master[matrix->offset + 5], w * (1.0f - 1e-2f * 0.1f), 1e-6);
  cr_expect_eq(f.params.master[vector->offset + 5], b);
  tear_down(&f);
}

// The norm decides the clip factor; it must be right also where squares leave the range of float32.
Test(optimizer, norm_and_clipping) {
  static const float scales[] = {1.0f, 1e-4f, 1e25f, 1e-30f};
  fixture f;
  set_up(&f);
  for (int s = 0; s < 4; s++) {
    fill_gradient(&f, 9, scales[s]);
    double square = 0.0;
    for (int64_t i = 0; i < f.table.total; i++)
      square += (double)f.params.grad[i] * (double)f.params.grad[i];
    double norm = sqrt(square);
    nn_step step = make_step();
    cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
    cr_expect_float_eq((double)step.grad_norm / norm, 1.0, 1e-6, "norm %g, expected %g",
                       (double)step.grad_norm, norm);
    cr_expect_float_eq((double)step.clip_factor * fmax(norm, 1.0), 1.0, 1e-6, "clip %g",
                       (double)step.clip_factor);
    cr_expect_eq(step.non_finite, 0);
    step.max_norm = 0.0f;
    cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
    cr_expect_eq(step.clip_factor, 1.0f);
  }
  tear_down(&f);
}

// One bad number anywhere is found, and the update that would spread it to all weights does not happen.
Test(optimizer, non_finite_gradient_changes_nothing) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  fixture f;
  set_up(&f);
  const nn_param *large = nn_param_find(&f.table, "large");
  const int64_t places[] = {0, large->offset + large->count - 1, large->offset + 50001};
  for (int b = 0; b < 3; b++)
    for (int p = 0; p < 3; p++) {
      fill_gradient(&f, 1, 1.0f);
      f.params.grad[places[p]] = bad[b];
      nn_step step = make_step();
      float before = f.params.master[3];
      cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
      cr_expect_eq(step.non_finite, 1, "%g at %lld", (double)bad[b], (long long)places[p]);
      cr_assert_eq(nn_adamw(f.device, &f.params, &step), NN_OK);
      cr_expect_eq(f.params.master[3], before);
      cr_expect_eq(f.params.moment1[3], 0.0f);
      f.params.grad[places[p]] = 1.0f;
      cr_assert_eq(nn_grad_norm(f.device, &f.params, &step), NN_OK);
      cr_expect_eq(step.non_finite, 0, "the flag is written afresh");
    }
  tear_down(&f);
}
