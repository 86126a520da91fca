#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

// GELU, tanh form: x/2 (1 + tanh(u)) with u = sqrt(2/pi) (x + 0.044715 x^3). That is x sigmoid(2u), which
// keeps its relative accuracy where x is very negative.
static const float GELU_SCALE = 2.0f * 0.7978845608f, GELU_CUBIC = 0.044715f;

NN_INLINE nn_v16 gelu_gate(nn_v16 x) {
  return nn_v16_sigmoid(GELU_SCALE * (x + GELU_CUBIC * x * x * x));
}

NN_INLINE nn_v16 gelu_slope(nn_v16 x) {
  nn_v16 gate = gelu_gate(x);
  return gate + x * gate * (1.0f - gate) * (GELU_SCALE * (1.0f + 3.0f * GELU_CUBIC * x * x));
}

NN_CLONES static void gelu_forward(const float *x, float *y, nn_range mine) {
  NN_FOR_LANES(mine.begin, mine.end, i, lanes, {
    nn_v16 value = nn_v16_load_n(x + i, lanes, 0.0f);
    nn_v16_store_n(y + i, value * gelu_gate(value), lanes);
  });
}

NN_CLONES static void gelu_backward(const float *x, const float *dy, float *dx, nn_range mine) {
  NN_FOR_LANES(mine.begin, mine.end, i, lanes, {
    nn_v16 slope = gelu_slope(nn_v16_load_n(x + i, lanes, 0.0f));
    nn_v16_store_n(dx + i, slope * nn_v16_load_n(dy + i, lanes, 0.0f), lanes);
  });
}

// SwiGLU: gate sigmoid(gate) up.
NN_CLONES static void swiglu_forward(const nn_activation *op, nn_range rows) {
  for (int64_t row = rows.begin; row < rows.end; row++) {
    const float *gate = (const float *)op->x + row * 2 * op->width, *up = gate + op->width;
    float *y = (float *)op->y + row * op->width;
    NN_FOR_LANES(0, op->width, i, lanes, {
      nn_v16 g = nn_v16_load_n(gate + i, lanes, 0.0f);
      nn_v16_store_n(y + i, g * nn_v16_sigmoid(g) * nn_v16_load_n(up + i, lanes, 0.0f), lanes);
    });
  }
}

NN_CLONES static void swiglu_backward(const nn_activation *op, nn_range rows) {
  for (int64_t row = rows.begin; row < rows.end; row++) {
    const float *gate = (const float *)op->x + row * 2 * op->width, *up = gate + op->width;
    const float *dy = (const float *)op->dy + row * op->width;
    float *dgate = (float *)op->dx + row * 2 * op->width, *dup = dgate + op->width;
    NN_FOR_LANES(0, op->width, i, lanes, {
      nn_v16 g = nn_v16_load_n(gate + i, lanes, 0.0f);
      nn_v16 u = nn_v16_load_n(up + i, lanes, 0.0f);
      nn_v16 d = nn_v16_load_n(dy + i, lanes, 0.0f);
      nn_v16 sigmoid = nn_v16_sigmoid(g);
      nn_v16 silu = g * sigmoid;
      nn_v16_store_n(dgate + i, d * u * (sigmoid + silu * (1.0f - sigmoid)), lanes);
      nn_v16_store_n(dup + i, d * silu, lanes);
    });
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
