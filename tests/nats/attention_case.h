// A random case of masked attention: inputs in float32, the operators on the CPU, and the same in float64.
#pragma once

#include <criterion/criterion.h>

#include "nats/attention.h"
#include "reference.h"

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
  int32_t chunks; // n
  nats_types types;
  nats_attention op;
  int64_t qkv_count; // elements of the packed rows [B, T, token_stride]
  float *qkv, *d_qkv;
} attention_case;

// Random inputs; types by way of logits, expiries from nats_types_forward. Outputs hold NaN.
void case_open(attention_case *c, const attention_spec *spec, uint64_t seed);
void case_close(attention_case *c);

// Both passes. `want_types`: with the gradient of the types.
void case_run(attention_case *c, bool want_types);

// Sequence `batch` in float64, both passes done.
reference case_reference(const attention_case *c, int32_t batch);
void reference_free(reference *r);

// A copy of every result, one behind the other, for comparing bits: o, lse, d_qkv, dtypes.
float *case_results(const attention_case *c, size_t *bytes);

float random_normal(uint64_t seed, uint64_t index);
double random_uniform(uint64_t seed, uint64_t index);
