// Masked attention on a GPU: the tensors and the workspace of an operator, and which kernels serve it.
#include <math.h>   // log2f
#include <stdlib.h> // malloc

#include "nats/cuda/attention.h"
#include "nats/cuda/ops.h"

extern "C" {
#include "nats/finish_gradients.h"
#include "nats/type_rows.h"
}

static nats_cuda_attention tensors_of(const nats_attention *op) {
  nats_cuda_attention a = {};
  a.batch = op->batch, a.length = op->length, a.head_size = op->head_size;
  a.heads = op->heads, a.kv_heads = op->kv_heads, a.group = op->heads / op->kv_heads;
  a.chunk = op->chunk, a.window = op->window, a.chunks = nats_chunks(op->length, op->chunk);
  a.scale = op->scale;
  a.log2_clip = op->type_grad_clip > 0 ? log2f(op->type_grad_clip) : 127.0f;
  a.token_stride = op->token_stride;
  a.q = op->q, a.k = op->k, a.v = op->v, a.o = op->o, a.lse = op->lse;
  a.expiry = op->expiry, a.types = op->types;
  a.lists.blocks = nn_ceil_div(op->length, (int32_t)NATS_RANGE_ROWS);
  a.d_o = op->d_o, a.dq = op->dq, a.dk = op->dk, a.dv = op->dv, a.rope = op->rope;
  a.dbias = op->dbias;
  a.dtypes = op->dtypes;
  return a;
}

static void lay_out_lists(nats_cuda_attention *a, nats_scratch *scratch) {
  const int64_t pairs = (int64_t)a->batch * a->kv_heads;
  const int64_t ranges = pairs * a->lists.blocks * NATS_KEY_CLASSES;
  a->lists.key = (int32_t *)nats_scratch_take(scratch, pairs * a->length, sizeof(int32_t));
  a->lists.until = (int32_t *)nats_scratch_take(scratch, pairs * a->length, sizeof(int32_t));
  a->lists.start = (int32_t *)nats_scratch_take(scratch, pairs * 4, sizeof(int32_t));
  a->lists.counts =
      (int32_t *)nats_scratch_take(scratch, pairs * nats_list_strips(a->length) * 2, sizeof(int32_t));
  a->lists.first = (int32_t *)nats_scratch_take(scratch, ranges, sizeof(int32_t));
  a->lists.end = (int32_t *)nats_scratch_take(scratch, ranges, sizeof(int32_t));
}

static void lay_out_sums(const nats_cuda_attention *a, nats_row_sums *sums, nats_scratch *scratch) {
  float **const each[] = {&sums->all, &sums->local, &sums->window, &sums->ended};
  for (float **sum : each)
    *sum = (float *)nats_scratch_take(scratch, (int64_t)a->batch * a->heads * a->length, sizeof(float));
}

static void lay_out_backward(nats_cuda_attention *a, bool wants_types, nats_scratch *scratch) {
  const int64_t rows = (int64_t)a->batch * a->heads * a->length;
  const int64_t keys = (int64_t)a->batch * a->kv_heads * a->length;
  a->delta = (float *)nats_scratch_take(scratch, rows, sizeof(float));
  if (a->dbias != NULL) {
    const int64_t tiles = (int64_t)a->batch * nats_backward_blocks(a->length), width = a->head_size;
    a->query_sums = (float *)nats_scratch_take(scratch, tiles * a->heads * width, sizeof(float));
    a->key_sums = (float *)nats_scratch_take(scratch, tiles * 2 * a->kv_heads * width, sizeof(float));
  }
  a->wants_types = wants_types;
  if (!wants_types)
    return;
  a->rows = (nats_key_rows *)nats_scratch_take(scratch, keys, sizeof(nats_key_rows));
  a->block_weight = (float *)nats_scratch_take(scratch, a->lists.blocks, sizeof(float));
  lay_out_sums(a, &a->visible, scratch);
  lay_out_sums(a, &a->hidden, scratch);
  a->visible.own = (float *)nats_scratch_take(scratch, rows, sizeof(float));
  a->visible.seen = (float *)nats_scratch_take(scratch, rows, sizeof(float));
  a->taken = (nats_segment_sum *)nats_scratch_take(
      scratch, (int64_t)a->batch * a->kv_heads * nats_strips(a->chunks), sizeof(nats_segment_sum));
}

size_t nats_cuda_attention_workspace(const nn_device *device, const nats_attention *op) {
  (void)device;
  nats_scratch scratch = {};
  nats_cuda_attention a = tensors_of(op);
  lay_out_lists(&a, &scratch);
  if (op->d_o != NULL)
    lay_out_backward(&a, op->dtypes != NULL, &scratch);
  return scratch.used;
}

static bool is_aligned(const void *tensor) {
  return (uintptr_t)tensor % 16 == 0;
}

// Tiles are filled with copies of 16 bytes.
static bool takes_tiles(const nn_device *device, const nats_cuda_attention *a) {
  return nats_cuda_has_tiles(device, a->head_size) && a->token_stride % 8 == 0 && is_aligned(a->q) &&
         is_aligned(a->k) && is_aligned(a->v) && is_aligned(a->o) && is_aligned(a->d_o) &&
         is_aligned(a->dq) && is_aligned(a->dk) && is_aligned(a->dv) && is_aligned(a->rope);
}

// Lays out workspace and lists the keys.
static nn_status begin(nn_device *device, const nats_attention *op, bool backward, nats_cuda_attention *a) {
  NN_NEED(op->types && op->chunk > 0 && op->window >= 0);
  NN_NEED((int64_t)op->batch * op->length <= INT32_MAX && op->token_stride <= INT32_MAX);
  NN_NEED(op->batch <= 65535 && op->heads <= 65535); // of thread blocks along y and z of a grid
  *a = tensors_of(op);
  nats_scratch scratch = {};
  for (int pass = 0; pass < 2; pass++) { // to learn how much it takes, then with the memory
    if (pass == 1) {
      void *memory;
      NN_TRY(nn_device_workspace(device, scratch.used, &memory));
      scratch = nats_scratch{(char *)memory, 0};
    }
    lay_out_lists(a, &scratch);
    if (backward)
      lay_out_backward(a, op->dtypes != NULL, &scratch);
  }
  return nats_cuda_build_lists(device, a);
}

nn_status nats_cuda_attention_forward(nn_device *device, const nats_attention *op) {
  nats_cuda_attention a;
  NN_TRY(begin(device, op, false, &a));
  return takes_tiles(device, &a) ? nats_cuda_forward_tiles(device, &a) : nats_cuda_forward_plain(device, &a);
}

// Which blocks of rows stand for all where hidden pairs are visited.
static nn_status draw_rows(nn_device *device, const nats_attention *op, const nats_cuda_attention *a) {
  if (op->type_grad_rows >= 1) // so it is since the lists were made
    return NN_OK;
  const size_t bytes = (size_t)a->lists.blocks * sizeof(float);
  float *weight = (float *)malloc(bytes);
  if (weight == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the weights of %d blocks of rows", a->lists.blocks);
  nats_type_block_weights(op, a->lists.blocks, weight);
  const nn_status status = nn_device_upload(device, a->block_weight, weight, bytes);
  free(weight);
  return status;
}

nn_status nats_cuda_attention_backward(nn_device *device, const nats_attention *op) {
  nats_cuda_attention a;
  NN_TRY(begin(device, op, true, &a));
  const bool tiles = takes_tiles(device, &a), finishes = tiles && nats_cuda_backward_fits(device, &a);
  NN_TRY(finishes ? nats_cuda_backward_tiles(device, &a) : nats_cuda_backward_plain(device, &a));
  if (a.wants_types) {
    NN_TRY(draw_rows(device, op, &a));
    NN_TRY(tiles ? nats_cuda_hidden_tiles(device, &a) : nats_cuda_hidden_plain(device, &a));
    NN_TRY(nats_cuda_type_gradient(device, &a));
  }
  return finishes ? NN_OK : nats_finish_gradients(device, op);
}
