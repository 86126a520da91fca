// Backward pass of masked attention: dq, dk, dv over the pairs that the mask shows, and the sums behind the
// gradient of the token types over all pairs.
//
// With P = e^{s - lse} and dP = do . v:  ds = P (dP - do . o);  dv = P^T do,  dq = ds k,  dk = ds^T q. Pairs
// that the mask hides need two of these five products, and only for the gradient of the types.
#include <math.h> // log2f
#include <omp.h>
#include <string.h> // memset, memcpy

#include "nats/cpu/columns.h"
#include "nats/cpu/ops.h"
#include "nats/cpu/split.h"
#include "nats/cpu/tile.h"
#include "nats/cpu/tile_gradient.h"
#include "nats/cpu/type_sums.h"
#include "nats/finish_gradients.h"
#include "nats/type_rows.h"

// What all threads share.
typedef struct {
  const nats_attention *op;
  nats_split split;
  bool types;                   // gradients of the types are wanted
  float *block_weight;          // [blocks] factor of hidden pairs in the type sums
  float *key_grad, *value_grad; // [tasks, T, width] where several tasks share a head, else NULL
  float *sums;                  // [tasks, T, NATS_SUMS]
} job;

// What one thread works with.
typedef struct {
  nats_columns columns;
  nats_type_sums sums;
  nats_tile_rows rows;
  float *queries, *d_out;                       // [64, width]
  float *queries_transposed, *d_out_transposed; // [width, 64]; queries times scale * log2(e)
  float *weights, *d_weights;                   // [64 keys, 64 rows]
  float *dq;                                    // [64, width]
} worker;

static void layout_job(job *j, nats_scratch *scratch) {
  const int64_t tokens = (int64_t)j->split.tasks * j->op->length;
  const int32_t width = nats_round_up(j->op->head_size, 16);
  if (j->split.parts > 1) {
    j->key_grad = nats_scratch_take(scratch, tokens * width, sizeof(float));
    j->value_grad = nats_scratch_take(scratch, tokens * width, sizeof(float));
  }
  if (j->types) {
    j->block_weight = nats_scratch_take(scratch, j->split.blocks, sizeof(float));
    j->sums = nats_scratch_take(scratch, tokens * NATS_SUMS, sizeof(float));
  }
}

static void layout_worker(worker *w, const job *j, nats_scratch *scratch) {
  nats_columns_layout(&w->columns, j->op, true, j->types, scratch);
  const int64_t area = (int64_t)NATS_TILE * w->columns.width;
  w->rows.lse = nats_scratch_take(scratch, NATS_TILE, sizeof(float));
  w->rows.delta = nats_scratch_take(scratch, NATS_TILE, sizeof(float));
  w->queries = nats_scratch_take(scratch, area, sizeof(float));
  w->d_out = nats_scratch_take(scratch, area, sizeof(float));
  w->queries_transposed = nats_scratch_take(scratch, area, sizeof(float));
  w->d_out_transposed = nats_scratch_take(scratch, area, sizeof(float));
  w->weights = nats_scratch_take(scratch, NATS_TILE_AREA, sizeof(float));
  w->d_weights = nats_scratch_take(scratch, NATS_TILE_AREA, sizeof(float));
  w->dq = nats_scratch_take(scratch, area, sizeof(float));
  if (j->types)
    nats_type_sums_layout(&w->sums, j->op, scratch);
}

// Packs the rows [row, row + rows) of a query head.
static void load_rows(worker *w, const job *j, int32_t batch, int32_t head, int32_t row, int rows) {
  const nats_attention *op = j->op;
  const int32_t size = op->head_size, width = w->columns.width;
  const int64_t token = (int64_t)batch * op->length + row, dense = (int64_t)op->heads * size;
  const float *q = (const float *)op->q + token * op->token_stride + (int64_t)head * size;
  const float *d_o = (const float *)op->d_o + token * dense + (int64_t)head * size;
  const float *o = (const float *)op->o + token * dense + (int64_t)head * size;
  const float *lse = op->lse + ((int64_t)batch * op->heads + head) * op->length + row;
  const int lanes = nats_round_up(rows, 16);
  nats_tile_load_rows(rows, size, q, op->token_stride, w->queries, width);
  nats_tile_load_rows(rows, size, d_o, dense, w->d_out, width);
  nats_tile_transpose(lanes, width, w->queries, (float)(op->scale * NATS_LOG2_E), w->queries_transposed);
  nats_tile_transpose(lanes, width, w->d_out, 1.0f, w->d_out_transposed);
  nats_tile_dot_rows(rows, size, w->d_out, width, o, dense, w->rows.delta);
  for (int r = 0; r < rows; r++)
    w->rows.lse[r] = (float)(lse[r] * NATS_LOG2_E);
  for (int r = rows; r < NATS_TILE; r++) {
    w->rows.lse[r] = 1e30f;
    w->rows.delta[r] = 0;
  }
  w->rows.row = row;
  w->rows.lanes = lanes;
  w->rows.scale = op->scale;
  w->rows.cap = op->type_grad_clip > 0 ? log2f(op->type_grad_clip) : 127.0f;
  w->rows.hidden_weight = j->types ? j->block_weight[row / NATS_TILE] : 0;
  w->rows.sums = j->types ? &w->sums : NULL;
}

// The weights and their gradients for `keys` packed keys.
static void pair_products(worker *w, bool own, int keys, const float *k, const float *v) {
  const int size = w->columns.op->head_size, width = w->columns.width, lanes = w->rows.lanes;
  nats_tile_scores(own, keys, lanes, size, k, width, w->queries_transposed, w->weights);
  nats_tile_scores(own, keys, lanes, size, v, width, w->d_out_transposed, w->d_weights);
}

// A tile of keys that the block sees, in slots [first, first + keys).
static void visible_tile(worker *w, bool own, int rows, int32_t first, int keys) {
  nats_columns *columns = &w->columns;
  const int width = columns->width;
  const int64_t at = (int64_t)first * width;
  pair_products(w, own, keys, columns->k + at, columns->v + at);
  nats_tile_gradient(&w->rows, keys, columns->column + first, w->weights, w->d_weights);
  nats_tile_to_keys(own, keys, rows, w->weights, w->d_out, width, columns->dv + at);
  nats_tile_to_keys(own, keys, rows, w->d_weights, w->queries, width, columns->dk + at);
  nats_tile_to_rows(own, keys, rows, w->d_weights, columns->k + at, width, w->dq, !own);
}

static void hidden_tile(worker *w, int32_t first, int keys) {
  const nats_columns *columns = &w->columns;
  const int64_t at = (int64_t)first * columns->width;
  pair_products(w, false, keys, columns->dead_k + at, columns->dead_v + at);
  nats_tile_hidden_gradient(&w->rows, keys, columns->dead_column + first, w->weights, w->d_weights);
}

// Rows [row, row + rows) of one query head.
static void block(worker *w, const job *j, int32_t batch, int32_t head, int32_t row, int rows) {
  const nats_columns *columns = &w->columns;
  load_rows(w, j, batch, head, row, rows);
  visible_tile(w, true, rows, columns->living, columns->own);
  for (int32_t first = 0; first < columns->living; first += NATS_TILE)
    visible_tile(w, false, rows, first, nats_tile_part(columns->living, first));
  if (w->rows.hidden_weight != 0)
    for (int32_t first = 0; first < columns->dead; first += NATS_TILE)
      hidden_tile(w, first, nats_tile_part(columns->dead, first));

  const nats_attention *op = j->op;
  float *dq = (float *)op->dq + ((int64_t)batch * op->length + row) * op->token_stride +
              (int64_t)head * op->head_size;
  for (int r = 0; r < rows; r++)
    memcpy(dq + r * op->token_stride, w->dq + r * columns->width, (size_t)op->head_size * sizeof(float));
}

// Where the task's gradients of keys and values go: their final place, or its share of a sum.
static void aim_key_gradients(worker *w, const job *j, int32_t index, nats_task task) {
  const nats_attention *op = j->op;
  const int64_t head =
      (int64_t)task.batch * op->length * op->token_stride + (int64_t)task.kv_head * op->head_size;
  const int64_t share = (int64_t)op->length * w->columns.width;
  if (j->split.parts == 1) {
    w->columns.key_grad = (float *)op->dk + head;
    w->columns.value_grad = (float *)op->dv + head;
    w->columns.grad_stride = op->token_stride;
  } else {
    w->columns.key_grad = j->key_grad + index * share;
    w->columns.value_grad = j->value_grad + index * share;
    w->columns.grad_stride = w->columns.width;
    memset(w->columns.key_grad, 0, (size_t)share * sizeof(float));
    memset(w->columns.value_grad, 0, (size_t)share * sizeof(float));
  }
}

static void run_task(worker *w, const job *j, int32_t index) {
  const nats_attention *op = j->op;
  const nats_task task = nats_split_task(&j->split, op, index);
  const int32_t group = op->heads / op->kv_heads, head = task.kv_head * group;
  nats_columns_begin(&w->columns, task.batch, task.kv_head);
  aim_key_gradients(w, j, index, task);
  if (j->types)
    nats_type_sums_begin(&w->sums, op, task.pair);
  for (int32_t i = 0; i < j->split.blocks; i++) {
    if (!nats_split_owns(&j->split, &task, i))
      continue;
    const int32_t row = i * NATS_TILE, rows = nats_tile_part(op->length, row);
    nats_columns_advance(&w->columns, row, rows);
    for (int32_t h = head; h < head + group; h++)
      block(w, j, task.batch, h, row, rows);
  }
  nats_columns_finish(&w->columns);
  if (j->types)
    nats_type_sums_finish(&w->sums, op->length, j->sums + (int64_t)index * op->length * NATS_SUMS);
}

// Adds the shares of a head's tasks, in their order.
static void join_key_gradients(const job *j, int32_t pair, const float *shares, float *grad) {
  const nats_attention *op = j->op;
  const int32_t batch = pair / op->kv_heads, kv_head = pair % op->kv_heads;
  const int32_t width = nats_round_up(op->head_size, 16);
  float *to = grad + (int64_t)batch * op->length * op->token_stride + (int64_t)kv_head * op->head_size;
  for (int32_t t = 0; t < op->length; t++) {
    for (int32_t part = 0; part < j->split.parts; part++) {
      const float *from = shares + (((int64_t)pair * j->split.parts + part) * op->length + t) * width;
      for (int32_t d = 0; d < op->head_size; d++)
        to[t * op->token_stride + d] = part == 0 ? from[d] : to[t * op->token_stride + d] + from[d];
    }
  }
}

static void finish_head(const job *j, int32_t pair) {
  const nats_attention *op = j->op;
  if (j->split.parts > 1) {
    join_key_gradients(j, pair, j->key_grad, op->dk);
    join_key_gradients(j, pair, j->value_grad, op->dv);
  }
  if (j->types) {
    const int64_t chunks = nats_chunks(op->length, op->chunk);
    nats_type_gradient(op, op->types + pair * chunks, j->split.parts,
                       j->sums + (int64_t)pair * j->split.parts * op->length * NATS_SUMS,
                       op->dtypes + 3 * pair * chunks);
  }
}

// Bytes that all threads share, and those of each.
static job measure(const nats_attention *op, nats_scratch *shared, nats_scratch *own) {
  job j = {.op = op, .split = nats_split_make(op, omp_get_max_threads()), .types = op->dtypes != NULL};
  *shared = *own = (nats_scratch){0};
  layout_job(&j, shared);
  worker measured;
  layout_worker(&measured, &j, own);
  return j;
}

size_t nats_cpu_attention_backward_workspace(const nats_attention *op) {
  nats_scratch shared, own;
  const job j = measure(op, &shared, &own);
  return shared.used + own.used * (size_t)j.split.threads;
}

nn_status nats_cpu_attention_backward(nn_device *device, const nats_attention *op) {
  nats_scratch shared, own;
  job j = measure(op, &shared, &own);
  void *memory;
  NN_TRY(nn_device_workspace(device, shared.used + own.used * (size_t)j.split.threads, &memory));

  shared = (nats_scratch){memory, 0};
  layout_job(&j, &shared);
  if (j.types)
    nats_type_block_weights(op, j.split.blocks, j.block_weight);
#pragma omp parallel num_threads(j.split.threads)
  {
    nats_scratch mine = {(char *)memory + shared.used + own.used * (size_t)omp_get_thread_num(), 0};
    worker w;
    layout_worker(&w, &j, &mine);
#pragma omp for schedule(dynamic, 1)
    for (int32_t task = 0; task < j.split.tasks; task++)
      run_task(&w, &j, task);
#pragma omp for schedule(static)
    for (int32_t pair = 0; pair < op->batch * op->kv_heads; pair++)
      finish_head(&j, pair);
  }
  return nats_finish_gradients(device, op);
}
