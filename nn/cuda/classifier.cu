// Logits of a piece of rows by cuBLASLt; softmax, loss and gradient of a row by one block, in place; then the
// gradients of the piece by cuBLASLt.
//
// With a gradient, logits are in the compute type: in bf16 they are rounded to 8 bits, as under PyTorch's
// autocast, and are then overwritten by their gradient. Float32 logits would move 4 of 10 bytes more through
// memory. Without a gradient (evaluation) logits are float32: loss and argmax are then exact.
//
// A target outside of the vocabulary cannot be reported from here: its row reads nothing out of bounds and
// has a loss and a gradient of NaN, so that the step is refused.
#include "nn/cuda/device.h"
#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

enum {
  PIECE_BYTES = 576 << 20,   // of logits
  TILE_ROWS = 128,           // output tile of a product, in the kernels that cuBLASLt prefers on Hopper
  TILE_COLUMNS = 256,        //
  THREADS = 512,             // of a row, at most
  WARPS = THREADS / NN_WARP, //
  AHEAD = 4,                 // loads that a thread has under way
  SUM_THREADS = 1024,
};

// ---- pieces

typedef struct {
  bool is_float;  // logits
  int64_t rows;   // of a piece
  int64_t stride; // elements from one row of logits to the next: whole packs
  void *logits;   // [rows, stride]; become dlogits
  float *nll;     // [N] of the caller or in the workspace
  int32_t *best;  // [N], the same
} pieces;

// dx = dlogits weight has few output tiles but long sums: a piece has the rows that fill all processors with
// one tile each. All pieces are of one size but the last.
static int64_t piece_rows(const nn_device *device, const nn_classifier *op, int64_t row_bytes) {
  int64_t wave = nn_cuda_processors(device) / nn_ceil_div(op->width, (int32_t)TILE_COLUMNS) * TILE_ROWS;
  int64_t most = PIECE_BYTES / row_bytes;
  if (op->dx != NULL && wave > 0 && wave <= most)
    most = most / wave * wave;
  else if (most > TILE_ROWS)
    most = most / TILE_ROWS * TILE_ROWS;
  most = most > 1 ? most : 1;
  if (op->rows <= most)
    return op->rows;
  int64_t rows = nn_ceil_div(op->rows, nn_ceil_div(op->rows, most));
  rows = nn_ceil_div(rows, (int64_t)TILE_ROWS) * TILE_ROWS;
  return rows < most ? rows : most;
}

// The next block of the workspace; a NULL base measures.
static void *take(char *base, size_t *used, size_t bytes) {
  void *block = base == NULL ? NULL : base + *used;
  *used += (bytes + 255) / 256 * 256;
  return block;
}

static size_t lay_out(const nn_device *device, const nn_classifier *op, char *base, pieces *p) {
  size_t used = 0, rows = (size_t)op->rows;
  p->is_float = op->dx == NULL || nn_device_compute_type(device) == NN_F32;
  int64_t size = p->is_float ? sizeof(float) : sizeof(nn_bf16), pack = 16 / size;
  p->stride = nn_ceil_div((int64_t)op->vocab, pack) * pack;
  p->rows = piece_rows(device, op, p->stride * size);
  p->logits = take(base, &used, (size_t)(p->rows * p->stride * size));
  p->nll = op->nll != NULL ? op->nll : static_cast<float *>(take(base, &used, rows * sizeof *p->nll));
  p->best = op->best != NULL ? op->best : static_cast<int32_t *>(take(base, &used, rows * sizeof *p->best));
  return used;
}

extern "C" size_t nn_cuda_classifier_workspace(const nn_device *device, const nn_classifier *op) {
  pieces p;
  return lay_out(device, op, NULL, &p);
}

// ---- one row

// Of some of a row's logits, read once (Milakov and Gimelshein 2018, "Online normalizer calculation for
// softmax").
typedef struct {
  float most;   // the largest
  float sum;    // of e^(logit - most)
  int32_t best; // index of the largest, the lowest on ties
} summary;

#define LOG2_E 1.4426950408889634f

// e^(logit - most) by one addition and multiplication and one power of 2
__device__ static inline float relative(float logit, float most_log2) { // most_log2 = most LOG2_E
  return nn_exp2(logit * LOG2_E - most_log2);
}

// A low finite number instead of -infinity: no infinity is subtracted from another, and infinite or NaN
// logits make the sum NaN.
__device__ static inline summary nothing() {
  return {-1e30f, 0.0f, 0};
}

template <int N> __device__ static inline void include(const float (&logits)[N], int32_t first, summary *s) {
  float most = logits[0];
#pragma unroll
  for (int i = 1; i < N; i++)
    most = fmaxf(most, logits[i]);
  if (most > s->most) {
    s->sum *= relative(s->most, most * LOG2_E);
    s->most = most;
#pragma unroll
    for (int i = N - 1; i >= 0; i--)
      s->best = logits[i] == most ? first + i : s->best;
  }
  const float most_log2 = s->most * LOG2_E;
#pragma unroll
  for (int i = 0; i < N; i++)
    s->sum += relative(logits[i], most_log2);
}

__device__ static inline summary merge_lanes(summary s) {
  summary all;
  all.most = nn_warp_max(s.most);
  all.sum = nn_warp_sum(s.sum * relative(s.most, all.most * LOG2_E));
  all.best = s.most == all.most ? s.best : INT32_MAX;
  for (int lanes = NN_WARP / 2; lanes > 0; lanes /= 2)
    all.best = min(all.best, __shfl_xor_sync(0xffffffffu, all.best, lanes));
  return all;
}

// Every thread gets the summary of the row.
__device__ static inline summary merge_threads(summary s) {
  __shared__ summary of_warp[WARPS];
  int lane = (int)threadIdx.x % NN_WARP, warps = (int)blockDim.x / NN_WARP;
  s = merge_lanes(s);
  if (lane == 0)
    of_warp[threadIdx.x / NN_WARP] = s;
  __syncthreads();
  return merge_lanes(lane < warps ? of_warp[lane] : nothing());
}

// Logits past the end of the vocabulary, in the row's last pack, count for nothing.
template <int N> __device__ static inline void cut(int32_t first, int32_t vocab, float (&logits)[N]) {
  if (first + N > vocab)
#pragma unroll
    for (int i = 0; i < N; i++)
      logits[i] = first + i < vocab ? logits[i] : -INFINITY;
}

// Reads the row once. With KEPT, its packs are kept in shared memory for the second pass.
template <typename T, bool KEPT>
__device__ static inline summary summarise(int32_t vocab, const T *row, nn_pack<T, NN_PACK<T>> *kept) {
  constexpr int N = NN_PACK<T>;
  const int32_t packs = nn_ceil_div(vocab, N), step = (int32_t)blockDim.x;
  summary s = nothing();
  for (int32_t begin = (int32_t)threadIdx.x; begin < packs; begin += AHEAD * step) {
    nn_pack<T, N> some[AHEAD];
#pragma unroll
    for (int j = 0; j < AHEAD; j++)
      if (begin + j * step < packs)
        some[j] = nn_load_pack<N>(row + (begin + j * step) * N);
#pragma unroll
    for (int j = 0; j < AHEAD; j++) {
      int32_t at = begin + j * step;
      float logits[N];
      if (at >= packs)
        break;
      if (KEPT)
        kept[at] = some[j];
      nn_unpack(some[j], logits);
      cut(at * N, vocab, logits);
      include(logits, at * N, &s);
    }
  }
  return merge_threads(s);
}

// dlogits = (softmax - onehot) scale, over the logits. A thread meets the packs that it met before.
template <typename T, bool KEPT>
__device__ static inline void store_gradient(int32_t vocab, summary s, int32_t target, float scale, T *row,
                                             const nn_pack<T, NN_PACK<T>> *kept) {
  constexpr int N = NN_PACK<T>;
  const int32_t packs = nn_ceil_div(vocab, N);
  const float factor = scale / s.sum, most_log2 = s.most * LOG2_E;
#pragma unroll AHEAD
  for (int32_t at = (int32_t)threadIdx.x; at < packs; at += (int32_t)blockDim.x) {
    float value[N];
    nn_unpack(KEPT ? kept[at] : nn_load_pack<N>(row + at * N), value);
#pragma unroll
    for (int i = 0; i < N; i++)
      value[i] = relative(value[i], most_log2) * factor;
    if (target / N == at)
#pragma unroll
      for (int i = 0; i < N; i++)
        value[i] -= target % N == i ? scale : 0.0f;
    nn_store_floats(row + at * N, value);
  }
}

template <typename T> __device__ static inline void store_zeros(int32_t vocab, T *row) {
  constexpr int N = NN_PACK<T>;
  const float zeros[N] = {};
  for (int32_t at = (int32_t)threadIdx.x * N; at < vocab; at += (int32_t)blockDim.x * N)
    nn_store_floats(row + at, zeros);
}

// What the rows of a piece have in common.
typedef struct {
  int32_t vocab;
  int64_t stride;
  const int32_t *targets;  // [rows]
  const float *grad_scale; // NULL: no gradient is wanted
  float *nll;              // [rows]
  int32_t *best;           // [rows]
  bool best_of_all;        // of rows without a target too
} row_options;

// A block takes a row.
template <typename T, bool KEPT>
__global__ static void __launch_bounds__(THREADS, 2)
    softmax_rows(row_options o, T *logits) { // [rows, stride]
  NN_DYNAMIC_SHARED(uint4, shared);          // the row, with KEPT
  nn_pack<T, NN_PACK<T>> *kept = reinterpret_cast<nn_pack<T, NN_PACK<T>> *>(shared);
  T *row = logits + blockIdx.x * o.stride;
  const int32_t target = o.targets[blockIdx.x];
  const bool scored = target != -1, first = threadIdx.x == 0;
  if (scored || o.best_of_all) {
    float of_target = 0.0f; // read before the row is overwritten
    if (first && scored)
      of_target = target >= 0 && target < o.vocab ? nn_load(row + target) : nn_not_a_number();
    summary s = summarise<T, KEPT>(o.vocab, row, kept);
    if (first) {
      o.nll[blockIdx.x] = scored ? logf(s.sum) + (s.most - of_target) : 0.0f;
      o.best[blockIdx.x] = s.best;
    }
    if (o.grad_scale != NULL && scored) {
      if (target < 0 || target >= o.vocab)
        s.sum = nn_not_a_number();
      store_gradient<T, KEPT>(o.vocab, s, target, *o.grad_scale, row, kept);
    }
  } else if (first) {
    o.nll[blockIdx.x] = 0.0f;
    o.best[blockIdx.x] = 0;
  }
  if (o.grad_scale != NULL && !scored)
    store_zeros(o.vocab, row);
}

// Rows stay in shared memory where two blocks of a multiprocessor have room for theirs; else the second pass
// finds most of them in the L2 cache.
template <typename T>
static nn_status run_rows(nn_device *device, int64_t rows, const row_options *o, const pieces *p) {
  constexpr int N = NN_PACK<T>;
  int32_t packs = nn_ceil_div(o->vocab, N);
  int32_t wanted = nn_ceil_div(nn_ceil_div(packs, 2), (int32_t)NN_WARP) * NN_WARP;
  dim3 grid((unsigned)rows), block((unsigned)(wanted < THREADS ? wanted : THREADS));
  size_t bytes = (size_t)packs * 16, reserved = 2048; // by the driver, and for the summaries of warps
  if (o->grad_scale != NULL && 2 * (bytes + reserved) <= (size_t)nn_cuda_gpu_of(device)->shared_bytes)
    return NN_LAUNCH(device, (softmax_rows<T, true>), grid, block, bytes, *o, p->logits);
  return NN_LAUNCH(device, (softmax_rows<T, false>), grid, block, 0, *o, p->logits);
}

// ---- sums over all rows, by one block: a few bytes a row

__device__ static inline double block_sum(double x, double *of_warp) { // [SUM_THREADS / NN_WARP]
  x = nn_warp_sum(x);
  __syncthreads(); // the last sum has been read
  if (threadIdx.x % NN_WARP == 0)
    of_warp[threadIdx.x / NN_WARP] = x;
  __syncthreads();
  return nn_warp_sum(of_warp[threadIdx.x % NN_WARP]);
}

__global__ static void __launch_bounds__(SUM_THREADS)
    add_sums(int64_t rows, const int32_t *targets, const float *nll, const int32_t *best, // [rows] all
             nn_sums *sums) {
  __shared__ double of_warp[SUM_THREADS / NN_WARP];
  double loss = 0.0;
  int32_t scored = 0, correct = 0; // rows are below 2^31
#pragma unroll AHEAD
  for (int64_t row = threadIdx.x; row < rows; row += SUM_THREADS) {
    loss += (double)nll[row];
    scored += targets[row] != -1;
    correct += targets[row] != -1 && targets[row] == best[row];
  }
  loss = block_sum(loss, of_warp);
  double all_scored = block_sum((double)scored, of_warp), all_correct = block_sum((double)correct, of_warp);
  if (threadIdx.x == 0) {
    sums->nll += loss;
    sums->scored += all_scored;
    sums->correct += all_correct;
  }
}

// ---- one piece

static nn_status multiply_logits(nn_device *device, const nn_classifier *op, const pieces *p, const nn_act *x,
                                 int64_t rows) {
  nn_cuda_product product = {};
  product.m = rows;
  product.n = op->vocab;
  product.k = op->width;
  product.a = x;
  product.b = op->weight;
  product.transposed_b = true;
  product.c = p->logits;
  product.c_stride = p->stride;
  product.c_is_float = p->is_float;
  return nn_cuda_multiply(device, &product);
}

// dx = dlogits weight
static nn_status multiply_dx(nn_device *device, const nn_classifier *op, const pieces *p, nn_act *dx,
                             int64_t rows) {
  nn_cuda_product product = {};
  product.m = rows;
  product.n = op->width;
  product.k = op->vocab;
  product.a = p->logits;
  product.a_stride = p->stride;
  product.b = op->weight;
  product.c = dx;
  return nn_cuda_multiply(device, &product);
}

// dweight += dlogits^T x
static nn_status multiply_dweight(nn_device *device, const nn_classifier *op, const pieces *p,
                                  const nn_act *x, int64_t rows) {
  nn_cuda_product product = {};
  product.m = op->vocab;
  product.n = op->width;
  product.k = rows;
  product.a = p->logits;
  product.transposed_a = true;
  product.a_stride = p->stride;
  product.b = x;
  product.add = true;
  product.c = op->dweight;
  product.c_is_float = true;
  return nn_cuda_multiply(device, &product);
}

static nn_status run_piece(nn_device *device, const nn_classifier *op, const pieces *p, int64_t first,
                           int64_t rows) {
  const nn_act *x = nn_act_at(device, op->x, first * op->width);
  row_options o = {};
  o.vocab = op->vocab;
  o.stride = p->stride;
  o.targets = op->targets + first;
  o.grad_scale = op->dx != NULL ? op->grad_scale : NULL;
  o.nll = p->nll + first;
  o.best = p->best + first;
  o.best_of_all = op->best != NULL;
  NN_TRY(multiply_logits(device, op, p, x, rows));
  NN_TRY(p->is_float ? run_rows<float>(device, rows, &o, p) : run_rows<nn_bf16>(device, rows, &o, p));
  if (op->dx == NULL)
    return NN_OK;
  NN_TRY(multiply_dx(device, op, p, nn_act_at(device, op->dx, first * op->width), rows));
  return multiply_dweight(device, op, p, x, rows);
}

extern "C" nn_status nn_cuda_classifier_run(nn_device *device, const nn_classifier *op) {
  pieces p;
  void *workspace;
  NN_TRY(nn_device_workspace(device, nn_cuda_classifier_workspace(device, op), &workspace));
  lay_out(device, op, static_cast<char *>(workspace), &p);
  for (int64_t first = 0; first < op->rows; first += p.rows) {
    int64_t left = op->rows - first;
    NN_TRY(run_piece(device, op, &p, first, left < p.rows ? left : p.rows));
  }
  return NN_LAUNCH(device, add_sums, dim3(1), dim3(SUM_THREADS), 0, op->rows, op->targets, p.nll, p.best,
                   op->sums);
}
