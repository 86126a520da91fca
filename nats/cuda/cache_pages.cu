// Rows of keys and values into pages, and from page to page (nats/cpu/cache_pages.c). The host resolves slots
// to addresses, so that the device reads one small list.
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
