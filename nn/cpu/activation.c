#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

// GELU, tanh form: x/2 (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3).
static const float GELU_SCALE = 0.7978845608f, GELU_CUBIC = 0.044715f;

NN_INLINE nn_v16 gelu(nn_v16 x) {
  nn_v16 u = GELU_SCALE * (x + GELU_CUBIC * x * x * x);
  return 0.5f * x * (1.0f + nn_v16_tanh(u));
}

NN_INLINE nn_v16 gelu_slope(nn_v16 x) {
  nn_v16 t = nn_v16_tanh(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
  nn_v16 du = GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * x * x);
  return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * du;
}

NN_CLONES static void gelu_forward(const float *x, float *y, nn_range mine) {
  int64_t i = mine.begin;
  for (; i + NN_LANES <= mine.end; i += NN_LANES)
    nn_v16_store(y + i, gelu(nn_v16_load(x + i)));
  int rest = (int)(mine.end - i);
  nn_v16_store_n(y + i, gelu(nn_v16_load_n(x + i, rest, 0.0f)), rest);
}

NN_INLINE void gelu_backward_lanes(const float *x, const float *dy, float *dx, int lanes) {
  nn_v16 slope = gelu_slope(nn_v16_load_n(x, lanes, 0.0f));
  nn_v16_store_n(dx, slope * nn_v16_load_n(dy, lanes, 0.0f), lanes);
}

NN_CLONES static void gelu_backward(const float *x, const float *dy, float *dx, nn_range mine) {
  int64_t i = mine.begin;
  for (; i + NN_LANES <= mine.end; i += NN_LANES)
    gelu_backward_lanes(x + i, dy + i, dx + i, NN_LANES);
  gelu_backward_lanes(x + i, dy + i, dx + i, (int)(mine.end - i));
}

// SwiGLU: gate sigmoid(gate) up.
NN_INLINE void swiglu_lanes(const float *gate, const float *up, float *y, int lanes) {
  nn_v16 g = nn_v16_load_n(gate, lanes, 0.0f);
  nn_v16_store_n(y, g * nn_v16_sigmoid(g) * nn_v16_load_n(up, lanes, 0.0f), lanes);
}

NN_INLINE void swiglu_backward_lanes(const float *x, int32_t width, const float *dy, float *dx, int lanes) {
  nn_v16 gate = nn_v16_load_n(x, lanes, 0.0f), up = nn_v16_load_n(x + width, lanes, 0.0f);
  nn_v16 d = nn_v16_load_n(dy, lanes, 0.0f);
  nn_v16 sigmoid = nn_v16_sigmoid(gate), silu = gate * sigmoid;
  nn_v16_store_n(dx, d * up * (sigmoid + silu * (1.0f - sigmoid)), lanes);
  nn_v16_store_n(dx + width, d * silu, lanes);
}

NN_CLONES static void swiglu_forward(const nn_activation *op, nn_range rows) {
  int32_t width = op->width;
  for (int64_t row = rows.begin; row < rows.end; row++) {
    const float *gate = (const float *)op->x + row * 2 * width, *up = gate + width;
    float *y = (float *)op->y + row * width;
    int32_t i = 0;
    for (; i + NN_LANES <= width; i += NN_LANES)
      swiglu_lanes(gate + i, up + i, y + i, NN_LANES);
    if (i < width)
      swiglu_lanes(gate + i, up + i, y + i, width - i);
  }
}

NN_CLONES static void swiglu_backward(const nn_activation *op, nn_range rows) {
  int32_t width = op->width;
  for (int64_t row = rows.begin; row < rows.end; row++) {
    const float *x = (const float *)op->x + row * 2 * width, *dy = (const float *)op->dy + row * width;
    float *dx = (float *)op->dx + row * 2 * width;
    int32_t i = 0;
    for (; i + NN_LANES <= width; i += NN_LANES)
      swiglu_backward_lanes(x + i, width, dy + i, dx + i, NN_LANES);
    if (i < width)
      swiglu_backward_lanes(x + i, width, dy + i, dx + i, width - i);
  }
}

nn_status nn_cpu_activation_forward(nn_device *device, const nn_activation *op) {
  (void)device;
  int64_t elements = op->rows * op->width;
#pragma omp parallel if (nn_range_is_large(elements))
  {
    if (op->kind == NN_MLP_GELU)
      gelu_forward(op->x, op->y, nn_range_mine(elements, NN_LANES));
    else
      swiglu_forward(op, nn_range_mine(op->rows, 1));
  }
  return NN_OK;
}

nn_status nn_cpu_activation_backward(nn_device *device, const nn_activation *op) {
  (void)device;
  int64_t elements = op->rows * op->width;
#pragma omp parallel if (nn_range_is_large(elements))
  {
    if (op->kind == NN_MLP_GELU)
      gelu_backward(op->x, op->dy, op->dx, nn_range_mine(elements, NN_LANES));
    else
      swiglu_backward(op, nn_range_mine(op->rows, 1));
  }
  return NN_OK;
}
