#include "reference.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static int32_t chunk_count(const reference *r) {
  return (r->length + r->chunk - 1) / r->chunk;
}

static const double *weights_of(const reference *r, int32_t kv_head, int32_t a) {
  return r->weights + ((int64_t)kv_head * chunk_count(r) + a) * 3;
}

static bool in_window(const reference *r, int32_t i, int32_t a) {
  return i <= (int64_t)(a + 1) * r->chunk - 1 + r->window;
}

// prod over a < b < end of (1 - G_b); nothing behind a factor of 0 changes it
static double survival(const reference *r, int32_t kv_head, int32_t a, int32_t end) {
  double product = 1;
  for (int32_t b = a + 1; b < end && product != 0; b++)
    product *= 1 - weights_of(r, kv_head, b)[0];
  return product;
}

double reference_mask(const reference *r, int32_t kv_head, int32_t i, int32_t j) {
  const int32_t a = j / r->chunk, end = i / r->chunk;
  if (a == end && r->chunk > 1)
    return 1;
  const double *w = weights_of(r, kv_head, a);
  return w[0] + w[1] * survival(r, kv_head, a, end) + w[2] * in_window(r, i, a);
}

static double dot(const double *a, const double *b, int32_t count) {
  double sum = 0;
  for (int32_t d = 0; d < count; d++)
    sum += a[d] * b[d];
  return sum;
}

static int64_t at(const reference *r, int32_t t, int32_t head, int32_t heads) {
  return ((int64_t)t * heads + head) * r->head_size;
}

static double score(const reference *r, int32_t head, int32_t i, int32_t j) {
  const int32_t kv_head = head / (r->heads / r->kv_heads);
  return dot(r->q + at(r, i, head, r->heads), r->k + at(r, j, kv_head, r->kv_heads), r->head_size) /
         sqrt(r->head_size);
}

static void forward_row(const reference *r, int32_t head, int32_t i) {
  const int32_t kv_head = head / (r->heads / r->kv_heads), size = r->head_size;
  double largest = -INFINITY, sum = 0;
  for (int32_t j = 0; j <= i; j++)
    if (reference_mask(r, kv_head, i, j) != 0)
      largest = fmax(largest, score(r, head, i, j));
  double *o = r->o + at(r, i, head, r->heads);
  memset(o, 0, (size_t)size * sizeof *o);
  for (int32_t j = 0; j <= i; j++) {
    const double mask = reference_mask(r, kv_head, i, j);
    if (mask == 0)
      continue;
    const double weight = mask * exp(score(r, head, i, j) - largest);
    sum += weight;
    for (int32_t d = 0; d < size; d++)
      o[d] += weight * r->v[at(r, j, kv_head, r->kv_heads) + d];
  }
  for (int32_t d = 0; d < size; d++)
    o[d] /= sum;
  r->lse[(int64_t)head * r->length + i] = largest + log(sum);
}

double reference_forward(const reference *r) {
  double loss = 0;
  for (int32_t head = 0; head < r->heads; head++)
    for (int32_t i = 0; i < r->length; i++) {
      forward_row(r, head, i);
      loss += dot(r->o + at(r, i, head, r->heads), r->d_o + at(r, i, head, r->heads), r->head_size);
    }
  return loss;
}

// d = dLoss/dM_ij to the weights that M_ij is made of. `before` has room for a number of every chunk and one
// more.
static void add_type_gradients(const reference *r, int32_t kv_head, int32_t i, int32_t j, double d,
                               double *before) {
  const int32_t a = j / r->chunk, end = i / r->chunk;
  if (a == end && r->chunk > 1)
    return;
  double *to = r->dtypes + (int64_t)kv_head * chunk_count(r) * 3;
  to[a * 3 + 0] += d;
  to[a * 3 + 1] += d * survival(r, kv_head, a, end);
  to[a * 3 + 2] += d * in_window(r, i, a);
  // L_a times the product without its factor of b: what comes before it times what comes behind it
  int32_t b = a + 1;
  for (before[b] = weights_of(r, kv_head, a)[1]; b < end && before[b] != 0; b++)
    before[b + 1] = before[b] * (1 - weights_of(r, kv_head, b)[0]);
  double behind = survival(r, kv_head, b - 1, end);
  while (--b > a) {
    to[b * 3] -= d * before[b] * behind;
    behind *= 1 - weights_of(r, kv_head, b)[0];
  }
}

static void backward_pair(const reference *r, int32_t head, int32_t i, int32_t j, double *scratch) {
  const int32_t kv_head = head / (r->heads / r->kv_heads), size = r->head_size;
  const int64_t row = at(r, i, head, r->heads), column = at(r, j, kv_head, r->kv_heads);
  const double mask = reference_mask(r, kv_head, i, j);
  double e = exp(score(r, head, i, j) - r->lse[(int64_t)head * r->length + i]);
  if (mask == 0 && r->clip > 0)
    e = fmin(e, r->clip);
  const double d =
      e * (dot(r->d_o + row, r->v + column, size) - dot(r->d_o + row, r->o + row, size)); // dLoss/dM_ij
  add_type_gradients(r, kv_head, i, j, d, scratch);
  for (int32_t c = 0; c < size; c++) {
    r->dv[column + c] += mask * e * r->d_o[row + c];
    r->dk[column + c] += mask * d * r->q[row + c] / sqrt(size);
    r->dq[row + c] += mask * d * r->k[column + c] / sqrt(size);
  }
}

void reference_backward(const reference *r) {
  const size_t queries = (size_t)r->length * (size_t)r->heads * (size_t)r->head_size;
  const size_t keys = (size_t)r->length * (size_t)r->kv_heads * (size_t)r->head_size;
  memset(r->dq, 0, queries * sizeof *r->dq);
  memset(r->dk, 0, keys * sizeof *r->dk);
  memset(r->dv, 0, keys * sizeof *r->dv);
  memset(r->dtypes, 0, (size_t)r->kv_heads * (size_t)chunk_count(r) * 3 * sizeof *r->dtypes);
  double *scratch = malloc(((size_t)chunk_count(r) + 1) * sizeof *scratch);
  for (int32_t head = 0; head < r->heads; head++)
    for (int32_t i = 0; i < r->length; i++)
      for (int32_t j = 0; j <= i; j++)
        backward_pair(r, head, i, j, scratch);
  free(scratch);
}
