#include "launch/machine/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nn/gpus.h"
#include "nn/log.h"

// What a rank has to offer.
typedef struct {
  int32_t gpus; // that its process sees
  int32_t gpu;  // the one it would take, -1: none is left for it
  nn_gpu_id id; // of that one
} rank_gpu;

static nn_status look(const dist_group *world, rank_gpu *mine) {
  int32_t local_rank = dist_local_rank(world);
  *mine = (rank_gpu){.gpus = nn_gpu_count(), .gpu = -1};
  if (mine->gpus == 1)
    mine->gpu = 0; // it may be this rank's alone; if not, others have the same identity
  else if (local_rank < mine->gpus)
    mine->gpu = local_rank;
  return mine->gpu >= 0 ? nn_gpu_identify(mine->gpu, &mine->id) : NN_OK;
}

enum { PROBLEM = 200 };

static bool find_shared(const rank_gpu *ranks, int32_t count, char problem[PROBLEM]) {
  for (int32_t a = 0; a < count; a++)
    for (int32_t b = a + 1; b < count; b++)
      if (memcmp(&ranks[a].id, &ranks[b].id, sizeof ranks[a].id) == 0) {
        snprintf(problem, PROBLEM, "ranks %d and %d of %d would share one GPU", a, b, count);
        return true;
      }
  return false;
}

// Why the ranks cannot compute on GPUs, if so. The same answer on all ranks.
static bool find_problem(const rank_gpu *ranks, int32_t count, bool trains, char problem[PROBLEM]) {
  for (int32_t rank = 0; rank < count; rank++)
    if (ranks[rank].gpu < 0) {
      snprintf(problem, PROBLEM, "rank %d of %d finds no GPU for itself: its process sees %d", rank, count,
               ranks[rank].gpus);
      return true;
    }
  if (find_shared(ranks, count, problem))
    return true;
  if (!trains || count == 1 || dist_reduces_on(NN_DEVICE_CUDA))
    return false;
  snprintf(problem, PROBLEM, "this program was built without NCCL, which %d ranks on GPUs need", count);
  return true;
}

static bool any_gpu(const rank_gpu *ranks, int32_t count) {
  for (int32_t rank = 0; rank < count; rank++)
    if (ranks[rank].gpus > 0)
      return true;
  return false;
}

nn_status launch_device_open(dist_group *world, const char *name, const char *precision, bool trains,
                             nn_device **out) {
  bool automatic = strcmp(name, "auto") == 0;
  int32_t count = dist_size(world);
  *out = NULL;
  if (!automatic && strcmp(name, "cuda") != 0) // the CPU, or a name that is none
    return dist_agree(world, nn_device_open(name, precision, 0, out));

  rank_gpu mine;
  rank_gpu *ranks = calloc((size_t)count, sizeof *ranks);
  nn_status status = look(world, &mine);
  if (status == NN_OK && ranks == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "out of memory for the GPUs of %d ranks", count);
  status = dist_agree(world, status);
  if (status == NN_OK)
    status = dist_allgather(world, &mine, (int64_t)sizeof mine, ranks);
  char problem[PROBLEM] = "";
  bool none = status == NN_OK && !any_gpu(ranks, count);
  bool refused = status == NN_OK && !none && find_problem(ranks, count, trains, problem);
  free(ranks);
  NN_TRY(status);

  if (refused && (!automatic || strcmp(precision, "bf16") == 0))
    return NN_FAIL(
        NN_ERR_USAGE,
        "device: %s; start one rank for each GPU (mpirun -np GPUS; srun --gpus-per-task=1), or use "
        "device=cpu",
        problem);
  if (refused && dist_rank(world) == 0)
    nn_warn("device: %s: computing on the CPU", problem);
  const char *kind = none ? name : refused ? "cpu" : "cuda";
  return dist_agree(world, nn_device_open(kind, precision, mine.gpu < 0 ? 0 : mine.gpu, out));
}
