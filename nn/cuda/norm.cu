// RMSNorm and LayerNorm with the residual addition, forward and backward, memory-bound: every tensor is read
// and written once. A team of one warp (narrow rows) or of a whole block (wide ones) holds a row in
// registers, PACKS packs a thread. Rows that do not fit (very wide ones, or not a multiple of 16 bytes) are
// read again from the cache instead (norm_any.h).
//
// What is normalised is the sum as it was rounded to the compute type, which is what backward reads.
#include "nn/cuda/copy.h"
#include "nn/cuda/norm_any.h"
#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

enum { BLOCK = 128, BLOCK_WARPS = BLOCK / NN_WARP };

// Threads that share a row: TEAM is NN_WARP or BLOCK.
template <int TEAM> __device__ static inline float team_sum(float x) {
  if constexpr (TEAM == NN_WARP)
    return nn_warp_sum(x);
  else
    return nn_norm_block_sum<BLOCK>(x);
}

// The packs of a row that a thread of a team holds: pack `i` begins at column (i TEAM + thread) N.
template <int TEAM, int N> __device__ static inline int32_t column_of(int i) {
  return (i * TEAM + (int32_t)threadIdx.x % TEAM) * N;
}

// ---- forward

enum { FEW_ROWS = 64 }; // that come sooner than the parameters do, which no cache has kept

template <typename T, int N, int PACKS, int TEAM>
__device__ static void prefetch_parameters(const nn_norm &op) {
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    int32_t column = column_of<TEAM, N>(i);
    if (column >= op.width)
      continue;
    nn_prefetch(static_cast<const T *>(op.weight) + column);
    if (op.bias != NULL)
      nn_prefetch(static_cast<const T *>(op.bias) + column);
  }
}

template <typename T, int N, int PACKS, int TEAM, bool LAYER>
__global__ static void __launch_bounds__(BLOCK) forward_rows(nn_norm op) {
  nn_let_next_kernel_begin();
  if (op.rows <= FEW_ROWS)
    prefetch_parameters<T, N, PACKS, TEAM>(op);
  nn_await_kernels_before();
  int64_t row = (int64_t)blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
  if (row >= op.rows)
    return;
  const T *x = static_cast<const T *>(op.x) + row * op.width;
  const T *delta = op.delta != NULL ? static_cast<const T *>(op.delta) + row * op.width : NULL;
  T *sum = static_cast<T *>(op.sum) + (op.delta != NULL ? row * op.width : 0);
  nn_pack<T, N> s[PACKS] = {};
  float moment = 0.0f, value[N], other[N];
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    int32_t column = column_of<TEAM, N>(i);
    if (column >= op.width)
      continue;
    s[i] = nn_load_pack<N>(x + column);
    if (delta != NULL) {
      nn_unpack(s[i], value);
      nn_load_floats(delta + column, other);
#pragma unroll
      for (int j = 0; j < N; j++)
        value[j] += other[j];
      nn_round_pack(value, s[i]);
      *reinterpret_cast<nn_pack<T, N> *>(sum + column) = s[i];
    }
    nn_unpack(s[i], value);
#pragma unroll
    for (int j = 0; j < N; j++)
      moment += LAYER ? value[j] : value[j] * value[j];
  }
  float n = (float)op.width, mean = 0.0f, variance = team_sum<TEAM>(moment) / n;
  if constexpr (LAYER) {
    float deviations = 0.0f;
    mean = variance;
#pragma unroll
    for (int i = 0; i < PACKS; i++) {
      if (column_of<TEAM, N>(i) >= op.width)
        continue;
      nn_unpack(s[i], value);
#pragma unroll
      for (int j = 0; j < N; j++)
        deviations += (value[j] - mean) * (value[j] - mean);
    }
    variance = team_sum<TEAM>(deviations) / n;
  }
  float rstd = 1.0f / sqrtf(variance + op.eps);
  const T *weight = static_cast<const T *>(op.weight), *bias = static_cast<const T *>(op.bias);
  T *y = static_cast<T *>(op.y) + row * op.width;
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    int32_t column = column_of<TEAM, N>(i);
    if (column >= op.width)
      continue;
    nn_unpack(s[i], value);
    nn_load_floats(weight + column, other);
#pragma unroll
    for (int j = 0; j < N; j++)
      value[j] = (value[j] - mean) * rstd * other[j];
    if (bias != NULL) {
      nn_load_floats(bias + column, other);
#pragma unroll
      for (int j = 0; j < N; j++)
        value[j] += other[j];
    }
    nn_store_floats(y + column, value);
  }
  if (threadIdx.x % TEAM == 0) {
    op.rstd[row] = rstd;
    if (LAYER)
      op.mean[row] = mean;
  }
}

// ---- backward
//
// With xhat = (s - mean) rstd and g = dy weight, both averages over the row:
//   ds = rstd (g - [LayerNorm: average(g)] - xhat average(g xhat))
// A team takes every so-manieth row and sums dweight = dy xhat, dbias = dy and dx of its columns in
// registers; a block then adds up its teams in order and leaves one partial sum, and nn_norm_add_partials
// adds those. While a team computes a row its next ones are on their way to shared memory: each thread copies
// what it will read itself, so that nobody waits for another.

enum { STAGES = 2 }; // rows of a team in shared memory
enum { OPERAND_S, OPERAND_DY, OPERAND_DSUM, OPERANDS };

// Blocks that a multiprocessor runs at once, by what a thread keeps of a row: registers are what limits them.
// The grid has just as many, so that all rows are under way from the start.
static constexpr int resident_blocks(int elements) {
  return elements <= 8 ? 5 : elements <= 16 ? 4 : elements <= 24 ? 3 : 2;
}

// A thread's packs of the rows of its team that are under way or being computed.
template <typename T, int N, int PACKS> struct row_stages {
  nn_pack<T, N> pack[STAGES][OPERANDS][PACKS][BLOCK];
};

// Sums of two numbers over a team; every thread gets both.
template <int TEAM> __device__ static inline void team_sums(float *x, float *y) {
  if constexpr (TEAM == NN_WARP) {
    for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2) { // side by side: each step waits for the one before
      *x += __shfl_xor_sync(0xffffffffu, *x, lanes);
      *y += __shfl_xor_sync(0xffffffffu, *y, lanes);
    }
  } else {
    *x = nn_norm_block_sum<BLOCK>(*x);
    *y = nn_norm_block_sum<BLOCK>(*y);
  }
}

template <typename T, int N, int PACKS, int TEAM>
__device__ static inline void copy_row(const nn_norm &op, int64_t row, int stage,
                                       row_stages<T, N, PACKS> &stages) {
  const T *s = static_cast<const T *>(op.delta != NULL ? op.sum : op.x);
  const T *dy = static_cast<const T *>(op.dy), *dsum = static_cast<const T *>(op.dsum);
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    const int32_t column = column_of<TEAM, N>(i);
    const int64_t at = row * op.width + column;
    if (row >= op.rows || column >= op.width)
      continue;
    nn_copy16(&stages.pack[stage][OPERAND_S][i][threadIdx.x], s + at, true);
    nn_copy16(&stages.pack[stage][OPERAND_DY][i][threadIdx.x], dy + at, true);
    if (dsum != NULL)
      nn_copy16(&stages.pack[stage][OPERAND_DSUM][i][threadIdx.x], dsum + at, true);
  }
}

// The teams of a block add their sums to `total` [C] one after another.
template <int N, int PACKS, int TEAM>
__device__ static inline void add_teams(const float (&sums)[PACKS][N], float *total, int32_t width) {
  for (int team = 0; team < BLOCK / TEAM; team++) {
    if ((int)threadIdx.x / TEAM == team) {
#pragma unroll
      for (int i = 0; i < PACKS; i++) {
        int32_t column = column_of<TEAM, N>(i);
#pragma unroll
        for (int j = 0; j < N; j++)
          if (column < width)
            total[column + j] = (team > 0 ? total[column + j] : 0.0f) + sums[i][j];
      }
    }
    __syncthreads();
  }
}

// What a thread keeps of all rows of its team.
template <int N, int PACKS> struct row_sums { float dweight[PACKS][N], dbias[PACKS][N], dx[PACKS][N]; };

// The row's dx, and its part of the sums.
template <typename T, int N, int PACKS, int TEAM, bool LAYER>
__device__ static inline void finish_row(const nn_norm &op, int64_t row, float mean, float rstd,
                                         const nn_pack<T, N> (&packs)[OPERANDS][PACKS][BLOCK],
                                         row_sums<N, PACKS> &sums) {
  const T *weight = static_cast<const T *>(op.weight);
  float sum_g = 0.0f, sum_g_xhat = 0.0f;
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    int32_t column = column_of<TEAM, N>(i);
    if (column >= op.width)
      continue;
    float value[N], d[N], w[N];
    nn_unpack(packs[OPERAND_S][i][threadIdx.x], value);
    nn_unpack(packs[OPERAND_DY][i][threadIdx.x], d);
    nn_load_floats(weight + column, w);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float xhat = (value[j] - mean) * rstd, g = d[j] * w[j];
      sum_g += g;
      sum_g_xhat += g * xhat;
      sums.dweight[i][j] += d[j] * xhat;
      sums.dbias[i][j] += d[j];
    }
  }
  team_sums<TEAM>(&sum_g, &sum_g_xhat);
  const float n = (float)op.width, average_g = LAYER ? sum_g / n : 0.0f, average_g_xhat = sum_g_xhat / n;
#pragma unroll
  for (int i = 0; i < PACKS; i++) {
    int32_t column = column_of<TEAM, N>(i);
    if (column >= op.width)
      continue;
    float value[N], d[N], w[N], before[N] = {};
    nn_unpack(packs[OPERAND_S][i][threadIdx.x], value);
    nn_unpack(packs[OPERAND_DY][i][threadIdx.x], d);
    nn_load_floats(weight + column, w);
    if (op.dsum != NULL)
      nn_unpack(packs[OPERAND_DSUM][i][threadIdx.x], before);
#pragma unroll
    for (int j = 0; j < N; j++) {
      float ds = rstd * (d[j] * w[j] - average_g - (value[j] - mean) * rstd * average_g_xhat);
      d[j] = before[j] + ds;
      sums.dx[i][j] += d[j];
    }
    nn_store_floats(static_cast<T *>(op.dx) + row * op.width + column, d);
  }
}

// partials [blocks, 3, C]: dweight, dbias and dx_sums over the block's rows.
template <typename T, int N, int PACKS, int TEAM, bool LAYER>
__global__ static void __launch_bounds__(BLOCK, resident_blocks(PACKS *N))
    backward_rows(nn_norm op, float *partials) {
  NN_DYNAMIC_SHARED(char, memory);
  row_stages<T, N, PACKS> &stages = *reinterpret_cast<row_stages<T, N, PACKS> *>(memory);
  row_sums<N, PACKS> sums = {};
  const int64_t teams = (int64_t)gridDim.x * (BLOCK / TEAM);
  int64_t row = (int64_t)blockIdx.x * (BLOCK / TEAM) + threadIdx.x / TEAM;
  for (int ahead = 0; ahead < STAGES - 1; ahead++) {
    copy_row<T, N, PACKS, TEAM>(op, row + ahead * teams, ahead, stages);
    nn_copy_commit();
  }
  float rstd = row < op.rows ? op.rstd[row] : 0.0f, mean = LAYER && row < op.rows ? op.mean[row] : 0.0f;
  for (int stage = 0; row < op.rows; row += teams) {
    const int64_t next = row + teams;
    const bool more = next < op.rows;
    const float next_rstd = more ? op.rstd[next] : 0.0f, next_mean = LAYER && more ? op.mean[next] : 0.0f;
    copy_row<T, N, PACKS, TEAM>(op, row + (STAGES - 1) * teams, (stage + STAGES - 1) % STAGES, stages);
    nn_copy_commit();
    nn_copy_wait<STAGES - 1>();
    finish_row<T, N, PACKS, TEAM, LAYER>(op, row, mean, rstd, stages.pack[stage], sums);
    stage = (stage + 1) % STAGES;
    rstd = next_rstd;
    mean = next_mean;
  }
  nn_copy_wait<0>();
  __syncthreads();
  float *total = reinterpret_cast<float *>(memory); // [C], over the rows
  const int wanted = op.dx_sums != NULL ? NORM_SUMS : NORM_DX_SUMS;
  for (int which = 0; which < wanted; which++) {
    float *partial = partials + (NORM_SUMS * (int64_t)blockIdx.x + which) * op.width;
    if (which == NORM_DWEIGHT)
      add_teams<N, PACKS, TEAM>(sums.dweight, total, op.width);
    else if (which == NORM_DBIAS)
      add_teams<N, PACKS, TEAM>(sums.dbias, total, op.width);
    else
      add_teams<N, PACKS, TEAM>(sums.dx, total, op.width);
    for (int32_t c = (int32_t)threadIdx.x; c < op.width; c += BLOCK)
      partial[c] = total[c];
    __syncthreads();
  }
}

// ---- choosing a kernel

template <typename T, int PACKS, int TEAM>
static nn_status launch_forward(nn_device *device, const nn_norm *op) {
  dim3 grid((unsigned)nn_ceil_div(op->rows, (int64_t)(BLOCK / TEAM)));
  if (op->kind == NN_NORM_LAYER)
    return NN_LAUNCH_EARLY(device, (forward_rows<T, NN_PACK<T>, PACKS, TEAM, true>), grid, dim3(BLOCK), 0,
                           *op);
  return NN_LAUNCH_EARLY(device, (forward_rows<T, NN_PACK<T>, PACKS, TEAM, false>), grid, dim3(BLOCK), 0,
                         *op);
}

template <typename T, int PACKS, int TEAM>
static nn_status launch_backward(nn_device *device, const nn_norm *op) {
  int64_t most = nn_ceil_div(op->rows, (int64_t)(BLOCK / TEAM));
  int64_t blocks = resident_blocks(PACKS * NN_PACK<T>) * nn_cuda_processors(device);
  float *partials;
  blocks = blocks < most ? blocks : most;
  NN_TRY(nn_norm_take_partials(device, op, blocks, &partials));
  dim3 grid((unsigned)blocks);
  size_t shared = sizeof(row_stages<T, NN_PACK<T>, PACKS>);
  if (op->kind == NN_NORM_LAYER)
    NN_TRY(NN_LAUNCH(device, (backward_rows<T, NN_PACK<T>, PACKS, TEAM, true>), grid, dim3(BLOCK), shared,
                     *op, partials));
  else
    NN_TRY(NN_LAUNCH(device, (backward_rows<T, NN_PACK<T>, PACKS, TEAM, false>), grid, dim3(BLOCK), shared,
                     *op, partials));
  return nn_norm_add_partials(device, op, partials, blocks);
}

// Calls `launch<T, PACKS, TEAM>` for the fewest packs a thread that hold a row, in a warp or in a block.
// More than MOST_PACKS a warp would leave too few registers.
#define LAUNCH_FOR_WIDTH(T, launch, device, op)                                                              \
  do {                                                                                                       \
    int64_t packs = nn_ceil_div((op)->width / NN_PACK<T>, (int32_t)NN_WARP);                                 \
    if (packs <= 1)                                                                                          \
      return launch<T, 1, NN_WARP>(device, op);                                                              \
    if (packs <= 2)                                                                                          \
      return launch<T, 2, NN_WARP>(device, op);                                                              \
    if (packs <= 3)                                                                                          \
      return launch<T, 3, NN_WARP>(device, op);                                                              \
    if (packs <= 4)                                                                                          \
      return launch<T, 4, NN_WARP>(device, op);                                                              \
    if (packs <= 2 * BLOCK_WARPS)                                                                            \
      return launch<T, 2, BLOCK>(device, op);                                                                \
    if (packs <= 4 * BLOCK_WARPS)                                                                            \
      return launch<T, 4, BLOCK>(device, op);                                                                \
  } while (0)

template <typename T> static nn_status forward_typed(nn_device *device, const nn_norm *op) {
  if (nn_packs_fit<T>(op->width, op->x, op->delta, op->sum, op->weight, op->bias, op->y))
    LAUNCH_FOR_WIDTH(T, launch_forward, device, op);
  return nn_norm_forward_any<T>(device, op);
}

template <typename T> static nn_status backward_typed(nn_device *device, const nn_norm *op) {
  if (nn_packs_fit<T>(op->width, op->x, op->sum, op->weight, op->dy, op->dsum, op->dx))
    LAUNCH_FOR_WIDTH(T, launch_backward, device, op);
  return nn_norm_backward_any<T>(device, op);
}

extern "C" nn_status nn_cuda_norm_forward(nn_device *device, const nn_norm *op) {
  return NN_CUDA_TYPED(device, forward_typed, device, op);
}

extern "C" nn_status nn_cuda_norm_backward(nn_device *device, const nn_norm *op) {
  return NN_CUDA_TYPED(device, backward_typed, device, op);
}
