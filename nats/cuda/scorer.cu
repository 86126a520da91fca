// The scorer, an affine map with 3 Hk outputs: so narrow that reading x is what it costs. bf16 runs on tensor
// cores straight from global memory, whose 16-byte pieces are used as fragments: a product does not care in
// which order its inner index runs, or its columns, so both operands are taken in the order in which a
// lane's pieces lie. float32, and widths that are not whole pieces, take plain kernels.
#include "nats/cuda/tensor_core.h"

extern "C" {
#include "nats/cuda/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / NN_WARP, PIECE = 8 /* bf16 in 16 bytes */, MOST_OUT = 96 };

typedef struct {
  uint32_t pair[4];
} piece;

// Eight numbers; zeros where not `valid`.
__device__ static piece load_piece(const nn_bf16 *from, bool valid) {
  const uint4 four = valid ? *(const uint4 *)from : make_uint4(0, 0, 0, 0);
  return piece{{four.x, four.y, four.z, four.w}};
}

__device__ static float low(uint32_t pair) {
  return __uint_as_float(pair << 16);
}
__device__ static float high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Number `i` of one piece below number `i` of the other.
__device__ static uint32_t interleave(const piece &a, const piece &b, int i) {
  const uint32_t x = a.pair[i / 2], y = b.pair[i / 2];
  return i % 2 == 0 ? (x & 0xffffu) | y << 16 : x >> 16 | (y & 0xffff0000u);
}

// ---- forward on tensor cores
//
// A warp takes 16 rows. In each block of 32 columns lane (r, c) = (lane / 4, lane % 4) holds columns 8 c to
// 8 c + 7 of rows r and r + 8, and of rows r of the weight: two steps of the inner index.
template <int TILES> // of 8 outputs
static __global__ void __launch_bounds__(THREADS) forward_tiles(nats_scorer op) {
  const int lane = threadIdx.x % NN_WARP, r = lane / 4, c = lane % 4;
  const int64_t row = ((int64_t)blockIdx.x * WARPS + threadIdx.x / NN_WARP) * 16 + r;
  const nn_bf16 *x = (const nn_bf16 *)op.x + row * op.width;
  const nn_bf16 *weight = (const nn_bf16 *)op.weight + (int64_t)r * op.width;
  float sum[TILES][4] = {};
#pragma unroll 2
  for (int32_t block = 0; block < op.width; block += 4 * PIECE) {
    const int32_t column = block + c * PIECE;
    const bool inside = column < op.width;
    const piece top = load_piece(x + column, inside && row < op.rows);
    const piece bottom = load_piece(x + 8 * (int64_t)op.width + column, inside && row + 8 < op.rows);
    const uint32_t a0[4] = {top.pair[0], bottom.pair[0], top.pair[1], bottom.pair[1]};
    const uint32_t a1[4] = {top.pair[2], bottom.pair[2], top.pair[3], bottom.pair[3]};
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      const piece w =
          load_piece(weight + (int64_t)tile * 8 * op.width + column, inside && tile * 8 + r < op.out);
      nats_mma(sum[tile], a0, w.pair);
      nats_mma(sum[tile], a1, w.pair + 2);
    }
  }
#pragma unroll
  for (int i = 0; i < TILES * 4; i++) {
    const int64_t to = row + i % 4 / 2 * 8;
    const int32_t out = i / 4 * 8 + c * 2 + i % 2;
    if (to < op.rows && out < op.out)
      op.logits[to * op.out + out] = sum[i / 4][i % 4] + nn_load((const nn_bf16 *)op.bias + out);
  }
}

// ---- dx on tensor cores: dlogits [16 rows, outputs] times weight [outputs, 64 columns]
//
// Lane (r, c) loads columns 8 r to 8 r + 7 of weight rows 2 c, 2 c + 1, and of those 8 further on: the same
// place of all of them is one fragment, so product i has columns i, 8 + i, .. as its columns 0, 1, .. and
// leaves to the lane sixteen neighbouring columns, 16 c to 16 c + 15, of rows r and r + 8.

// dlogits rows `row` and row + 8 at outputs `out` and out + 1, out + 8 and out + 9.
__device__ static void load_dlogits(const nats_scorer &op, int64_t row, int32_t out, uint32_t a[4]) {
#pragma unroll
  for (int i = 0; i < 4; i++) {
    const int64_t from = row + i % 2 * 8;
    const int32_t o = out + i / 2 * 8;
    const float *d = op.dlogits + from * op.out + o;
    a[i] = nats_pack(from < op.rows && o < op.out ? d[0] : 0, from < op.rows && o + 1 < op.out ? d[1] : 0);
  }
}

// Adds to eight neighbours of dx: place i of `sum` is in product i.
__device__ static void add_to_dx(nn_bf16 *dx, const float sum[8][4], int place) {
  const piece old = load_piece(dx, true);
  piece p;
#pragma unroll
  for (int i = 0; i < 4; i++)
    p.pair[i] = nats_pack(low(old.pair[i]) + sum[2 * i][place], high(old.pair[i]) + sum[2 * i + 1][place]);
  *(uint4 *)dx = make_uint4(p.pair[0], p.pair[1], p.pair[2], p.pair[3]);
}

template <int STEPS> // of 16 outputs
static __global__ void __launch_bounds__(THREADS) dx_tiles(nats_scorer op) {
  const int lane = threadIdx.x % NN_WARP, r = lane / 4, c = lane % 4;
  const int64_t row = ((int64_t)blockIdx.x * WARPS + threadIdx.x / NN_WARP) * 16 + r;
  uint32_t a[STEPS][4];
#pragma unroll
  for (int step = 0; step < STEPS; step++)
    load_dlogits(op, row, step * 16 + c * 2, a[step]);
  for (int32_t block = 0; block < op.width; block += 8 * PIECE) {
    float sum[8][4] = {};
    const int32_t from = block + r * PIECE;
    const nn_bf16 *weight = (const nn_bf16 *)op.weight + from;
#pragma unroll
    for (int step = 0; step < STEPS; step++) {
      piece w[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int32_t out = step * 16 + c * 2 + i % 2 + i / 2 * 8;
        w[i] = load_piece(weight + (int64_t)out * op.width, out < op.out && from < op.width);
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const uint32_t b[2] = {interleave(w[0], w[1], i), interleave(w[2], w[3], i)};
        nats_mma(sum[i], a[step], b);
      }
    }
#pragma unroll
    for (int place = 0; place < 4; place++) {
      const int64_t to = row + place / 2 * 8;
      const int32_t column = block + (2 * c + place % 2) * PIECE;
      if (to < op.rows && column < op.width)
        add_to_dx((nn_bf16 *)op.dx + to * op.width + column, sum, place);
    }
  }
}

// ---- dweight: every split of the rows leaves its sum, which `add_splits` adds up in order

typedef struct {
  int32_t count;
  int64_t rows;   // of a split, a multiple of 16
  int64_t stride; // numbers of a split: dweight [out, width], then dbias [out]
  float *sums;    // [count, stride]
} splits;

// On tensor cores: dlogits^T [outputs, rows] times x [rows, 64 columns], as in dx_tiles. A warp takes 64
// columns, 16 TILES outputs and the rows of a split. Small blocks: the sums take many registers.
enum { DWEIGHT_WARPS = 4 };
template <int TILES>
static __global__ void __launch_bounds__(DWEIGHT_WARPS *NN_WARP)
    dweight_tiles(nats_scorer op, splits s, int32_t first) {
  const int lane = threadIdx.x % NN_WARP, r = lane / 4, c = lane % 4;
  const int32_t block = ((int32_t)blockIdx.y * DWEIGHT_WARPS + (int32_t)threadIdx.x / NN_WARP) * 8 * PIECE;
  const int32_t from = block + r * PIECE;
  const int64_t begin = blockIdx.x * s.rows, end = begin + s.rows < op.rows ? begin + s.rows : op.rows;
  if (block >= op.width)
    return;
  float sum[TILES][8][4] = {};
  for (int64_t row = begin + c * 2; row - c * 2 < end; row += 16) {
    piece x[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int64_t k = row + i % 2 + i / 2 * 8;
      x[i] = load_piece((const nn_bf16 *)op.x + k * op.width + from, k < end && from < op.width);
    }
#pragma unroll
    for (int tile = 0; tile < TILES; tile++) {
      uint32_t a[4]; // outputs r and r + 8 of rows k and k + 1, k + 8 and k + 9
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const int64_t k = row + i / 2 * 8;
        const int32_t out = first + tile * 16 + r + i % 2 * 8;
        const float *d = op.dlogits + k * op.out + out;
        const bool inside = out < op.out;
        a[i] = nats_pack(inside && k < end ? d[0] : 0, inside && k + 1 < end ? d[op.out] : 0);
      }
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const uint32_t b[2] = {interleave(x[0], x[1], i), interleave(x[2], x[3], i)};
        nats_mma(sum[tile][i], a, b);
      }
    }
  }
  float *to = s.sums + blockIdx.x * s.stride;
#pragma unroll
  for (int tile = 0; tile < TILES; tile++)
#pragma unroll
    for (int place = 0; place < 4; place++) {
      const int32_t out = first + tile * 16 + r + place / 2 * 8, column = block + (2 * c + place % 2) * PIECE;
      for (int i = 0; i < 8 && out < op.out && column < op.width; i++)
        to[(int64_t)out * op.width + column + i] = sum[tile][i][place];
    }
}

// A thread takes one column and GROUP outputs.
enum { GROUP = 12 };
template <typename T> static __global__ void dweight_plain(nats_scorer op, splits s) {
  const int32_t column = (int32_t)(blockIdx.y * blockDim.x + threadIdx.x);
  const int32_t first = (int32_t)blockIdx.z * GROUP;
  const int64_t begin = blockIdx.x * s.rows, end = begin + s.rows < op.rows ? begin + s.rows : op.rows;
  if (column >= op.width)
    return;
  float sum[GROUP] = {};
  for (int64_t row = begin; row < end; row++) {
    const float x = nn_load((const T *)op.x + row * op.width + column);
#pragma unroll
    for (int i = 0; i < GROUP; i++)
      sum[i] += first + i < op.out ? op.dlogits[row * op.out + first + i] * x : 0;
  }
#pragma unroll
  for (int i = 0; i < GROUP; i++)
    if (first + i < op.out)
      s.sums[blockIdx.x * s.stride + (int64_t)(first + i) * op.width + column] = sum[i];
}

// Each warp takes one output at a time; lanes take rows.
static __global__ void dbias_splits(nats_scorer op, splits s) {
  const int lane = threadIdx.x % NN_WARP;
  const int64_t begin = blockIdx.x * s.rows, end = begin + s.rows < op.rows ? begin + s.rows : op.rows;
  for (int32_t out = (int32_t)threadIdx.x / NN_WARP; out < op.out; out += WARPS) {
    float sum = 0;
    for (int64_t row = begin + lane; row < end; row += NN_WARP)
      sum += op.dlogits[row * op.out + out];
    sum = nn_warp_sum(sum);
    if (lane == 0)
      s.sums[blockIdx.x * s.stride + (int64_t)op.out * op.width + out] = sum;
  }
}

static __global__ void add_splits(nats_scorer op, splits s) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, weights = (int64_t)op.out * op.width;
  if (i >= s.stride)
    return;
  float sum = 0;
#pragma unroll 8
  for (int32_t split = 0; split < s.count; split++)
    sum += s.sums[split * s.stride + i];
  if (i < weights)
    op.dweight[i] += sum;
  else
    op.dbias[i - weights] += sum;
}

// ---- plain forward and dx

// A warp takes a row, four outputs at a time; lanes take columns.
template <typename T> static __global__ void forward_plain(nats_scorer op) {
  const int lane = threadIdx.x % NN_WARP;
  const int64_t row = (int64_t)blockIdx.x * WARPS + threadIdx.x / NN_WARP;
  if (row >= op.rows)
    return;
  const T *x = (const T *)op.x + row * op.width;
  for (int32_t first = 0; first < op.out; first += 4) {
    float sum[4] = {};
    for (int32_t column = lane; column < op.width; column += NN_WARP) {
      const float value = nn_load(x + column);
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (first + i < op.out)
          sum[i] += value * nn_load((const T *)op.weight + (int64_t)(first + i) * op.width + column);
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
      sum[i] = nn_warp_sum(sum[i]);
      if (lane == 0 && first + i < op.out)
        op.logits[row * op.out + first + i] = sum[i] + nn_load((const T *)op.bias + first + i);
    }
  }
}

template <typename T> static __global__ void dx_plain(nats_scorer op) {
  const int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, row = i / op.width;
  if (row >= op.rows)
    return;
  const int64_t column = i - row * op.width;
  float sum = 0;
  for (int32_t out = 0; out < op.out; out++)
    sum += op.dlogits[row * op.out + out] * nn_load((const T *)op.weight + (int64_t)out * op.width + column);
  T *dx = (T *)op.dx + i;
  nn_store(dx, nn_load(dx) + sum);
}

// ---- the operator

static bool has_tiles(const nn_device *device, const nats_scorer *op) {
  const uintptr_t places = (uintptr_t)op->x | (uintptr_t)op->weight | (uintptr_t)op->dx;
  return nn_device_compute_type(device) == NN_BF16 && op->width % PIECE == 0 && places % 16 == 0 &&
         op->out <= MOST_OUT;
}

static unsigned blocks_of(int64_t count, int64_t a_block) {
  return (unsigned)nn_ceil_div(count, a_block);
}

template <typename T> static nn_status run_forward(nn_device *device, const nats_scorer *op) {
  return NN_LAUNCH(device, forward_plain<T>, blocks_of(op->rows, WARPS), THREADS, 0, *op);
}

extern "C" nn_status nats_cuda_scorer_forward(nn_device *device, const nats_scorer *op) {
  if (!has_tiles(device, op))
    return NN_CUDA_TYPED(device, run_forward, device, op);
  const unsigned blocks = blocks_of(op->rows, 16 * WARPS);
  if (op->out <= 16)
    return NN_LAUNCH(device, forward_tiles<2>, blocks, THREADS, 0, *op);
  if (op->out <= 40) // 12 kv heads need 36
    return NN_LAUNCH(device, forward_tiles<5>, blocks, THREADS, 0, *op);
  return NN_LAUNCH(device, forward_tiles<12>, blocks, THREADS, 0, *op);
}

static nn_status run_dx_tiles(nn_device *device, const nats_scorer *op) {
  const unsigned blocks = blocks_of(op->rows, 16 * WARPS);
  if (op->out <= 16)
    return NN_LAUNCH(device, dx_tiles<1>, blocks, THREADS, 0, *op);
  if (op->out <= 48)
    return NN_LAUNCH(device, dx_tiles<3>, blocks, THREADS, 0, *op);
  return NN_LAUNCH(device, dx_tiles<6>, blocks, THREADS, 0, *op);
}

template <typename T> static nn_status run_dx(nn_device *device, const nats_scorer *op) {
  return NN_LAUNCH(device, dx_plain<T>, blocks_of(op->rows * op->width, THREADS), THREADS, 0, *op);
}

static nn_status run_dweight_tiles(nn_device *device, const nats_scorer *op, splits s) {
  const dim3 grid((unsigned)s.count, blocks_of(op->width, 8 * PIECE * DWEIGHT_WARPS));
  const unsigned threads = DWEIGHT_WARPS * NN_WARP;
  if (op->out <= 16)
    return NN_LAUNCH(device, dweight_tiles<1>, grid, threads, 0, *op, s, 0);
  for (int32_t first = 0; first < op->out; first += 48)
    NN_TRY(NN_LAUNCH(device, dweight_tiles<3>, grid, threads, 0, *op, s, first));
  return NN_OK;
}

template <typename T> static nn_status run_dweight(nn_device *device, const nats_scorer *op, splits s) {
  const dim3 grid((unsigned)s.count, blocks_of(op->width, THREADS), blocks_of(op->out, GROUP));
  return NN_LAUNCH(device, dweight_plain<T>, grid, THREADS, 0, *op, s);
}

extern "C" nn_status nats_cuda_scorer_backward(nn_device *device, const nats_scorer *op) {
  const bool tiles = has_tiles(device, op);
  if (op->dx != NULL)
    NN_TRY(tiles ? run_dx_tiles(device, op) : NN_CUDA_TYPED(device, run_dx, device, op));
  splits s;
  const int64_t most = nn_cuda_processors(device);
  s.rows = nn_ceil_div(nn_ceil_div(op->rows, most), (int64_t)16) * 16;
  s.count = (int32_t)nn_ceil_div(op->rows, s.rows);
  s.stride = (int64_t)op->out * (op->width + 1);
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)(s.count * s.stride) * sizeof(float), &workspace));
  s.sums = (float *)workspace;
  NN_TRY(tiles ? run_dweight_tiles(device, op, s) : NN_CUDA_TYPED(device, run_dweight, device, op, s));
  NN_TRY(NN_LAUNCH(device, dbias_splits, (unsigned)s.count, THREADS, 0, *op, s));
  return NN_LAUNCH(device, add_splits, blocks_of(s.stride, THREADS), THREADS, 0, *op, s);
}
