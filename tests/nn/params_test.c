#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "nn/params.h"
#include "tests/nn/fresh_seed.h"

static nn_status add(nn_param_table *table, const char *name, int64_t rows, int64_t columns, nn_init init,
                     float value) {
  return nn_param_add(table, name, columns == 1 ? 1 : 2, rows, columns, init, value, columns > 1,
                      NN_GROUP_WEIGHTS, NULL);
}

// Gaps keep every parameter aligned for vectors and are counted by nobody: checkpoints and the memory table
// rely on both.
Test(params, offsets_are_aligned) {
  nn_param_table table = {0};
  char name[32];
  int64_t values = 0;
  for (int i = 0; i < 200; i++) {
    int32_t index = -1;
    snprintf(name, sizeof name, "layer.%d.weight", i);
    cr_assert_eq(nn_param_add(&table, name, 2, i + 1, 3, NN_INIT_ZERO, 0, true, NN_GROUP_WEIGHTS, &index),
                 NN_OK);
    cr_expect_eq(index, i);
    values += (i + 1) * 3;
  }
  for (int i = 0; i < 200; i++) {
    cr_expect_eq(table.items[i].offset % NN_PARAM_ALIGN, 0);
    int64_t end = i + 1 < 200 ? table.items[i + 1].offset : table.total;
    cr_expect_geq(end - table.items[i].offset, table.items[i].count);
    cr_expect_lt(end - table.items[i].offset, table.items[i].count + NN_PARAM_ALIGN);
  }
  cr_expect_eq(nn_param_values(&table), values);
  cr_expect_eq(nn_param_find(&table, "layer.7.weight"), &table.items[7]);
  cr_expect_null(nn_param_find(&table, "layer.7"));
  nn_param_table_free(&table);
  cr_expect_eq(table.count, 0);
}

// A name that is taken would let a checkpoint load one tensor into another.
Test(params, impossible_rows_are_refused) {
  nn_param_table table = {0};
  char longest[65];
  memset(longest, 'a', 64);
  longest[64] = '\0';
  cr_expect_eq(add(&table, longest, 1, 1, NN_INIT_ZERO, 0), NN_ERR_INTERNAL);
  cr_expect_eq(add(&table, "", 1, 1, NN_INIT_ZERO, 0), NN_ERR_INTERNAL);
  cr_expect_eq(add(&table, longest + 1, 1, 1, NN_INIT_ZERO, 0), NN_OK);
  cr_expect_eq(add(&table, longest + 1, 1, 1, NN_INIT_ZERO, 0), NN_ERR_INTERNAL);
  cr_expect_eq(add(&table, "b", 0, 1, NN_INIT_ZERO, 0), NN_ERR_INTERNAL);
  cr_expect_eq(add(&table, "b", INT64_MAX / 2, 3, NN_INIT_ZERO, 0), NN_ERR_INTERNAL);
  cr_expect_eq(nn_param_add(&table, "b", 1, 2, 2, NN_INIT_ZERO, 0, false, NN_GROUP_WEIGHTS, NULL),
               NN_ERR_INTERNAL);
  cr_expect_eq(nn_param_add(&table, "b", 3, 2, 2, NN_INIT_ZERO, 0, false, NN_GROUP_WEIGHTS, NULL),
               NN_ERR_INTERNAL);
  cr_expect_eq(nn_param_add(&table, "b", 1, 2, 1, NN_INIT_ZERO, 0, false, NN_GROUPS, NULL), NN_ERR_INTERNAL);
  cr_expect_eq(table.count, 1);
  nn_param_table_free(&table);
}

// The values of a parameter depend on the seed and its name, not on what stands before it in the table, on
// threads or on pieces: a model with one layer more starts from the same weights elsewhere.
Test(params, initial_values_depend_on_the_name_alone) {
  nn_device *device;
  nn_param_table one = {0}, other = {0};
  nn_params params_one, params_other;
  uint64_t seed = fresh_seed();
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_assert_eq(add(&one, "a", 301, 67, NN_INIT_NORMAL, 0.5f), NN_OK);
  cr_assert_eq(add(&one, "b", 5, 3, NN_INIT_NORMAL, 0.5f), NN_OK);
  cr_assert_eq(add(&other, "b", 5, 3, NN_INIT_NORMAL, 0.5f), NN_OK);
  cr_assert_eq(add(&other, "c", 5, 3, NN_INIT_NORMAL, 0.5f), NN_OK);
  cr_assert_eq(add(&other, "a", 301, 67, NN_INIT_NORMAL, 0.5f), NN_OK);
  cr_assert_eq(nn_params_create(device, &one, false, &params_one), NN_OK);
  cr_assert_eq(nn_params_create(device, &other, false, &params_other), NN_OK);
  cr_expect_null(params_one.grad, "a model for evaluation has no gradients");
  cr_assert_eq(nn_params_init(&params_one, seed), NN_OK);
  cr_assert_eq(nn_params_init(&params_other, seed), NN_OK);
  const float *a = nn_params_weight(&params_one, 0), *b = nn_params_weight(&params_one, 1);
  const float *c = nn_params_weight(&params_other, 1);
  cr_expect(memcmp(a, nn_params_weight(&params_other, 2), 301 * 67 * sizeof *a) == 0);
  cr_expect(memcmp(b, nn_params_weight(&params_other, 0), 15 * sizeof *b) == 0);
  cr_expect(memcmp(b, c, 15 * sizeof *b) != 0);
  float piece[9]; // elements 3 to 9, between two numbers that must stay
  piece[0] = piece[8] = 7.0f;
  nn_param_initial(nn_param_find(&one, "b"), seed, 3, 10, piece + 1);
  cr_expect(memcmp(b + 3, piece + 1, 7 * sizeof *b) == 0);
  cr_expect(piece[0] == 7.0f && piece[8] == 7.0f, "only the piece is written");
  double square = 0.0;
  for (int i = 0; i < 301 * 67; i++)
    square += (double)a[i] * (double)a[i] / (301 * 67);
  cr_expect_float_eq(sqrt(square), 0.5, 0.02, "standard deviation %g", sqrt(square));
  nn_params_free(&params_other);
  nn_params_free(&params_one);
  nn_param_table_free(&other);
  nn_param_table_free(&one);
  nn_device_close(device);
}

// The scorer starts with every token global: its bias favours `global`, first of three, and nothing else.
Test(params, kinds_of_initial_values) {
  nn_device *device;
  nn_param_table table = {0};
  nn_params params;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_assert_eq(add(&table, "norm", 5, 1, NN_INIT_ONE, 0), NN_OK);
  cr_assert_eq(add(&table, "bias", 5, 1, NN_INIT_ZERO, 0), NN_OK);
  cr_assert_eq(add(&table, "scorer.bias", 6, 1, NN_INIT_SCORER, 4.0f), NN_OK);
  cr_assert_eq(add(&table, "scorer.weight", 6, 40, NN_INIT_SCORER, 0.02f), NN_OK);
  cr_assert_eq(nn_params_create(device, &table, true, &params), NN_OK);
  cr_assert_eq(nn_params_init(&params, fresh_seed()), NN_OK);
  const float *norm = nn_params_weight(&params, 0), *bias = nn_params_weight(&params, 1);
  const float *scorer_bias = nn_params_weight(&params, 2), *weight = nn_params_weight(&params, 3);
  for (int i = 0; i < NN_PARAM_ALIGN; i++) { // gaps included: they are zero
    cr_expect_eq(norm[i], i < 5 ? 1.0f : 0.0f);
    cr_expect_eq(bias[i], 0.0f);
    cr_expect_eq(scorer_bias[i], i < 6 && i % 3 == 0 ? 4.0f : 0.0f);
  }
  for (int i = 0; i < 240; i++)
    cr_expect(weight[i] != 0.0f && fabsf(weight[i]) < 0.02f * 8.0f);
  cr_expect_eq(nn_params_grad(&params, 3), params.grad + table.items[3].offset);
  nn_params_free(&params);
  cr_expect_null(params.master);
  nn_params_free(&params);
  nn_param_table_free(&table);
  nn_device_close(device);
}

// Without a table there is nothing to allocate: an error, not an empty model.
Test(params, empty_table_is_refused) {
  nn_device *device;
  nn_param_table table = {0};
  nn_params params;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_expect_eq(nn_params_create(device, &table, true, &params), NN_ERR_INTERNAL);
  nn_params_free(&params);
  nn_device_close(device);
}
