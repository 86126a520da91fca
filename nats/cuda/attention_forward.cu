// Forward attention on tensor cores: online softmax over tiles of visible keys (Dao, "FlashAttention-2",
// arXiv 2307.08691), gathered from the lists of columns.cu.
//
// A thread block owns 128 rows of a query head, each of its 4 warps 32 of them: a fragment of keys or values
// read from shared memory then serves two bands of 16 rows, without which reading it would be the bottleneck.
// Tiles of 64 keys come in by asynchronous copies, one tile ahead; their positions come two tiles ahead.
// Softmax goes on by 32 keys a time, so that scores take few registers and (D = 64) three thread blocks share
// a multiprocessor: while some compute products, the others' exponentials fill the gaps.
#include "nats/cuda/attention_forward.h"
#include "nats/cuda/fragments.h"

enum { WARPS = 4, THREADS = WARPS * NN_WARP, BANDS = 2, WARP_ROWS = 16 * BANDS, ROWS = WARPS * WARP_ROWS };
enum { KEYS = 64, STEP = 32 }; // of a tile, and of a step of the softmax
static_assert(THREADS == 2 * KEYS, "a thread brings the position or the expiry of one key");

typedef nats_tile_keys<KEYS> key_rows;

template <int D> struct shared_tiles {
  nn_bf16 q[ROWS * D]; // in the end: o
  nn_bf16 k[2][KEYS * D], v[2][KEYS * D];
  key_rows keys[3];
  nats_visible_keys visible; // registers are scarce
};

// All threads together gather the keys and values of a tile; zeros where there is no key. `token` is the
// first of the sequence.
template <int D>
__device__ static void load_keys(const nats_cuda_attention &a, uint32_t token, int32_t kv_head,
                                 const int32_t *positions, nn_bf16 *k, nn_bf16 *v) {
  const int piece = (int)(threadIdx.x % (D / 8)), first = (int)(threadIdx.x / (D / 8));
#pragma unroll
  for (int i = 0; i < KEYS * (D / 8) / THREADS; i++) {
    const int key = first + i * (THREADS / (D / 8));
    const int32_t position = positions[key];
    const bool valid = position != NATS_NO_KEY;
    const uint64_t row = token + (valid ? (uint32_t)position : 0), at = row * (uint32_t)a.token_stride;
    nats_copy16(k + nats_piece<D>(key, piece), (const nn_bf16 *)a.k + at + kv_head * D + piece * 8, valid);
    nats_copy16(v + nats_piece<D>(key, piece), (const nn_bf16 *)a.v + at + kv_head * D + piece * 8, valid);
  }
}

// Steps of 16 columns whose queries stay in registers; the others are read again for every 32 keys.
template <int D> __device__ static constexpr int kept_steps() {
  return D == 64 ? 3 : 1;
}

// What a thread has of its warp's rows: rows lane / 4 and lane / 4 + 8 of each band.
template <int D> struct row_state {
  int32_t row; // the warp's first
  uint32_t q[BANDS][kept_steps<D>()][4];
  float out[BANDS][D / 8][4]; // weighted values so far
  float bias[BANDS][2];       // log2(e) scale times the score that weights are relative to
  float sum[BANDS][2];        // of weights, over the columns of this thread
};

template <int D> __device__ static void begin_rows(row_state<D> &state, int32_t row, const nn_bf16 *q) {
  state.row = row;
#pragma unroll
  for (int band = 0; band < BANDS; band++) {
#pragma unroll
    for (int step = 0; step < kept_steps<D>(); step++)
      nats_fragment_a<D>(state.q[band][step], q, 16 * band, step);
#pragma unroll
    for (int half = 0; half < 2; half++)
      state.bias[band][half] = NATS_NO_WEIGHTS_YET, state.sum[band][half] = 0;
#pragma unroll
    for (int piece = 0; piece < D / 8; piece++)
#pragma unroll
      for (int c = 0; c < 4; c++)
        state.out[band][piece][c] = 0;
  }
}

typedef float step_scores[BANDS][STEP / 8][4];

// scores = q k^T for the keys from `key` on
template <int D>
__device__ static inline void multiply_keys(const row_state<D> &state, const nn_bf16 *q, const nn_bf16 *k,
                                            int key, step_scores scores) {
#pragma unroll
  for (int band = 0; band < BANDS; band++)
#pragma unroll
    for (int n = 0; n < STEP / 8; n++)
#pragma unroll
      for (int c = 0; c < 4; c++)
        scores[band][n][c] = 0;
#pragma unroll
  for (int step = 0; step < D / 16; step++) {
    uint32_t again[BANDS][4];
    if (step >= kept_steps<D>())
#pragma unroll
      for (int band = 0; band < BANDS; band++)
        nats_fragment_a<D>(again[band], q, 16 * band, step);
#pragma unroll
    for (int n = 0; n < STEP / 16; n++) {
      uint32_t b[4];
      nats_fragment_b<D>(b, k, key + 16 * n, step);
#pragma unroll
      for (int band = 0; band < BANDS; band++) {
        const uint32_t *rows = step < kept_steps<D>() ? state.q[band][step] : again[band];
        nats_mma(scores[band][2 * n], rows, b);
        nats_mma(scores[band][2 * n + 1], rows, b + 2);
      }
    }
  }
}

// Minus infinity where the row does not see the key. It does where row - position is at most expiry -
// position, as unsigned numbers.
__device__ static void hide(const key_rows &keys, int first, int32_t row, step_scores scores) {
  const int lane = (int)(threadIdx.x % NN_WARP);
  row += lane / 4;
#pragma unroll
  for (int n = 0; n < STEP / 8; n++) {
    const int key = first + 8 * n + lane % 4 * 2;
    const int2 position = *(const int2 *)(keys.position + key), expiry = *(const int2 *)(keys.expiry + key);
#pragma unroll
    for (int band = 0; band < BANDS; band++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const uint32_t i = (uint32_t)(row + 16 * band + 8 * half);
        float *pair = scores[band][n] + 2 * half;
        pair[0] = i - (uint32_t)position.x <= (uint32_t)expiry.x - (uint32_t)position.x ? pair[0] : -INFINITY;
        pair[1] = i - (uint32_t)position.y <= (uint32_t)expiry.y - (uint32_t)position.y ? pair[1] : -INFINITY;
      }
  }
}

// Takes weights relative to the largest score so far from now on.
template <int D> __device__ static void raise(row_state<D> &state, const float largest[BANDS][2]) {
#pragma unroll
  for (int band = 0; band < BANDS; band++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float bias = largest[band][half]; // over the four lanes of the row
      bias = fmaxf(bias, __shfl_xor_sync(0xffffffffu, bias, 1));
      bias = fmaxf(bias, __shfl_xor_sync(0xffffffffu, bias, 2));
      if (!(bias > state.bias[band][half] +
                       NATS_WEIGHT_SLACK)) // another row's keys, which this one may not even see,
        bias = state.bias[band][half];     // must not change its rounding
      const float factor = nn_exp2(state.bias[band][half] - bias);
      state.bias[band][half] = bias;
      state.sum[band][half] *= factor;
#pragma unroll
      for (int piece = 0; piece < D / 8; piece++) {
        state.out[band][piece][2 * half] *= factor;
        state.out[band][piece][2 * half + 1] *= factor;
      }
    }
}

// Weights are relative to an earlier largest score as long as none exceeds 2^NATS_WEIGHT_SLACK: dividing by
// their sum makes up for it, and the weighted values have to be scaled again in very few steps.
template <int D>
__device__ static inline void follow_largest(row_state<D> &state, const step_scores scores,
                                             float log2_scale) {
  float largest[BANDS][2];
  bool exceeds = false;
#pragma unroll
  for (int band = 0; band < BANDS; band++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float top = -INFINITY;
#pragma unroll
      for (int n = 0; n < STEP / 8; n++)
        top = fmaxf(top, fmaxf(scores[band][n][2 * half], scores[band][n][2 * half + 1]));
      largest[band][half] = top * log2_scale;
      exceeds |= largest[band][half] > state.bias[band][half] + NATS_WEIGHT_SLACK;
    }
  if (__any_sync(0xffffffffu, exceeds))
    raise(state, largest);
}

// out += weights times the values from `key` on
template <int D>
__device__ static inline void add_values(row_state<D> &state, step_scores scores, float log2_scale,
                                         const nn_bf16 *v, int key) {
#pragma unroll
  for (int n = 0; n < STEP / 16; n++) {
    uint32_t weights[BANDS][4];
#pragma unroll
    for (int band = 0; band < BANDS; band++) {
#pragma unroll
      for (int half = 0; half < 2; half++)
#pragma unroll
        for (int c = 0; c < 4; c++) {
          float *score = &scores[band][2 * n + c / 2][2 * half + c % 2];
          *score = nn_exp2(fmaf(*score, log2_scale, -state.bias[band][half]));
          state.sum[band][half] += *score;
        }
      nats_fragment_round(weights[band], scores[band][2 * n], scores[band][2 * n + 1]);
    }
#pragma unroll
    for (int step = 0; step < D / 16; step++) {
      uint32_t b[4];
      nats_fragment_b_rows<D>(b, v, key + 16 * n, step);
#pragma unroll
      for (int band = 0; band < BANDS; band++) {
        nats_mma(state.out[band][2 * step], weights[band], b);
        nats_mma(state.out[band][2 * step + 1], weights[band], b + 2);
      }
    }
  }
}

// One tile, by the rows of one warp. Steps without a visible pair are left out.
template <int D>
__device__ static inline void attend(row_state<D> &state, const nn_bf16 *q, const nn_bf16 *k,
                                     const nn_bf16 *v, const key_rows &keys, int32_t last_row,
                                     float log2_scale) {
#pragma unroll 1
  for (int key = 0; key < KEYS; key += STEP) {
    const int mine = key + (int)(threadIdx.x % NN_WARP);
    const int32_t position = keys.position[mine], expiry = keys.expiry[mine];
    if (!__any_sync(0xffffffffu, position <= last_row && expiry >= state.row))
      continue;
    step_scores scores;
    multiply_keys(state, q, k, key, scores);
    if (__any_sync(0xffffffffu, position > state.row || expiry < last_row))
      hide(keys, key, state.row, scores);
    follow_largest(state, scores, log2_scale);
    add_values(state, scores, log2_scale, v, key);
  }
}

// Divides by the sums of weights, and writes lse and the rows of o, by way of the warp's queries.
template <int D>
__device__ static void finish_rows(row_state<D> &state, const nats_cuda_attention &a, int64_t batch,
                                   int32_t head, nn_bf16 *tile) {
  const int lane = (int)(threadIdx.x % NN_WARP);
  float *lse = a.lse + (batch * a.heads + head) * a.length;
  __syncwarp(); // the warp has read its queries
#pragma unroll
  for (int band = 0; band < BANDS; band++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float sum = state.sum[band][half];
      sum += __shfl_xor_sync(0xffffffffu, sum, 1);
      sum += __shfl_xor_sync(0xffffffffu, sum, 2);
      const int32_t row = state.row + 16 * band + 8 * half + lane / 4;
      if (lane % 4 == 0 && row < a.length)
        lse[row] = (state.bias[band][half] + log2f(sum)) * 0.6931471805599453f;
      const float inverse = 1 / sum;
#pragma unroll
      for (int piece = 0; piece < D / 8; piece++) {
        state.out[band][piece][2 * half] *= inverse;
        state.out[band][piece][2 * half + 1] *= inverse;
      }
    }
    nats_fragment_store<D>(tile, 16 * band, state.out[band], 1);
  }
  __syncwarp();
  nn_bf16 *o = (nn_bf16 *)a.o + (batch * a.length * a.heads + head) * D;
#pragma unroll
  for (int i = 0; i < WARP_ROWS * (D / 8) / NN_WARP; i++) {
    const int r = lane / (D / 8) + i * (NN_WARP / (D / 8)), piece = lane % (D / 8);
    if (state.row + r < a.length)
      *(uint4 *)(o + (int64_t)(state.row + r) * a.heads * D + piece * 8) =
          *(const uint4 *)(tile + nats_piece<D>(r, piece));
  }
}

// One thread block a block of rows (x), query head (y) and sequence (z). Those with the most keys start
// first.
template <int D>
__global__ static void __launch_bounds__(THREADS, D == 64 ? 3 : 2) forward(nats_cuda_attention a) {
  NN_DYNAMIC_SHARED(unsigned char, memory);
  shared_tiles<D> &tiles = *(shared_tiles<D> *)memory;
  const int32_t row = (int32_t)(gridDim.x - 1 - blockIdx.x) * ROWS;
  const int32_t head = (int32_t)blockIdx.y, batch = (int32_t)blockIdx.z, kv_head = head / a.group;
  const unsigned thread = threadIdx.x;
  const int own = (int)(thread / NN_WARP) * WARP_ROWS;
  const uint32_t token = (uint32_t)batch * (uint32_t)a.length;
  nats_load_queries<D, WARP_ROWS>(a, token * a.token_stride + (int64_t)head * D, row, tiles.q);
  nats_copy_commit();
  if (thread == 0)
    tiles.visible = nats_visible_to<ROWS>(a, (int64_t)batch * a.kv_heads + kv_head, row);
  __syncthreads();
  for (int tile = 0; tile < 2; tile++)
    nats_store_share(tiles.keys[tile], nats_key_share<KEYS>(tiles.visible, tile));
  __syncthreads();
  load_keys<D>(a, token, kv_head, tiles.keys[0].position, tiles.k[0], tiles.v[0]);
  nats_copy_commit();

  const float log2_scale = a.scale * 1.4426950408889634f;
  const int32_t last_row = min(row + own + WARP_ROWS, a.length) - 1; // of the warp, those past the end aside
  row_state<D> state;
  nats_copy_wait<1>();
  __syncwarp(); // the warp's queries are complete
  begin_rows(state, row + own, tiles.q + own * D);
  int slot = 0; // of the tile's positions
  for (int32_t tile = 0;; tile++) {
    nats_copy_wait<0>();
    __syncthreads(); // the tile is complete, and the one before it has been read
    if (tiles.keys[slot].position[0] == NATS_NO_KEY)
      break;
    const int next = slot == 2 ? 0 : slot + 1, after_next = next == 2 ? 0 : next + 1, even = tile % 2;
    load_keys<D>(a, token, kv_head, tiles.keys[next].position, tiles.k[1 - even], tiles.v[1 - even]);
    nats_copy_commit();
    const int32_t share = nats_key_share<KEYS>(tiles.visible, tile + 2);
    attend(state, tiles.q + own * D, tiles.k[even], tiles.v[even], tiles.keys[slot], last_row, log2_scale);
    nats_store_share(tiles.keys[after_next], share);
    slot = next;
  }
  finish_rows(state, a, batch, head, tiles.q + own * D);
}

bool nats_cuda_has_tiles(const nn_device *device, int32_t head_size) {
  return nn_device_compute_type(device) == NN_BF16 && (head_size == 64 || head_size == 128);
}

nn_status nats_cuda_forward_tiles(nn_device *device, const nats_cuda_attention *a) {
  const dim3 grid((unsigned)nn_ceil_div(a->length, (int32_t)ROWS), (unsigned)a->heads, (unsigned)a->batch);
  if (a->head_size == 64 && nn_cuda_has_hopper_code(device))
    return nats_cuda_forward_hopper(device, a);
  return a->head_size == 64 ? NN_LAUNCH(device, forward<64>, grid, THREADS, sizeof(shared_tiles<64>), *a)
                            : NN_LAUNCH(device, forward<128>, grid, THREADS, sizeof(shared_tiles<128>), *a);
}
