// The keys that a block of queries can see, packed.
//
// Going down the query blocks of one (sequence, kv head), keys arrive with their own block, live while
// expiry(j) reaches the block, and die for good. The living ones are kept packed in token order, so that a
// tile of 64 slots is dense whatever the types are; the dead ones are packed too where the gradient of the
// types wants them.
#pragma once

#include "nats/attention.h"
#include "nats/scratch.h"

typedef struct {
  int32_t token; // j
  int32_t end;   // expiry(j)
} nats_column;

typedef struct {
  const nats_attention *op;
  const int32_t *expiry;        // [T] of this head
  const float *key, *value;     // token 0 of this head, op->token_stride apart
  float *key_grad, *value_grad; // where finished gradients go; NULL in forward
  int64_t grad_stride;          // elements from one token to the next there
  int32_t width;                // D rounded up to 16; packed rows are filled up with zeros
  int32_t next;                 // first token that has not arrived yet
  int32_t living;               // slots of keys of earlier blocks
  int32_t own;                  // slots of the block's own keys, right behind
  nats_column *column;          // [T]
  float *k, *v;                 // [T, width]
  float *dk, *dv;               // [T, width] gradients so far; NULL in forward
  bool keep_dead;
  int32_t dead;
  nats_column *dead_column; // [T]
  float *dead_k, *dead_v;   // [T, width]
} nats_columns;

// Takes memory for sequences of op->length.
void nats_columns_layout(nats_columns *columns, const nats_attention *op, bool backward, bool keep_dead,
                         nats_scratch *scratch);

// Begins with head `kv_head` of sequence `batch`.
void nats_columns_begin(nats_columns *columns, int32_t batch, int32_t kv_head);

// Moves on to the query block of rows [row, row + rows), which lies after the previous one. Gradients of keys
// that died are written out.
void nats_columns_advance(nats_columns *columns, int32_t row, int32_t rows);

// Writes out the gradients of all keys still alive.
void nats_columns_finish(nats_columns *columns);
