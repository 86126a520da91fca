#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

enum { THREADS = 256, HEADS = 4 }; // a thread turns the same pairs of HEADS heads: one look at the table

// How work is laid out: consecutive threads take the packs of half a head, then groups of heads, then rows.
typedef struct {
  int32_t packs;  // of D/2 pairs
  int32_t groups; // of HEADS heads
  int64_t items;  // rows * groups * packs
} layout;

// Pairs (i, i + D/2), i in [first, first + N). sign -1 turns back. A position outside the table turns the
// pairs into NaN.
template <typename T, int N>
__global__ static void __launch_bounds__(THREADS) turn(nn_rope op, layout l, float sign) {
  nn_let_next_kernel_begin();
  nn_await_kernels_before();
  int64_t item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (item >= l.items)
    return;
  int64_t team = item / l.packs, row = team / l.groups;
  int32_t first = (int32_t)(item - team * l.packs) * N;
  int32_t head = (int32_t)(team - row * l.groups) * HEADS, half = op.head_size / 2;
  int32_t position = op.position != NULL ? op.position[row] : (int32_t)(row % op.period);
  bool known = position >= 0 && position < op.positions;
  const float *table = op.table + ((int64_t)(known ? position : 0) * half + first) * 2;
  float turns[N][2];
#pragma unroll
  for (int i = 0; i < N; i++) {
    turns[i][0] = known ? table[2 * i] : nn_not_a_number();
    turns[i][1] = known ? sign * table[2 * i + 1] : nn_not_a_number();
  }
  T *x = static_cast<T *>(op.x) + row * op.row_stride + (int64_t)head * op.head_size + first;
  nn_pack<T, N> low[HEADS], high[HEADS];
#pragma unroll
  for (int h = 0; h < HEADS; h++)
    if (head + h < op.heads) {
      low[h] = nn_load_pack<N>(x + h * op.head_size);
      high[h] = nn_load_pack<N>(x + h * op.head_size + half);
    }
#pragma unroll
  for (int h = 0; h < HEADS; h++)
    if (head + h < op.heads) {
      float a[N], b[N];
      nn_unpack(low[h], a);
      nn_unpack(high[h], b);
#pragma unroll
      for (int i = 0; i < N; i++) {
        float a0 = a[i], b0 = b[i];
        a[i] = a0 * turns[i][0] - b0 * turns[i][1];
        b[i] = a0 * turns[i][1] + b0 * turns[i][0];
      }
      nn_store_floats(x + h * op.head_size, a);
      nn_store_floats(x + h * op.head_size + half, b);
    }
}

template <typename T, int N> static nn_status run(nn_device *device, const nn_rope *op, float sign) {
  layout l;
  l.packs = op->head_size / 2 / N;
  l.groups = nn_ceil_div(op->heads, (int32_t)HEADS);
  l.items = op->rows * l.groups * l.packs;
  return NN_LAUNCH_EARLY(device, (turn<T, N>), dim3((unsigned)nn_ceil_div(l.items, (int64_t)THREADS)),
                         dim3(THREADS), 0, *op, l, sign);
}

template <typename T> static nn_status run_typed(nn_device *device, const nn_rope *op, float sign) {
  bool fits = nn_packs_fit<T>(op->head_size / 2, op->x) && op->row_stride % NN_PACK<T> == 0;
  return NN_PACKED(T, fits, run, device, op, sign);
}

extern "C" nn_status nn_cuda_rope_forward(nn_device *device, const nn_rope *op) {
  return NN_CUDA_TYPED(device, run_typed, device, op, 1.0f);
}

extern "C" nn_status nn_cuda_rope_backward(nn_device *device, const nn_rope *op) {
  return NN_CUDA_TYPED(device, run_typed, device, op, -1.0f);
}

// In float64, as the CPU computes it: angles are large, and float32 would lose their fractions.
__global__ static void fill_table(int64_t pairs, int32_t half, double theta, float *table) {
  int64_t pair = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (pair >= pairs)
    return;
  int64_t position = pair / half, i = pair % half;
  double angle = (double)position * pow(theta, -2.0 * (double)i / (2.0 * (double)half));
  table[2 * pair] = (float)cos(angle);
  table[2 * pair + 1] = (float)sin(angle);
}

extern "C" nn_status nn_cuda_rope_table(nn_device *device, int32_t positions, int32_t head_size, double theta,
                                        float *table) {
  int64_t pairs = (int64_t)positions * (head_size / 2);
  return NN_LAUNCH(device, fill_table, dim3((unsigned)nn_ceil_div(pairs, (int64_t)THREADS)), dim3(THREADS), 0,
                   pairs, head_size / 2, theta, table);
}
