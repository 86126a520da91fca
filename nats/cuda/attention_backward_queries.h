// Backward attention for dq: what the two ways to multiply share (attention_backward.cu and, with the
// products of Hopper's warpgroups, attention_backward_hopper.cu). A block of queries walks along the keys
// that it can see, gathered into tiles.
#pragma once

#include "nats/cuda/attention_backward.h"
#include "nats/cuda/fragments.h"
#include "nats/cuda/hopper.h"

// A key in shared memory.
struct __align__(8) key_span {
  int32_t position, expiry; // no row sees a slot beyond the last key: INT32_MAX, -1
};

enum { SPANS = 4 }; // tiles whose keys are known: those of all stages, and the one that is asked for

// What a block of queries can see: a piece of each list, one after the other.
struct visible_keys {
  const nn_bf16 *k, *v; // of position 0
  const int32_t *key, *until;
  int32_t first[NATS_KEY_CLASSES]; // index into the lists, less the slot where the class begins
  int32_t end[NATS_KEY_CLASSES];   // slot after the class's last key
};

// STAGES of `shape` are those of tiles of keys and values. From tile QUERIES on lie the block's q and do, in
// the place of stages if they are wanted at the beginning only.
template <typename shape> struct queries_shared {
  static constexpr int STAGES = shape::STAGES, QUERIES = shape::QUERIES, BLOCK = shape::ROWS / shape::TILE;
  static constexpr int D = shape::HEAD_SIZE;
  static_assert(STAGES < SPANS, "the keys of a tile that is asked for replace none that is still read");
  nn_bf16 k[QUERIES + BLOCK][shape::TILE * D], v[QUERIES + BLOCK][shape::TILE * D];
  key_span span[SPANS][shape::TILE];
  int32_t seen_from[SPANS][shape::TILE]; // first row of visible.seen: s(a) of a local key, else INT32_MAX
  visible_keys keys;                     // here, like all of the following, because registers are scarce
  float lse[shape::ROWS], delta[shape::ROWS];
  float seen[2 * shape::BANDS][shape::THREADS]; // of a lane's rows over its columns
};

__device__ static visible_keys find_visible(const nats_cuda_attention &a, int32_t sequence, int32_t kv_head,
                                            int32_t row, int32_t rows) {
  const int64_t pair = (int64_t)sequence * a.kv_heads + kv_head;
  const int64_t kv = (int64_t)sequence * a.length * a.token_stride + (int64_t)kv_head * a.head_size;
  visible_keys keys;
  keys.k = (const nn_bf16 *)a.k + kv;
  keys.v = (const nn_bf16 *)a.v + kv;
  keys.key = a.lists.key + pair * a.length;
  keys.until = a.lists.until + pair * a.length;
  const int32_t block = row / NATS_RANGE_ROWS;
  const int32_t last = min(a.lists.blocks, (row + rows) / NATS_RANGE_ROWS) - 1;
  const int64_t ranges = pair * a.lists.blocks;
  int32_t slots = 0;
  for (int c = 0; c < NATS_KEY_CLASSES; c++) {
    const int32_t first = a.lists.first[(ranges + block) * NATS_KEY_CLASSES + c];
    const int32_t end = a.lists.end[(ranges + last) * NATS_KEY_CLASSES + c];
    keys.first[c] = first - slots;
    slots += max(end - first, 0);
    keys.end[c] = slots;
  }
  return keys;
}

// The key in a slot, as one thread keeps it until it goes to shared memory.
__device__ static key_span find_key(const visible_keys &keys, int32_t slot) {
  if (slot >= keys.end[NATS_KEY_WINDOW])
    return key_span{INT32_MAX, -1};
  const int32_t index = slot + (slot < keys.end[NATS_KEY_LASTING] ? keys.first[NATS_KEY_LASTING]
                                : slot < keys.end[NATS_KEY_LOCAL] ? keys.first[NATS_KEY_LOCAL]
                                                                  : keys.first[NATS_KEY_WINDOW]);
  return key_span{keys.key[index], keys.until[index]};
}

template <bool SUMS, typename shape>
__device__ static void put_key(const nats_cuda_attention &a, queries_shared<shape> &shared, int32_t slot,
                               key_span key) {
  enum { TILE = shape::TILE };
  const int32_t tile = slot / TILE % SPANS;
  shared.span[tile][slot % TILE] = key;
  if (!SUMS)
    return;
  const bool local = slot >= shared.keys.end[NATS_KEY_LASTING] && slot < shared.keys.end[NATS_KEY_LOCAL];
  shared.seen_from[tile][slot % TILE] = local ? (key.position / a.chunk + 1) * a.chunk : INT32_MAX;
}

// Starts copying the keys of a tile and their values.
template <typename shape>
__device__ static void gather_keys(const nats_cuda_attention &a, int32_t tile,
                                   queries_shared<shape> &shared) {
  enum { D = shape::HEAD_SIZE, STAGES = shape::STAGES };
  const key_span *span = shared.span[tile % SPANS];
  const int row = (int)threadIdx.x / shape::PIECES, piece = (int)threadIdx.x % shape::PIECES;
  const nn_bf16 *k = shared.keys.k + piece * 8, *v = shared.keys.v + piece * 8;
  nn_bf16 *k_tile = shared.k[tile % STAGES] + nats_piece<D>(row, piece);
  nn_bf16 *v_tile = shared.v[tile % STAGES] + nats_piece<D>(row, piece);
#pragma unroll
  for (int r = 0; r < shape::TILE; r += shape::COPY_ROWS) {
    const int32_t position = span[row + r].position;
    const bool valid = position != INT32_MAX;
    const int64_t from = (valid ? position : 0) * a.token_stride;
    nats_copy16(k_tile + r * D, k + from, valid);
    nats_copy16(v_tile + r * D, v + from, valid);
  }
}

// The dot product of two pieces of 8 elements.
__device__ static float dot_piece(const uint4 &x, const uint4 &y) {
  nn_bf16 a[8], b[8];
  memcpy(a, &x, sizeof a);
  memcpy(b, &y, sizeof b);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 8; i++)
    sum += nn_load(a + i) * nn_load(b + i);
  return sum;
}

// What a thread has of the block's rows until all of it has come: pieces of do and o, and a row's lse.
template <typename shape> struct query_pieces {
  static constexpr int PASSES = shape::ROWS / shape::COPY_ROWS;
  uint4 d_o[PASSES], o[PASSES];
  float lse;
};

// Asks for the block's rows; q goes to shared memory by itself. Rows past the end are zero, and their weights
// e^{-infinity}.
template <typename shape>
__device__ static void ask_queries(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                   queries_shared<shape> &shared, query_pieces<shape> &pieces) {
  enum { D = shape::HEAD_SIZE };
  const int64_t token = (int64_t)sequence * a.length + row, dense = (int64_t)a.heads * D;
  const int first = (int)threadIdx.x / shape::PIECES, piece = (int)threadIdx.x % shape::PIECES;
  const nn_bf16 *q = (const nn_bf16 *)a.q + token * a.token_stride + head * D + piece * 8;
  const nn_bf16 *o = (const nn_bf16 *)a.o + token * dense + head * D + piece * 8;
  const nn_bf16 *d_o = (const nn_bf16 *)a.d_o + token * dense + head * D + piece * 8;
  const int32_t rows = min(shape::ROWS, a.length - row);
#pragma unroll
  for (int i = 0; i < pieces.PASSES; i++) {
    const int r = first + i * shape::COPY_ROWS;
    const bool valid = r < rows;
    nats_copy16(shared.k[shape::QUERIES] + nats_piece<D>(r, piece), q + (valid ? r : 0) * a.token_stride,
                valid);
    pieces.d_o[i] = valid ? *(const uint4 *)(d_o + r * dense) : uint4{0, 0, 0, 0};
    pieces.o[i] = valid ? *(const uint4 *)(o + r * dense) : uint4{0, 0, 0, 0};
  }
  const int r = (int)threadIdx.x;
  const int64_t stats = ((int64_t)sequence * a.heads + head) * a.length + row;
  pieces.lse = r < rows ? a.lse[stats + r] * NATS_LOG2_E : 1e30f;
}

// do and lse to shared memory; and delta, which is also written for the kernels to come.
template <typename shape>
__device__ static void put_queries(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                   const query_pieces<shape> &pieces, queries_shared<shape> &shared) {
  const int first = (int)threadIdx.x / shape::PIECES, piece = (int)threadIdx.x % shape::PIECES;
  float *to = a.delta + ((int64_t)sequence * a.heads + head) * a.length + row;
#pragma unroll
  for (int i = 0; i < pieces.PASSES; i++) {
    const int r = first + i * shape::COPY_ROWS;
    *(uint4 *)(shared.v[shape::QUERIES] + nats_piece<shape::HEAD_SIZE>(r, piece)) = pieces.d_o[i];
    float delta = dot_piece(pieces.d_o[i], pieces.o[i]);
    for (int lanes = shape::PIECES / 2; lanes > 0; lanes /= 2)
      delta += __shfl_xor_sync(0xffffffffu, delta, lanes);
    if (piece == 0) {
      shared.delta[r] = delta;
      if (row + r < a.length)
        to[r] = delta;
    }
  }
  if ((int)threadIdx.x < shape::ROWS)
    shared.lse[threadIdx.x] = pieces.lse;
}

// How some rows and some keys stand to one another, the same in every lane.
struct part_view {
  bool any, all; // some pair is visible; every pair is
};

// Sums of dq over the rows of each warp, where tiles of values were.
template <typename shape>
__device__ static nats_warp_columns<shape::HEAD_SIZE> &dq_columns(queries_shared<shape> &shared) {
  return *reinterpret_cast<nats_warp_columns<shape::HEAD_SIZE> *>(shared.v[0]);
}

// dq of 16 rows from row r of the block on through shared memory to their tokens, 16 bytes a thread; and
// `seen`. `first`: no row of the warp's has been finished before.
template <bool SUMS, typename shape>
__device__ static void finish_band(const nats_cuda_attention &a, int32_t sequence, int32_t head, int32_t row,
                                   int r, bool first, float (&sums)[shape::PIECES][4], const float *seen,
                                   queries_shared<shape> &shared) {
  enum { D = shape::HEAD_SIZE };
  nn_bf16 *tile = shared.k[0];
  const int lane = (int)threadIdx.x % NN_WARP;
  if (a.rope != NULL) {
    const int32_t i = row + r + lane / 4, last = a.length - 1;
    nats_fragment_turn_back<D>(sums, a.rope + min(i, last) * D, a.rope + min(i + 8, last) * D);
  }
  if (a.dbias != NULL)
    nats_fragment_add_columns<D>(sums, a.length - row - r, a.scale, first,
                                 dq_columns(shared)[(int)threadIdx.x / NN_WARP]);
  nats_fragment_store<D>(tile, r, sums, a.scale);
  __syncwarp();
  nn_bf16 *dq = (nn_bf16 *)a.dq + ((int64_t)sequence * a.length + row) * a.token_stride + head * D;
#pragma unroll
  for (int i = 0; i < 16 * shape::PIECES / NN_WARP; i++) {
    const int at = i * NN_WARP + lane, from = r + at / shape::PIECES, piece = at % shape::PIECES;
    if (row + from < a.length)
      *(uint4 *)(dq + from * a.token_stride + piece * 8) =
          *(const uint4 *)(tile + nats_piece<D>(from, piece));
  }
#pragma unroll
  for (int h = 0; SUMS && h < 2; h++) {
    float sum = seen[h * shape::THREADS];
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    const int32_t i = row + r + 8 * h + lane / 4;
    if (lane % 4 == 0 && i < a.length)
      a.visible.seen[((int64_t)sequence * a.heads + head) * a.length + i] = sum;
  }
}

// What a thread block does. `warp_rows` is what a warp holds, for which the way to multiply defines
// begin_rows, add_tile and finish_rows.
template <bool SUMS, typename warp_rows, typename shape>
__device__ static void walk(const nats_cuda_attention &a, queries_shared<shape> &shared) {
  enum { STAGES = shape::STAGES, TILE = shape::TILE };
  const int32_t pair = nats_backward_pair(), sequence = pair / a.heads, head = pair % a.heads;
  if (sequence >= a.batch)
    return;
  const int32_t row = (int32_t)(gridDim.y - 1 - blockIdx.y) * shape::ROWS, thread = (int)threadIdx.x;
  query_pieces<shape> pieces; // on their way while the keys are being found
  ask_queries(a, sequence, head, row, shared, pieces);
  if (thread == 0)
    shared.keys = find_visible(a, sequence, head / a.group, row, shape::ROWS);
  __syncthreads();
  const visible_keys &keys = shared.keys;
  const int32_t tiles = (keys.end[NATS_KEY_WINDOW] + TILE - 1) / TILE;
  if (SUMS)
    for (int i = 0; i < 2 * shape::BANDS; i++)
      shared.seen[i][thread] = 0;
  for (int32_t slot = thread; slot < STAGES * TILE; slot += shape::THREADS)
    put_key<SUMS>(a, shared, slot, find_key(keys, slot));
  __syncthreads();
  gather_keys(a, 0, shared);
  nats_copy_commit();
  put_queries(a, sequence, head, row, pieces, shared);
  warp_rows rows;
  if (shape::QUERIES < STAGES) { // their place is wanted for keys
    nats_copy_wait<0>();
    __syncthreads();
    begin_rows(shared, row, a.length, rows);
    __syncthreads();
  } else
    begin_rows(shared, row, a.length, rows);
  if (STAGES > 2) {
    if (tiles > 1)
      gather_keys(a, 1, shared);
    nats_copy_commit();
  }

  for (int32_t tile = 0; tile < tiles; tile++) {
    nats_copy_wait<STAGES - 2>();
#ifdef NATS_WGMMA_CODE
    if (shape::GROUP)
      nats_wgmma_publish();
#endif
    __syncthreads(); // this tile has come; all are done with the one before, and know the keys of the next
    const int32_t ahead = tile + STAGES - 1, asked = (tile + STAGES) * TILE + thread;
    if (ahead < tiles)
      gather_keys(a, ahead, shared);
    nats_copy_commit();
    key_span later = {};
    if (thread < TILE)
      later = find_key(keys, asked);
    add_tile(a, rows, shared, tile);
    if (thread < TILE)
      put_key<SUMS>(a, shared, asked, later);
  }
  __syncthreads();
  finish_rows(a, sequence, head, row, rows, shared);
  if (a.dbias == NULL)
    return;
  __syncthreads();
  const int64_t block = (int64_t)sequence * gridDim.y + blockIdx.y;
  nats_write_columns<shape::HEAD_SIZE>(dq_columns(shared),
                                       a.query_sums + (block * a.heads + head) * shape::HEAD_SIZE);
}
