// Rows of keys and values into pages, from page to page, and values added to others (nats/cpu/cache_pages.c).
// The host resolves slots to addresses, so that the device reads one small list.
#include <stdlib.h> // malloc, free

#include "nn/cuda/kernel.h"

extern "C" {
#include "nats/cuda/ops.h"
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
