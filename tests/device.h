// Tests that run on every device and compute type, and how their data gets there and back.
//
//   DEVICE_TEST(norm, forgets_nothing) { ... uses `device` ... }
//
// is three tests: forgets_nothing_cpu, _cuda_float32 and _cuda_bf16. Where a device cannot be opened its test
// is skipped and says why. Memory from test_* functions is freed after the test.
#pragma once

#include <criterion/criterion.h>

#include "nn/device.h"

#define DEVICE_TEST(suite, name)                                                                             \
  static void suite##_##name(nn_device *device);                                                             \
  Test(suite, name##_cpu) {                                                                                  \
    test_on_device("cpu", "float32", suite##_##name);                                                        \
  }                                                                                                          \
  Test(suite, name##_cuda_float32) {                                                                         \
    test_on_device("cuda", "float32", suite##_##name);                                                       \
  }                                                                                                          \
  Test(suite, name##_cuda_bf16) {                                                                            \
    test_on_device("cuda", "bf16", suite##_##name);                                                          \
  }                                                                                                          \
  static void suite##_##name(nn_device *device)

// Opens the device, or skips the calling test; runs the body; frees and closes.
void test_on_device(const char *name, const char *precision, void (*body)(nn_device *device));

// The other device of a comparison; closed after the test.
nn_device *test_open_cpu(void);

bool test_is_bf16(const nn_device *device);
// Kernels run on the CPU's stand-in for CUDA (tests/emulator), thousands of times slower than on a GPU: large
// cases are left out.
bool test_is_emulated(const nn_device *device);
// `float32` or `bf16`, whichever the device computes in.
double test_tolerance(const nn_device *device, double float32, double bf16);
float test_round(const nn_device *device, float value); // to the compute type

// Device memory that holds `count` elements; `from` NULL: NaN, or 0xff in every byte.
void *test_bytes(nn_device *device, const void *from, size_t bytes);
float *test_floats(nn_device *device, const float *from, int64_t count);
nn_act *test_acts(nn_device *device, const float *from, int64_t count); // rounded to the compute type
void test_fill_acts(nn_device *device, nn_act *to, const float *from, int64_t count);

// Host memory, zeros; freed after the test.
void *test_host(size_t bytes);

// What lies on the device, in host memory.
void *test_read_bytes(nn_device *device, const void *from, size_t bytes);
float *test_read_floats(nn_device *device, const float *from, int64_t count);
float *test_read_acts(nn_device *device, const nn_act *from, int64_t count);
