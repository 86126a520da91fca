// Rows of keys and values into pages, from page to page, and values added to others (nats/cpu/cache_pages.c).
// The host resolves slots to addresses, so that the device reads one small list.
#include <stdlib.h> // malloc, calloc, free
#include <string.h> // memcpy

#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/cuda/ops.h"
#include "nats/scratch.h"
}

enum { THREADS = 256 };
static const int64_t PART = 1 << 18; // rows whose addresses are sent at a time

// A key's row; the value's lies `from_value` and `to_value` bytes further on.
typedef struct {
  const char *from;
  char *to;
} row_copy;

typedef struct {
  int64_t from_value, to_value;
  int64_t bytes; // of a row
} row_shape;

static char *slot_address(const nn_device *device, const nats_cache_pages *pages, int64_t slot) {
  const int64_t page = slot / pages->page_tokens, row = (int64_t)pages->head_size;
  const int64_t token = page % pages->slab_pages * 2 * pages->page_tokens + slot % pages->page_tokens;
  return (char *)nn_act_at(device, pages->slabs[page / pages->slab_pages], token * row);
}

static int64_t value_distance(const nn_device *device, const nats_cache_pages *pages) {
  return (int64_t)nn_device_act_size(device) * pages->page_tokens * pages->head_size;
}

// One thread a unit (2, 4 or 16 bytes) of a row and of its value.
template <typename Unit>
static __global__ void copy_rows(const row_copy *rows, row_shape shape, int32_t units, int64_t count) {
  const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x, row = i / units;
  if (row >= count)
    return;
  const int64_t at = (i - row * units) * (int64_t)sizeof(Unit);
  const row_copy copy = rows[row];
  const Unit k = *(const Unit *)(copy.from + at), v = *(const Unit *)(copy.from + shape.from_value + at);
  *(Unit *)(copy.to + at) = k;
  *(Unit *)(copy.to + shape.to_value + at) = v;
}

template <typename Unit>
static nn_status launch(nn_device *device, const row_copy *rows, row_shape shape, int64_t count) {
  const int32_t units = (int32_t)(shape.bytes / (int64_t)sizeof(Unit));
  const unsigned blocks = (unsigned)nn_ceil_div(count * units, (int64_t)THREADS);
  return NN_LAUNCH(device, copy_rows<Unit>, blocks, THREADS, 0, rows, shape, units, count);
}

// Units as large as all addresses allow: `places` has every address and distance or-ed together.
static nn_status copy_part(nn_device *device, const row_copy *host, row_copy *rows, row_shape shape,
                           int64_t count, uint64_t places) {
  NN_TRY(nn_device_upload(device, rows, host, (size_t)count * sizeof *rows));
  if (places % 16 == 0)
    return launch<uint4>(device, rows, shape, count);
  if (places % 4 == 0)
    return launch<uint32_t>(device, rows, shape, count);
  return launch<uint16_t>(device, rows, shape, count);
}

// Row `i` of an operator.
typedef row_copy (*row_of)(const nn_device *device, const void *op, int64_t i);

static nn_status copy_all(nn_device *device, const void *op, row_of row, row_shape shape, int64_t count) {
  const int64_t part = count < PART ? count : PART;
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)part * sizeof(row_copy), &workspace));
  row_copy *host = (row_copy *)malloc((size_t)part * sizeof *host);
  if (host == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld rows of the cache", (long long)part);
  nn_status status = NN_OK;
  for (int64_t first = 0; first < count && status == NN_OK; first += part) {
    const int64_t rows = count - first < part ? count - first : part;
    uint64_t places = (uint64_t)(shape.from_value | shape.to_value | shape.bytes);
    for (int64_t i = 0; i < rows; i++) {
      host[i] = row(device, op, first + i);
      places |= (uint64_t)(uintptr_t)host[i].from | (uint64_t)(uintptr_t)host[i].to;
    }
    status = copy_part(device, host, (row_copy *)workspace, shape, rows, places);
  }
  free(host);
  return status;
}

static row_copy append_row(const nn_device *device, const void *of, int64_t i) {
  const nats_cache_append *op = (const nats_cache_append *)of;
  const nats_cache_write *write = &op->writes[i];
  const int64_t from = write->row * op->token_stride + (int64_t)write->head * op->pages.head_size;
  return row_copy{(const char *)nn_act_at(device, op->k, from),
                  slot_address(device, &op->pages, write->slot)};
}

extern "C" nn_status nats_cuda_cache_append(nn_device *device, const nats_cache_append *op) {
  const row_shape shape = {(int64_t)((uintptr_t)op->v - (uintptr_t)op->k), value_distance(device, &op->pages),
                           (int64_t)nn_device_act_size(device) * op->pages.head_size};
  return copy_all(device, op, append_row, shape, op->count);
}

// ---- what is left of a prompt

// A page and the rows that it takes: positions[first + t] of its sequence, or where `first` is negative,
// begin + t.
typedef struct {
  const char *from; // row 0 of the sequence, in its head
  char *to;
  int64_t first;
  int32_t begin, count; // tokens
} page_fill;

// Block (page): units of a row after each other, rows after each other.
template <typename Unit>
static __global__ void __launch_bounds__(THREADS)
    fill_pages(const page_fill *fills, const int32_t *positions, row_shape shape, int64_t row_stride) {
  const page_fill fill = fills[blockIdx.x];
  const int32_t units = (int32_t)(shape.bytes / (int64_t)sizeof(Unit));
  for (int32_t i = (int32_t)threadIdx.x; i < fill.count * units; i += THREADS) {
    const int32_t t = i / units;
    const int64_t at = (i - t * units) * (int64_t)sizeof(Unit);
    const int32_t row = fill.first >= 0 ? positions[fill.first + t] : fill.begin + t;
    const char *from = fill.from + row * row_stride + at;
    char *to = fill.to + t * shape.bytes + at;
    const Unit k = *(const Unit *)from, v = *(const Unit *)(from + shape.from_value);
    *(Unit *)to = k;
    *(Unit *)(to + shape.to_value) = v;
  }
}

typedef struct {
  page_fill *fills;
  int32_t *positions;
  int64_t pages, listed; // how many of each
} fill_tables;

static void take_fill_tables(nats_scratch *scratch, fill_tables *t) {
  t->fills = (page_fill *)nats_scratch_take(scratch, t->pages, sizeof *t->fills);
  t->positions = (int32_t *)nats_scratch_take(scratch, t->listed, sizeof *t->positions);
}

// Fills the tables; `places` gets every address or-ed together.
static void list_pages(const nn_device *device, const nats_cache_store *op, const fill_tables *t,
                       uint64_t *places) {
  const int32_t page_tokens = op->pages.page_tokens;
  int64_t page = 0, listed = 0;
  for (int32_t l = 0; l < op->sequences * op->kv_heads; l++) {
    const nats_cache_stored *list = &op->lists[l];
    const int64_t row = (int64_t)(l / op->kv_heads) * op->rows * op->token_stride +
                        (int64_t)(l % op->kv_heads) * op->pages.head_size;
    const char *from = (const char *)nn_act_at(device, op->k, row);
    *places |= (uint64_t)(uintptr_t)from;
    for (int32_t begin = 0; begin < list->length; begin += page_tokens) {
      const int32_t left = list->length - begin;
      char *to = slot_address(device, &op->pages, (int64_t)list->pages[begin / page_tokens] * page_tokens);
      *places |= (uint64_t)(uintptr_t)to;
      t->fills[page++] = page_fill{from, to, list->position != NULL ? listed + begin : -1, begin,
                                   left < page_tokens ? left : page_tokens};
    }
    if (list->position == NULL)
      continue;
    memcpy(t->positions + listed, list->position, (size_t)list->length * sizeof *t->positions);
    listed += list->length;
  }
}

static fill_tables count_fills(const nats_cache_store *op) {
  fill_tables t = {};
  for (int32_t l = 0; l < op->sequences * op->kv_heads; l++) {
    t.pages += nn_ceil_div(op->lists[l].length, op->pages.page_tokens);
    t.listed += op->lists[l].position != NULL ? op->lists[l].length : 0;
  }
  return t;
}

template <typename Unit>
static nn_status launch_fill(nn_device *device, const fill_tables *t, row_shape shape, int64_t row_stride) {
  return NN_LAUNCH(device, fill_pages<Unit>, (unsigned)t->pages, THREADS, 0, t->fills, t->positions, shape,
                   row_stride);
}

// The tables are built on the host in the layout that they have in the workspace, and sent as one.
extern "C" nn_status nats_cuda_cache_store(nn_device *device, const nats_cache_store *op) {
  const int64_t act = (int64_t)nn_device_act_size(device), row_stride = act * op->token_stride;
  const row_shape shape = {(int64_t)((uintptr_t)op->v - (uintptr_t)op->k), value_distance(device, &op->pages),
                           act * op->pages.head_size};
  uint64_t places = (uint64_t)(shape.from_value | shape.to_value | shape.bytes | row_stride);
  fill_tables t = count_fills(op);
  nats_scratch scratch = {NULL, 0};
  take_fill_tables(&scratch, &t);
  const size_t bytes = scratch.used;
  void *workspace;
  NN_TRY(nn_device_workspace(device, bytes, &workspace));
  char *host = (char *)calloc(1, bytes);
  if (host == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld pages of the cache", (long long)t.pages);
  scratch = nats_scratch{host, 0};
  take_fill_tables(&scratch, &t);
  list_pages(device, op, &t, &places);
  const nn_status status = nn_device_upload(device, workspace, host, bytes);
  free(host);
  NN_TRY(status);
  scratch = nats_scratch{(char *)workspace, 0};
  take_fill_tables(&scratch, &t);
  if (places % 16 == 0)
    return launch_fill<uint4>(device, &t, shape, row_stride);
  if (places % 4 == 0)
    return launch_fill<uint32_t>(device, &t, shape, row_stride);
  return launch_fill<uint16_t>(device, &t, shape, row_stride);
}

// ---- from page to page

static row_copy move_row(const nn_device *device, const void *of, int64_t i) {
  const nats_cache_compact *op = (const nats_cache_compact *)of;
  return row_copy{slot_address(device, &op->pages, op->moves[i].from),
                  slot_address(device, &op->pages, op->moves[i].to)};
}

extern "C" nn_status nats_cuda_cache_compact(nn_device *device, const nats_cache_compact *op) {
  const int64_t value = value_distance(device, &op->pages);
  const row_shape shape = {value, value, (int64_t)nn_device_act_size(device) * op->pages.head_size};
  return copy_all(device, op, move_row, shape, op->count);
}

// ---- values added to others

typedef struct {
  const char *from;
  char *to;
  float factor;
} row_sum;

// Block (addition): no value is read and written, or written twice, by the additions of one call.
template <typename T> static __global__ void add_rows(const row_sum *sums, int32_t size) {
  const row_sum sum = sums[blockIdx.x];
  const T *from = (const T *)sum.from;
  T *to = (T *)sum.to;
  for (int32_t column = (int32_t)threadIdx.x; column < size; column += (int32_t)blockDim.x)
    nn_store(to + column, nn_load(to + column) + sum.factor * nn_load(from + column));
}

template <typename T>
static nn_status add(nn_device *device, const row_sum *sums, int64_t count, int32_t size) {
  const unsigned threads = size <= NN_WARP ? NN_WARP : 4 * NN_WARP;
  return NN_LAUNCH(device, add_rows<T>, (unsigned)count, threads, 0, sums, size);
}

extern "C" nn_status nats_cuda_cache_merge(nn_device *device, const nats_cache_merge *op) {
  const int64_t value = value_distance(device, &op->pages), part = op->count < PART ? op->count : PART;
  void *workspace;
  NN_TRY(nn_device_workspace(device, (size_t)part * sizeof(row_sum), &workspace));
  row_sum *host = (row_sum *)malloc((size_t)part * sizeof *host);
  if (host == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld values of the cache", (long long)part);
  nn_status status = NN_OK;
  for (int64_t first = 0; first < op->count && status == NN_OK; first += part) {
    const int64_t rows = op->count - first < part ? op->count - first : part;
    for (int64_t i = 0; i < rows; i++) {
      const nats_cache_addition *addition = &op->additions[first + i];
      host[i] = row_sum{slot_address(device, &op->pages, addition->from) + value,
                        slot_address(device, &op->pages, addition->to) + value, addition->factor};
    }
    status = nn_device_upload(device, workspace, host, (size_t)rows * sizeof *host);
    if (status == NN_OK)
      status = NN_CUDA_TYPED(device, add, device, (const row_sum *)workspace, rows, op->pages.head_size);
  }
  free(host);
  return status;
}
