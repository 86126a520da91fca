// Masked attention for every head size up to 1024 and both compute types, in float32 without tensor cores:
// what checks in float32, small trainings and unusual head sizes run on.
//
// All four kernels have the same shape. A warp owns a few rows (of the matrix of scores, or, where sums over
// queries are wanted, of its transpose), the 32 lanes stand for 32 columns that pass by together, and both
// are staged in shared memory, 64 elements of the head at a time. A lane so has the score of its column with
// each of the warp's rows; for sums over columns, lanes stand for elements of the head instead.
#include "nats/cuda/attention.h"

static constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;

// Lines of DEPTH elements are LINE apart: 16-byte reads of one element of 8 lines meet all banks once.
enum { WARPS = 8, THREADS = WARPS * NN_WARP, COLUMNS = NN_WARP, DEPTH = 64, LINE = DEPTH + 4 };

// Rows of a warp, for heads of up to PIECES * DEPTH elements: as many as there are registers for their sums.
__host__ __device__ constexpr int warp_rows(int pieces) {
  return pieces <= 2 ? 4 : pieces <= 4 ? 2 : 1;
}
__host__ __device__ constexpr int block_rows(int pieces) {
  return WARPS * warp_rows(pieces);
}

// Rows of one head of a tensor: element d of token t at data[t * stride + d].
template <typename T> struct matrix {
  const T *data;
  int64_t stride;
};

// Queries and d_o, or keys and values.
template <typename T> struct matrices { matrix<T> first, second; };

template <int PIECES> struct plain_shared {
  float row[2][block_rows(PIECES)][LINE];
  float column[2][COLUMNS][LINE];
  float factor[2][WARPS][COLUMNS][warp_rows(PIECES)];
  int32_t row_token[block_rows(PIECES)], column_token[COLUMNS]; // -1: none
};

template <typename T>
__device__ static matrices<T> queries_of(const nats_cuda_attention &a, int32_t sequence, int32_t head) {
  const int64_t token = (int64_t)sequence * a.length, column = (int64_t)head * a.head_size;
  const int64_t dense = (int64_t)a.heads * a.head_size;
  return {{(const T *)a.q + token * a.token_stride + column, a.token_stride},
          {(const T *)a.d_o + token * dense + column, dense}};
}

template <typename T> __device__ static matrices<T> keys_of(const nats_cuda_attention &a, int32_t pair) {
  const int64_t at =
      (int64_t)(pair / a.kv_heads) * a.length * a.token_stride + (int64_t)(pair % a.kv_heads) * a.head_size;
  return {{(const T *)a.k + at, a.token_stride}, {(const T *)a.v + at, a.token_stride}};
}

// Elements from `depth` on of the rows of `count` tokens, 0 where there are none.
template <typename T>
__device__ static void stage(float (*to)[LINE], int count, const int32_t *token, matrix<T> from, int depth,
                             int size) {
  const int d = threadIdx.x % DEPTH;
#pragma unroll 4
  for (int row = threadIdx.x / DEPTH; row < count; row += THREADS / DEPTH) {
    const bool exists = token[row] >= 0 && depth + d < size;
    to[row][d] = exists ? nn_load(from.data + token[row] * from.stride + depth + d) : 0;
  }
}

// sum[r] += the warp's row r . this lane's column
template <int ROWS>
__device__ static void multiply(const float (*row)[LINE], const float (*column)[LINE], float (&sum)[ROWS]) {
  const int first = threadIdx.x / NN_WARP * ROWS, lane = threadIdx.x % NN_WARP;
#pragma unroll 4
  for (int d = 0; d < DEPTH; d += 4) {
    const float4 c = *(const float4 *)&column[lane][d];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const float4 x = *(const float4 *)&row[first + r][d];
      sum[r] += x.x * c.x + x.y * c.y + x.z * c.z + x.w * c.w;
    }
  }
}

// sum[r] += over columns of factor[column][r] times elements lane and lane + 32 of the column
template <int ROWS>
__device__ static void accumulate(const float (*factor)[ROWS], const float (*column)[LINE],
                                  float (&sum)[ROWS][2]) {
  const int lane = threadIdx.x % NN_WARP;
#pragma unroll 8
  for (int c = 0; c < COLUMNS; c++) {
    const float low = column[c][lane], high = column[c][lane + NN_WARP];
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      sum[r][0] += factor[c][r] * low;
      sum[r][1] += factor[c][r] * high;
    }
  }
}

// Scores of the warp's rows with this lane's column, and with BOTH the products of the second matrices. Rows
// stay staged where one piece is all: then only the `fresh` first call brings them.
template <typename T, int PIECES, bool BOTH>
__device__ static void products(plain_shared<PIECES> &shared, const matrices<T> &rows,
                                const matrices<T> &columns, int size, bool fresh,
                                float (&score)[warp_rows(PIECES)], float (&second)[warp_rows(PIECES)]) {
  for (int r = 0; r < warp_rows(PIECES); r++)
    score[r] = second[r] = 0;
  for (int depth = 0; depth < size; depth += DEPTH) {
    __syncthreads(); // what is staged is no longer read; tokens are there
    if (PIECES > 1 || fresh)
      stage(shared.row[0], block_rows(PIECES), shared.row_token, rows.first, depth, size);
    stage(shared.column[0], COLUMNS, shared.column_token, columns.first, depth, size);
    if (BOTH) {
      if (PIECES > 1 || fresh)
        stage(shared.row[1], block_rows(PIECES), shared.row_token, rows.second, depth, size);
      stage(shared.column[1], COLUMNS, shared.column_token, columns.second, depth, size);
    }
    __syncthreads();
    multiply(shared.row[0], shared.column[0], score);
    if (BOTH)
      multiply(shared.row[1], shared.column[1], second);
  }
}

// Writes a warp's sums over columns, times `factor`, as the row of a token.
template <typename T, int PIECES>
__device__ static void write_row(T *to, const float (*sum)[warp_rows(PIECES)][2], int r, float factor,
                                 int size) {
  const int lane = threadIdx.x % NN_WARP;
#pragma unroll
  for (int piece = 0; piece < PIECES; piece++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int d = piece * DEPTH + half * NN_WARP + lane;
      if (d < size)
        nn_store(to + d, sum[piece][r][half] * factor);
    }
}

// A key of a list, for one lane; token -1 past the last one.
typedef struct {
  int32_t token, until;
  bool local;
} listed_key;

// The keys that a block of 64 rows meets: one range of each class.
typedef struct {
  const int32_t *key, *until;
  int32_t first[NATS_KEY_CLASSES], end[NATS_KEY_CLASSES];
  int32_t count;
} key_ranges;

__device__ static key_ranges ranges_of(const nats_cuda_attention &a, int32_t pair, int32_t row) {
  const int64_t at = ((int64_t)pair * a.lists.blocks + row / NATS_RANGE_ROWS) * NATS_KEY_CLASSES;
  key_ranges ranges;
  ranges.key = a.lists.key + (int64_t)pair * a.length;
  ranges.until = a.lists.until + (int64_t)pair * a.length;
  ranges.count = 0;
  for (int c = 0; c < NATS_KEY_CLASSES; c++) {
    ranges.first[c] = a.lists.first[at + c];
    ranges.end[c] = a.lists.end[at + c];
    ranges.count += ranges.end[c] - ranges.first[c];
  }
  return ranges;
}

__device__ static listed_key key_at(const key_ranges &ranges, int32_t index) {
  for (int c = 0; c < NATS_KEY_CLASSES; c++) {
    const int32_t count = ranges.end[c] - ranges.first[c];
    if (index < count)
      return {ranges.key[ranges.first[c] + index], ranges.until[ranges.first[c] + index],
              c == NATS_KEY_LOCAL};
    index -= count;
  }
  return {-1, -1, false};
}

// A thread block of the kernels whose rows are queries.
typedef struct {
  int32_t at;             // sequence * H + query head
  int32_t sequence, head; // query head
  int32_t pair;
  int32_t row; // the warp's first
} query_rows;

// Later rows see more keys and come first. Leaves the block's tokens in shared memory.
template <int PIECES>
__device__ static query_rows find_rows(const nats_cuda_attention &a, int32_t blocks, int32_t *row_token) {
  const int32_t at = blockIdx.x / blocks, block = blocks - 1 - blockIdx.x % blocks;
  const int32_t first = block * block_rows(PIECES), row = first + threadIdx.x;
  if (threadIdx.x < block_rows(PIECES))
    row_token[threadIdx.x] = row < a.length ? row : -1;
  const int32_t sequence = at / a.heads, head = at % a.heads;
  return {at, sequence, head, sequence * a.kv_heads + head / a.group,
          first + (int32_t)threadIdx.x / NN_WARP * warp_rows(PIECES)};
}

// The next columns: tokens that lanes stand for.
__device__ static void set_columns(int32_t *column_token, int32_t token) {
  __syncthreads(); // the last ones are staged
  if (threadIdx.x < COLUMNS)
    column_token[threadIdx.x] = token;
}

// Running softmax of one row (Milakov and Gimelshein 2018), in units of log 2; the total of this lane's
// columns. Returns the weight of the lane's column; what was summed before is to be multiplied by `rescale`.
__device__ static float softmax_step(float score, bool visible, float *largest, float *total,
                                     float *rescale) {
  const float most = fmaxf(*largest, nn_warp_max(visible ? score : -INFINITY));
  const float shift = most == -INFINITY ? 0 : most; // nothing seen so far
  const float weight = visible ? exp2f(score - shift) : 0;
  *rescale = exp2f(*largest - shift);
  *total = *total * *rescale + weight;
  *largest = most;
  return weight;
}

template <typename T, int PIECES>
__global__ __launch_bounds__(THREADS, 1) static void forward_kernel(nats_cuda_attention a, int32_t blocks) {
  constexpr int ROWS = warp_rows(PIECES);
  __shared__ __align__(16) plain_shared<PIECES> shared;
  const query_rows own = find_rows<PIECES>(a, blocks, shared.row_token);
  const matrices<T> queries = queries_of<T>(a, own.sequence, own.head), keys = keys_of<T>(a, own.pair);
  const key_ranges ranges = ranges_of(a, own.pair, own.row);
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  float largest[ROWS], total[ROWS] = {}, sum[PIECES][ROWS][2] = {};
  for (int r = 0; r < ROWS; r++)
    largest[r] = -INFINITY;
  for (int32_t base = 0; base < ranges.count; base += COLUMNS) {
    const listed_key key = key_at(ranges, base + lane);
    set_columns(shared.column_token, key.token);
    float score[ROWS], none[ROWS];
    products<T, PIECES, false>(shared, queries, keys, a.head_size, base == 0, score, none);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int32_t i = own.row + r;
      const bool visible = key.token >= 0 && key.token <= i && i <= key.until;
      float rescale;
      shared.factor[0][warp][lane][r] =
          softmax_step(score[r] * a.scale * LOG2_E, visible, &largest[r], &total[r], &rescale);
#pragma unroll
      for (int piece = 0; piece < PIECES; piece++) {
        sum[piece][r][0] *= rescale;
        sum[piece][r][1] *= rescale;
      }
    }
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++)
      if (piece * DEPTH < a.head_size) {
        __syncthreads();
        stage(shared.column[1], COLUMNS, shared.column_token, keys.second, piece * DEPTH, a.head_size);
        __syncthreads();
        accumulate(shared.factor[0][warp], shared.column[1], sum[piece]);
      }
  }
  for (int r = 0; r < ROWS; r++) {
    const int32_t i = own.row + r;
    const float all = nn_warp_sum(total[r]);
    if (i >= a.length)
      continue;
    T *o = (T *)a.o + (((int64_t)own.sequence * a.length + i) * a.heads + own.head) * a.head_size;
    write_row<T, PIECES>(o, sum, r, 1 / all, a.head_size);
    if (lane == 0)
      a.lse[(int64_t)own.at * a.length + i] = (largest[r] + log2f(all)) * LN_2;
  }
}

// do . o of a row, for all lanes.
template <typename T>
__device__ static float dot_outputs(const nats_cuda_attention &a, const query_rows &own, int32_t i) {
  const int64_t at = (((int64_t)own.sequence * a.length + i) * a.heads + own.head) * a.head_size;
  float sum = 0;
  for (int d = threadIdx.x % NN_WARP; d < a.head_size; d += NN_WARP)
    sum += nn_load((const T *)a.d_o + at + d) * nn_load((const T *)a.o + at + d);
  return nn_warp_sum(sum);
}

// e^{s - lse}, capped, from a product and lse in units of log 2.
__device__ static inline float weight_of(const nats_cuda_attention &a, float product, float log2_lse) {
  return exp2f(fminf(product * a.scale * LOG2_E - log2_lse, a.log2_clip));
}

// delta, dq and visible.seen
template <typename T, int PIECES>
__global__ __launch_bounds__(THREADS, 1) static void backward_rows_kernel(nats_cuda_attention a,
                                                                          int32_t blocks) {
  constexpr int ROWS = warp_rows(PIECES);
  __shared__ __align__(16) plain_shared<PIECES> shared;
  const query_rows own = find_rows<PIECES>(a, blocks, shared.row_token);
  const matrices<T> queries = queries_of<T>(a, own.sequence, own.head), keys = keys_of<T>(a, own.pair);
  const key_ranges ranges = ranges_of(a, own.pair, own.row);
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  float lse[ROWS], delta[ROWS], seen[ROWS] = {}, sum[PIECES][ROWS][2] = {};
  for (int r = 0; r < ROWS; r++) {
    const int32_t i = min(own.row + r, a.length - 1);
    lse[r] = a.lse[(int64_t)own.at * a.length + i] * LOG2_E;
    delta[r] = dot_outputs<T>(a, own, i);
  }
  for (int32_t base = 0; base < ranges.count; base += COLUMNS) {
    const listed_key key = key_at(ranges, base + lane);
    const int32_t start =
        a.wants_types && key.local ? a.rows[(int64_t)own.pair * a.length + key.token].start : a.length;
    set_columns(shared.column_token, key.token);
    float score[ROWS], d_weight[ROWS];
    products<T, PIECES, true>(shared, queries, keys, a.head_size, base == 0, score, d_weight);
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int32_t i = own.row + r;
      const bool visible = key.token >= 0 && key.token <= i && i <= key.until;
      const float d = visible ? weight_of(a, score[r], lse[r]) * (d_weight[r] - delta[r]) : 0;
      seen[r] += i >= start ? d : 0;
      shared.factor[0][warp][lane][r] = d * a.scale;
    }
    __syncwarp();
#pragma unroll
    for (int piece = 0; piece < PIECES; piece++)
      if (piece * DEPTH < a.head_size) {
        if (PIECES > 1) {
          __syncthreads();
          stage(shared.column[0], COLUMNS, shared.column_token, keys.first, piece * DEPTH, a.head_size);
          __syncthreads();
        }
        accumulate(shared.factor[0][warp], shared.column[0], sum[piece]);
      }
  }
  for (int r = 0; r < ROWS; r++) {
    const int32_t i = own.row + r;
    const float all_seen = nn_warp_sum(seen[r]);
    if (i >= a.length)
      continue;
    T *dq =
        (T *)a.dq + ((int64_t)own.sequence * a.length + i) * a.token_stride + (int64_t)own.head * a.head_size;
    write_row<T, PIECES>(dq, sum, r, 1, a.head_size);
    const int64_t at = (int64_t)own.at * a.length + i;
    if (lane == 0) {
      a.delta[at] = delta[r];
      if (a.wants_types)
        a.visible.seen[at] = all_seen;
    }
  }
}

// The keys of a thread block whose rows are keys: neighbours in the pair's list.
template <int PIECES> struct key_rows {
  int32_t token[block_rows(PIECES)], until[block_rows(PIECES)]; // of rows without a key: T and -1
  nats_key_rows bounds[block_rows(PIECES)];
};

template <int PIECES>
__device__ static void load_keys(const nats_cuda_attention &a, int32_t pair, int32_t first,
                                 key_rows<PIECES> *keys, int32_t *row_token) {
  const int row = threadIdx.x;
  if (row >= block_rows(PIECES))
    return;
  const int64_t list = (int64_t)pair * a.length;
  const bool exists = first + row < a.length;
  row_token[row] = exists ? a.lists.key[list + first + row] : -1;
  keys->token[row] = exists ? row_token[row] : a.length;
  keys->until[row] = exists ? a.lists.until[list + first + row] : -1;
  if (exists && a.wants_types)
    keys->bounds[row] = a.rows[list + row_token[row]];
}

// The sum over lanes of each of a warp's values, to one place a row.
template <int PIECES>
__device__ static void write_sums(float *to, const float (&sum)[warp_rows(PIECES)],
                                  const int32_t *row_token) {
  for (int r = 0; r < warp_rows(PIECES); r++) {
    const float all = nn_warp_sum(sum[r]);
    const int32_t token = row_token[threadIdx.x / NN_WARP * warp_rows(PIECES) + r];
    if (threadIdx.x % NN_WARP == 0 && token >= 0)
      to[token] = all;
  }
}

// dk, dv and the sums of `visible` over rows
template <typename T, int PIECES>
__global__ __launch_bounds__(THREADS, 1) static void backward_keys_kernel(nats_cuda_attention a,
                                                                          int32_t blocks) {
  constexpr int ROWS = warp_rows(PIECES);
  __shared__ __align__(16) plain_shared<PIECES> shared;
  __shared__ key_rows<PIECES> own;
  const int32_t pair = blockIdx.x / blocks, sequence = pair / a.kv_heads;
  const matrices<T> keys = keys_of<T>(a, pair);
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  load_keys<PIECES>(a, pair, blockIdx.x % blocks * block_rows(PIECES), &own, shared.row_token);
  __syncthreads();
  int32_t first = a.length, last = 0; // rows that see one of the keys
  for (int row = 0; row < block_rows(PIECES); row++) {
    first = min(first, own.token[row]);
    last = max(last, own.until[row]);
  }
  float dk[PIECES][ROWS][2] = {}, dv[PIECES][ROWS][2] = {};
  for (int32_t g = 0; g < a.group; g++) {
    const int32_t head = pair % a.kv_heads * a.group + g;
    const int64_t at = ((int64_t)sequence * a.heads + head) * a.length;
    const matrices<T> queries = queries_of<T>(a, sequence, head);
    float all[ROWS] = {}, local[ROWS] = {}, window[ROWS] = {}, self[ROWS] = {};
    for (int32_t base = first; base <= last; base += COLUMNS) {
      const int32_t i = base + lane;
      set_columns(shared.column_token, i < a.length ? i : -1);
      const float lse = i < a.length ? a.lse[at + i] * LOG2_E : 0;
      const float delta = i < a.length ? a.delta[at + i] : 0;
      float score[ROWS], d_weight[ROWS];
      products<T, PIECES, true>(shared, keys, queries, a.head_size, g == 0 && base == first, score, d_weight);
#pragma unroll
      for (int r = 0; r < ROWS; r++) {
        const int row = warp * ROWS + r;
        const bool visible = own.token[row] <= i && i <= own.until[row];
        const float weight = visible ? weight_of(a, score[r], lse) : 0;
        const float d = visible ? weight * (d_weight[r] - delta) : 0;
        shared.factor[0][warp][lane][r] = d * a.scale;
        shared.factor[1][warp][lane][r] = weight;
        if (a.wants_types) {
          const nats_key_rows bounds = own.bounds[row];
          all[r] += i >= bounds.start ? d : 0;
          local[r] += i >= bounds.start && i <= bounds.local ? d : 0;
          window[r] += i >= bounds.start && i <= bounds.window ? d : 0;
          self[r] += a.chunk == 1 && i == own.token[row] ? d : 0;
        }
      }
      __syncwarp();
#pragma unroll
      for (int piece = 0; piece < PIECES; piece++)
        if (piece * DEPTH < a.head_size) {
          if (PIECES > 1) {
            __syncthreads();
            stage(shared.column[0], COLUMNS, shared.column_token, queries.first, piece * DEPTH, a.head_size);
            stage(shared.column[1], COLUMNS, shared.column_token, queries.second, piece * DEPTH, a.head_size);
            __syncthreads();
          }
          accumulate(shared.factor[0][warp], shared.column[0], dk[piece]);
          accumulate(shared.factor[1][warp], shared.column[1], dv[piece]);
        }
    }
    if (a.wants_types) {
      const float none[ROWS] = {}; // a local key is seen up to its `local` bound
      write_sums<PIECES>(a.visible.all + at, all, shared.row_token);
      write_sums<PIECES>(a.visible.local + at, local, shared.row_token);
      write_sums<PIECES>(a.visible.window + at, window, shared.row_token);
      write_sums<PIECES>(a.visible.ended + at, none, shared.row_token);
      write_sums<PIECES>(a.visible.own + at, self, shared.row_token);
    }
  }
  for (int r = 0; r < ROWS; r++) {
    const int32_t token = shared.row_token[warp * ROWS + r];
    if (token < 0)
      continue;
    const int64_t to =
        ((int64_t)sequence * a.length + token) * a.token_stride + (int64_t)(pair % a.kv_heads) * a.head_size;
    write_row<T, PIECES>((T *)a.dk + to, dk, r, 1, a.head_size);
    write_row<T, PIECES>((T *)a.dv + to, dv, r, 1, a.head_size);
  }
}

// The sums of `hidden`
template <typename T, int PIECES>
__global__ __launch_bounds__(THREADS, 1) static void hidden_kernel(nats_cuda_attention a, int32_t blocks) {
  constexpr int ROWS = warp_rows(PIECES);
  __shared__ __align__(16) plain_shared<PIECES> shared;
  __shared__ key_rows<PIECES> own;
  const int32_t sequence = blockIdx.x / blocks / a.heads, head = blockIdx.x / blocks % a.heads;
  const int32_t pair = sequence * a.kv_heads + head / a.group;
  const int64_t at = ((int64_t)sequence * a.heads + head) * a.length;
  const matrices<T> keys = keys_of<T>(a, pair), queries = queries_of<T>(a, sequence, head);
  const int lane = threadIdx.x % NN_WARP, warp = threadIdx.x / NN_WARP;
  load_keys<PIECES>(a, pair, blockIdx.x % blocks * block_rows(PIECES), &own, shared.row_token);
  __syncthreads();
  int32_t first = a.length; // hidden row of one of the keys
  for (int row = 0; row < block_rows(PIECES); row++)
    if (own.until[row] >= 0)
      first = min(first, own.until[row] + 1);
  float all[ROWS] = {}, local[ROWS] = {}, window[ROWS] = {}, ended[ROWS] = {};
  bool fresh = true;
  // From a multiple of COLUMNS on, so that all rows are of one block.
  for (int32_t base = first / COLUMNS * COLUMNS; base < a.length; base += COLUMNS) {
    const float factor = a.block_weight[base / NATS_RANGE_ROWS];
    if (factor == 0)
      continue;
    const int32_t i = base + lane;
    set_columns(shared.column_token, i < a.length ? i : -1);
    const float lse = i < a.length ? a.lse[at + i] * LOG2_E : 0;
    const float delta = i < a.length ? a.delta[at + i] : 0;
    float score[ROWS], d_weight[ROWS];
    products<T, PIECES, true>(shared, keys, queries, a.head_size, fresh, score, d_weight);
    fresh = false;
#pragma unroll
    for (int r = 0; r < ROWS; r++) {
      const int row = warp * ROWS + r;
      const bool hidden = i > own.until[row] && i < a.length;
      const float d = hidden ? weight_of(a, score[r], lse) * (d_weight[r] - delta) * factor : 0;
      const nats_key_rows bounds = own.bounds[row];
      all[r] += d;
      local[r] += i <= bounds.local ? d : 0;
      window[r] += i <= bounds.window ? d : 0;
      ended[r] += i > bounds.local && i <= bounds.ended ? d : 0;
    }
  }
  write_sums<PIECES>(a.hidden.all + at, all, shared.row_token);
  write_sums<PIECES>(a.hidden.local + at, local, shared.row_token);
  write_sums<PIECES>(a.hidden.window + at, window, shared.row_token);
  write_sums<PIECES>(a.hidden.ended + at, ended, shared.row_token);
}

typedef enum { FORWARD, BACKWARD, HIDDEN } plain_pass;

template <typename T, int PIECES>
static nn_status run_pieces(nn_device *device, const nats_cuda_attention *a, plain_pass pass) {
  const int32_t blocks = nn_ceil_div(a->length, (int32_t)block_rows(PIECES));
  const int32_t by_head = a->batch * a->heads * blocks, by_pair = a->batch * a->kv_heads * blocks;
  switch (pass) {
  case FORWARD:
    return NN_LAUNCH(device, (forward_kernel<T, PIECES>), by_head, THREADS, 0, *a, blocks);
  case BACKWARD:
    NN_TRY(NN_LAUNCH(device, (backward_rows_kernel<T, PIECES>), by_head, THREADS, 0, *a, blocks));
    return NN_LAUNCH(device, (backward_keys_kernel<T, PIECES>), by_pair, THREADS, 0, *a, blocks);
  default:
    return NN_LAUNCH(device, (hidden_kernel<T, PIECES>), by_head, THREADS, 0, *a, blocks);
  }
}

template <typename T> static nn_status run(nn_device *device, const nats_cuda_attention *a, plain_pass pass) {
  const int pieces = nn_ceil_div(a->head_size, (int32_t)DEPTH);
  if (pieces > 16)
    return NN_FAIL(NN_ERR_UNSUPPORTED, "attention on a GPU takes head sizes up to 1024, not %d",
                   a->head_size);
  return pieces == 1   ? run_pieces<T, 1>(device, a, pass)
         : pieces == 2 ? run_pieces<T, 2>(device, a, pass)
         : pieces <= 4 ? run_pieces<T, 4>(device, a, pass)
                       : run_pieces<T, 16>(device, a, pass);
}

nn_status nats_cuda_forward_plain(nn_device *device, const nats_cuda_attention *a) {
  return NN_CUDA_TYPED(device, run, device, a, FORWARD);
}

nn_status nats_cuda_backward_plain(nn_device *device, const nats_cuda_attention *a) {
  return NN_CUDA_TYPED(device, run, device, a, BACKWARD);
}

nn_status nats_cuda_hidden_plain(nn_device *device, const nats_cuda_attention *a) {
  return NN_CUDA_TYPED(device, run, device, a, HIDDEN);
}
