#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "nn/ops.h"
#include "nn/random.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"

// A small table with all that the optimizer distinguishes: matrices and vectors, both groups, odd sizes, and
// one that is large enough for threads.
typedef struct {
  nn_device *device;
  nn_param_table table;
  nn_params params;
  uint64_t seed;
  float *grad; // [total] on the host
} fixture;

static void set_up(fixture *f, nn_device *device) {
  *f = (fixture){.device = device, .seed = fresh_seed()};
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
  cr_assert_eq(nn_params_create(f->device, &f->table, true, &f->params), NN_OK, "%s", nn_error_text());
  cr_assert_eq(nn_params_init(&f->params, f->seed), NN_OK, "%s", nn_error_text());
  f->grad = test_host((size_t)f->table.total * sizeof *f->grad);
}

static void tear_down(fixture *f) {
  nn_params_free(&f->params);
  nn_param_table_free(&f->table);
}

static void fill_gradient(fixture *f, uint64_t step, float scale) {
  for (int32_t p = 0; p < f->table.count; p++) {
    const nn_param *param = &f->table.items[p];
    nn_param_initial(param, f->seed + step, 0, param->count, f->grad + param->offset);
    for (int64_t i = 0; i < param->count; i++)
      f->grad[param->offset + i] *= scale;
  }
}

static float *read_arena(const fixture *f, const float *arena) {
  return test_read_floats(f->device, arena, f->table.total);
}

static float *read_master(const fixture *f) {
  return read_arena(f, f->params.master);
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

// The norm of the gradient, and the update where it is wanted; `step` gets what the device filled in.
static void run_step(fixture *f, nn_step *step, bool update) {
  nn_step *there = test_bytes(f->device, step, sizeof *step);
  cr_assert_eq(nn_device_upload(f->device, f->params.grad, f->grad, (size_t)f->table.total * sizeof *f->grad),
               NN_OK);
  cr_assert_eq(nn_grad_norm(f->device, &f->params, there), NN_OK, "%s", nn_error_text());
  if (update)
    cr_assert_eq(nn_adamw(f->device, &f->params, there), NN_OK, "%s", nn_error_text());
  memcpy(step, test_read_bytes(f->device, there, sizeof *step), sizeof *step);
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

static void check_arenas(const fixture *f, const element *expected) {
  const float *master = read_master(f);
  const float *moment1 = read_arena(f, f->params.moment1), *moment2 = read_arena(f, f->params.moment2);
  const float *compute = test_read_acts(f->device, f->params.compute, f->table.total);
  for (int64_t i = 0; i < f->table.total; i++) {
    cr_assert_float_eq(master[i], expected[i].w, 2e-6, "element %lld: %.9g, expected %.9g", (long long)i,
                       (double)master[i], expected[i].w);
    cr_assert_float_eq(moment1[i], expected[i].m, 1e-6);
    cr_assert_float_eq(moment2[i], expected[i].v, 1e-6);
    cr_assert_eq(compute[i], test_round(f->device, master[i]), "element %lld was not refreshed",
                 (long long)i);
  }
}

// Five updates with clipping: a wrong correction or decay trains, but worse than the published optimizer.
DEVICE_TEST(optimizer, adamw_follows_its_formula) {
  fixture f;
  set_up(&f, device);
  element *expected = test_host((size_t)f.table.total * sizeof *expected);
  const float *master = read_master(&f);
  for (int64_t i = 0; i < f.table.total; i++)
    expected[i] = (element){.w = (double)master[i]};
  check_arenas(&f, expected);
  nn_step step = make_step();
  for (int t = 1; t <= 5; t++) {
    step.updates[NN_GROUP_WEIGHTS] = t;
    step.updates[NN_GROUP_SCORER] = t + 3; // groups count their own updates
    fill_gradient(&f, (uint64_t)t, t == 3 ? 1e-6f : 1.0f);
    run_step(&f, &step, true);
    for (int32_t p = 0; p < f.table.count; p++) {
      const nn_param *param = &f.table.items[p];
      for (int64_t i = param->offset; i < param->offset + param->count; i++)
        reference_update(&expected[i], (double)f.grad[i], &step, param);
    }
  }
  check_arenas(&f, expected);
  tear_down(&f);
}

// Every run starts from the same weights, whatever it computes on.
DEVICE_TEST(optimizer, initial_values_are_those_of_the_cpu) {
  fixture f, cpu;
  set_up(&f, device);
  set_up(&cpu, test_open_cpu());
  cr_assert_eq(nn_params_init(&cpu.params, f.seed), NN_OK);
  cr_expect(memcmp(read_master(&f), read_master(&cpu), (size_t)f.table.total * sizeof(float)) == 0);
  tear_down(&cpu);
  tear_down(&f);
}

// Dense warm-up and fine-tuning freeze a group: not its weights, nor its moments, nor its decay may move.
DEVICE_TEST(optimizer, group_with_rate_zero_is_untouched) {
  fixture f;
  set_up(&f, device);
  const nn_param *frozen = nn_param_find(&f.table, "scorer"), *moving = nn_param_find(&f.table, "weight");
  const float *before = read_master(&f);
  nn_step step = make_step();
  step.lr[NN_GROUP_SCORER] = 0.0f;
  fill_gradient(&f, 1, 1.0f);
  run_step(&f, &step, true);
  const float *after = read_master(&f);
  const float *moment1 = read_arena(&f, f.params.moment1), *moment2 = read_arena(&f, f.params.moment2);
  cr_expect(memcmp(before + frozen->offset, after + frozen->offset, (size_t)frozen->count * sizeof *after) ==
            0);
  for (int64_t i = frozen->offset; i < frozen->offset + frozen->count; i++)
    cr_expect(moment1[i] == 0.0f && moment2[i] == 0.0f);
  cr_expect_neq(before[moving->offset], after[moving->offset]);
  tear_down(&f);
}

// Without a gradient only matrices shrink: decay on norms and biases is a known way to train worse.
DEVICE_TEST(optimizer, decay_on_matrices_only) {
  fixture f;
  set_up(&f, device);
  const nn_param *matrix = nn_param_find(&f.table, "weight"), *vector = nn_param_find(&f.table, "bias");
  const float *before = read_master(&f);
  nn_step step = make_step();
  run_step(&f, &step, true);
  const float *after = read_master(&f);
  cr_expect_float_eq(after[matrix->offset + 5], before[matrix->offset + 5] * (1.0f - 1e-2f * 0.1f), 1e-6);
  cr_expect_eq(after[vector->offset + 5], before[vector->offset + 5]);
  tear_down(&f);
}

// The norm decides the clip factor; it must be right also where squares leave the range of float32.
DEVICE_TEST(optimizer, norm_and_clipping) {
  static const float scales[] = {1.0f, 1e-4f, 1e25f, 1e-30f};
  fixture f;
  set_up(&f, device);
  for (int s = 0; s < 4; s++) {
    fill_gradient(&f, 9, scales[s]);
    double square = 0.0;
    for (int64_t i = 0; i < f.table.total; i++)
      square += (double)f.grad[i] * (double)f.grad[i];
    double norm = sqrt(square);
    nn_step step = make_step();
    run_step(&f, &step, false);
    cr_expect_float_eq((double)step.grad_norm / norm, 1.0, 1e-6, "norm %g, expected %g",
                       (double)step.grad_norm, norm);
    cr_expect_float_eq((double)step.clip_factor * fmax(norm, 1.0), 1.0, 1e-6, "clip %g",
                       (double)step.clip_factor);
    cr_expect_eq(step.non_finite, 0);
    step.max_norm = 0.0f;
    run_step(&f, &step, false);
    cr_expect_eq(step.clip_factor, 1.0f);
  }
  tear_down(&f);
}

// One bad number anywhere is found, and the update that would spread it to all weights does not happen.
DEVICE_TEST(optimizer, non_finite_gradient_changes_nothing) {
  static const float bad[] = {NAN, INFINITY, -INFINITY};
  fixture f;
  set_up(&f, device);
  const nn_param *large = nn_param_find(&f.table, "large");
  const int64_t places[] = {0, large->offset + large->count - 1, large->offset + 50001};
  const size_t bytes = (size_t)f.table.total * sizeof(float);
  const float *before = read_master(&f), *zeros = test_host(bytes);
  fill_gradient(&f, 1, 1.0f);
  for (int b = 0; b < 3; b++)
    for (int p = 0; p < 3; p++) {
      const float good = f.grad[places[p]];
      f.grad[places[p]] = bad[b];
      nn_step step = make_step();
      run_step(&f, &step, true);
      cr_expect_eq(step.non_finite, 1, "%g at %lld", (double)bad[b], (long long)places[p]);
      cr_expect(memcmp(read_master(&f), before, bytes) == 0);
      cr_expect(memcmp(read_arena(&f, f.params.moment1), zeros, bytes) == 0);
      f.grad[places[p]] = good;
      run_step(&f, &step, false);
      cr_expect_eq(step.non_finite, 0, "the flag is written afresh");
    }
  tear_down(&f);
}
