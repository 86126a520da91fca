// The sums over hidden pairs from which the gradient of the types is made, on tensor cores (bf16, D = 64 and
// 128). Nothing but these sums needs the hidden pairs, and they are most of the causal ones: this is what
// learning types costs.
//
// Key-major: a thread block takes 128 neighbours of one list and one query head, and goes down the rows that
// these keys are hidden from. A warp has 32 keys, whose K and V stay in registers as operand A; the rows'
// Q and dO stream through a ring in shared memory as operand B, each piece feeding two products. In
//   S^T = K Q^T      dP^T = V dO^T
// every thread owns four keys, so that sums over rows stay within it. The products start from - lse / scale
// and - do . o instead of 0, which leaves per pair
//   x = c S   y = min(x, log2 clip)   e = 2^y   sum += e dP
// Floors per pair: 4 D operations on tensor cores, one 2^x (16 per clock and multiprocessor), and four
// instruction slots of one lane.
#include "nats/cuda/attention_hidden.h"
#include "nats/cuda/tensor_core.h"

enum { WARPS = 4, THREADS = WARPS * NN_WARP, WARP_KEYS = 32, KEYS = WARPS * WARP_KEYS, SLOTS = 4 };

// Rows that a slot of the ring holds of Q, and of dO; 16 KiB together for both head sizes.
__host__ __device__ constexpr int slot_rows(int head_size) {
  return 4096 / head_size;
}

// Where the products of a row start: for a pair of rows {x0, x1, x0, x1}, as an accumulator has them.
typedef struct {
  float score[128], weight[128];
} row_starts;

typedef struct {
  nn_bf16 slot[SLOTS][2 * 4096]; // Q [rows, D], dO [rows, D]; at first the last ones hold K and V [128, D]
  row_starts starts[SLOTS];
  int32_t block[SLOTS]; // of rows; behind the last one where there are no more
  nats_hidden_bounds keys[KEYS];
} hidden_shared;

// The K or V of 32 keys as operand A.
template <int D> struct fragments { uint32_t piece[2][D / 16][4]; };

// Sums of the thread's four keys: r, r + 8, r + 16, r + 24 of the warp's, r = lane / 4.
typedef struct {
  float all[4], second[4], third[4];
} key_sums;

// K or V of the tile's keys to shared memory, zeros past the last one.
template <int D>
__device__ static void fetch_keys(const nats_cuda_attention &a, const nats_hidden_tile &tile,
                                  const nats_hidden_bounds *keys, const void *source, nn_bf16 *to) {
  constexpr int PIECES = D / 8, ROWS = THREADS / PIECES;
  const int piece = threadIdx.x % PIECES;
  const nn_bf16 *from = (const nn_bf16 *)source + (int64_t)tile.sequence * a.length * a.token_stride +
                        (int64_t)(tile.head / a.group) * D + 8 * piece;
  for (int row = threadIdx.x / PIECES; row < KEYS; row += ROWS) {
    const bool valid = row < tile.count;
    nats_copy16(to + nats_piece<D>(row, piece), from + (valid ? keys[row].token * a.token_stride : 0), valid);
  }
}

// What a thread copies of a block of rows.
typedef struct {
  const nn_bf16 *q, *d_o; // the thread's piece of row 0
  const float *start;     // of row 0: lse for half of the threads, delta for the others
  float factor;           // from there to where products start
} row_source;

template <int D>
__device__ static row_source find_rows(const nats_cuda_attention &a, const nats_hidden_tile &tile) {
  const int64_t sequence = (int64_t)tile.sequence * a.length, column = (int64_t)tile.head * D;
  const int64_t head = ((int64_t)tile.sequence * a.heads + tile.head) * a.length;
  const int piece = 8 * (threadIdx.x % (D / 8));
  const bool score = threadIdx.x < THREADS / 2;
  return {(const nn_bf16 *)a.q + sequence * a.token_stride + column + piece,
          (const nn_bf16 *)a.d_o + sequence * a.heads * D + column + piece, (score ? a.lse : a.delta) + head,
          score ? -1.0f / a.scale : -1.0f};
}

// Q and dO of a block of rows to a slot, zeros past the last row.
template <int D>
__device__ static void fetch_rows(const nats_cuda_attention &a, const row_source &from, int32_t block,
                                  nn_bf16 *slot) {
  constexpr int PIECES = D / 8, PASS = THREADS / PIECES, ROWS = slot_rows(D);
  const int first = threadIdx.x / PIECES;
  const int32_t left = a.length - block * ROWS; // rows from the block's first on
  const int64_t i = (int64_t)block * ROWS + first, d_o_stride = (int64_t)a.heads * D;
  const nn_bf16 *q = from.q + i * a.token_stride, *d_o = from.d_o + i * d_o_stride;
  nn_bf16 *to = slot + nats_piece<D>(first, threadIdx.x % PIECES);
#pragma unroll
  for (int pass = 0; pass < ROWS / PASS; pass++) { // PASS is a multiple of 8: pieces keep their places
    const bool valid = first + pass * PASS < left;
    nats_copy16(to + pass * PASS * D, q + pass * PASS * a.token_stride, valid);
    nats_copy16(to + (ROWS + pass * PASS) * D, d_o + pass * PASS * d_o_stride, valid);
  }
}

// Starts copying block `block`, where there is one, as the n-th; returns the block after it.
template <int D>
__device__ static int32_t fetch_block(const nats_cuda_attention &a, const row_source &from, int32_t block,
                                      int n, hidden_shared *shared) {
  if (threadIdx.x == 0)
    shared->block[n % SLOTS] = block;
  if (block * slot_rows(D) < a.length) {
    fetch_rows<D>(a, from, block, shared->slot[n % SLOTS]);
    block = nats_hidden_drawn<slot_rows(D)>(a, block + 1);
  }
  nats_copy_commit();
  return block;
}

// What the products of one row start from, by one thread a row and product: lse and delta, and 0 past the
// last row, where products are 0 too, so that such pairs add 0. Stored a round after it was asked for.
template <int D>
__device__ static float load_start(const nats_cuda_attention &a, const row_source &from, int32_t block) {
  const int row = threadIdx.x % (THREADS / 2);
  const int64_t i = (int64_t)block * slot_rows(D) + row;
  return row < slot_rows(D) && i < a.length ? from.start[i] : 0;
}

__device__ static void store_start(row_starts *starts, const row_source &from, float start) {
  const int row = threadIdx.x % (THREADS / 2), at = row / 2 * 4 + row % 2;
  float *to = threadIdx.x < THREADS / 2 ? starts->score : starts->weight;
  to[at] = start * from.factor;
  to[at + 2] = start * from.factor;
}

template <int D> __device__ static void load_fragments(const nn_bf16 *keys, int first, fragments<D> &to) {
  const int lane = threadIdx.x % NN_WARP;
#pragma unroll
  for (int m = 0; m < 2; m++)
#pragma unroll
    for (int k = 0; k < D / 16; k++)
      nats_ldmatrix4(to.piece[m][k], keys + nats_piece<D>(first + 16 * m + lane % 16, 2 * k + lane / 16));
}

// c[m][n] = start + the warp's keys 16 m .. times the rows from `row` + 8 n on.
template <int D>
__device__ static __forceinline__ void multiply(const fragments<D> &keys, const nn_bf16 *rows, int row,
                                                const float *starts, float c[2][2][4]) {
  const int lane = threadIdx.x % NN_WARP;
#pragma unroll
  for (int n = 0; n < 2; n++) {
    const float4 start = *(const float4 *)(starts + (row / 2 + 4 * n + lane % 4) * 4);
#pragma unroll
    for (int m = 0; m < 2; m++) {
      c[m][n][0] = start.x;
      c[m][n][1] = start.y;
      c[m][n][2] = start.z;
      c[m][n][3] = start.w;
    }
  }
#pragma unroll
  for (int k = 0; k < D / 16; k++) {
    uint32_t b[4];
    nats_ldmatrix4(b, rows + nats_piece<D>(row + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
#pragma unroll
    for (int m = 0; m < 2; m++)
#pragma unroll
      for (int n = 0; n < 2; n++)
        nats_mma(c[m][n], keys.piece[m][k], b + 2 * n);
  }
}

// Sixteen rows, the first `row` of the slot and `i` of the sequence. Without `BOUNDED` all of them lie past
// every bound of the warp's keys.
template <int D, bool BOUNDED>
__device__ static __forceinline__ void
add_rows(const fragments<D> &k, const fragments<D> &v, const nn_bf16 *slot, const row_starts &starts, int row,
         int32_t i, const nats_hidden_bounds *keys, float factor, float log2_clip, key_sums &sums) {
  const int lane = threadIdx.x % NN_WARP;
  float scores[2][2][4], weights[2][2][4];
  multiply<D>(k, slot, row, starts.score, scores);
  multiply<D>(v, slot + slot_rows(D) * D, row, starts.weight, weights);
#pragma unroll
  for (int key = 0; key < 4; key++) {
    nats_hidden_bounds bounds = {};
    if (BOUNDED)
      bounds = keys[8 * key + lane / 4];
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int m = key / 2, at = key % 2 * 2 + e;
        const float weight = nn_exp2(fminf(scores[m][n][at] * factor, log2_clip));
        if (!BOUNDED) {
          sums.all[key] += weight * weights[m][n][at];
          continue;
        }
        const int32_t query = i + 8 * n + lane % 4 * 2 + e;
        const float d = query > bounds.expiry ? weight * weights[m][n][at] : 0;
        sums.all[key] += d;
        sums.second[key] += query <= bounds.second ? d : 0;
        sums.third[key] += query <= bounds.third ? d : 0;
      }
  }
}

// One block of rows. The warp's keys are hidden from row `first` on, the first of them at least, and have all
// their bounds at or before row `last`.
template <int D>
__device__ static __forceinline__ void add_block(const fragments<D> &k, const fragments<D> &v,
                                                 const nn_bf16 *slot, const row_starts &starts, int32_t i,
                                                 int32_t first, int32_t last, const nats_hidden_bounds *keys,
                                                 float factor, float log2_clip, key_sums &sums) {
  constexpr int ROWS = slot_rows(D);
  if (i > last) {
#pragma unroll 1
    for (int row = 0; row < ROWS; row += 16)
      add_rows<D, false>(k, v, slot, starts, row, i + row, keys, factor, log2_clip, sums);
    return;
  }
#pragma unroll 1
  for (int row = 0; row < ROWS; row += 16)
    if (i + row + 15 >= first)
      add_rows<D, true>(k, v, slot, starts, row, i + row, keys, factor, log2_clip, sums);
}

// To device memory: every key's four sums. `sums` of a quarter of lanes belong together.
__device__ static void write_sums(const nats_cuda_attention &a, const nats_hidden_tile &tile,
                                  const nats_hidden_bounds *keys, int first, float factor,
                                  const key_sums &sums) {
  const int lane = threadIdx.x % NN_WARP;
  const int64_t head = ((int64_t)tile.sequence * a.heads + tile.head) * a.length;
#pragma unroll
  for (int key = 0; key < 4; key++) {
    float sum[3] = {sums.all[key] * factor, sums.second[key] * factor, sums.third[key] * factor};
    for (int s = 0; s < 3; s++)
      for (int step = 1; step <= 2; step *= 2)
        sum[s] += __shfl_xor_sync(0xffffffffu, sum[s], step);
    const int slot = first + 8 * key + lane / 4;
    if (lane % 4 != 0 || slot >= tile.count)
      continue;
    const int64_t at = head + keys[slot].token;
    const bool local = tile.key_class == NATS_KEY_LOCAL;
    a.hidden.all[at] = sum[0];
    a.hidden.local[at] = local ? 0 : sum[1];
    a.hidden.window[at] = local ? sum[1] : 0;
    a.hidden.ended[at] = sum[2];
  }
}

template <int D>
__global__ __launch_bounds__(THREADS, D == 64 ? 3 : 2) static void hidden_kernel(nats_cuda_attention a,
                                                                                 int32_t slots) {
  constexpr int ROWS = slot_rows(D), KEY_SLOTS = KEYS * D / 4096; // of K and V together
  NN_DYNAMIC_SHARED(char, memory);
  hidden_shared *shared = (hidden_shared *)memory;
  const nats_hidden_tile tile = nats_hidden_find<KEYS>(a, slots);
  if (tile.count <= 0)
    return;
  nats_hidden_load_bounds(a, tile, shared->keys);
  __syncthreads();
  // Later keys are hidden from fewer rows: in every thread block another warp has them.
  const int keys = (threadIdx.x / NN_WARP + blockIdx.x) % WARPS * WARP_KEYS;
  key_sums sums = {};
  int32_t next = nats_hidden_drawn<slot_rows(D)>(a, (shared->keys[0].expiry + 1) / ROWS);
  if (tile.key_class == NATS_KEY_LASTING || next * ROWS >= a.length) {
    write_sums(a, tile, shared->keys, keys, 0, sums);
    return;
  }
  const float hidden_weight = a.block_weight[next * ROWS / NATS_RANGE_ROWS]; // that of all drawn blocks

  const row_source source = find_rows<D>(a, tile);
  nn_bf16 *key_slots = shared->slot[SLOTS - KEY_SLOTS];
  fetch_keys<D>(a, tile, shared->keys, a.k, key_slots);
  fetch_keys<D>(a, tile, shared->keys, a.v, key_slots + KEYS * D);
  nats_copy_commit();
  for (int s = 0; s < SLOTS - KEY_SLOTS; s++) {
    store_start(&shared->starts[s], source, load_start<D>(a, source, next));
    next = fetch_block<D>(a, source, next, s, shared);
  }
  nats_copy_wait<SLOTS - KEY_SLOTS>();
  __syncthreads();
  fragments<D> k, v;
  load_fragments<D>(key_slots, keys, k);
  load_fragments<D>(key_slots + KEYS * D, keys, v);
  __syncthreads();
  for (int s = SLOTS - KEY_SLOTS; s < SLOTS - 1; s++) {
    store_start(&shared->starts[s], source, load_start<D>(a, source, next));
    next = fetch_block<D>(a, source, next, s, shared);
  }

  int32_t first = a.length, last = a.length; // rows that the warp's keys are hidden from; their last bound
  if (keys < tile.count) {
    const nats_hidden_bounds bounds = shared->keys[min(keys + WARP_KEYS, tile.count) - 1];
    first = shared->keys[keys].expiry + 1;
    last = max(bounds.expiry, max(bounds.second, bounds.third));
  }
  const float factor = a.scale * NATS_LOG2_E;
  float start = 0; // where products start in the block that was fetched last
  for (int n = 0;; n++) {
    nats_copy_wait<SLOTS - 2>();
    __syncthreads();
    const int32_t i = shared->block[n % SLOTS] * ROWS;
    if (i >= a.length)
      break;
    if (n > 0)
      store_start(&shared->starts[(n + SLOTS - 2) % SLOTS], source, start);
    start = load_start<D>(a, source, next);
    next = fetch_block<D>(a, source, next, n + SLOTS - 1, shared);
    if (i + ROWS > first)
      add_block<D>(k, v, shared->slot[n % SLOTS], shared->starts[n % SLOTS], i, first, last,
                   shared->keys + keys, factor, a.log2_clip, sums);
  }
  write_sums(a, tile, shared->keys, keys, hidden_weight, sums);
}

template <int D> static nn_status run(nn_device *device, const nats_cuda_attention *a) {
  const int32_t slots = nats_hidden_slots(a, KEYS);
  return NN_LAUNCH(device, hidden_kernel<D>, a->batch * a->heads * slots, THREADS, sizeof(hidden_shared), *a,
                   slots);
}

nn_status nats_cuda_hidden_tiles(nn_device *device, const nats_cuda_attention *a) {
  if (a->head_size == 64 && nn_cuda_has_hopper_code(device))
    return nats_cuda_hidden_hopper(device, a);
  return a->head_size == 64 ? run<64>(device, a) : run<128>(device, a);
}
