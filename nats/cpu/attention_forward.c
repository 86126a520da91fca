// Forward pass of masked attention: online softmax over the packed keys that a block of queries sees.
#include <math.h> // log2f
#include <omp.h>
#include <string.h> // memcpy

#include "nats/cpu/columns.h"
#include "nats/cpu/ops.h"
#include "nats/cpu/split.h"
#include "nats/cpu/tile.h"

// What one thread works with.
typedef struct {
  nats_columns columns;
  float *queries; // [width, 64] transposed
  float *scores;  // [64 keys, 64 rows]
  float *sum;     // [64 rows, width] weighted values
  nats_softmax *softmax;
} worker;

static void layout(worker *w, const nats_attention *op, nats_scratch *scratch) {
  nats_columns_layout(&w->columns, op, false, false, scratch);
  w->queries = nats_scratch_take(scratch, (int64_t)NATS_TILE * w->columns.width, sizeof(float));
  w->scores = nats_scratch_take(scratch, NATS_TILE_AREA, sizeof(float));
  w->sum = nats_scratch_take(scratch, (int64_t)NATS_TILE * w->columns.width, sizeof(float));
  w->softmax = nats_scratch_take(scratch, 1, sizeof(nats_softmax));
}

// One tile: keys in slots [first, first + keys).
static void tile(worker *w, int32_t row, int rows, int32_t first, int keys, bool own) {
  const nats_columns *columns = &w->columns;
  const int lanes = nats_round_up(rows, 16), width = columns->width;
  const float *k = columns->k + (int64_t)first * width, *v = columns->v + (int64_t)first * width;
  nats_span visible[NATS_TILE];
  for (int key = 0; key < keys; key++) {
    const nats_column column = columns->column[first + key];
    visible[key] = (nats_span){column.token - row, column.end - row};
  }
  // The block's own keys come first: every row sees itself, so the running softmax starts with a bound.
  nats_tile_scores(own, keys, lanes, columns->op->head_size, k, width, w->queries, w->scores);
  if (nats_tile_softmax(w->softmax, own, keys, lanes, visible, w->scores))
    nats_tile_scale_rows(rows, width, w->softmax->rescale, w->sum);
  nats_tile_to_rows(own, keys, rows, w->scores, v, width, w->sum, !own);
}

// Rows [row, row + rows) of one query head.
static void block(worker *w, int32_t batch, int32_t head, int32_t row, int rows) {
  const nats_columns *columns = &w->columns;
  const nats_attention *op = columns->op;
  const int64_t token = (int64_t)batch * op->length + row;
  const int32_t size = op->head_size;
  const float *q = (const float *)op->q + token * op->token_stride + (int64_t)head * size;
  nats_tile_load_rows(rows, size, q, op->token_stride, w->sum, columns->width); // not in use yet
  nats_tile_transpose(nats_round_up(rows, 16), columns->width, w->sum, (float)(op->scale * NATS_LOG2_E),
                      w->queries);

  tile(w, row, rows, columns->living, columns->own, true);
  for (int32_t first = 0; first < columns->living; first += NATS_TILE)
    tile(w, row, rows, first, nats_tile_part(columns->living, first), false);

  float *lse = op->lse + ((int64_t)batch * op->heads + head) * op->length + row;
  for (int r = 0; r < rows; r++)
    lse[r] = (float)((w->softmax->largest[r] + log2f(w->softmax->sum[r])) * NATS_LN_2);
  for (int r = 0; r < rows; r++)
    w->softmax->rescale[r] = 1 / w->softmax->sum[r];
  nats_tile_scale_rows(rows, columns->width, w->softmax->rescale, w->sum);
  for (int r = 0; r < rows; r++)
    memcpy((float *)op->o + ((token + r) * op->heads + head) * size, w->sum + r * columns->width,
           (size_t)size * sizeof(float));
}

static void run_task(worker *w, const nats_split *split, nats_task task) {
  const nats_attention *op = w->columns.op;
  const int32_t group = op->heads / op->kv_heads, head = task.kv_head * group;
  nats_columns_begin(&w->columns, task.batch, task.kv_head);
  for (int32_t index = 0; index < split->blocks; index++) {
    if (!nats_split_owns(split, &task, index))
      continue;
    const int32_t row = index * NATS_TILE, rows = nats_tile_part(op->length, row);
    nats_columns_advance(&w->columns, row, rows);
    for (int32_t h = head; h < head + group; h++)
      block(w, task.batch, h, row, rows);
  }
}

static size_t bytes_of_worker(const nats_attention *op) {
  nats_scratch scratch = {0};
  worker measured;
  layout(&measured, op, &scratch);
  return scratch.used;
}

size_t nats_cpu_attention_forward_workspace(const nats_attention *op) {
  return bytes_of_worker(op) * (size_t)nats_split_make(op, omp_get_max_threads()).threads;
}

nn_status nats_cpu_attention_forward(nn_device *device, const nats_attention *op) {
  const nats_split split = nats_split_make(op, omp_get_max_threads());
  const size_t bytes = bytes_of_worker(op);
  void *memory;
  NN_TRY(nn_device_workspace(device, bytes * (size_t)split.threads, &memory));
#pragma omp parallel num_threads(split.threads)
  {
    nats_scratch mine = {(char *)memory + bytes * (size_t)omp_get_thread_num(), 0};
    worker w;
    layout(&w, op, &mine);
#pragma omp for schedule(dynamic, 1)
    for (int32_t task = 0; task < split.tasks; task++)
      run_task(&w, &split, nats_split_task(&split, op, task));
  }
  return NN_OK;
}
