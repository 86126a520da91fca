// The table of operators (tests/nn/operator_*.c) and what one of its rows consists of. The harness
// (tests/nn/operators_test.c) runs every row on every device kind: value against a plain float64 reference,
// gradient against central differences of that reference, and bit-for-bit repetition.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/ops.h"

typedef enum { TENSOR_ACT, TENSOR_F32, TENSOR_I32 } tensor_type;

// How the operator delivers the gradient of an input: overwritten, or added to what was there; that of a
// parameter is float32 on every device.
typedef enum { GRADIENT_NONE, GRADIENT_WRITTEN, GRADIENT_ADDED, GRADIENT_PARAMETER } gradient_kind;

typedef struct {
  const char *name;
  tensor_type type;
  int64_t count;
  bool is_output;
  gradient_kind gradient; // of an input; an output always has one, which is given to backward
  double *value;          // inputs: what the device gets, rounded to its type. Outputs: from the reference
  double *slope;          // outputs: gradient given to backward. Inputs: what the gradient held before
  void *memory;           // on the device
  void *slope_memory;     // on the device: dy, dx, dweight
} tensor;

enum { TENSORS_MAX = 10 };

typedef struct {
  const struct operator_row *row;
  nn_device *device;
  uint64_t seed;
  tensor tensors[TENSORS_MAX];
  int count;
} operator_case;

// Sizes and switches of a row; each operator reads those that it has.
typedef struct operator_row {
  const char *name;
  const struct operator_functions *functions;
  int32_t rows, width, more; // `more` is the operator's third size: vocabulary, outputs, head size
  int32_t kind;              // nn_norm_kind, nn_mlp_kind
  bool bias, residual, in_place, accumulate, positions, unscored;
} operator_row;

typedef struct operator_functions {
  void (*build)(operator_case *c);           // adds the tensors
  void (*reference)(const operator_case *c); // values of outputs from values of inputs, in float64
  nn_status (*forward)(const operator_case *c);
  nn_status (*backward)(const operator_case *c);
} operator_functions;

// For build: tensors with normal values of the given scale (inputs) or without values (outputs).
tensor *add_input(operator_case *c, const char *name, tensor_type type, int64_t count, double scale,
                  gradient_kind gradient);
tensor *add_output(operator_case *c, const char *name, tensor_type type, int64_t count);
tensor *add_indices(operator_case *c, const char *name, int64_t count,
                    int32_t limit); // uniform in [0, limit)

// By name: the tensor, its values, its device memory and that of its gradient; NULL where the case has none.
const tensor *find(const operator_case *c, const char *name);
double *values(const operator_case *c, const char *name);
void *memory(const operator_case *c, const char *name);
void *slope_memory(const operator_case *c, const char *name);

extern const operator_row OPERATOR_ROWS[];
extern const int OPERATOR_ROW_COUNT;

extern const operator_functions EMBEDDING, LINEAR, LINEAR_TO_GELU, LINEAR_OF_GELU, NORM, ROPE, ACTIVATION,
    CLASSIFIER, LOGITS;
