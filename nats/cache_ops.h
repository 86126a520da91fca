// The operators of the decoding cache, rows of nats/ops_table.h. Everything that they read and write is
// device memory, the tables of the lists too, except where a comment says host: so a layer of a step costs no
// copy.
#pragma once

#include "nn/device.h"

// Where the tokens of some lists are. A page holds K then V, each [page_tokens, D]; slot t of a list is token
// t % page_tokens of its page t / page_tokens.
typedef struct {
  nn_act *const *table; // [lists, stride] pages of every list
  int64_t stride;       // pages
  int32_t page_tokens, head_size;
} nats_cache_pages;

// Enters pages into the table.
typedef struct {
  int64_t at;
  nn_act *page;
} nats_cache_entry;

typedef struct {
  nn_act **table;
  const nats_cache_entry *entries; // [count]
  int64_t count;
} nats_cache_enter;
nn_status nats_cache_enter_run(nn_device *device, const nats_cache_enter *op);

// A list of at least one token.
typedef struct {
  int32_t length;     // tokens
  int32_t first_item; // of nats_cache_attention
  int64_t turns;      // where it begins in `turns`; -1: none of its keys is turned
} nats_cache_row;

// Writes a row of K and V into the last slot of every list.
typedef struct {
  nats_cache_pages pages;
  const nats_cache_row *lists; // [S, Hk]
  int32_t sequences, kv_heads;
  int64_t token_stride; // elements from a row of k and v to the next
  const nn_act *k, *v;  // [S, Hk, D]
} nats_cache_append;
nn_status nats_cache_append_run(nn_device *device, const nats_cache_append *op);

// Writes all tokens of lists: what is left of a prompt.
typedef struct {
  const int32_t *position; // [length] row of its sequence that a slot takes, host; NULL: rows in order
  int32_t length;          // tokens
} nats_cache_stored;

typedef struct {
  nats_cache_pages pages;
  const nats_cache_stored *lists; // [S, Hk] host
  int32_t sequences, kv_heads;
  int32_t rows;         // of k and v to a sequence
  int64_t token_stride; // elements from a row of k and v to the next
  const nn_act *k, *v;  // [S * rows, Hk, D]
} nats_cache_store;
nn_status nats_cache_store_run(nn_device *device, const nats_cache_store *op);

// Moves tokens into holes. No slot is both a source and a destination.
typedef struct {
  const nn_act *from; // the key; the value lies page_tokens * D elements further on
  nn_act *to;
} nats_cache_move;

typedef struct {
  int32_t page_tokens, head_size;
  const nats_cache_move *moves; // [count]
  int64_t count;
} nats_cache_compact;
nn_status nats_cache_compact_run(nn_device *device, const nats_cache_compact *op);

// Adds a multiple of a slot's value to the values of other slots. No slot is both a source and a destination,
// and none is a destination twice.
typedef struct {
  const nn_act *from; // the key, as above
  nn_act *to;
  float factor;
} nats_cache_addition;

typedef struct {
  int32_t page_tokens, head_size;
  const nats_cache_addition *additions; // [count]
  int64_t count;
} nats_cache_merge;
nn_status nats_cache_merge_run(nn_device *device, const nats_cache_merge *op);

// A stretch of a list: devices that share out the tokens of a list cut it into items of equal length, so that
// the work follows the tokens that live, however unequal the lists are.
typedef struct {
  int32_t list;  // -1: an item that is not used
  int32_t begin; // tokens [begin, begin + item_tokens) of it, as far as there are so many
} nats_cache_item;

// Cuts the lists of some layers into items, those of a list in order and one list after the other, and
// numbers their first ones. Nothing happens where a device takes lists whole.
typedef struct {
  nats_cache_row *lists; // [layers, lists_of_layer] `first_item` is overwritten
  int32_t layers, lists_of_layer;
  nats_cache_item *items; // [layers, item_count] overwritten; there is room for all
  int32_t item_count, item_tokens;
} nats_cache_cut;
nn_status nats_cache_cut_run(nn_device *device, const nats_cache_cut *op);

// One query per sequence and head attends to all of its list.
typedef struct {
  nats_cache_pages pages;
  const nats_cache_row *lists;        // [S, Hk]
  int32_t sequences, heads, kv_heads; // S, H, Hk
  int32_t longest;                    // at least the length of every list
  const nats_cache_item *items;       // [item_count] of nats_cache_cut
  int32_t item_count, item_tokens;    // of nats_cache_item_tokens
  float scale;                        // 1 / sqrt(D)
  int64_t token_stride;               // of q
  const nn_act *q;                    // [S, H, D]
  nn_act *o;                          // [S, H, D], dense
  // How many positions a slot's key is turned forward before the query sees it; NULL: none is.
  const int32_t *turns;
  const float *rope; // [positions, D/2, 2] of nn_rope_table; only for turns
  int32_t positions; // rows of it
  float *weights;    // [S, Hk, longest] softmax weights of every slot, summed over the group's heads; or NULL
} nats_cache_attention;
nn_status nats_cache_attention_run(nn_device *device, const nats_cache_attention *op);

// Tokens of an item, where the lists of a layer have so many tokens together.
nn_status nats_cache_item_tokens(nn_device *device, int64_t tokens, int32_t *item_tokens);
