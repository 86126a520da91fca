// Products that run again and again.
#include <criterion/criterion.h>

#include "nn/ops.h"
#include "nn/random.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"

enum { USES = 40 }; // after so many a device has tried every algorithm that it might use

static float *random_floats(uint64_t seed, int64_t count) {
  float *values = test_host((size_t)count * sizeof *values);
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits[4];
    nn_random_u32x4(nn_random_key_make(seed, NN_RANDOM_TEST, 0, 0), 0, (uint64_t)i, bits);
    values[i] = nn_random_uniform(bits[0]) - 0.5f;
  }
  return values;
}

static nn_act *random_acts(nn_device *device, uint64_t seed, int64_t count) {
  return test_acts(device, random_floats(seed, count), count);
}

// What breaks: a run that is repeated or resumed is not the same run, because a product has changed its way
// to sum, or a gradient was added twice.
DEVICE_TEST(products, repeat_bit_for_bit) {
  const bool fast = nn_device_get_kind(device) != NN_DEVICE_CPU && !test_is_emulated(device);
  const int64_t rows = fast ? 4096 : 64, in = fast ? 1280 : 96, out = fast ? 1024 : 128;
  const uint64_t seed = fresh_seed();
  float *before = random_floats(seed, out * in);
  nn_linear op = {.rows = rows,
                  .in = (int32_t)in,
                  .out = (int32_t)out,
                  .x = random_acts(device, seed + 1, rows * in),
                  .weight = random_acts(device, seed + 2, out * in),
                  .y = test_acts(device, NULL, rows * out),
                  .dy = random_acts(device, seed + 3, rows * out),
                  .dx = test_acts(device, NULL, rows * in),
                  .dweight = test_floats(device, NULL, out * in)};
  const float *y = NULL, *dx = NULL, *dweight = NULL;
  for (int use = 0; use < USES; use++) {
    cr_assert_eq(nn_device_upload(device, op.dweight, before, (size_t)(out * in) * sizeof *before), NN_OK);
    cr_assert_eq(nn_linear_forward(device, &op), NN_OK, "%s", nn_error_text());
    cr_assert_eq(nn_linear_backward(device, &op), NN_OK, "%s", nn_error_text());
    if (use > 0 && use < USES - 10)
      continue;
    const float *found[] = {test_read_acts(device, op.y, rows * out),
                            test_read_acts(device, op.dx, rows * in),
                            test_read_floats(device, op.dweight, out * in)};
    if (use == 0)
      y = found[0], dx = found[1], dweight = found[2];
    cr_assert_arr_eq(found[0], y, (size_t)(rows * out) * sizeof *y, "y, use %d, seed %llu", use,
                     (unsigned long long)seed);
    cr_assert_arr_eq(found[1], dx, (size_t)(rows * in) * sizeof *dx, "dx, use %d, seed %llu", use,
                     (unsigned long long)seed);
    cr_assert_arr_eq(found[2], dweight, (size_t)(out * in) * sizeof *dweight, "dweight, use %d, seed %llu",
                     use, (unsigned long long)seed);
  }
}
