// Masked attention on a GPU: what its kernels share.
//
// A type makes a key visible on an interval of rows, and within one type the ends of these intervals never
// decrease along the sequence. So per (sequence, kv head) the keys fall into three sorted lists, and what a
// block of queries can see is one contiguous range of each:
//
//   class 0, lasting   globals, and the tokens of an unfinished last chunk   expiry = T - 1
//   class 1, locals                                                          expiry = s(N(a)) - 1
//   class 2, window                                        expiry = s(a) - 1 + W, at most T - 1
//
// Row-major kernels (forward, dq): a block of rows [i0, i1] meets, of each class, the keys with expiry >= i0
// and position <= i1, gathered into dense tiles; hidden tiles cost nothing. Key-major kernels (dk and dv,
// sums over hidden pairs): a tile of neighbours in a list meets the rows from its first key to its last
// expiry (visible), or from its first expiry on (hidden). Dense and window attention are the same kernels
// with one list, or two.
//
//   columns.cu              the lists
//   attention.cu            which kernels serve an operator, and its workspace
//   attention_forward.cu    tensor cores, bf16, D = 64 and 128; so are attention_backward.cu,
//                           attention_backward_keys.cu and attention_hidden.cu. In place of each, on
//                           Hopper with D = 64: attention_forward_hopper.cu and so on
//   attention_plain.cu      every other head size, and float32
//   type_sums.cu            from sums over rows to the gradient of the types
#pragma once

#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/attention.h"
#include "nats/scratch.h"
}

enum { NATS_KEY_LASTING, NATS_KEY_LOCAL, NATS_KEY_WINDOW, NATS_KEY_CLASSES };

// Rows of a block for which the lists' ranges are kept. Kernels with larger blocks take `first` of their
// first block and `end` of their last one.
enum { NATS_RANGE_ROWS = 64 };

// Device memory, in the workspace. P = B * Hk pairs of (sequence, kv head), pair = sequence * Hk + kv head.
typedef struct {
  int32_t *key;    // [P, T] positions: class 0, then 1, then 2, each ascending
  int32_t *until;  // [P, T] expiry of key[...]
  int32_t *start;  // [P, 4] where each class begins in `key`; start[3] = T
  int32_t *first;  // [P, blocks, 3] index into `key` of the first key with expiry >= the block's first row
  int32_t *end;    // [P, blocks, 3] ... after the last key with position <= the block's last row
  int32_t *counts; // [P, ceil(T / 1024), 2] lasting and local keys of each strip
  int32_t blocks;  // ceil(T / 64)
} nats_key_lists;

enum { NATS_LIST_STRIP = 1024 }; // tokens that a thread block lists
static inline int32_t nats_list_strips(int32_t length) {
  return nn_ceil_div(length, (int32_t)NATS_LIST_STRIP);
}

// At most so many thread blocks of the backward kernels share a sequence and a head.
static inline int32_t nats_backward_blocks(int32_t length) {
  return nn_ceil_div(length, (int32_t)NATS_RANGE_ROWS) + NATS_KEY_CLASSES - 1;
}

// The sums over rows from which the gradient of the types is made, as in nats/cpu/type_sums.h, per query
// head: [B, H, T] each. D_ij = e^{min(s - lse, log clip)} (do_i . v_j - do_i . o_i), float32, from unrounded
// products. With a = c(j), s(a) the first row after its chunk (pairs inside one chunk count nowhere, but for
// `own`):
typedef struct {
  float *all;    // over rows s(a) .. T - 1
  float *local;  //           s(a) .. s(N(a)) - 1
  float *window; //           s(a) .. s(a) - 1 + W
  float *ended;  //           s(N(a)) .. s(N(N(a))) - 1, local keys only, 0 elsewhere
  float *own;    // D_jj where C = 1, else 0
  float *seen;   // by row i: D_im over visible local keys m of earlier chunks
} nats_row_sums;

// The last rows of the sums of one key; those of nats_type_rows in nats/cpu/type_sums.h.
typedef struct {
  int32_t start;  // s(a); T in a chunk without a type
  int32_t local;  // s(N(a)) - 1
  int32_t window; // min(s(a) - 1 + W, T - 1)
  int32_t ended;  // s(N(N(a))) - 1; == local where the key is not local
} nats_key_rows;

// What globals take away (type_sums.cu), summed from the begin of a segment. `whole`: the segment begins in
// here, and nothing from before is added.
typedef struct {
  double ended, crossing;
  int32_t whole;
} nats_segment_sum;

enum { NATS_STRIP = 1024 }; // chunks that are summed together
static inline int32_t nats_strips(int32_t chunks) {
  return nn_ceil_div(chunks, (int32_t)NATS_STRIP);
}

// One operator's tensors, handed to kernels by value. T is the compute type behind the untyped pointers.
typedef struct {
  int32_t batch, length, heads, kv_heads, head_size; // B, T, H, Hk, D
  int32_t group;                                     // H / Hk
  int32_t chunk, window, chunks;
  float scale;     // 1 / sqrt(D)
  float log2_clip; // log2 of the cap on hidden pairs; 127 where there is none
  int64_t token_stride;
  const void *q, *k, *v; // [B, T, heads, D], token_stride apart
  void *o;               // [B, T, H, D] dense
  float *lse;            // [B, H, T], natural logarithm
  const int32_t *expiry; // [B, Hk, T]
  const uint8_t *types;  // [B, Hk, chunks]
  nats_key_lists lists;
  // backward
  const void *d_o;         // [B, T, H, D] dense
  void *dq, *dk, *dv;      // [B, T, heads, D], token_stride apart; overwritten
  const float *rope;       // [T, D/2, 2] cos and sin by which dq and dk are turned back; NULL: they are not
  float *dbias;            // [(H + 2 Hk) D] added to: sums of dq, dk and dv over the tokens; NULL: not wanted
  float *query_sums;       // [B, blocks of queries, H D] the parts of it that thread blocks leave
  float *key_sums;         // [B, tiles of keys, 2 Hk D] the same of dk and dv
  float *delta;            // [B, H, T] do . o
  bool wants_types;        // of here down
  nats_key_rows *rows;     // [P, T] by position
  float *block_weight;     // [blocks of 64 rows] factor of hidden pairs: 0, or 1 / the share that was drawn
  nats_row_sums visible;   // of pairs that the mask shows
  nats_row_sums hidden;    // of pairs that it hides, block_weight applied; `own` and `seen` are NULL
  nats_segment_sum *taken; // [P, ceil(chunks / 1024)] what each strip of chunks leaves to the next
  float *dtypes;           // [B, Hk, chunks, 3]
} nats_cuda_attention;

// The lists (columns.cu); where types are wanted also the rows of every key, and `block_weight` for all rows.
nn_status nats_cuda_build_lists(nn_device *device, const nats_cuda_attention *a);

// Tensor cores: bf16 and head sizes 64 and 128 (attention_forward.cu, attention_backward.cu,
// attention_hidden.cu).
bool nats_cuda_has_tiles(const nn_device *device, int32_t head_size);
nn_status nats_cuda_forward_tiles(nn_device *device, const nats_cuda_attention *a);
// delta, dq and visible.seen; then dk, dv and the other sums of `visible`. The sums only with wants_types.
nn_status nats_cuda_backward_tiles(nn_device *device, const nats_cuda_attention *a);
// Whether a thread block's shared memory holds what that takes: for D = 128 with types, 102 KiB.
bool nats_cuda_backward_fits(const nn_device *device, const nats_cuda_attention *a);
// The sums of `hidden`.
nn_status nats_cuda_hidden_tiles(nn_device *device, const nats_cuda_attention *a);

// The same for every head size and both compute types (attention_plain.cu).
nn_status nats_cuda_forward_plain(nn_device *device, const nats_cuda_attention *a);
nn_status nats_cuda_backward_plain(nn_device *device, const nats_cuda_attention *a);
nn_status nats_cuda_hidden_plain(nn_device *device, const nats_cuda_attention *a);

// dtypes from the sums (type_sums.cu): over the query heads of the group and the tokens of a chunk.
nn_status nats_cuda_type_gradient(nn_device *device, const nats_cuda_attention *a);
