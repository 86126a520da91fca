// The CPU as a device: host memory, calls that are done when they return, threads by OpenMP.
#include "nn/device_table.h"

#include <dlfcn.h> // dlsym
#include <omp.h>
#include <stdio.h>  // snprintf
#include <stdlib.h> // posix_memalign, free
#include <string.h>
#include <sys/mman.h> // madvise

#include "nn/ops_table.h"

enum { CACHE_LINE = 64 };
static const size_t HUGE_PAGE = (size_t)2 << 20;

// Large blocks are aligned to huge pages, which saves most of their address translations. Memory is touched
// here, so that running out of it shows at the start and not inside a step.
static nn_status cpu_alloc(nn_device *device, size_t bytes, const char *what, void **out) {
  (void)device;
  bool large = bytes >= 2 * HUGE_PAGE;
  if (posix_memalign(out, large ? HUGE_PAGE : CACHE_LINE, bytes > 0 ? bytes : CACHE_LINE) != 0) {
    *out = NULL;
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: %s needs %.1f MiB", what, (double)bytes / (1 << 20));
  }
  if (large)
    madvise(*out, bytes, MADV_HUGEPAGE); // a wish: refused on kernels without huge pages, and that is fine
  memset(*out, 0, bytes);
  return NN_OK;
}

static void cpu_free(nn_device *device, void *memory) {
  (void)device;
  free(memory);
}

static nn_status cpu_copy(nn_device *device, void *to, const void *from, size_t bytes) {
  (void)device;
  if (bytes > 0)
    memmove(to, from, bytes);
  return NN_OK;
}

static nn_status cpu_zero(nn_device *device, void *memory, size_t bytes) {
  (void)device;
  if (bytes > 0)
    memset(memory, 0, bytes);
  return NN_OK;
}

static nn_status cpu_sync(nn_device *device) {
  (void)device;
  return NN_OK;
}

static nn_status cpu_event_create(nn_device *device, nn_event **out) {
  *out = calloc(1, sizeof **out);
  if (*out == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: an event");
  (*out)->device = device;
  return NN_OK;
}

static void cpu_event_destroy(nn_event *event) {
  free(event);
}

static nn_status cpu_event_record(nn_event *event) {
  (void)event;
  return NN_OK;
}

static nn_status cpu_event_done(nn_event *event, bool *done) {
  (void)event;
  *done = true;
  return NN_OK;
}

static void cpu_close(nn_device *device) {
  free(device);
}

static const nn_device_table cpu_table = {
    .close = cpu_close,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .host_alloc = cpu_alloc,
    .host_free = cpu_free,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .event_create = cpu_event_create,
    .event_destroy = cpu_event_destroy,
    .event_record = cpu_event_record,
    .event_done = cpu_event_done,
};

// A function of OpenBLAS; another BLAS does not have it. POSIX lets a symbol be read as a function.
static bool find_function(const char *name, void *function) {
  void *symbol = dlsym(RTLD_DEFAULT, name);
  memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

// Products are split over threads by nn/cpu/matmul.c: an OpenBLAS with a thread pool of its own would split
// them again. One that uses OpenMP knows by itself that it is called from a thread.
static void keep_blas_in_its_thread(void) {
  enum { OWN_POOL = 1 };
  int (*get_parallel)(void) = NULL;
  void (*set_threads)(int) = NULL;
  if (find_function("openblas_get_parallel", &get_parallel) && get_parallel() == OWN_POOL &&
      find_function("openblas_set_num_threads", &set_threads))
    set_threads(1);
}

static void describe(char *text, size_t size) {
  int threads = omp_get_max_threads();
  int used = snprintf(text, size, "CPU, %d thread%s", threads, threads == 1 ? "" : "s");
  char *(*corename)(void) = NULL;
  if (find_function("openblas_get_corename", &corename) && used > 0 && (size_t)used < size)
    snprintf(text + used, size - (size_t)used, ", %s kernels", corename());
}

nn_status nn_cpu_device_open(int32_t local_rank, nn_device **out) {
  (void)local_rank; // mpirun or the batch system binds a rank to its cores
  nn_device *device = calloc(1, sizeof *device);
  if (device == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: the CPU device");
  device->table = &cpu_table;
  device->ops = &nn_cpu_ops;
  device->kind = NN_DEVICE_CPU;
  device->compute_type = NN_F32;
  keep_blas_in_its_thread();
  describe(device->description, sizeof device->description);
  *out = device;
  return NN_OK;
}
