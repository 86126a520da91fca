#include "nn/cuda/columns.h"

#include "nn/cuda/stream.h"
#include "nn/cuda/vector.h"

// A block is LANES packs wide and takes ROWS rows at a time; BLOCKS of them run on a multiprocessor. Of
// slabs, with few blocks in all, it takes SLABS at a time where there are many.
enum { LANES = NN_WARP, ROWS = 8, ROWS_AHEAD = 4, BLOCKS = 4, SLABS = 32 };

typedef struct {
  int32_t stripes;   // blocks side by side
  int32_t slabs;     // blocks one above the other
  int64_t slab_rows; // rows of a slab
} layout;

static layout lay_out(const nn_device *device, int64_t rows, int32_t width, int pack) {
  layout l;
  l.stripes = nn_ceil_div(width, LANES * pack);
  int64_t wanted = nn_ceil_div(BLOCKS * nn_cuda_processors(device), l.stripes);
  int64_t granules = nn_ceil_div(rows, (int64_t)ROWS * ROWS_AHEAD);
  l.slab_rows = nn_ceil_div(granules, wanted) * ROWS * ROWS_AHEAD;
  l.slabs = (int32_t)nn_ceil_div(rows, l.slab_rows);
  return l;
}

// Adds `sum` over the HEIGHT threads of a column; the first N rows of threads get one element each.
template <int HEIGHT, int N> __device__ static inline float sum_over_rows(const float (&sum)[N]) {
  __shared__ float part[HEIGHT][N][LANES];
#pragma unroll
  for (int i = 0; i < N; i++)
    part[threadIdx.y][i][threadIdx.x] = sum[i];
  __syncthreads();
  float total = 0.0f;
  if (threadIdx.y < N)
    for (int row = 0; row < HEIGHT; row++)
      total += part[row][threadIdx.y][threadIdx.x];
  return total;
}

template <typename T, int N>
__global__ static void __launch_bounds__(LANES *ROWS)
    sum_slabs(int64_t rows, int64_t slab_rows, int32_t width, const T *x, // [rows, width]
              float *partial) {                                           // [slabs, width]
  int32_t column = (int32_t)(blockIdx.x * LANES + threadIdx.x) * N;
  int64_t begin = blockIdx.y * slab_rows;
  int64_t end = begin + slab_rows < rows ? begin + slab_rows : rows;
  float sum[N] = {};
  x += column;
  for (int64_t row = begin + threadIdx.y; row < end && column < width; row += ROWS * ROWS_AHEAD) {
    nn_pack<T, N> some[ROWS_AHEAD];
#pragma unroll
    for (int j = 0; j < ROWS_AHEAD; j++)
      if (row + j * ROWS < end)
        some[j] = nn_load_pack<N>(x + (row + j * ROWS) * width);
#pragma unroll
    for (int j = 0; j < ROWS_AHEAD; j++)
      if (row + j * ROWS < end) {
        float value[N];
        nn_unpack(some[j], value);
#pragma unroll
        for (int i = 0; i < N; i++)
          sum[i] += value[i];
      }
  }
  float total = sum_over_rows<ROWS>(sum);
  if (threadIdx.y < N && column < width)
    partial[(int64_t)blockIdx.y * width + column + threadIdx.y] = total;
}

template <int HEIGHT>
__global__ static void __launch_bounds__(LANES *HEIGHT)
    add_slabs(int32_t slabs, int32_t width, const float *partial, // [slabs, width]
              float *out) {                                       // [width]
  int32_t column = (int32_t)(blockIdx.x * LANES + threadIdx.x);
  float sum[1] = {0.0f};
  if (column < width)
#pragma unroll ROWS_AHEAD
    for (int32_t slab = (int32_t)threadIdx.y; slab < slabs; slab += HEIGHT)
      sum[0] += partial[(int64_t)slab * width + column];
  float total = sum_over_rows<HEIGHT>(sum);
  if (threadIdx.y == 0 && column < width)
    out[column] += total;
}

nn_status nn_cuda_add_slabs(nn_device *device, int32_t slabs, int32_t width, const float *partial,
                            float *out) {
  const dim3 grid((unsigned)nn_ceil_div(width, (int32_t)LANES));
  if (slabs <= SLABS)
    return NN_LAUNCH(device, add_slabs<ROWS>, grid, dim3(LANES, ROWS), 0, slabs, width, partial, out);
  return NN_LAUNCH(device, add_slabs<SLABS>, grid, dim3(LANES, SLABS), 0, slabs, width, partial, out);
}

template <typename T, int N>
static nn_status run(nn_device *device, int64_t rows, int32_t width, const nn_act *x, float *partial,
                     float *out) {
  layout l = lay_out(device, rows, width, N);
  NN_TRY(NN_LAUNCH(device, (sum_slabs<T, N>), dim3((unsigned)l.stripes, (unsigned)l.slabs), dim3(LANES, ROWS),
                   0, rows, l.slab_rows, width, x, partial));
  return nn_cuda_add_slabs(device, l.slabs, width, partial, out);
}

template <typename T>
static nn_status run_typed(nn_device *device, int64_t rows, int32_t width, const nn_act *x, float *partial,
                           float *out) {
  return NN_PACKED(T, nn_packs_fit<T>(width, x), run, device, rows, width, x, partial, out);
}

nn_status nn_cuda_add_column_sums(nn_device *device, int64_t rows, int32_t width, const nn_act *x,
                                  float *partial, float *out) {
  return NN_CUDA_TYPED(device, run_typed, device, rows, width, x, partial, out);
}

// Full packs make the fewest stripes and so the most slabs.
size_t nn_cuda_column_sums_bytes(const nn_device *device, int64_t rows, int32_t width) {
  int pack = 16 / (int)nn_device_act_size(device);
  return (size_t)lay_out(device, rows, width, pack).slabs * (size_t)width * sizeof(float);
}
