// The operators of the decoding cache, rows of nats/ops_table.h. The lists and their page tables are host
// memory on every device (policies read them); keys and values never leave the device. Host arrays have been
// read when a call returns.
#pragma once

#include "nn/device.h"

// Where pages are. Page p lies in slab p / slab_pages; a page holds K then V, each [page_tokens, D]. The slot
// with number n (over all pages) is token n % page_tokens of page n / page_tokens.
typedef struct {
  nn_act *const *slabs; // host array
  int32_t slab_pages, page_tokens, head_size;
} nats_cache_pages;

// Writes rows of K and V into slots.
typedef struct {
  int64_t slot; // of all pages
  int64_t row;  // of k and v
  int32_t head; // kv head
} nats_cache_write;

typedef struct {
  nats_cache_pages pages;
  const nats_cache_write *writes; // [count] host memory
  int64_t count;
  int64_t token_stride; // elements from a row of k and v to the next
  const nn_act *k, *v;  // [rows, Hk, D]
} nats_cache_append;
nn_status nats_cache_append_run(nn_device *device, const nats_cache_append *op);

// Writes all tokens of lists: what is left of a prompt.
typedef struct {
  const int32_t *pages; // page table, host memory
  // [length] row of the sequence that a slot takes, host memory; NULL: rows in order
  const int32_t *position;
  int32_t length; // tokens
} nats_cache_stored;

typedef struct {
  nats_cache_pages pages;
  const nats_cache_stored *lists; // [S, Hk]
  int32_t sequences, kv_heads;
  int32_t rows;         // of k and v to a sequence
  int64_t token_stride; // elements from a row of k and v to the next
  const nn_act *k, *v;  // [S * rows, Hk, D]
} nats_cache_store;
nn_status nats_cache_store_run(nn_device *device, const nats_cache_store *op);

// Moves tokens into holes. No slot is both a source and a destination.
typedef struct {
  int64_t from, to; // slots of all pages
} nats_cache_move;

typedef struct {
  nats_cache_pages pages;
  const nats_cache_move *moves; // [count] host memory
  int64_t count;
} nats_cache_compact;
nn_status nats_cache_compact_run(nn_device *device, const nats_cache_compact *op);

// Adds a multiple of a slot's value to the values of other slots. No slot is both a source and a destination,
// and none is a destination twice.
typedef struct {
  int64_t from, to; // slots of all pages
  float factor;
} nats_cache_addition;

typedef struct {
  nats_cache_pages pages;
  const nats_cache_addition *additions; // [count] host memory
  int64_t count;
} nats_cache_merge;
nn_status nats_cache_merge_run(nn_device *device, const nats_cache_merge *op);

// One query per sequence and head attends to all of its list, which is never empty.
typedef struct {
  const int32_t *pages; // page table, host memory
  int32_t length;       // tokens
  // [length] how many positions a slot's key is turned forward before the query sees it, host memory; NULL:
  // none
  const int32_t *turn;
} nats_cache_row;

typedef struct {
  nats_cache_pages pages;
  const nats_cache_row *lists;        // [S, Hk]
  int32_t sequences, heads, kv_heads; // S, H, Hk
  int32_t longest;                    // of the lists
  float scale;                        // 1 / sqrt(D)
  int64_t token_stride;               // of q
  const nn_act *q;                    // [S, H, D]
  nn_act *o;                          // [S, H, D], dense
  const float *rope;                  // [positions, D/2, 2] of nn_rope_table, device memory; only for turns
  int32_t positions;                  // rows of it
  float *weights; // [S, Hk, longest] softmax weights of every slot, summed over the group's heads; or NULL
} nats_cache_attention;
nn_status nats_cache_attention_run(nn_device *device, const nats_cache_attention *op);
