// The scorer, an affine map with 3 Hk outputs: so narrow that reading x, and reading and writing dx, is what
// it costs. bf16 runs on tensor cores, with the matrices on their way to shared memory several chunks ahead.
// float32, and sizes that are not whole 16-byte pieces, take plain kernels.
#include "nats/cuda/tensor_core.h"
#include "nn/cuda/columns.h"
#include "nn/cuda/few_rows.h"

extern "C" {
#include "nats/cuda/ops.h"
}

enum { THREADS = 256, WARPS = THREADS / NN_WARP, PIECE = 8 /* bf16 in 16 bytes */, MOST_OUT = 96 };
enum { CHUNK = 64 }; // columns

// Starts copying a tile [rows, D] to shared memory, by all threads of the block; zeros beyond `rows_left`
// rows and `columns_left` columns.
template <int D>
__device__ static void fetch_tile(nn_bf16 *tile, int rows, const nn_bf16 *from, int64_t stride,
                                  int64_t rows_left, int32_t columns_left) {
  for (int i = threadIdx.x; i < rows * (D / PIECE); i += (int)blockDim.x) {
    const int row = i / (D / PIECE), piece = i % (D / PIECE);
    nats_copy16(tile + nats_piece<D>(row, piece), from + row * stride + piece * PIECE,
                row < rows_left && piece * PIECE < columns_left);
  }
}

// ---- forward and dx: a block takes ROWS rows, a warp 16 of them, and walks along the columns

enum { ROWS = WARPS * 16 };

// A stage: [ROWS, CHUNK] of x or dx, then [16 TILES outputs, CHUNK] of the weight.
template <int TILES> constexpr int STAGE = (ROWS + TILES * 16) * CHUNK;
// How many of them: all GPUs since Ampere have 99 KiB for a block, Hopper then runs two at once.
template <int TILES> constexpr int STAGES = TILES <= 3 ? 4 : 3;

template <int TILES>
__device__ static void fetch_stage(const nats_scorer &op, const nn_act *x, int32_t chunk, nn_bf16 *shared) {
  const int32_t column = chunk * CHUNK;
  const int64_t row = (int64_t)blockIdx.x * ROWS;
  nn_bf16 *stage = shared + chunk % STAGES<TILES> * STAGE<TILES>;
  if (column < op.width) {
    fetch_tile<CHUNK>(stage, ROWS, (const nn_bf16 *)x + row * op.width + column, op.width, op.rows - row,
                      op.width - column);
    fetch_tile<CHUNK>(stage + ROWS * CHUNK, TILES * 16, (const nn_bf16 *)op.weight + column, op.width, op.out,
                      op.width - column);
  }
  nats_copy_commit();
}

// logits [16 rows, outputs] = x [16 rows, columns] times weight^T
template <int TILES> // of 16 outputs
static __global__ void __launch_bounds__(THREADS) forward_tiles(nats_scorer op) {
  NN_DYNAMIC_SHARED(nn_bf16, shared); // [STAGES, STAGE]
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  float sum[2 * TILES][4] = {};
  for (int32_t chunk = 0; chunk < STAGES<TILES> - 1; chunk++)
    fetch_stage<TILES>(op, op.x, chunk, shared);
  for (int32_t chunk = 0; chunk * CHUNK < op.width; chunk++) {
    nats_copy_wait<STAGES<TILES> - 2>();
    __syncthreads(); // the chunk has come, and the one before it has been read
    fetch_stage<TILES>(op, op.x, chunk + STAGES<TILES> - 1, shared);
    const nn_bf16 *x = shared + chunk % STAGES<TILES> * STAGE<TILES>, *weight = x + ROWS * CHUNK;
#pragma unroll
    for (int step = 0; step < CHUNK / 16; step++) {
      uint32_t a[4];
      nats_ldmatrix4(a, x + nats_piece<CHUNK>(warp * 16 + lane % 16, step * 2 + lane / 16));
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) {
        uint32_t b[4];
        nats_ldmatrix4(
            b, weight + nats_piece<CHUNK>(tile * 16 + lane / 16 * 8 + lane % 8, step * 2 + lane / 8 % 2));
        nats_mma(sum[2 * tile], a, b);
        nats_mma(sum[2 * tile + 1], a, b + 2);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 2 * TILES * 4; i++) {
    const int64_t to = (int64_t)blockIdx.x * ROWS + warp * 16 + lane / 4 + i % 4 / 2 * 8;
    const int32_t out = i / 4 * 8 + lane % 4 * 2 + i % 2;
    if (to < op.rows && out < op.out)
      op.logits[to * op.out + out] = sum[i / 4][i % 4] + nn_load((const nn_bf16 *)op.bias + out);
  }
}

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

__device__ static void add_pair(nn_bf16 *to, float first, float second) {
  uint32_t *pair = (uint32_t *)to;
  *pair = nats_pack(__uint_as_float(*pair << 16) + first, __uint_as_float(*pair & 0xffff0000u) + second);
}

// dx [16 rows, columns] += dlogits [16 rows, outputs] times weight. The sum is made in shared memory, from
// where rows go back in whole pieces.
template <int TILES> // of 16 outputs
static __global__ void __launch_bounds__(THREADS) dx_tiles(nats_scorer op) {
  NN_DYNAMIC_SHARED(nn_bf16, shared); // [STAGES, STAGE]
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP, r = lane / 4, c = lane % 4;
  const int64_t row = (int64_t)blockIdx.x * ROWS + warp * 16;
  uint32_t a[TILES][4];
  for (int32_t chunk = 0; chunk < STAGES<TILES> - 1; chunk++)
    fetch_stage<TILES>(op, op.dx, chunk, shared);
#pragma unroll
  for (int tile = 0; tile < TILES; tile++)
    load_dlogits(op, row + r, tile * 16 + c * 2, a[tile]);
  for (int32_t chunk = 0; chunk * CHUNK < op.width; chunk++) {
    nats_copy_wait<STAGES<TILES> - 2>();
    __syncthreads(); // the chunk has come, and the one before it has been read
    fetch_stage<TILES>(op, op.dx, chunk + STAGES<TILES> - 1, shared);
    nn_bf16 *dx = shared + chunk % STAGES<TILES> * STAGE<TILES>;
    const nn_bf16 *weight = dx + ROWS * CHUNK;
#pragma unroll
    for (int pair = 0; pair < CHUNK / 16; pair++) { // of 8 columns
      float sum[2][4] = {};
#pragma unroll
      for (int tile = 0; tile < TILES; tile++) {
        uint32_t b[4];
        nats_ldmatrix4_transposed(b, weight + nats_piece<CHUNK>(tile * 16 + lane % 16, pair * 2 + lane / 16));
        nats_mma(sum[0], a[tile], b);
        nats_mma(sum[1], a[tile], b + 2);
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
        add_pair(dx + nats_piece<CHUNK>(warp * 16 + r + i / 2 * 8, pair * 2 + i % 2) + c * 2,
                 sum[i % 2][i / 2 * 2], sum[i % 2][i / 2 * 2 + 1]);
    }
    __syncwarp();
    for (int i = lane; i < 16 * (CHUNK / PIECE); i += NN_WARP) {
      const int of_warp = i / (CHUNK / PIECE), piece = i % (CHUNK / PIECE);
      const int32_t column = chunk * CHUNK + piece * PIECE;
      if (row + of_warp < op.rows && column < op.width)
        *(uint4 *)((nn_bf16 *)op.dx + (row + of_warp) * op.width + column) =
            *(const uint4 *)(dx + nats_piece<CHUNK>(warp * 16 + of_warp, piece));
    }
  }
}

// ---- dweight and dbias: every split of the rows leaves its sums, which nn_cuda_add_slabs adds up in order

typedef struct {
  int32_t count;
  int64_t rows;   // of a split, a multiple of SLAB
  float *dweight; // [count, out, width]
  float *dbias;   // [count, out]
} splits;

// dlogits^T [outputs, rows] times x [rows, columns]. A block takes the rows of a split, SLAB at a time, and
// COLUMNS columns; a warp 64 of these, with 16 TILES outputs from `first` on. Small blocks: the sums take
// many registers.
enum { DWEIGHT_WARPS = 4, COLUMNS = DWEIGHT_WARPS * 64, SLAB = 32, SLAB_STAGES = 3 };

// A stage: x [SLAB, COLUMNS], then dlogits [SLAB, out] in float32.
__device__ static nn_bf16 *slab_stage(const nats_scorer &op, int64_t slab, nn_bf16 *shared) {
  return shared + slab % SLAB_STAGES * (SLAB * COLUMNS + SLAB * 2 * op.out);
}

__device__ static void fetch_slab(const nats_scorer &op, int64_t row, int64_t end, nn_bf16 *stage) {
  if (row < end) {
    const int32_t column = (int32_t)blockIdx.y * COLUMNS;
    fetch_tile<COLUMNS>(stage, SLAB, (const nn_bf16 *)op.x + row * op.width + column, op.width, end - row,
                        op.width - column);
    float *dlogits = (float *)(stage + SLAB * COLUMNS);
    for (int i = threadIdx.x * 4; i < SLAB * op.out; i += (int)blockDim.x * 4)
      nats_copy16(dlogits + i, op.dlogits + row * op.out + i, row * op.out + i < end * op.out);
  }
  nats_copy_commit();
}

template <int TILES>
static __global__ void __launch_bounds__(DWEIGHT_WARPS *NN_WARP)
    dweight_tiles(nats_scorer op, splits s, int32_t first) {
  NN_DYNAMIC_SHARED(nn_bf16, shared); // [SLAB_STAGES, a stage]
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP, r = lane / 4, c = lane % 4;
  const int64_t begin = blockIdx.x * s.rows, end = begin + s.rows < op.rows ? begin + s.rows : op.rows;
  float sum[TILES][8][4] = {}, bias = 0;
  for (int slab = 0; slab < SLAB_STAGES - 1; slab++)
    fetch_slab(op, begin + slab * SLAB, end, slab_stage(op, slab, shared));
  for (int64_t slab = 0; begin + slab * SLAB < end; slab++) {
    const int64_t next = slab + SLAB_STAGES - 1;
    nats_copy_wait<SLAB_STAGES - 2>();
    __syncthreads(); // the slab has come, and the one before it has been read
    fetch_slab(op, begin + next * SLAB, end, slab_stage(op, next, shared));
    const nn_bf16 *x = slab_stage(op, slab, shared);
    const float *dlogits = (const float *)(x + SLAB * COLUMNS);
#pragma unroll
    for (int step = 0; step < SLAB / 16; step++) {
      uint32_t a[TILES][4]; // outputs r and r + 8 of rows k and k + 1, k + 8 and k + 9
#pragma unroll
      for (int i = 0; i < TILES * 4; i++) {
        const int32_t out = first + i / 4 * 16 + r + i % 2 * 8;
        const float *d = dlogits + (step * 16 + c * 2 + i % 4 / 2 * 8) * op.out + out;
        a[i / 4][i % 4] = out < op.out ? nats_pack(d[0], d[op.out]) : 0;
      }
#pragma unroll
      for (int pair = 0; pair < 4; pair++) { // of 8 columns
        uint32_t b[4];
        nats_ldmatrix4_transposed(
            b, x + nats_piece<COLUMNS>(step * 16 + lane % 16, warp * 8 + pair * 2 + lane / 16));
#pragma unroll
        for (int tile = 0; tile < TILES; tile++) {
          nats_mma(sum[tile][2 * pair], a[tile], b);
          nats_mma(sum[tile][2 * pair + 1], a[tile], b + 2);
        }
      }
    }
    if (first == 0 && blockIdx.y == 0 && threadIdx.x < op.out)
#pragma unroll 8
      for (int row = 0; row < SLAB; row++)
        bias += dlogits[row * op.out + threadIdx.x];
  }
  float *dweight = s.dweight + (int64_t)blockIdx.x * op.out * op.width;
#pragma unroll
  for (int i = 0; i < TILES * 8 * 4; i++) {
    const int32_t out = first + i / 32 * 16 + r + i % 4 / 2 * 8;
    const int32_t column = (int32_t)blockIdx.y * COLUMNS + warp * 64 + i / 4 % 8 * 8 + c * 2 + i % 2;
    if (out < op.out && column < op.width)
      dweight[(int64_t)out * op.width + column] = sum[i / 32][i / 4 % 8][i % 4];
  }
  if (first == 0 && blockIdx.y == 0 && threadIdx.x < op.out)
    s.dbias[(int64_t)blockIdx.x * op.out + threadIdx.x] = bias;
}

// ---- plain kernels

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
      s.dweight[(blockIdx.x * (int64_t)op.out + first + i) * op.width + column] = sum[i];
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
      s.dbias[blockIdx.x * (int64_t)op.out + out] = sum;
  }
}

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
  const uintptr_t places =
      (uintptr_t)op->x | (uintptr_t)op->weight | (uintptr_t)op->dx | (uintptr_t)op->dlogits;
  return nn_device_compute_type(device) == NN_BF16 && op->width % PIECE == 0 && places % 16 == 0 &&
         op->out <= MOST_OUT && op->rows * op->out % 4 == 0;
}

static unsigned blocks_of(int64_t count, int64_t a_block) {
  return (unsigned)nn_ceil_div(count, a_block);
}

template <typename T> static nn_status run_forward(nn_device *device, const nats_scorer *op) {
  return NN_LAUNCH(device, forward_plain<T>, blocks_of(op->rows, WARPS), THREADS, 0, *op);
}

template <int TILES> static constexpr size_t STAGES_BYTES = STAGES<TILES> *STAGE<TILES> * sizeof(nn_bf16);

static nn_cuda_product product_of(const nats_scorer *op) {
  nn_cuda_product product = {};
  product.m = op->rows;
  product.n = op->out;
  product.k = op->width;
  product.a = op->x;
  product.b = op->weight;
  product.transposed_b = true;
  product.bias = op->bias;
  product.c = op->logits;
  product.c_is_float = true;
  return product;
}

extern "C" nn_status nats_cuda_scorer_forward(nn_device *device, const nats_scorer *op) {
  const nn_cuda_product product = product_of(op);
  if (nn_cuda_has_few_results(device, &product)) // decoding: a block of rows would be almost all
    return nn_cuda_multiply_few_rows(device, &product);
  if (!has_tiles(device, op))
    return NN_CUDA_TYPED(device, run_forward, device, op);
  const unsigned blocks = blocks_of(op->rows, ROWS);
  if (op->out <= 16)
    return NN_LAUNCH(device, forward_tiles<1>, blocks, THREADS, STAGES_BYTES<1>, *op);
  if (op->out <= 48) // 12 kv heads need 36
    return NN_LAUNCH(device, forward_tiles<3>, blocks, THREADS, STAGES_BYTES<3>, *op);
  return NN_LAUNCH(device, forward_tiles<6>, blocks, THREADS, STAGES_BYTES<6>, *op);
}

static nn_status run_dx_tiles(nn_device *device, const nats_scorer *op) {
  const unsigned blocks = blocks_of(op->rows, ROWS);
  if (op->out <= 16)
    return NN_LAUNCH(device, dx_tiles<1>, blocks, THREADS, STAGES_BYTES<1>, *op);
  if (op->out <= 48)
    return NN_LAUNCH(device, dx_tiles<3>, blocks, THREADS, STAGES_BYTES<3>, *op);
  return NN_LAUNCH(device, dx_tiles<6>, blocks, THREADS, STAGES_BYTES<6>, *op);
}

template <typename T> static nn_status run_dx(nn_device *device, const nats_scorer *op) {
  return NN_LAUNCH(device, dx_plain<T>, blocks_of(op->rows * op->width, THREADS), THREADS, 0, *op);
}

static nn_status run_dweight_tiles(nn_device *device, const nats_scorer *op, splits s) {
  const dim3 grid((unsigned)s.count, blocks_of(op->width, COLUMNS));
  const unsigned threads = DWEIGHT_WARPS * NN_WARP;
  const size_t bytes = SLAB_STAGES * SLAB * (COLUMNS * sizeof(nn_bf16) + (size_t)op->out * sizeof(float));
  if (op->out <= 16)
    return NN_LAUNCH(device, dweight_tiles<1>, grid, threads, bytes, *op, s, 0);
  for (int32_t first = 0; first < op->out; first += 48)
    NN_TRY(NN_LAUNCH(device, dweight_tiles<3>, grid, threads, bytes, *op, s, first));
  return NN_OK;
}

template <typename T> static nn_status run_dweight(nn_device *device, const nats_scorer *op, splits s) {
  const dim3 grid((unsigned)s.count, blocks_of(op->width, THREADS), blocks_of(op->out, GROUP));
  NN_TRY(NN_LAUNCH(device, dweight_plain<T>, grid, THREADS, 0, *op, s));
  return NN_LAUNCH(device, dbias_splits, (unsigned)s.count, THREADS, 0, *op, s);
}

// As many splits as keep two blocks on every multiprocessor, at three blocks side by side.
static nn_status take_splits(nn_device *device, const nats_scorer *op, splits *s) {
  const int64_t most = nn_ceil_div(2 * nn_cuda_processors(device), 3), weights = (int64_t)op->out * op->width;
  void *workspace;
  s->rows = nn_ceil_div(nn_ceil_div(op->rows, most), (int64_t)SLAB) * SLAB;
  s->count = (int32_t)nn_ceil_div(op->rows, s->rows);
  NN_TRY(nn_device_workspace(device, (size_t)(s->count * (weights + op->out)) * sizeof(float), &workspace));
  s->dweight = (float *)workspace;
  s->dbias = s->dweight + s->count * weights;
  return NN_OK;
}

extern "C" nn_status nats_cuda_scorer_backward(nn_device *device, const nats_scorer *op) {
  const bool tiles = has_tiles(device, op);
  splits s;
  if (op->dx != NULL)
    NN_TRY(tiles ? run_dx_tiles(device, op) : NN_CUDA_TYPED(device, run_dx, device, op));
  NN_TRY(take_splits(device, op, &s));
  NN_TRY(tiles ? run_dweight_tiles(device, op, s) : NN_CUDA_TYPED(device, run_dweight, device, op, s));
  NN_TRY(nn_cuda_add_slabs(device, s.count, op->out * op->width, s.dweight, op->dweight));
  return nn_cuda_add_slabs(device, s.count, op->out, s.dbias, op->dbias);
}
