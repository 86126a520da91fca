// The operators as the harness sees them: their tensors, a plain float64 reference, and the calls.
#include <math.h>
#include <stddef.h>

#include "tests/nn/operator_table.h"

// ---- embedding

static void embedding_build(operator_case *c) {
  const operator_row *row = c->row;
  add_indices(c, "tokens", row->rows, row->more);
  add_input(c, "table", TENSOR_ACT, (int64_t)row->more * row->width, 1.0, GRADIENT_PARAMETER);
  add_output(c, "y", TENSOR_ACT, (int64_t)row->rows * row->width);
}

static void embedding_reference(const operator_case *c) {
  const double *tokens = values(c, "tokens"), *table = values(c, "table");
  double *y = values(c, "y");
  int32_t width = c->row->width;
  for (int64_t i = 0; i < (int64_t)c->row->rows * width; i++)
    y[i] = table[(int64_t)tokens[i / width] * width + i % width];
}

static nn_embedding embedding_op(const operator_case *c) {
  return (nn_embedding){.rows = c->row->rows,
                        .vocab = c->row->more,
                        .width = c->row->width,
                        .tokens = memory(c, "tokens"),
                        .table = memory(c, "table"),
                        .y = memory(c, "y"),
                        .dy = slope_memory(c, "y"),
                        .dtable = slope_memory(c, "table")};
}

static nn_status embedding_forward(const operator_case *c) {
  nn_embedding op = embedding_op(c);
  return nn_embedding_forward(c->device, &op);
}

static nn_status embedding_backward(const operator_case *c) {
  nn_embedding op = embedding_op(c);
  return nn_embedding_backward(c->device, &op);
}

const operator_functions EMBEDDING = {embedding_build, embedding_reference, embedding_forward,
                                      embedding_backward};

// ---- linear, and logits

static void linear_build(operator_case *c) {
  const operator_row *row = c->row;
  add_input(c, "x", TENSOR_ACT, (int64_t)row->rows * row->width, 1.0,
            row->accumulate ? GRADIENT_ADDED : GRADIENT_WRITTEN);
  add_input(c, "weight", TENSOR_ACT, (int64_t)row->more * row->width, 1.0, GRADIENT_PARAMETER);
  if (row->bias)
    add_input(c, "bias", TENSOR_ACT, row->more, 1.0, GRADIENT_PARAMETER);
  add_output(c, "y", TENSOR_ACT, (int64_t)row->rows * row->more);
}

static void linear_reference(const operator_case *c) {
  const double *x = values(c, "x"), *weight = values(c, "weight"), *bias = values(c, "bias");
  double *y = values(c, "y");
  int32_t in = c->row->width, out = c->row->more;
  for (int64_t n = 0; n < c->row->rows; n++)
    for (int64_t o = 0; o < out; o++) {
      double sum = bias != NULL ? bias[o] : 0.0;
      for (int64_t i = 0; i < in; i++)
        sum += x[n * in + i] * weight[o * in + i];
      y[n * out + o] = sum;
    }
}

static nn_linear linear_op(const operator_case *c) {
  return (nn_linear){.rows = c->row->rows,
                     .in = c->row->width,
                     .out = c->row->more,
                     .x = memory(c, "x"),
                     .weight = memory(c, "weight"),
                     .bias = memory(c, "bias"),
                     .y = memory(c, "y"),
                     .dy = slope_memory(c, "y"),
                     .dx = slope_memory(c, "x"),
                     .dx_accumulate = c->row->accumulate,
                     .dweight = slope_memory(c, "weight"),
                     .dbias = slope_memory(c, "bias")};
}

static nn_status linear_forward(const operator_case *c) {
  nn_linear op = linear_op(c);
  return nn_linear_forward(c->device, &op);
}

static nn_status linear_backward(const operator_case *c) {
  nn_linear op = linear_op(c);
  return nn_linear_backward(c->device, &op);
}

const operator_functions LINEAR = {linear_build, linear_reference, linear_forward, linear_backward};

static double gelu(double x) {
  return 0.5 * x * (1.0 + tanh(sqrt(2.0 / 3.14159265358979323846) * (x + 0.044715 * pow(x, 3))));
}

// y, and gelu(y) on the way.
static void to_gelu_build(operator_case *c) {
  linear_build(c);
  add_output(c, "gelu", TENSOR_ACT, (int64_t)c->row->rows * c->row->more);
}

static void to_gelu_reference(const operator_case *c) {
  const double *y = values(c, "y");
  linear_reference(c);
  for (int64_t i = 0; i < find(c, "y")->count; i++)
    values(c, "gelu")[i] = gelu(y[i]);
}

static nn_status to_gelu_forward(const operator_case *c) {
  nn_linear op = linear_op(c);
  op.gelu = memory(c, "gelu");
  return nn_linear_forward(c->device, &op);
}

const operator_functions LINEAR_TO_GELU = {to_gelu_build, to_gelu_reference, to_gelu_forward, NULL};

// Of x = gelu(before), whose gradient goes to `before`; with the sums for dbias given.
static void of_gelu_build(operator_case *c) {
  const operator_row *row = c->row;
  const int64_t count = (int64_t)row->rows * row->width;
  add_input(c, "before", TENSOR_ACT, count, 2.0, GRADIENT_WRITTEN);
  add_input(c, "x", TENSOR_ACT, count, 0.0, GRADIENT_NONE); // room for it
  add_input(c, "weight", TENSOR_ACT, (int64_t)row->more * row->width, 1.0, GRADIENT_PARAMETER);
  if (row->bias)
    add_input(c, "bias", TENSOR_ACT, row->more, 1.0, GRADIENT_PARAMETER);
  add_output(c, "y", TENSOR_ACT, (int64_t)row->rows * row->more);
  add_input(c, "dy_sums", TENSOR_F32, row->more, 0.0, GRADIENT_NONE); // room
}

static void of_gelu_reference(const operator_case *c) {
  const double *before = values(c, "before");
  for (int64_t i = 0; i < find(c, "before")->count; i++)
    values(c, "x")[i] = gelu(before[i]);
  linear_reference(c);
}

static nn_status of_gelu_forward(const operator_case *c) {
  nn_linear op = linear_op(c);
  NN_TRY(nn_activation_forward(c->device, &(nn_activation){.kind = NN_MLP_GELU,
                                                           .rows = c->row->rows,
                                                           .width = c->row->width,
                                                           .x = memory(c, "before"),
                                                           .y = memory(c, "x")}));
  return nn_linear_forward(c->device, &op);
}

// Sums of dy as another operator would have left them.
static nn_status upload_sums(const operator_case *c) {
  const double *dy = find(c, "y")->slope;
  for (int64_t o = 0; o < c->row->more; o++) {
    float sum = 0;
    for (int64_t n = 0; n < c->row->rows; n++)
      sum += (float)dy[n * c->row->more + o];
    NN_TRY(nn_device_upload(c->device, (float *)memory(c, "dy_sums") + o, &sum, sizeof sum));
  }
  return NN_OK;
}

static nn_status of_gelu_backward(const operator_case *c) {
  nn_linear op = linear_op(c);
  NN_TRY(upload_sums(c));
  op.dy_sums = memory(c, "dy_sums");
  op.gelu_of = memory(c, "before");
  op.dx = slope_memory(c, "before");
  return nn_linear_backward(c->device, &op);
}

const operator_functions LINEAR_OF_GELU = {of_gelu_build, of_gelu_reference, of_gelu_forward,
                                           of_gelu_backward};

static void logits_build(operator_case *c) {
  const operator_row *row = c->row;
  add_input(c, "x", TENSOR_ACT, (int64_t)row->rows * row->width, 1.0, GRADIENT_NONE);
  add_input(c, "weight", TENSOR_ACT, (int64_t)row->more * row->width, 1.0, GRADIENT_NONE);
  add_output(c, "y", TENSOR_F32, (int64_t)row->rows * row->more);
}

static nn_status logits_forward(const operator_case *c) {
  nn_logits op = {.rows = c->row->rows,
                  .width = c->row->width,
                  .vocab = c->row->more,
                  .x = memory(c, "x"),
                  .weight = memory(c, "weight"),
                  .y = memory(c, "y")};
  return nn_logits_forward(c->device, &op);
}

const operator_functions LOGITS = {logits_build, linear_reference, logits_forward, NULL};

// ---- residual + norm

static void norm_build(operator_case *c) {
  const operator_row *row = c->row;
  int64_t count = (int64_t)row->rows * row->width;
  add_input(c, "x", TENSOR_ACT, count, 1.0, GRADIENT_WRITTEN);
  if (row->residual) {
    add_input(c, "delta", TENSOR_ACT, count, 1.0, GRADIENT_NONE); // its gradient is that of x
    add_output(c, "sum", TENSOR_ACT, count);
    add_input(c, "shift", TENSOR_F32, row->width, 0.0, GRADIENT_WRITTEN); // of all rows of delta: dx_sums
  }
  add_input(c, "weight", TENSOR_ACT, row->width, 1.0, GRADIENT_PARAMETER);
  if (row->bias)
    add_input(c, "bias", TENSOR_ACT, row->width, 1.0, GRADIENT_PARAMETER);
  add_output(c, "y", TENSOR_ACT, count);
  add_input(c, "mean", TENSOR_F32, row->rows, 0.0, GRADIENT_NONE); // room for what forward leaves to backward
  add_input(c, "rstd", TENSOR_F32, row->rows, 0.0, GRADIENT_NONE);
}

static const double NORM_EPS = 1e-3; // large enough to be noticed

static void norm_reference(const operator_case *c) {
  const double *x = values(c, "x"), *delta = values(c, "delta");
  const double *weight = values(c, "weight"), *bias = values(c, "bias"), *shift = values(c, "shift");
  double *sum = values(c, "sum"), *y = values(c, "y");
  int32_t width = c->row->width;
  for (int64_t n = 0; n < c->row->rows; n++) {
    double mean = 0.0, square = 0.0;
    for (int64_t i = n * width; i < (n + 1) * width; i++) {
      double s = x[i] + (delta != NULL ? delta[i] + shift[i % width] : 0.0);
      if (sum != NULL)
        sum[i] = s;
      mean += s / width;
      y[i] = s;
    }
    if (c->row->kind == NN_NORM_RMS)
      mean = 0.0;
    for (int64_t i = n * width; i < (n + 1) * width; i++)
      square += (y[i] - mean) * (y[i] - mean) / width;
    for (int64_t i = 0; i < width; i++)
      y[n * width + i] =
          (y[n * width + i] - mean) / sqrt(square + NORM_EPS) * weight[i] + (bias != NULL ? bias[i] : 0.0);
  }
}

static nn_norm norm_op(const operator_case *c) {
  return (nn_norm){.kind = (nn_norm_kind)c->row->kind,
                   .rows = c->row->rows,
                   .width = c->row->width,
                   .eps = (float)NORM_EPS,
                   .x = memory(c, "x"),
                   .delta = memory(c, "delta"),
                   .sum = memory(c, "sum"),
                   .weight = memory(c, "weight"),
                   .bias = memory(c, "bias"),
                   .y = memory(c, "y"),
                   .mean = c->row->kind == NN_NORM_LAYER ? memory(c, "mean") : NULL,
                   .rstd = memory(c, "rstd"),
                   .dy = slope_memory(c, "y"),
                   .dsum = slope_memory(c, "sum"),
                   .dx = slope_memory(c, "x"),
                   .dx_sums = slope_memory(c, "shift"),
                   .dweight = slope_memory(c, "weight"),
                   .dbias = slope_memory(c, "bias")};
}

static size_t act_bytes(const operator_case *c, const char *name) {
  return (size_t)find(c, name)->count * nn_device_act_size(c->device);
}

static nn_status norm_forward(const operator_case *c) {
  nn_norm op = norm_op(c);
  if (c->row->in_place) { // sum = x + delta where x itself lies
    NN_TRY(nn_device_copy(c->device, op.sum, op.x, act_bytes(c, "sum")));
    op.x = op.sum;
  }
  return nn_norm_forward(c->device, &op);
}

static nn_status norm_backward(const operator_case *c) {
  nn_norm op = norm_op(c);
  if (c->row->in_place) {
    NN_TRY(nn_device_copy(c->device, op.dx, op.dsum, act_bytes(c, "sum")));
    op.dsum = op.dx;
  }
  return nn_norm_backward(c->device, &op);
}

const operator_functions NORM = {norm_build, norm_reference, norm_forward, norm_backward};

// ---- rotary position embedding. A row holds `width` heads that are turned and one that is not.

static const double ROPE_THETA = 500.0;
enum { ROPE_PERIOD = 11 };

static void rope_build(operator_case *c) {
  const operator_row *row = c->row;
  int64_t count = (int64_t)row->rows * (row->width + 1) * row->more;
  add_input(c, "x", TENSOR_ACT, count, 1.0, GRADIENT_WRITTEN);
  add_output(c, "y", TENSOR_ACT, count);
  if (row->positions)
    add_indices(c, "position", row->rows, ROPE_PERIOD);
  add_input(c, "table", TENSOR_F32, (int64_t)ROPE_PERIOD * row->more, 0.0, GRADIENT_NONE);
}

static void rope_reference(const operator_case *c) {
  const double *x = values(c, "x"), *given = values(c, "position");
  double *y = values(c, "y");
  int32_t heads = c->row->width, size = c->row->more, half = size / 2;
  for (int64_t n = 0; n < c->row->rows; n++)
    for (int64_t head = 0; head <= heads; head++)
      for (int64_t i = 0; i < half; i++) {
        int64_t a = (n * (heads + 1) + head) * size + i, b = a + half;
        double position = given != NULL ? given[n] : (double)(n % ROPE_PERIOD);
        double angle = head < heads ? position * pow(ROPE_THETA, -2.0 * (double)i / size) : 0.0;
        y[a] = x[a] * cos(angle) - x[b] * sin(angle);
        y[b] = x[a] * sin(angle) + x[b] * cos(angle);
      }
}

static nn_rope rope_op(const operator_case *c, void *x) {
  return (nn_rope){.rows = c->row->rows,
                   .heads = c->row->width,
                   .head_size = c->row->more,
                   .row_stride = (int64_t)(c->row->width + 1) * c->row->more,
                   .table = memory(c, "table"),
                   .positions = ROPE_PERIOD,
                   .position = memory(c, "position"),
                   .period = ROPE_PERIOD,
                   .x = x};
}

static nn_status rope_forward(const operator_case *c) {
  nn_rope op = rope_op(c, memory(c, "y"));
  NN_TRY(nn_rope_table(c->device, ROPE_PERIOD, c->row->more, ROPE_THETA, memory(c, "table")));
  NN_TRY(nn_device_copy(c->device, op.x, memory(c, "x"), act_bytes(c, "x")));
  return nn_rope_forward(c->device, &op);
}

static nn_status rope_backward(const operator_case *c) {
  nn_rope op = rope_op(c, slope_memory(c, "x"));
  NN_TRY(nn_device_copy(c->device, op.x, slope_memory(c, "y"), act_bytes(c, "x")));
  return nn_rope_backward(c->device, &op);
}

const operator_functions ROPE = {rope_build, rope_reference, rope_forward, rope_backward};

// ---- activations

static void activation_build(operator_case *c) {
  const operator_row *row = c->row;
  int64_t count = (int64_t)row->rows * row->width;
  add_input(c, "x", TENSOR_ACT, row->kind == NN_MLP_SWIGLU ? 2 * count : count, 3.0, GRADIENT_WRITTEN);
  add_output(c, "y", TENSOR_ACT, count);
}

static void activation_reference(const operator_case *c) {
  const double *x = values(c, "x");
  double *y = values(c, "y");
  int64_t width = c->row->width;
  for (int64_t i = 0; i < c->row->rows * width; i++) {
    if (c->row->kind == NN_MLP_SWIGLU) {
      double gate = x[i / width * 2 * width + i % width], up = x[i / width * 2 * width + width + i % width];
      y[i] = gate / (1.0 + exp(-gate)) * up;
    } else {
      y[i] = gelu(x[i]);
    }
  }
}

static nn_activation activation_op(const operator_case *c) {
  return (nn_activation){.kind = (nn_mlp_kind)c->row->kind,
                         .rows = c->row->rows,
                         .width = c->row->width,
                         .x = memory(c, "x"),
                         .y = memory(c, "y"),
                         .dy = slope_memory(c, "y"),
                         .dx = slope_memory(c, "x")};
}

static nn_status activation_forward(const operator_case *c) {
  nn_activation op = activation_op(c);
  return nn_activation_forward(c->device, &op);
}

static nn_status activation_backward(const operator_case *c) {
  nn_activation op = activation_op(c);
  if (c->row->in_place) {
    NN_TRY(nn_device_copy(c->device, op.dx, op.x, act_bytes(c, "x")));
    op.x = op.dx;
  }
  return nn_activation_backward(c->device, &op);
}

const operator_functions ACTIVATION = {activation_build, activation_reference, activation_forward,
                                       activation_backward};

// ---- classifier. The slope of every nll is the same number, grad_scale.

static void classifier_build(operator_case *c) {
  const operator_row *row = c->row;
  add_input(c, "x", TENSOR_ACT, (int64_t)row->rows * row->width, 1.0, GRADIENT_WRITTEN);
  add_input(c, "weight", TENSOR_ACT, (int64_t)row->more * row->width, 1.0, GRADIENT_PARAMETER);
  tensor *targets = add_indices(c, "targets", row->rows, row->more);
  for (int64_t n = 0; row->unscored && n < row->rows; n++)
    if (n % 3 != 1)
      targets->value[n] = -1.0;
  tensor *nll = add_output(c, "nll", TENSOR_F32, row->rows);
  for (int64_t n = 1; n < row->rows; n++)
    nll->slope[n] = nll->slope[0];
  add_input(c, "sums", TENSOR_F32, 2 * NN_SUMS_FIELDS, 0.0, GRADIENT_NONE); // room for doubles
}

static void classifier_reference(const operator_case *c) {
  const double *x = values(c, "x"), *weight = values(c, "weight"), *targets = values(c, "targets");
  double *nll = values(c, "nll");
  int64_t width = c->row->width, vocab = c->row->more;
  for (int64_t n = 0; n < c->row->rows; n++) {
    nll[n] = 0.0;
    if (targets[n] < 0.0)
      continue;
    double sum = 0.0, target = 0.0;
    for (int64_t v = 0; v < vocab; v++) { // values are small enough for plain exponentials
      double logit = 0.0;
      for (int64_t i = 0; i < width; i++)
        logit += x[n * width + i] * weight[v * width + i];
      sum += exp(logit);
      target = v == (int64_t)targets[n] ? logit : target;
    }
    nll[n] = log(sum) - target;
  }
}

static nn_classifier classifier_op(const operator_case *c) {
  return (nn_classifier){.rows = c->row->rows,
                         .width = c->row->width,
                         .vocab = c->row->more,
                         .x = memory(c, "x"),
                         .weight = memory(c, "weight"),
                         .targets = memory(c, "targets"),
                         .nll = memory(c, "nll"),
                         .sums = memory(c, "sums"),
                         .grad_scale = slope_memory(c, "nll")};
}

static nn_status classifier_forward(const operator_case *c) {
  nn_classifier op = classifier_op(c);
  return nn_classifier_run(c->device, &op);
}

static nn_status classifier_backward(const operator_case *c) {
  nn_classifier op = classifier_op(c);
  op.dx = slope_memory(c, "x");
  op.dweight = slope_memory(c, "weight");
  return nn_classifier_run(c->device, &op);
}

const operator_functions CLASSIFIER = {classifier_build, classifier_reference, classifier_forward,
                                       classifier_backward};
