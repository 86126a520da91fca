// A random case of masked attention: inputs in the compute type of a device, the operators on that device,
// and the same in float64.
#pragma once

#include <criterion/criterion.h>

#include "nats/attention.h"
#include "reference.h"
#include "tests/device.h"

#define MUST(expression) cr_assert_eq((expression), NN_OK, "%s (%s)", nn_error_text(), nn_error_place())

typedef struct {
  const char *name;
  int32_t batch, length, heads, kv_heads, head_size;
  int32_t chunk, window;
  double global, local; // probabilities; the rest is window
  float clip, rows;     // type_grad_clip, type_grad_rows; rows 0: 1
  float gain;           // standard deviation of queries; 0: 2
  int32_t threads;      // 0: as they are
  int32_t gap;          // unused elements at the end of a token's row of qkv
} attention_spec;

typedef struct {
  attention_spec spec;
  nn_device *device;
  int32_t chunks;    // n
  nats_types types;  // device memory
  nats_attention op; // device memory
  int64_t qkv_count; // elements of the packed rows [B, T, token_stride]
  // what lies on the device, in host memory
  float *qkv, *d_o;
  uint8_t *type;                   // [B, Hk, n]
  int32_t *expiry;                 // [B, Hk, T]
  float *o, *lse, *d_qkv, *dtypes; // NULL before case_run or case_read
} attention_case;

// Random inputs; types by way of logits, expiries from nats_types_forward. Outputs hold NaN. Memory is freed
// after the test (tests/device.h).
void case_open(attention_case *c, nn_device *device, const attention_spec *spec, uint64_t seed);

// Whether a stand-in for a GPU would take too long.
bool case_is_large(const nn_device *device, const attention_spec *spec);

// Both passes and case_read. `want_types`: with the gradient of the types.
void case_run(attention_case *c, bool want_types);
void case_read(attention_case *c);
float *case_read_dtypes(const attention_case *c);

// Sequence `batch` in float64, both passes done.
reference case_reference(const attention_case *c, int32_t batch);
void reference_free(reference *r);

// A copy of every result, one behind the other, for comparing bits: o, lse, d_qkv, dtypes.
float *case_results(const attention_case *c, size_t *bytes);

float random_normal(uint64_t seed, uint64_t index);
double random_uniform(uint64_t seed, uint64_t index);
