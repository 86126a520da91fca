#include "nats/cpu/columns.h"

#include <string.h> // memcpy, memset

#include "nats/cpu/tile.h"

void nats_columns_layout(nats_columns *columns, const nats_attention *op, bool backward, bool keep_dead,
                         nats_scratch *scratch) {
  const int64_t tokens = op->length;
  const int32_t width = nats_round_up(op->head_size, 16);
  *columns = (nats_columns){.op = op, .width = width, .keep_dead = keep_dead};
  columns->column = nats_scratch_take(scratch, tokens, sizeof(nats_column));
  columns->k = nats_scratch_take(scratch, tokens * width, sizeof(float));
  columns->v = nats_scratch_take(scratch, tokens * width, sizeof(float));
  if (backward) {
    columns->dk = nats_scratch_take(scratch, tokens * width, sizeof(float));
    columns->dv = nats_scratch_take(scratch, tokens * width, sizeof(float));
  }
  if (keep_dead) {
    columns->dead_column = nats_scratch_take(scratch, tokens, sizeof(nats_column));
    columns->dead_k = nats_scratch_take(scratch, tokens * width, sizeof(float));
    columns->dead_v = nats_scratch_take(scratch, tokens * width, sizeof(float));
  }
}

void nats_columns_begin(nats_columns *columns, int32_t batch, int32_t kv_head) {
  const nats_attention *op = columns->op;
  const int64_t first = (int64_t)batch * op->length * op->token_stride + (int64_t)kv_head * op->head_size;
  columns->expiry = op->expiry + ((int64_t)batch * op->kv_heads + kv_head) * op->length;
  columns->key = (const float *)op->k + first;
  columns->value = (const float *)op->v + first;
  columns->next = columns->living = columns->own = columns->dead = 0;
}

static float *slot(const nats_columns *columns, float *rows, int32_t index) {
  return rows + (int64_t)index * columns->width;
}

// One row of a packed array moved to another.
static void move(const nats_columns *columns, float *to, int32_t to_slot, const float *from,
                 int32_t from_slot) {
  memcpy(to + (int64_t)to_slot * columns->width, from + (int64_t)from_slot * columns->width,
         (size_t)columns->width * sizeof(float));
}

static void write_gradient(const nats_columns *columns, int32_t index) {
  const int64_t at = columns->column[index].token * columns->grad_stride;
  const size_t bytes = (size_t)columns->op->head_size * sizeof(float);
  memcpy(columns->key_grad + at, slot(columns, columns->dk, index), bytes);
  memcpy(columns->value_grad + at, slot(columns, columns->dv, index), bytes);
}

static void pack(const nats_columns *columns, int32_t token, int32_t tokens, float *k, float *v) {
  const int64_t stride = columns->op->token_stride;
  nats_tile_copy(tokens, columns->op->head_size, columns->key + token * stride, stride, k, columns->width);
  nats_tile_copy(tokens, columns->op->head_size, columns->value + token * stride, stride, v, columns->width);
}

// A key that is in a slot dies: its gradient is complete.
static void bury(nats_columns *columns, int32_t index) {
  if (columns->key_grad != NULL)
    write_gradient(columns, index);
  if (columns->keep_dead) {
    columns->dead_column[columns->dead] = columns->column[index];
    move(columns, columns->dead_k, columns->dead, columns->k, index);
    move(columns, columns->dead_v, columns->dead, columns->v, index);
    columns->dead++;
  }
}

// Closes the gaps that keys dead before `row` leave.
static void compact(nats_columns *columns, int32_t row) {
  int32_t kept = 0;
  for (int32_t index = 0; index < columns->living; index++) {
    if (columns->column[index].end < row) {
      bury(columns, index);
      continue;
    }
    if (kept != index) {
      columns->column[kept] = columns->column[index];
      move(columns, columns->k, kept, columns->k, index);
      move(columns, columns->v, kept, columns->v, index);
      if (columns->dk != NULL) {
        move(columns, columns->dk, kept, columns->dk, index);
        move(columns, columns->dv, kept, columns->dv, index);
      }
    }
    kept++;
  }
  columns->living = kept;
}

// `tokens` keys take the slots from `index` on.
static void arrive(nats_columns *columns, int32_t index, int32_t token, int32_t tokens) {
  for (int32_t t = 0; t < tokens; t++)
    columns->column[index + t] = (nats_column){token + t, columns->expiry[token + t]};
  pack(columns, token, tokens, slot(columns, columns->k, index), slot(columns, columns->v, index));
  if (columns->dk != NULL) {
    const size_t bytes = (size_t)tokens * (size_t)columns->width * sizeof(float);
    memset(slot(columns, columns->dk, index), 0, bytes);
    memset(slot(columns, columns->dv, index), 0, bytes);
  }
}

// Keys of blocks that were left to another thread: alive, or dead on arrival.
static void arrive_late(nats_columns *columns, int32_t row) {
  for (int32_t token = columns->next; token < row; token++) {
    if (columns->expiry[token] >= row) {
      arrive(columns, columns->living++, token, 1);
    } else if (columns->keep_dead) {
      columns->dead_column[columns->dead] = (nats_column){token, columns->expiry[token]};
      pack(columns, token, 1, slot(columns, columns->dead_k, columns->dead),
           slot(columns, columns->dead_v, columns->dead));
      columns->dead++;
    }
  }
}

void nats_columns_advance(nats_columns *columns, int32_t row, int32_t rows) {
  columns->living += columns->own;
  compact(columns, row);
  arrive_late(columns, row);
  arrive(columns, columns->living, row, rows);
  columns->own = rows;
  columns->next = row + rows;
}

void nats_columns_finish(nats_columns *columns) {
  for (int32_t index = 0; index < columns->living + columns->own; index++)
    write_gradient(columns, index);
}
