#include "launch/machine/hosts.h"

#include <hdf5.h>  // H5get_libversion
#include <omp.h>   // omp_get_max_threads
#include <sched.h> // sched_getaffinity
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // gethostname

#include "launch/machine/blas_core.h"
#include "nn/gpus.h"
#include "nn/log.h"

// What a rank tells about itself. The cores are what the kernel allows, whoever bound the rank to them.
typedef struct {
  char host[128], device[160], libraries[256];
  cpu_set_t cores;
  int32_t threads;
} place;

static void look(const nn_device *device, place *mine) {
  char mpi[96], blas[64], cuda[64];
  unsigned major = 0, minor = 0, release = 0;
  memset(mine, 0, sizeof *mine); // it is compared as a whole
  gethostname(mine->host, sizeof mine->host - 1);
  if (sched_getaffinity(0, sizeof mine->cores, &mine->cores) != 0)
    CPU_ZERO(&mine->cores);
  mine->threads = omp_get_max_threads();
  snprintf(mine->device, sizeof mine->device, "%s", nn_device_describe(device));
  dist_libraries(mpi, sizeof mpi);
  launch_blas_describe(blas, sizeof blas);
  nn_gpu_versions(cuda, sizeof cuda);
  H5get_libversion(&major, &minor, &release);
  snprintf(mine->libraries, sizeof mine->libraries,
           "natsformer " NATSFORMER_VERSION ", %s, HDF5 %u.%u.%u, %s%s%s", mpi, major, minor, release, blas,
           cuda[0] != '\0' ? ", " : "", cuda);
}

// ---- a line, as far as there is room

enum { LINE = 480 };

typedef struct {
  char text[LINE];
  size_t used;
} line;

static void __attribute__((format(printf, 2, 3))) append(line *to, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(to->text + to->used, LINE - to->used, format, arguments);
  va_end(arguments);
  if (length > 0)
    to->used = to->used + (size_t)length < LINE ? to->used + (size_t)length : LINE - 1;
}

// Numbers below `count` for which `has` is true, as in 0-3,8.
static void append_ranges(line *to, int count, bool (*has)(const void *of, int number), const void *of) {
  const char *comma = "";
  for (int first = 0, end; first < count; first = end + 1) {
    for (end = first; end < count && has(of, end);)
      end++;
    if (end == first)
      continue;
    append(to, end - first > 1 ? "%s%d-%d" : "%s%d", comma, first, end - 1);
    comma = ",";
  }
}

static bool core_allowed(const void *of, int core) {
  return CPU_ISSET((size_t)core, (const cpu_set_t *)of) != 0;
}

typedef struct {
  const place *all;
  const char *host;
} host_ranks;

static bool rank_of_host(const void *of, int rank) {
  const host_ranks *ranks = of;
  return strcmp(ranks->all[rank].host, ranks->host) == 0;
}

// ---- a machine

typedef struct {
  const place *all;
  int32_t count, first; // ranks, and the lowest one of the machine
  int32_t ranks, threads;
  cpu_set_t cores; // of all its ranks
} machine;

static bool of_machine(const machine *m, int32_t rank) {
  return strcmp(m->all[rank].host, m->all[m->first].host) == 0;
}

static machine add_up(const place *all, int32_t count, int32_t first) {
  machine m = {.all = all, .count = count, .first = first};
  for (int32_t rank = first; rank < count; rank++)
    if (of_machine(&m, rank)) {
      m.ranks++;
      m.threads += all[rank].threads;
      CPU_OR(&m.cores, &m.cores, &all[rank].cores);
    }
  return m;
}

// "cores 0-3" where the ranks share them, else "cores 0-1 | 2-3": each its own.
static void append_cores(const machine *m, line *to) {
  bool same = true;
  for (int32_t rank = m->first; rank < m->count; rank++)
    same = same && (!of_machine(m, rank) || CPU_EQUAL(&m->all[rank].cores, &m->all[m->first].cores));
  const char *bar = " ";
  append(to, same && m->ranks > 1 ? ", sharing cores" : ", cores");
  for (int32_t rank = m->first; rank < (same ? m->first + 1 : m->count); rank++)
    if (of_machine(m, rank)) {
      append(to, "%s", bar);
      append_ranges(to, CPU_SETSIZE, core_allowed, &m->all[rank].cores);
      bar = " | ";
    }
}

// Ranks of a machine have the same device, or each a GPU of its own.
static void append_devices(const machine *m, line *to) {
  const place *before = NULL;
  for (int32_t rank = m->first; rank < m->count; rank++) {
    const place *here = &m->all[rank];
    if (!of_machine(m, rank) || (before != NULL && strcmp(before->device, here->device) == 0))
      continue;
    append(to, "; %s", here->device);
    before = here;
  }
}

static void print_machine(const machine *m) {
  const place *all = m->all, *first = &all[m->first];
  line text = {.used = 0};
  append(&text, "%s: rank%s ", first->host, m->ranks > 1 ? "s" : "");
  append_ranges(&text, m->count, rank_of_host, &(host_ranks){all, first->host});
  append_cores(m, &text);
  append(&text, ", %d thread%s%s", first->threads, first->threads == 1 ? "" : "s",
         m->ranks > 1 ? " each" : "");
  append_devices(m, &text);
  nn_info("%s", text.text);
  if (CPU_COUNT(&m->cores) > 0 && m->threads > CPU_COUNT(&m->cores))
    nn_warn("%s: %d threads on %d core%s: expect it to be slow", first->host, m->threads,
            CPU_COUNT(&m->cores), CPU_COUNT(&m->cores) > 1 ? "s" : "");
  if (strcmp(first->libraries, all[0].libraries) != 0)
    nn_warn("%s has other libraries than %s: %s", first->host, all[0].host, first->libraries);
}

static bool seen_before(const place *all, int32_t rank) {
  for (int32_t before = 0; before < rank; before++)
    if (strcmp(all[before].host, all[rank].host) == 0)
      return true;
  return false;
}

nn_status launch_hosts_print(dist_group *world, const nn_device *device) {
  int32_t count = dist_size(world);
  place mine;
  look(device, &mine);
  place *all = calloc((size_t)count, sizeof *all);
  nn_status status = dist_agree(
      world, all != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory for the places of %d ranks", count));
  if (status == NN_OK)
    status = dist_allgather(world, &mine, (int64_t)sizeof mine, all);
  if (status == NN_OK && dist_rank(world) == 0) {
    nn_info("%s", all[0].libraries);
    for (int32_t rank = 0; rank < count; rank++)
      if (!seen_before(all, rank)) {
        machine m = add_up(all, count, rank);
        print_machine(&m);
      }
  }
  free(all);
  return status;
}
