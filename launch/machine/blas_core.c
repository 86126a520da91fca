#include "launch/machine/blas_core.h"

#include <dlfcn.h> // dlsym: openblas_get_corename is absent from other BLAS libraries
#include <omp.h>   // omp_set_num_threads
#include <sched.h> // sched_getaffinity
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h> // strcasecmp
#include <unistd.h>  // execv, gethostname, readlink

#include "nn/random.h" // nn_random_hash

static bool one_of(const char *name, const char *const *names) {
  for (; *names != NULL; names++)
    if (strcasecmp(name, *names) == 0)
      return true;
  return false;
}

// The family that this CPU can run, NULL where the chosen one is as good.
static const char *better_core(const char *chosen) {
#if defined(__x86_64__)
  static const char *const avx512[] = {"SkylakeX", "Cooperlake", "SapphireRapids", NULL};
  static const char *const avx2[] = {"Haswell",        "Zen", "Excavator", "SkylakeX", "Cooperlake",
                                     "SapphireRapids", NULL};
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    return one_of(chosen, avx512) ? NULL : "SKYLAKEX";
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    return one_of(chosen, avx2) ? NULL : "HASWELL";
#endif
  (void)chosen;
  return NULL;
}

// A function of OpenBLAS that tells something about it; NULL where another library is linked.
typedef char *(*teller)(void);

static teller find_teller(const char *name) {
  teller function = NULL;
  void *symbol = dlsym(RTLD_DEFAULT, name);
  memcpy(&function, &symbol, sizeof symbol); // POSIX lets a symbol be read as a function
  return function;
}

void launch_blas_describe(char *text, size_t size) {
  teller config = find_teller("openblas_get_config"), corename = find_teller("openblas_get_corename");
  char version[32] = "";
  if (config != NULL)
    sscanf(config(), "OpenBLAS %31s", version);
  if (corename != NULL)
    snprintf(text, size, "OpenBLAS %s%s%s kernels", version, version[0] != '\0' ? ", " : "", corename());
  else
    snprintf(text, size, "a BLAS");
}

void launch_blas_choose_core(char **argv) {
  teller corename = find_teller("openblas_get_corename");
  if (getenv("OPENBLAS_CORETYPE") != NULL || corename == NULL)
    return;
  const char *better = better_core(corename());
  if (better == NULL || setenv("OPENBLAS_CORETYPE", better, 1) != 0)
    return;
  char program[4096] = ""; // not /proc/self/exe itself: the process would be called "exe" from then on
  if (readlink("/proc/self/exe", program, sizeof program - 1) > 0)
    execv(program, argv);
  unsetenv("OPENBLAS_CORETYPE"); // no /proc: go on with the kernels that there are
}

// ---- threads ----

typedef struct {
  uint64_t host;
  cpu_set_t cores;
} allowance;

static nn_status fair_share(dist_group *world, int32_t *threads) {
  char name[256] = "";
  allowance mine;
  memset(&mine, 0, sizeof mine);
  gethostname(name, sizeof name - 1);
  mine.host = nn_random_hash(name, strlen(name));
  if (sched_getaffinity(0, sizeof mine.cores, &mine.cores) != 0)
    CPU_SET(0, &mine.cores);
  allowance *all = calloc((size_t)dist_size(world), sizeof *all);
  if (all == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the cores of %d ranks", dist_size(world));
  nn_status status = dist_allgather(world, &mine, (int64_t)sizeof mine, all);
  int32_t sharing = 0;
  for (int32_t rank = 0; rank < dist_size(world); rank++) {
    cpu_set_t common;
    CPU_AND(&common, &mine.cores, &all[rank].cores);
    sharing += all[rank].host == mine.host && CPU_COUNT(&common) > 0;
  }
  free(all);
  int32_t cores = CPU_COUNT(&mine.cores);
  *threads = sharing > 0 && cores / sharing > 0 ? cores / sharing : 1;
  return status;
}

nn_status launch_set_threads(dist_group *world, int32_t wanted) {
  int32_t count = wanted;
  if (wanted == 0 && getenv("OMP_NUM_THREADS") != NULL)
    count = omp_get_max_threads();
  else if (wanted == 0)
    NN_TRY(fair_share(world, &count));
  omp_set_num_threads(count);
  return NN_OK;
}
