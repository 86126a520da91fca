#include <math.h>
#include <stddef.h>
#include <string.h> // memcpy, memset

#include "nn/cpu/matmul.h"
#include "nn/cpu/operators.h"
#include "nn/cpu/parallel.h"
#include "nn/cpu/vector.h"

// Logits of one piece of rows. More rows make the matrix products efficient and pass fewer times over weight
// and dweight; fewer keep the logits in cache.
enum { PIECE_ELEMENTS = 4 << 20, PIECE_ROWS_MIN = 256, PIECE_ROWS_MAX = 2048 };

typedef struct {
  int32_t rows;   // of a piece
  float *logits;  // [rows, V]; becomes dlogits
  float *x, *dx;  // [rows, C] where only some rows of the batch are needed
  double *nll;    // [rows]
  int32_t *best;  // [rows]
  int32_t *index; // [count] rows of the batch that are needed, in order
  int64_t count;
} pieces;

// Rows without a target are left out, unless the caller wants their argmax: recall tasks score few rows.
static bool is_needed(const nn_classifier *op, int64_t row) {
  return op->best != NULL || op->targets[row] >= 0;
}

static int32_t piece_rows(const nn_classifier *op, int64_t count) {
  int64_t rows = PIECE_ELEMENTS / op->vocab;
  rows = rows < PIECE_ROWS_MIN ? PIECE_ROWS_MIN : rows;
  rows = rows > PIECE_ROWS_MAX ? PIECE_ROWS_MAX : rows;
  return (int32_t)(rows < count ? rows : count);
}

// The next block of the workspace; the first call with a NULL base measures.
static void *take(char *base, size_t *used, size_t bytes) {
  void *block = base == NULL ? NULL : base + *used;
  *used += (bytes + 63) / 64 * 64;
  return block;
}

static size_t lay_out(const nn_classifier *op, char *base, pieces *p) {
  size_t used = 0, rows = (size_t)p->rows;
  bool gathered = p->count < op->rows;
  p->logits = take(base, &used, rows * (size_t)op->vocab * sizeof *p->logits);
  p->x = take(base, &used, gathered ? rows * (size_t)op->width * sizeof *p->x : 0);
  p->dx = take(base, &used, gathered ? rows * (size_t)op->width * sizeof *p->dx : 0);
  p->nll = take(base, &used, rows * sizeof *p->nll);
  p->best = take(base, &used, rows * sizeof *p->best);
  p->index = take(base, &used, (size_t)p->count * sizeof *p->index);
  return used;
}

// All rows but one are needed: the largest case in which they are gathered.
size_t nn_cpu_classifier_workspace(const nn_device *device, const nn_classifier *op) {
  (void)device;
  pieces p = {.rows = piece_rows(op, op->rows), .count = op->rows - 1};
  return lay_out(op, NULL, &p);
}

static nn_status prepare(nn_device *device, const nn_classifier *op, pieces *p) {
  *p = (pieces){0};
  for (int64_t row = 0; row < op->rows; row++) {
    if (op->targets[row] < -1 || op->targets[row] >= op->vocab)
      return NN_FAIL(NN_ERR_INPUT, "classifier: target %d in row %lld is outside the vocabulary of %d",
                     op->targets[row], (long long)row, op->vocab);
    p->count += is_needed(op, row);
  }
  p->rows = piece_rows(op, p->count);
  void *workspace; // the most that this many rows may take: batches differ in how many are scored
  NN_TRY(nn_device_workspace(device, nn_cpu_classifier_workspace(device, op), &workspace));
  lay_out(op, workspace, p);
  int64_t count = 0;
  for (int64_t row = 0; row < op->rows; row++)
    if (is_needed(op, row))
      p->index[count++] = (int32_t)row;
  return NN_OK;
}

// ---- one row: softmax in place

NN_INLINE float largest(const float *x, int32_t n) {
  nn_v16 most = nn_v16_set(-INFINITY);
  NN_FOR_LANES(0, n, i, lanes, most = nn_v16_max(nn_v16_load_n(x + i, lanes, -INFINITY), most););
  return nn_v16_largest(most);
}

// By blocks: looking for a hit anywhere in a block runs in vectors, looking for the first does not.
NN_INLINE int32_t first_equal(const float *x, int32_t n, float value) {
  enum { BLOCK = 64 };
  int32_t begin = 0;
  for (; begin + BLOCK <= n; begin += BLOCK) {
    int32_t hits = 0;
    for (int32_t i = 0; i < BLOCK; i++)
      hits |= x[begin + i] == value;
    if (hits != 0)
      break;
  }
  for (int32_t i = begin; i < n; i++)
    if (x[i] == value)
      return i;
  return 0; // NaN everywhere
}

// x becomes e^(x - shift); returns the sum.
NN_INLINE double exponentials(float *x, int32_t n, float shift) {
  nn_v16 sum = {0};
  NN_FOR_LANES(0, n, i, lanes, {
    nn_v16 e = nn_v16_exp(nn_v16_load_n(x + i, lanes, -INFINITY) - shift);
    nn_v16_store_n(x + i, e, lanes);
    sum += e;
  });
  return nn_d8_sum(nn_d8_add_v16((nn_d8){0}, sum));
}

NN_INLINE void softmax_row(const nn_classifier *op, const pieces *p, int64_t first, int64_t r) {
  float *logits = p->logits + r * op->vocab;
  int32_t target = op->targets[p->index[first + r]];
  float most = largest(logits, op->vocab);
  float target_logit = target >= 0 ? logits[target] : 0.0f;
  p->best[r] = first_equal(logits, op->vocab, most);
  double sum = exponentials(logits, op->vocab, most);
  p->nll[r] = target >= 0 ? log(sum) + ((double)most - (double)target_logit) : 0.0;
  if (op->dx == NULL)
    return;
  float scale = target >= 0 ? *op->grad_scale : 0.0f; // unscored rows pass no gradient
  float factor = (float)(scale / sum);
  for (int32_t i = 0; i < op->vocab; i++)
    logits[i] *= factor;
  if (target >= 0)
    logits[target] -= scale;
}

NN_CLONES static void softmax_rows(const nn_classifier *op, const pieces *p, int64_t first, nn_range rows) {
  for (int64_t r = rows.begin; r < rows.end; r++)
    softmax_row(op, p, first, r);
}

// ---- one piece

static void record(const nn_classifier *op, const pieces *p, int64_t first, int32_t rows) {
  for (int32_t r = 0; r < rows; r++) {
    int32_t row = p->index[first + r];
    if (op->best != NULL)
      op->best[row] = p->best[r];
    if (op->targets[row] < 0)
      continue;
    if (op->nll != NULL)
      op->nll[row] = (float)p->nll[r];
    op->sums->nll += p->nll[r];
    op->sums->scored += 1.0;
    op->sums->correct += p->best[r] == op->targets[row];
  }
}

static void copy_row(float *to, const float *from, int32_t width) {
  memcpy(to, from, (size_t)width * sizeof *to);
}

static void multiply_logits(const nn_classifier *op, const pieces *p, const float *x, int32_t rows) {
  nn_cpu_multiply(&(nn_cpu_product){.m = rows,
                                    .n = op->vocab,
                                    .k = op->width,
                                    .a = x,
                                    .b = op->weight,
                                    .transposed_b = true,
                                    .c = p->logits});
}

// dx = dlogits weight; dweight += dlogits^T x
static void multiply_gradients(const nn_classifier *op, const pieces *p, const float *x, float *dx,
                               int32_t rows) {
  nn_cpu_multiply(
      &(nn_cpu_product){.m = rows, .n = op->width, .k = op->vocab, .a = p->logits, .b = op->weight, .c = dx});
  nn_cpu_multiply(&(nn_cpu_product){.m = op->vocab,
                                    .n = op->width,
                                    .k = rows,
                                    .a = p->logits,
                                    .transposed_a = true,
                                    .b = x,
                                    .add = true,
                                    .c = op->dweight});
}

static void run_piece(const nn_classifier *op, const pieces *p, int64_t first, int32_t rows) {
  int32_t width = op->width;
  bool gathered = p->count < op->rows;
  const float *batch_x = op->x;
  float *batch_dx = op->dx;
  const float *x = gathered ? p->x : batch_x + first * width;
  for (int32_t r = 0; gathered && r < rows; r++)
    copy_row(p->x + (int64_t)r * width, batch_x + (int64_t)p->index[first + r] * width, width);
  multiply_logits(op, p, x, rows);
#pragma omp parallel if (nn_range_is_large((int64_t)rows * op->vocab))
  softmax_rows(op, p, first, nn_range_mine(rows, 1));
  record(op, p, first, rows);
  if (op->dx == NULL)
    return;
  float *dx = gathered ? p->dx : batch_dx + first * width;
  multiply_gradients(op, p, x, dx, rows);
  for (int32_t r = 0; gathered && r < rows; r++)
    copy_row(batch_dx + (int64_t)p->index[first + r] * width, dx + (int64_t)r * width, width);
}

nn_status nn_cpu_classifier_run(nn_device *device, const nn_classifier *op) {
  pieces p;
  NN_TRY(prepare(device, op, &p));
  if (op->nll != NULL)
    memset(op->nll, 0, (size_t)op->rows * sizeof *op->nll);
  if (op->dx != NULL && p.count < op->rows)
    memset(op->dx, 0, (size_t)op->rows * (size_t)op->width * sizeof(float));
  for (int64_t first = 0; first < p.count; first += p.rows) {
    int64_t left = p.count - first;
    run_piece(op, &p, first, (int32_t)(left < p.rows ? left : p.rows));
  }
  return NN_OK;
}
