// Rows of keys and values into pages, from page to page, and values added to others (nats/cpu/cache_pages.c).
#include <stdlib.h> // calloc, free
#include <string.h> // memcpy

#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/cuda/ops.h"
#include "nats/scratch.h"
}

enum { THREADS = 256 };

// ---- pages

static __global__ void enter_pages(nats_cache_enter op) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
  if (i < op.count)
    op.table[op.entries[i].at] = op.entries[i].page;
}

extern "C" nn_status nats_cuda_cache_enter(nn_device *device, const nats_cache_enter *op) {
  return NN_LAUNCH(device, enter_pages, (unsigned)nn_ceil_div(op->count, (int64_t)THREADS), THREADS, 0, *op);
}

// ---- rows

// A row of D elements in bytes, and how far the value's row is from the key's.
typedef struct {
  int64_t bytes, value;
} row_shape;

static row_shape row_in_page(const nn_device *device, int32_t page_tokens, int32_t head_size) {
  const int64_t row = (int64_t)nn_device_act_size(device) * head_size;
  return row_shape{row, row * page_tokens};
}

// The bytes that a thread copies at a time: as many as all addresses allow. `places` has addresses and
// distances or-ed together; pages lie at multiples of their rows, in memory that is aligned to more.
static int unit_of(uint64_t places) {
  return places % 16 == 0 ? 16 : places % 4 == 0 ? 4 : 2;
}

// Calls `run<Unit>(...)`.
#define WITH_UNIT(bytes, run, ...)                                                                           \
  ((bytes) == 16  ? run<uint4>(__VA_ARGS__)                                                                  \
   : (bytes) == 4 ? run<uint32_t>(__VA_ARGS__)                                                               \
                  : run<uint16_t>(__VA_ARGS__))

template <typename Unit>
__device__ static void copy_unit(const char *from, int64_t from_value, char *to, int64_t to_value) {
  const Unit k = *(const Unit *)from, v = *(const Unit *)(from + from_value);
  *(Unit *)to = k;
  *(Unit *)(to + to_value) = v;
}

// K and V as a model computed them.
typedef struct {
  const char *k;
  int64_t value, stride, bytes; // bytes to the value, to the next row, of a head's part of a row
  int32_t kv_heads;
} new_rows;

static new_rows rows_of(const nn_device *device, const nn_act *k, const nn_act *v, int64_t token_stride,
                        int32_t head_size, int32_t kv_heads) {
  const int64_t act = (int64_t)nn_device_act_size(device);
  return new_rows{(const char *)k, (const char *)v - (const char *)k, act * token_stride, act * head_size,
                  kv_heads};
}

static uint64_t places_of(const new_rows *rows) {
  return (uint64_t)(uintptr_t)rows->k | (uint64_t)(rows->value | rows->stride | rows->bytes);
}

// One thread a unit of the new row of a list.
template <typename Unit>
static __global__ void append_rows(new_rows rows, nats_cache_pages pages, const nats_cache_row *lists,
                                   int32_t count) {
  nn_let_next_kernel_begin();
  nn_await_kernels_before();
  const int32_t units = (int32_t)(rows.bytes / (int64_t)sizeof(Unit));
  const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x), l = i / units;
  if (l >= count)
    return;
  const int64_t at = (i - l * units) * (int64_t)sizeof(Unit);
  const int32_t slot = lists[l].length - 1;
  char *page = (char *)pages.table[l * pages.stride + slot / pages.page_tokens];
  copy_unit<Unit>(rows.k + l / rows.kv_heads * rows.stride + l % rows.kv_heads * rows.bytes + at, rows.value,
                  page + slot % pages.page_tokens * rows.bytes + at, pages.page_tokens * rows.bytes);
}

template <typename Unit>
static nn_status append(nn_device *device, const new_rows *rows, const nats_cache_append *op) {
  const int32_t lists = op->sequences * op->kv_heads;
  const int64_t units = lists * (rows->bytes / (int64_t)sizeof(Unit));
  return NN_LAUNCH_EARLY(device, append_rows<Unit>, (unsigned)nn_ceil_div(units, (int64_t)THREADS), THREADS,
                         0, *rows, op->pages, op->lists, lists);
}

extern "C" nn_status nats_cuda_cache_append(nn_device *device, const nats_cache_append *op) {
  const new_rows rows = rows_of(device, op->k, op->v, op->token_stride, op->pages.head_size, op->kv_heads);
  return WITH_UNIT(unit_of(places_of(&rows)), append, device, &rows, op);
}

// ---- what is left of a prompt

typedef struct {
  int64_t first; // of its rows in `positions`; -1: they are in order
  int32_t length;
} stored_list;

// Block (list, page of the longest): units of a row after each other, rows after each other.
template <typename Unit>
static __global__ void __launch_bounds__(THREADS)
    store_pages(new_rows rows, nats_cache_pages pages, const stored_list *lists, const int32_t *positions,
                int32_t sequence_rows, int32_t longest) {
  const int32_t l = (int32_t)blockIdx.x / longest, page = (int32_t)blockIdx.x % longest;
  const int32_t begin = page * pages.page_tokens;
  const stored_list list = lists[l];
  const int32_t units = (int32_t)(rows.bytes / (int64_t)sizeof(Unit));
  const char *from =
      rows.k + (int64_t)(l / rows.kv_heads) * sequence_rows * rows.stride + l % rows.kv_heads * rows.bytes;
  for (int32_t i = (int32_t)threadIdx.x; i < pages.page_tokens * units; i += THREADS) {
    const int32_t t = i / units;
    if (begin + t >= list.length)
      return;
    const int32_t row = list.first >= 0 ? positions[list.first + begin + t] : begin + t;
    const int64_t at = (i - t * units) * (int64_t)sizeof(Unit);
    char *to = (char *)pages.table[l * pages.stride + page] + t * rows.bytes + at;
    copy_unit<Unit>(from + row * rows.stride + at, rows.value, to, pages.page_tokens * rows.bytes);
  }
}

typedef struct {
  stored_list *lists;
  int32_t *positions;
  int64_t listed; // positions
  int32_t longest;
} store_tables;

static void take_tables(nats_scratch *scratch, int32_t lists, store_tables *t) {
  t->lists = (stored_list *)nats_scratch_take(scratch, lists, sizeof *t->lists);
  t->positions = (int32_t *)nats_scratch_take(scratch, t->listed, sizeof *t->positions);
}

static store_tables measure_tables(const nats_cache_store *op, int32_t lists) {
  store_tables t = {};
  for (int32_t l = 0; l < lists; l++) {
    t.listed += op->lists[l].position != NULL ? op->lists[l].length : 0;
    t.longest = op->lists[l].length > t.longest ? op->lists[l].length : t.longest;
  }
  return t;
}

static void fill_tables(const nats_cache_store *op, int32_t lists, const store_tables *t) {
  int64_t first = 0;
  for (int32_t l = 0; l < lists; l++) {
    const nats_cache_stored *list = &op->lists[l];
    t->lists[l] = stored_list{list->position != NULL ? first : -1, list->length};
    if (list->position == NULL)
      continue;
    memcpy(t->positions + first, list->position, (size_t)list->length * sizeof *list->position);
    first += list->length;
  }
}

// Built on the host in the layout that they have in the workspace, and sent as one.
static nn_status send_tables(nn_device *device, const nats_cache_store *op, int32_t lists, store_tables *t) {
  nats_scratch scratch = {NULL, 0};
  take_tables(&scratch, lists, t);
  const size_t bytes = scratch.used;
  void *workspace;
  NN_TRY(nn_device_workspace(device, bytes, &workspace));
  scratch = nats_scratch{(char *)calloc(1, bytes), 0};
  if (scratch.base == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld tokens of a prompt", (long long)t->listed);
  take_tables(&scratch, lists, t);
  fill_tables(op, lists, t);
  const nn_status status = nn_device_upload(device, workspace, scratch.base, bytes);
  free(scratch.base);
  scratch = nats_scratch{(char *)workspace, 0};
  take_tables(&scratch, lists, t);
  return status;
}

template <typename Unit>
static nn_status store(nn_device *device, const new_rows *rows, const nats_cache_store *op, int32_t lists,
                       const store_tables *t) {
  const int32_t longest = nn_ceil_div(t->longest, op->pages.page_tokens);
  return NN_LAUNCH(device, store_pages<Unit>, (unsigned)lists * (unsigned)longest, THREADS, 0, *rows,
                   op->pages, t->lists, t->positions, op->rows, longest);
}

extern "C" nn_status nats_cuda_cache_store(nn_device *device, const nats_cache_store *op) {
  const new_rows rows = rows_of(device, op->k, op->v, op->token_stride, op->pages.head_size, op->kv_heads);
  const int32_t lists = op->sequences * op->kv_heads;
  store_tables t = measure_tables(op, lists);
  if (t.longest == 0)
    return NN_OK;
  NN_TRY(send_tables(device, op, lists, &t));
  return WITH_UNIT(unit_of(places_of(&rows)), store, device, &rows, op, lists, &t);
}

// ---- from page to page

// One thread a unit of a row and of its value.
template <typename Unit>
static __global__ void move_rows(const nats_cache_move *moves, row_shape shape, int64_t count) {
  const int32_t units = (int32_t)(shape.bytes / (int64_t)sizeof(Unit));
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, move = i / units;
  if (move >= count)
    return;
  const int64_t at = (i - move * units) * (int64_t)sizeof(Unit);
  copy_unit<Unit>((const char *)moves[move].from + at, shape.value, (char *)moves[move].to + at, shape.value);
}

template <typename Unit>
static nn_status compact(nn_device *device, row_shape shape, const nats_cache_compact *op) {
  const int64_t units = op->count * (shape.bytes / (int64_t)sizeof(Unit));
  return NN_LAUNCH(device, move_rows<Unit>, (unsigned)nn_ceil_div(units, (int64_t)THREADS), THREADS, 0,
                   op->moves, shape, op->count);
}

extern "C" nn_status nats_cuda_cache_compact(nn_device *device, const nats_cache_compact *op) {
  const row_shape shape = row_in_page(device, op->page_tokens, op->head_size);
  return WITH_UNIT(unit_of((uint64_t)shape.bytes), compact, device, shape, op);
}

// ---- values added to others

// Block (addition): no value is read and written, or written twice, by the additions of one call.
template <typename T>
static __global__ void add_rows(const nats_cache_addition *additions, int64_t value, int32_t size) {
  const nats_cache_addition addition = additions[blockIdx.x];
  const T *from = (const T *)addition.from + value;
  T *to = (T *)addition.to + value;
  for (int32_t column = (int32_t)threadIdx.x; column < size; column += (int32_t)blockDim.x)
    nn_store(to + column, nn_load(to + column) + addition.factor * nn_load(from + column));
}

template <typename T> static nn_status add(nn_device *device, const nats_cache_merge *op) {
  const unsigned threads = op->head_size <= NN_WARP ? NN_WARP : 4 * NN_WARP;
  return NN_LAUNCH(device, add_rows<T>, (unsigned)op->count, threads, 0, op->additions,
                   (int64_t)op->page_tokens * op->head_size, op->head_size);
}

extern "C" nn_status nats_cuda_cache_merge(nn_device *device, const nats_cache_merge *op) {
  return NN_CUDA_TYPED(device, add, device, op);
}
