// Forward attention with Hopper's products of a warpgroup (bf16, D = 64). As attention_forward.cu, but a
// thread block is two warpgroups with 64 rows each, tiles have 128 keys, and these are read where they lie in
// shared memory. The exponentials of the second half of a tile are taken while the tensor cores add the
// values of the first; 128 registers a thread let four warpgroups share a multiprocessor, which fills the
// other gaps.
#include "nats/cuda/attention_forward.h"
#include "nats/cuda/fragments.h"
#include "nats/cuda/hopper.h"

enum { D = 64, GROUP = 4 * NN_WARP, GROUP_ROWS = 64, WARP_ROWS = 16 };
enum { GROUPS = 2, THREADS = GROUPS * GROUP, ROWS = GROUPS * GROUP_ROWS };
enum { KEYS = 128, HALF = KEYS / 2 }; // of a tile, and of a product
static_assert(THREADS == 2 * KEYS, "a thread brings the position or the expiry of one key");

typedef struct {
  nn_bf16 k[2][KEYS * D], v[2][KEYS * D];
  nn_bf16 q[ROWS * D]; // in the end: o
  nats_tile_keys<KEYS> keys[3];
  nats_visible_keys visible; // registers are scarce
} shared_tiles;

// What a thread has of its warp's sixteen rows: rows lane / 4 and lane / 4 + 8.
typedef struct {
  int32_t row; // the warp's first
  uint32_t q[D / 16][4];
  float out[D / 2]; // weighted values so far
  float bias[2];    // log2(e) scale times the score that weights are relative to
  float sum[2];     // of weights, over the columns of this thread
} row_state;

#ifdef NATS_WGMMA_CODE
// All threads together gather the keys and values of a tile; zeros where there is no key. `token` is the
// first of the sequence.
__device__ static void load_keys(const nats_cuda_attention &a, uint32_t token, int32_t kv_head,
                                 const int32_t *positions, nn_bf16 *k, nn_bf16 *v) {
  const int piece = (int)(threadIdx.x % (D / 8)), first = (int)(threadIdx.x / (D / 8));
#pragma unroll
  for (int key = first; key < KEYS; key += THREADS / (D / 8)) {
    const int32_t position = positions[key];
    const bool valid = position != NATS_NO_KEY;
    const uint64_t row = token + (valid ? (uint32_t)position : 0), at = row * (uint32_t)a.token_stride;
    nats_copy16(k + nats_piece<D>(key, piece), (const nn_bf16 *)a.k + at + kv_head * D + piece * 8, valid);
    nats_copy16(v + nats_piece<D>(key, piece), (const nn_bf16 *)a.v + at + kv_head * D + piece * 8, valid);
  }
}

__device__ static void begin_rows(row_state &state, int32_t row, const nn_bf16 *q) {
  state.row = row;
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    nats_fragment_a<D>(state.q[step], q, 0, step);
#pragma unroll
  for (int i = 0; i < D / 2; i++)
    state.out[i] = 0;
  state.bias[0] = state.bias[1] = NATS_NO_WEIGHTS_YET;
  state.sum[0] = state.sum[1] = 0;
}

// scores = q k^T
__device__ static __forceinline__ void multiply_keys(const row_state &state, float (&scores)[HALF / 2],
                                                     const nn_bf16 *k) {
  const uint64_t tile = nats_wgmma_tile(k);
#pragma unroll
  for (int step = 0; step < D / 16; step++)
    nats_wgmma<false>(scores, state.q[step], nats_wgmma_at(tile, 32 * step), step > 0);
  nats_wgmma_commit();
}

// out += weights v
__device__ static __forceinline__ void add_values(row_state &state, const uint32_t (&weights)[HALF / 16][4],
                                                  const nn_bf16 *v) {
  const uint64_t tile = nats_wgmma_tile(v);
#pragma unroll
  for (int step = 0; step < HALF / 16; step++)
    nats_wgmma<true>(state.out, weights[step], nats_wgmma_at(tile, 16 * D * sizeof(nn_bf16) * step), true);
  nats_wgmma_commit();
}

// Minus infinity where the row does not see the key. It does where row - position is at most expiry -
// position, as unsigned numbers.
__device__ static void hide(const nats_tile_keys<KEYS> &keys, int first, int32_t row,
                            float (&scores)[HALF / 2]) {
  const int lane = (int)(threadIdx.x % NN_WARP);
#pragma unroll
  for (int n = 0; n < HALF / 8; n++) {
    const int key = first + 8 * n + lane % 4 * 2;
    const int2 position = *(const int2 *)(keys.position + key), expiry = *(const int2 *)(keys.expiry + key);
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const uint32_t i = (uint32_t)(row + lane / 4 + 8 * half);
      float *pair = scores + 4 * n + 2 * half;
      pair[0] = i - (uint32_t)position.x <= (uint32_t)expiry.x - (uint32_t)position.x ? pair[0] : -INFINITY;
      pair[1] = i - (uint32_t)position.y <= (uint32_t)expiry.y - (uint32_t)position.y ? pair[1] : -INFINITY;
    }
  }
}

// Weights are relative to an earlier largest score as long as none exceeds 2^SLACK: dividing by their sum
// makes up for it, and the weighted values have to be scaled again in very few tiles. True where that is so:
// `factor` is then due to the values.
__device__ static __forceinline__ bool follow_largest(row_state &state, const float (&scores)[HALF / 2],
                                                      float log2_scale, float (&factor)[2]) {
  float largest[2];
  bool exceeds = false;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float top = -INFINITY;
#pragma unroll
    for (int n = 0; n < HALF / 8; n++)
      top = fmaxf(top, fmaxf(scores[4 * n + 2 * half], scores[4 * n + 2 * half + 1]));
    largest[half] = top * log2_scale;
    exceeds |= largest[half] > state.bias[half] + NATS_WEIGHT_SLACK;
    factor[half] = 1;
  }
  if (!__any_sync(0xffffffffu, exceeds))
    return false;
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float bias = largest[half]; // over the four lanes of the row
    bias = fmaxf(bias, __shfl_xor_sync(0xffffffffu, bias, 1));
    bias = fmaxf(bias, __shfl_xor_sync(0xffffffffu, bias, 2));
    if (!(bias >
          state.bias[half] + NATS_WEIGHT_SLACK)) // another row's keys, which this one may not even see,
      bias = state.bias[half];                   // must not change its rounding
    factor[half] = nn_exp2(state.bias[half] - bias);
    state.bias[half] = bias;
    state.sum[half] *= factor[half];
  }
  return true;
}
__device__ static __forceinline__ void scale_rows(row_state &state, const float (&factor)[2]) {
#pragma unroll
  for (int i = 0; i < D / 2; i++)
    state.out[i] *= factor[i / 2 % 2];
}

// scores become weights, and are added to the sums
__device__ static __forceinline__ void weigh(row_state &state, float (&scores)[HALF / 2], float log2_scale) {
#pragma unroll
  for (int i = 0; i < HALF / 2; i++) {
    scores[i] = nn_exp2(fmaf(scores[i], log2_scale, -state.bias[i / 2 % 2]));
    state.sum[i / 2 % 2] += scores[i];
  }
}
__device__ static __forceinline__ void round_weights(const float (&weights)[HALF / 2],
                                                     uint32_t (&rounded)[HALF / 16][4]) {
#pragma unroll
  for (int step = 0; step < HALF / 16; step++)
    nats_fragment_round(rounded[step], weights + 8 * step, weights + 8 * step + 4);
}

// Which of 64 keys the warpgroup's rows see.
typedef struct {
  bool some, all; // some row some key; all rows all keys
} visibility;
__device__ static __forceinline__ visibility look_at(const nats_tile_keys<KEYS> &keys, int first, int32_t row,
                                                     int32_t last) {
  bool some = false, all = true;
#pragma unroll
  for (int key = first + (int)(threadIdx.x % NN_WARP); key < first + HALF; key += NN_WARP) {
    some |= keys.position[key] <= last && keys.expiry[key] >= row;
    all &= keys.position[key] <= row && keys.expiry[key] >= last;
  }
  return {__any_sync(0xffffffffu, some) != 0, __all_sync(0xffffffffu, all) != 0};
}

// Scores that have come to weights; `factor` is due to the values where the result is true.
__device__ static __forceinline__ bool take_scores(row_state &state, float (&scores)[HALF / 2],
                                                   visibility sees, const nats_tile_keys<KEYS> &keys,
                                                   int first, float log2_scale, float (&factor)[2]) {
  if (!sees.all)
    hide(keys, first, state.row, scores);
  const bool raised = follow_largest(state, scores, log2_scale, factor);
  weigh(state, scores, log2_scale);
  return raised;
}

// Half a tile, its keys from `first` on.
__device__ static __forceinline__ void attend_half(row_state &state, const nn_bf16 *k, const nn_bf16 *v,
                                                   const nats_tile_keys<KEYS> &keys, int first,
                                                   visibility sees, float log2_scale) {
  float scores[HALF / 2], factor[2];
  uint32_t weights[HALF / 16][4];
  nats_wgmma_fence();
  multiply_keys(state, scores, k + first * D);
  nats_wgmma_wait<0>();
  if (take_scores(state, scores, sees, keys, first, log2_scale, factor))
    scale_rows(state, factor);
  round_weights(scores, weights);
  nats_wgmma_fence();
  add_values(state, weights, v + first * D);
  nats_wgmma_wait<0>();
}

// A whole tile: the second half's scores, then the first half's values are under way together.
__device__ static __forceinline__ void attend_tile(row_state &state, const nn_bf16 *k, const nn_bf16 *v,
                                                   const nats_tile_keys<KEYS> &keys, visibility first,
                                                   visibility second, float log2_scale) {
  float scores[HALF / 2], factor[2];
  uint32_t weights[HALF / 16][4];
  nats_wgmma_fence();
  multiply_keys(state, scores, k);
  nats_wgmma_wait<0>();
  if (take_scores(state, scores, first, keys, 0, log2_scale, factor))
    scale_rows(state, factor);
  round_weights(scores, weights);
  nats_wgmma_fence();
  multiply_keys(state, scores, k + HALF * D);
  add_values(state, weights, v);
  nats_wgmma_wait<1>();
  const bool raised = take_scores(state, scores, second, keys, HALF, log2_scale, factor);
  nats_wgmma_wait<0>();
  if (raised)
    scale_rows(state, factor);
  round_weights(scores, weights);
  nats_wgmma_fence();
  add_values(state, weights, v + HALF * D);
  nats_wgmma_wait<0>();
}

// Divides by the sums of weights, and writes lse and the rows of o, by way of the warp's queries.
__device__ static void finish_rows(row_state &state, const nats_cuda_attention &a, int64_t batch,
                                   int32_t head, nn_bf16 *tile) {
  const int lane = (int)(threadIdx.x % NN_WARP);
  float *lse = a.lse + (batch * a.heads + head) * a.length;
  float inverse[2];
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float sum = state.sum[half];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int32_t row = state.row + 8 * half + lane / 4;
    if (lane % 4 == 0 && row < a.length)
      lse[row] = (state.bias[half] + log2f(sum)) * 0.6931471805599453f;
    inverse[half] = 1 / sum;
  }
  scale_rows(state, inverse);
  __syncwarp(); // the warp has read its queries
  nats_fragment_store<D>(tile, 0, (const float(*)[4])state.out, 1);
  __syncwarp();
  nn_bf16 *o = (nn_bf16 *)a.o + (batch * a.length * a.heads + head) * D;
#pragma unroll
  for (int r = lane / (D / 8); r < WARP_ROWS; r += NN_WARP / (D / 8)) {
    const int piece = lane % (D / 8);
    if (state.row + r < a.length)
      *(uint4 *)(o + (int64_t)(state.row + r) * a.heads * D + piece * 8) =
          *(const uint4 *)(tile + nats_piece<D>(r, piece));
  }
}
#endif

// One thread block a block of rows (x), query head (y) and sequence (z). Those with the most keys start
// first.
__global__ static void __launch_bounds__(THREADS, 2) forward_hopper(nats_cuda_attention a) {
#ifdef NATS_WGMMA_CODE
  NN_DYNAMIC_SHARED(unsigned char, memory);
  shared_tiles &tiles = *(shared_tiles *)memory;
  const int32_t row = (int32_t)(gridDim.x - 1 - blockIdx.x) * ROWS;
  const int32_t head = (int32_t)blockIdx.y, batch = (int32_t)blockIdx.z, kv_head = head / a.group;
  nn_bf16 *own = tiles.q + threadIdx.x / NN_WARP * WARP_ROWS * D;
  const uint32_t token = (uint32_t)batch * (uint32_t)a.length;
  nats_load_queries<D, WARP_ROWS>(a, token * a.token_stride + (int64_t)head * D, row, tiles.q);
  nats_copy_commit();
  if (threadIdx.x == 0)
    tiles.visible = nats_visible_to<ROWS>(a, (int64_t)batch * a.kv_heads + kv_head, row);
  __syncthreads();
  for (int tile = 0; tile < 2; tile++)
    nats_store_share(tiles.keys[tile], nats_key_share<KEYS>(tiles.visible, tile));
  __syncthreads();
  load_keys(a, token, kv_head, tiles.keys[0].position, tiles.k[0], tiles.v[0]);
  nats_copy_commit();

  const float log2_scale = a.scale * 1.4426950408889634f;
  const int32_t first_row = row + (int32_t)(threadIdx.x / GROUP) * GROUP_ROWS; // of the warpgroup
  const int32_t last_row = min(first_row + GROUP_ROWS, a.length) - 1;          // those past the end aside
  row_state state;
  nats_copy_wait<1>();
  __syncwarp(); // the warp's queries are complete
  begin_rows(state, row + (int32_t)(threadIdx.x / NN_WARP) * WARP_ROWS, own);
  int slot = 0; // of the tile's positions
  for (int32_t tile = 0;; tile++) {
    nats_copy_wait<0>();
    nats_wgmma_publish();
    __syncthreads(); // the tile is complete, and the one before it has been read
    if (tiles.keys[slot].position[0] == NATS_NO_KEY)
      break;
    const int next = slot == 2 ? 0 : slot + 1, after_next = next == 2 ? 0 : next + 1, even = tile % 2;
    load_keys(a, token, kv_head, tiles.keys[next].position, tiles.k[1 - even], tiles.v[1 - even]);
    nats_copy_commit();
    const int32_t share = nats_key_share<KEYS>(tiles.visible, tile + 2);
    const nats_tile_keys<KEYS> &keys = tiles.keys[slot];
    const visibility first = look_at(keys, 0, first_row, last_row);
    const visibility second = look_at(keys, HALF, first_row, last_row);
    if (first.some && second.some)
      attend_tile(state, tiles.k[even], tiles.v[even], keys, first, second, log2_scale);
    else if (first.some)
      attend_half(state, tiles.k[even], tiles.v[even], keys, 0, first, log2_scale);
    else if (second.some)
      attend_half(state, tiles.k[even], tiles.v[even], keys, HALF, second, log2_scale);
    nats_store_share(tiles.keys[after_next], share);
    slot = next;
  }
  finish_rows(state, a, batch, head, own);
#else
  (void)a;
#endif
}

nn_status nats_cuda_forward_hopper(nn_device *device, const nats_cuda_attention *a) {
  const dim3 grid((unsigned)nn_ceil_div(a->length, (int32_t)ROWS), (unsigned)a->heads, (unsigned)a->batch);
  return NN_LAUNCH(device, forward_hopper, grid, THREADS, sizeof(shared_tiles), *a);
}
