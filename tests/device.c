#include "tests/device.h"

#include <math.h>   // NAN
#include <stdio.h>  // fprintf
#include <stdlib.h> // malloc, calloc, realloc, free
#include <string.h> // memcpy, memset, strstr

#define TRY(expression) cr_assert_eq((expression), NN_OK, "%s (%s)", nn_error_text(), nn_error_place())

// ---- what a test holds

typedef struct {
  nn_device *device; // NULL: host memory
  void *memory;
} piece;

static piece *pieces;
static size_t piece_count;
static nn_device *other_device;

static void *hold(nn_device *device, void *memory) {
  piece *more = realloc(pieces, (piece_count + 1) * sizeof *pieces);
  cr_assert(more && memory);
  pieces = more;
  pieces[piece_count++] = (piece){device, memory};
  return memory;
}

static void release(void) {
  while (piece_count > 0) {
    const piece *last = &pieces[--piece_count];
    if (last->device != NULL)
      nn_device_free(last->device, last->memory);
    else
      free(last->memory);
  }
  free(pieces);
  pieces = NULL;
  nn_device_close(other_device);
  other_device = NULL;
}

void test_on_device(const char *name, const char *precision, void (*body)(nn_device *device)) {
  nn_device *device = NULL;
  if (nn_device_open(name, precision, 0, &device) == NN_ERR_UNSUPPORTED) {
    fprintf(stderr, "skipped on %s in %s: %s\n", name, precision, nn_error_text());
    cr_skip("%s", nn_error_text());
  }
  cr_assert_not_null(device, "%s", nn_error_text());
  body(device);
  release();
  nn_device_close(device);
}

nn_device *test_open_cpu(void) {
  if (other_device == NULL)
    TRY(nn_device_open("cpu", "float32", 0, &other_device));
  return other_device;
}

void *test_host(size_t bytes) {
  return hold(NULL, calloc(bytes + 1, 1));
}

// ---- compute types

bool test_is_bf16(const nn_device *device) {
  return nn_device_compute_type(device) == NN_BF16;
}

bool test_is_emulated(const nn_device *device) {
  return strstr(nn_device_describe(device), "emulat") != NULL;
}

double test_tolerance(const nn_device *device, double float32, double bf16) {
  return test_is_bf16(device) ? bf16 : float32;
}

// To nearest, ties to even; a NaN stays one.
static uint16_t narrow(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  if (isnan(value))
    return 0x7fc0;
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float widen(uint16_t half) {
  const uint32_t bits = (uint32_t)half << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float test_round(const nn_device *device, float value) {
  return test_is_bf16(device) ? widen(narrow(value)) : value;
}

// ---- there and back

void *test_bytes(nn_device *device, const void *from, size_t bytes) {
  void *memory = NULL, *poison = NULL;
  TRY(nn_device_alloc(device, bytes, "a test", &memory));
  if (from == NULL) {
    poison = malloc(bytes);
    cr_assert(poison);
    memset(poison, 0xff, bytes); // NaN in either compute type
  }
  TRY(nn_device_upload(device, memory, from != NULL ? from : poison, bytes));
  free(poison);
  return hold(device, memory);
}

float *test_floats(nn_device *device, const float *from, int64_t count) {
  return test_bytes(device, from, (size_t)count * sizeof *from);
}

void test_fill_acts(nn_device *device, nn_act *to, const float *from, int64_t count) {
  const size_t bytes = (size_t)count * nn_device_act_size(device);
  if (!test_is_bf16(device)) {
    TRY(nn_device_upload(device, to, from, bytes));
    return;
  }
  uint16_t *halves = malloc(bytes);
  cr_assert(halves);
  for (int64_t i = 0; i < count; i++)
    halves[i] = narrow(from[i]);
  TRY(nn_device_upload(device, to, halves, bytes));
  free(halves);
}

nn_act *test_acts(nn_device *device, const float *from, int64_t count) {
  nn_act *memory = test_bytes(device, NULL, (size_t)count * nn_device_act_size(device));
  if (from != NULL)
    test_fill_acts(device, memory, from, count);
  return memory;
}

void *test_read_bytes(nn_device *device, const void *from, size_t bytes) {
  void *memory = test_host(bytes);
  TRY(nn_device_download(device, memory, from, bytes));
  TRY(nn_device_sync(device));
  return memory;
}

float *test_read_floats(nn_device *device, const float *from, int64_t count) {
  return test_read_bytes(device, from, (size_t)count * sizeof *from);
}

float *test_read_acts(nn_device *device, const nn_act *from, int64_t count) {
  void *read = test_read_bytes(device, from, (size_t)count * nn_device_act_size(device));
  if (!test_is_bf16(device))
    return read;
  float *wide = test_host((size_t)count * sizeof *wide);
  for (int64_t i = 0; i < count; i++)
    wide[i] = widen(((const uint16_t *)read)[i]);
  return wide;
}
