// Embedding, and its gradient without order-dependent sums: rows are sorted by token (a stable radix sort,
// so that equal tokens stay in the order of their rows), the sorted list is cut into pieces of PIECE rows,
// and each run of one token is summed from its first row to its last. A run inside a piece is added to the
// table at once; of a run that crosses pieces, every piece leaves its part, and the parts are then joined in
// order. So a token that fills half the batch is shared by many blocks, and a rare one costs one row.
//
// Tokens outside [0, V) read and write nothing: forward gives such a row NaN, which shows in the loss.
#include "nn/cuda/operators.h"
#include "nn/cuda/vector.h"

// ---- forward

enum { FORWARD_WARPS = 8 }; // a row each

template <typename T, int N> __global__ static void gather(nn_embedding op) {
  nn_let_next_kernel_begin();
  nn_await_kernels_before();
  int64_t row = (int64_t)blockIdx.x * FORWARD_WARPS + threadIdx.x / NN_WARP;
  if (row >= op.rows)
    return;
  int32_t token = op.tokens[row];
  bool known = token >= 0 && token < op.vocab;
  const T *from = static_cast<const T *>(op.table) + (int64_t)(known ? token : 0) * op.width;
  T *y = static_cast<T *>(op.y) + row * op.width;
#pragma unroll 4
  for (int32_t at = (int32_t)(threadIdx.x % NN_WARP) * N; at < op.width; at += NN_WARP * N) {
    nn_pack<T, N> pack = nn_load_pack<N>(from + at);
    if (!known) {
      float nan[N];
#pragma unroll
      for (int i = 0; i < N; i++)
        nan[i] = nn_not_a_number();
      nn_round_pack(nan, pack);
    }
    *reinterpret_cast<nn_pack<T, N> *>(y + at) = pack;
  }
}

template <typename T, int N> static nn_status forward(nn_device *device, const nn_embedding *op) {
  return NN_LAUNCH_EARLY(device, (gather<T, N>),
                         dim3((unsigned)nn_ceil_div(op->rows, (int64_t)FORWARD_WARPS)),
                         dim3(FORWARD_WARPS * NN_WARP), 0, *op);
}

template <typename T> static nn_status forward_typed(nn_device *device, const nn_embedding *op) {
  return NN_PACKED(T, nn_packs_fit<T>(op->width, op->table, op->y), forward, device, op);
}

extern "C" nn_status nn_cuda_embedding_forward(nn_device *device, const nn_embedding *op) {
  return NN_CUDA_TYPED(device, forward_typed, device, op);
}

// ---- backward: sorting (token, row) by token, 8 bits a pass

enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS };
enum { SORT_THREADS = DIGITS, SORT_WARPS = SORT_THREADS / NN_WARP, ROUNDS = 4 };
enum { WARP_TILE = ROUNDS * NN_WARP, TILE = SORT_WARPS * WARP_TILE, SCAN_THREADS = 1024 };

// One side of the sort. `row` NULL: element i is row i, as before the first pass.
typedef struct {
  const int32_t *token; // [N]
  const int32_t *row;   // [N]
  int32_t count, vocab; // N, V
} sort_input;

// Tokens outside the vocabulary go to the end, as token V.
__device__ static inline int32_t sort_token(const sort_input &in, int32_t i) {
  int32_t token = in.token[i];
  return token >= 0 && token < in.vocab ? token : in.vocab;
}

__device__ static inline int32_t sort_digit(int32_t token, int32_t shift) {
  return token >> shift & (DIGITS - 1);
}

// counts [DIGITS, blocks]: how often each digit occurs in each block's tile.
__global__ static void __launch_bounds__(SORT_THREADS)
    count_digits(sort_input in, int32_t shift, int32_t *counts) {
  __shared__ int32_t count[DIGITS];
  count[threadIdx.x] = 0;
  __syncthreads();
  int32_t begin = (int32_t)blockIdx.x * TILE;
  for (int32_t i = begin + (int32_t)threadIdx.x; i < begin + TILE && i < in.count; i += SORT_THREADS)
    atomicAdd(&count[sort_digit(sort_token(in, i), shift)], 1);
  __syncthreads();
  counts[(int64_t)threadIdx.x * gridDim.x + blockIdx.x] = count[threadIdx.x];
}

// The sum of x over the threads before this one, and over all of them in *total.
__device__ static inline int32_t scan_block(int32_t x, int32_t *total) {
  __shared__ int32_t of_warp[SCAN_THREADS / NN_WARP];
  int lane = (int)threadIdx.x % NN_WARP, warp = (int)threadIdx.x / NN_WARP;
  int32_t sum = x;
  for (int lanes = 1; lanes < NN_WARP; lanes *= 2) {
    int32_t before = __shfl_up_sync(0xffffffffu, sum, lanes);
    sum += lane >= lanes ? before : 0;
  }
  if (lane == NN_WARP - 1)
    of_warp[warp] = sum;
  __syncthreads();
  int32_t before_warp = 0, all = 0;
  for (int w = 0; w < SCAN_THREADS / NN_WARP; w++) {
    before_warp += w < warp ? of_warp[w] : 0;
    all += of_warp[w];
  }
  __syncthreads(); // of_warp is written again by the next call
  *total = all;
  return before_warp + sum - x;
}

// counts become places: the sum of all counts before them. One block.
__global__ static void __launch_bounds__(SCAN_THREADS) place_digits(int32_t *counts, int64_t size) {
  int32_t before = 0;
  for (int64_t begin = 0; begin < size; begin += SCAN_THREADS) {
    int64_t i = begin + threadIdx.x;
    int32_t total, count = i < size ? counts[i] : 0;
    int32_t place = before + scan_block(count, &total);
    if (i < size)
      counts[i] = place;
    before += total;
  }
}

// Lanes of the warp with the same digit as this one.
__device__ static inline unsigned same_digit(int32_t digit) {
  unsigned same = 0xffffffffu;
#pragma unroll
  for (int bit = 0; bit < DIGIT_BITS; bit++) {
    unsigned set = __ballot_sync(0xffffffffu, digit >> bit & 1);
    same &= digit >> bit & 1 ? set : ~set;
  }
  return same;
}

// Every element goes to its digit's place in this block, after those of the same digit before it: lower lanes
// of its warp, earlier rounds, lower warps. Past the end, elements count as token V of row -1 and are
// dropped.
__global__ static void __launch_bounds__(SORT_THREADS)
    move_digits(sort_input in, int32_t shift, const int32_t *places, int32_t *out_token, int32_t *out_row) {
  __shared__ int32_t place[SORT_WARPS][DIGITS];
  int lane = (int)threadIdx.x % NN_WARP, warp = (int)threadIdx.x / NN_WARP;
  int32_t begin = (int32_t)blockIdx.x * TILE + warp * WARP_TILE + lane;
  int32_t token[ROUNDS], row[ROUNDS], rank[ROUNDS];
  for (int digit = lane; digit < DIGITS; digit += NN_WARP)
    place[warp][digit] = 0;
  __syncwarp();
#pragma unroll
  for (int round = 0; round < ROUNDS; round++) {
    int32_t i = begin + round * NN_WARP;
    bool inside = i < in.count;
    token[round] = inside ? sort_token(in, i) : in.vocab;
    row[round] = !inside ? -1 : in.row != NULL ? in.row[i] : i;
    int32_t digit = sort_digit(token[round], shift);
    unsigned same = same_digit(digit), lower = same & ((1u << lane) - 1);
    rank[round] = place[warp][digit] + __popc(lower);
    __syncwarp();
    if (lower == 0)
      place[warp][digit] += __popc(same);
    __syncwarp();
  }
  __syncthreads();
  int32_t next = places[(int64_t)threadIdx.x * gridDim.x + blockIdx.x]; // thread = digit
  for (int w = 0; w < SORT_WARPS; w++) {
    int32_t count = place[w][threadIdx.x];
    place[w][threadIdx.x] = next;
    next += count;
  }
  __syncthreads();
#pragma unroll
  for (int round = 0; round < ROUNDS; round++)
    if (row[round] >= 0) {
      int32_t to = place[warp][sort_digit(token[round], shift)] + rank[round];
      out_token[to] = token[round];
      out_row[to] = row[round];
    }
}

// ---- backward: summing the rows of each token

enum { PIECE = 32, AHEAD = 8, SUM_THREADS = 128, PARTS = 2, FIRST = 0, LAST = 1 };

// The sorted list and the parts of runs that cross pieces: part FIRST is of the run that comes from the piece
// before, part LAST of the one that begins here and goes on. A run through the whole piece leaves FIRST.
typedef struct {
  const int32_t *token, *row; // [N] sorted
  int32_t count, pieces;      // N
  float *parts;               // [pieces, PARTS, C]
} sorted_rows;

template <int N> __device__ static inline void add_to(float *to, const float (&sum)[N]) {
  constexpr int LOAD = N < 4 ? N : 4; // 16 bytes of float32
#pragma unroll
  for (int i = 0; i < N; i += LOAD) {
    float old[LOAD];
    nn_load_floats(to + i, old);
#pragma unroll
    for (int j = 0; j < LOAD; j++)
      old[j] += sum[i + j];
    nn_store_floats(to + i, old);
  }
}

template <int N> __device__ static inline void put(float *to, const float (&sum)[N]) {
  constexpr int LOAD = N < 4 ? N : 4;
#pragma unroll
  for (int i = 0; i < N; i += LOAD) {
    float part[LOAD];
#pragma unroll
    for (int j = 0; j < LOAD; j++)
      part[j] = sum[i + j];
    nn_store_floats(to + i, part);
  }
}

// A block takes one piece and SUM_THREADS packs of its columns; a thread goes down the rows with one pack.
template <typename T, int N>
__global__ static void __launch_bounds__(SUM_THREADS) sum_pieces(nn_embedding op, sorted_rows sorted) {
  __shared__ int32_t tokens[PIECE + 2], rows[PIECE]; // with the tokens before and after the piece
  int32_t begin = (int32_t)blockIdx.x * PIECE, count = min((int32_t)PIECE, sorted.count - begin);
  for (int32_t i = (int32_t)threadIdx.x - 1; i <= count; i += (int32_t)blockDim.x)
    tokens[i + 1] = begin + i >= 0 && begin + i < sorted.count ? sorted.token[begin + i] : -1;
  for (int32_t i = (int32_t)threadIdx.x; i < count; i += (int32_t)blockDim.x)
    rows[i] = sorted.row[begin + i];
  __syncthreads();
  int32_t column = ((int32_t)blockIdx.y * (int32_t)blockDim.x + (int32_t)threadIdx.x) * N;
  if (column >= op.width)
    return;
  const T *dy = static_cast<const T *>(op.dy) + column;
  float *parts = sorted.parts + (int64_t)blockIdx.x * PARTS * op.width + column;
  float sum[N] = {};
  bool from_before = tokens[0] == tokens[1];
  for (int32_t ahead = 0; ahead < count; ahead += AHEAD) {
    nn_pack<T, N> packs[AHEAD]; // many rows in flight
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
      if (ahead + i < count)
        packs[i] = nn_load_pack<N>(dy + (int64_t)rows[ahead + i] * op.width);
#pragma unroll
    for (int i = 0; i < AHEAD; i++) {
      if (ahead + i >= count)
        break;
      float value[N];
      nn_unpack(packs[i], value);
#pragma unroll
      for (int j = 0; j < N; j++)
        sum[j] += value[j];
      int32_t token = tokens[ahead + i + 1], after = tokens[ahead + i + 2];
      bool last_row = ahead + i + 1 == count;
      if (token == after && !last_row)
        continue;
      if (from_before)
        put(parts + (int64_t)FIRST * op.width, sum);
      else if (token == after)
        put(parts + (int64_t)LAST * op.width, sum);
      else if (token < op.vocab)
        add_to(op.dtable + (int64_t)token * op.width + column, sum);
      from_before = false;
#pragma unroll
      for (int j = 0; j < N; j++)
        sum[j] = 0.0f;
    }
  }
}

// One past the last piece after `piece` that begins with `token`.
__device__ static inline int32_t end_of_run(const sorted_rows &sorted, int32_t piece, int32_t token) {
  int32_t low = piece + 1, high = sorted.pieces;
  while (low < high) {
    int32_t middle = low + (high - low) / 2;
    if (sorted.token[(int64_t)middle * PIECE] == token)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

// The block of the piece in which a run begins that goes on into the next piece joins the run's parts.
__global__ static void __launch_bounds__(SUM_THREADS) join_parts(nn_embedding op, sorted_rows sorted) {
  int32_t piece = (int32_t)blockIdx.x, begin = piece * PIECE, next = begin + PIECE;
  if (next >= sorted.count)
    return;
  int32_t token = sorted.token[next];
  bool begins_before = piece > 0 && sorted.token[begin - 1] == token;
  if (token >= op.vocab || sorted.token[next - 1] != token || begins_before)
    return;
  int32_t column = (int32_t)blockIdx.y * SUM_THREADS + (int32_t)threadIdx.x;
  if (column >= op.width)
    return;
  int32_t end = end_of_run(sorted, piece, token);
  int64_t stride = (int64_t)PARTS * op.width;
  const float *parts = sorted.parts + column;
  float sum = parts[piece * stride + (int64_t)LAST * op.width];
#pragma unroll 8
  for (int32_t p = piece + 1; p < end; p++)
    sum += parts[p * stride + (int64_t)FIRST * op.width];
  op.dtable[(int64_t)token * op.width + column] += sum;
}

// ---- backward: the operator

// Scratch of backward: two sides of the sort, digit counts, parts of runs.
typedef struct {
  int32_t *token[2], *row[2]; // [N]
  int32_t *counts;            // [DIGITS, tiles]
  float *parts;               // [pieces, PARTS, C]
  int32_t tiles, pieces;
} scratch;

static nn_status take_scratch(nn_device *device, const nn_embedding *op, scratch *s) {
  s->tiles = (int32_t)nn_ceil_div(op->rows, (int64_t)TILE);
  s->pieces = (int32_t)nn_ceil_div(op->rows, (int64_t)PIECE);
  int64_t parts = (int64_t)s->pieces * PARTS * op->width; // first: its packs are 16 bytes
  int64_t counts = (int64_t)DIGITS * s->tiles;
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)(parts + counts + 4 * op->rows) * sizeof(float), &workspace));
  s->parts = static_cast<float *>(workspace);
  s->counts = reinterpret_cast<int32_t *>(s->parts + parts);
  int32_t *lists = s->counts + counts;
  for (int side = 0; side < 2; side++) {
    s->token[side] = lists + (2 * side) * op->rows;
    s->row[side] = lists + (2 * side + 1) * op->rows;
  }
  return NN_OK;
}

// Sorts by the digits that tokens 0 to V have. *side: where the sorted list is.
static nn_status sort_rows(nn_device *device, const nn_embedding *op, const scratch *s, int *side) {
  sort_input in = {op->tokens, NULL, (int32_t)op->rows, op->vocab};
  dim3 tiles((unsigned)s->tiles);
  *side = 1;
  for (int32_t shift = 0; shift == 0 || (shift < 32 && op->vocab >> shift > 0); shift += DIGIT_BITS) {
    *side = 1 - *side;
    NN_TRY(NN_LAUNCH(device, count_digits, tiles, dim3(SORT_THREADS), 0, in, shift, s->counts));
    NN_TRY(NN_LAUNCH(device, place_digits, dim3(1), dim3(SCAN_THREADS), 0, s->counts,
                     (int64_t)DIGITS * s->tiles));
    NN_TRY(NN_LAUNCH(device, move_digits, tiles, dim3(SORT_THREADS), 0, in, shift, s->counts, s->token[*side],
                     s->row[*side]));
    in.token = s->token[*side];
    in.row = s->row[*side];
  }
  return NN_OK;
}

template <typename T, int N>
static nn_status sum_rows(nn_device *device, const nn_embedding *op, sorted_rows sorted) {
  int32_t packs = op->width / N, threads = SUM_THREADS;
  if (packs < SUM_THREADS)
    threads = nn_ceil_div(packs, (int32_t)NN_WARP) * NN_WARP;
  dim3 grid((unsigned)sorted.pieces, (unsigned)nn_ceil_div(packs, threads));
  NN_TRY(NN_LAUNCH(device, (sum_pieces<T, N>), grid, dim3((unsigned)threads), 0, *op, sorted));
  grid.y = (unsigned)nn_ceil_div(op->width, (int32_t)SUM_THREADS);
  return NN_LAUNCH(device, join_parts, grid, dim3(SUM_THREADS), 0, *op, sorted);
}

template <typename T>
static nn_status sum_rows_typed(nn_device *device, const nn_embedding *op, sorted_rows sorted) {
  return NN_PACKED(T, nn_packs_fit<T>(op->width, op->dy, op->dtable), sum_rows, device, op, sorted);
}

extern "C" nn_status nn_cuda_embedding_backward(nn_device *device, const nn_embedding *op) {
  NN_NEED(op->rows <= INT32_MAX - TILE);
  scratch s;
  int side;
  NN_TRY(take_scratch(device, op, &s));
  NN_TRY(sort_rows(device, op, &s, &side));
  sorted_rows sorted = {s.token[side], s.row[side], (int32_t)op->rows, s.pieces, s.parts};
  return NN_CUDA_TYPED(device, sum_rows_typed, device, op, sorted);
}
