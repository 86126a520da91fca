// What all groups share: checked arguments, waiting with a deadline, and agreement on failures.
#include "dist/group.h"

#include <sched.h>  // sched_yield
#include <stdarg.h> // va_list
#include <stdio.h>  // vsnprintf, fflush
#include <stdlib.h> // calloc, abort
#include <string.h> // strlen, memcpy
#include <time.h>   // clock_gettime, nanosleep

#include "dist/group_table.h"
#include "nn/log.h"

static const double DEADLINE = 600; // seconds

static const struct {
  const char *name;
  size_t size;
} types[] = {
    [DIST_U8] = {"uint8", 1},    [DIST_I32] = {"int32", 4},   [DIST_I64] = {"int64", 8},
    [DIST_F32] = {"float32", 4}, [DIST_F64] = {"float64", 8},
};

size_t dist_type_size(dist_type type) {
  return types[type].size;
}

double dist_seconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

// ---- groups

nn_status dist_group_new(const dist_group_table *table, dist_group **out) {
  *out = calloc(1, sizeof **out);
  if (*out == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a group of ranks");
  (*out)->table = table;
  (*out)->deadline = DEADLINE;
  return NN_OK;
}

// srun without an MPI plugin starts processes that know nothing of each other: each would believe that it is
// the only one, and all would write the same files.
static nn_status refuse_lonely_tasks(void) {
  const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
  if (tasks != NULL && strtol(tasks, NULL, 10) > 1)
    return NN_FAIL(
        NN_ERR_USAGE,
        "srun started %s tasks without an MPI interface: use `srun --mpi=pmix` (or pmi2), or mpirun", tasks);
  return NN_OK;
}

nn_status dist_init(int *argc, char ***argv, dist_group **world) {
  *world = NULL;
  int32_t launched = 0;
  if (dist_mpi_launched(&launched)) {
    NN_TRY(dist_mpi_open(argc, argv, world));
  } else {
    NN_TRY(refuse_lonely_tasks());
    NN_TRY(dist_self_open(world));
  }
  nn_log_identify((*world)->rank, (*world)->size);
  return NN_OK;
}

void dist_group_free(dist_group *group) {
  if (group == NULL)
    return;
  if (group->table->free != NULL)
    group->table->free(group);
  while (group->spare != NULL) {
    dist_request *request = group->spare;
    group->spare = request->next;
    if (group->table->request_close != NULL)
      group->table->request_close(request);
    free(request);
  }
  free(group);
}

void dist_finalize(dist_group *world) {
  dist_group_free(world);
}

bool dist_reduces_on(nn_device_kind kind) {
#ifdef DIST_WITH_NCCL
  return kind == NN_DEVICE_CPU || kind == NN_DEVICE_CUDA;
#else
  return kind == NN_DEVICE_CPU;
#endif
}

static nn_status open_over_gpus(dist_group *world, nn_device *device, nn_dtype wire, dist_group **out) {
#ifdef DIST_WITH_NCCL
  return dist_nccl_open(world, device, wire, out);
#else
  (void)device, (void)wire, (void)out;
  return NN_FAIL(NN_ERR_UNSUPPORTED,
                 "%d ranks with gradients in GPU memory need NCCL, and this program was built without it; "
                 "use one rank, or device=cpu",
                 world->size);
#endif
}

nn_status dist_group_for_device(dist_group *world, nn_device *device, nn_dtype wire, dist_group **out) {
  *out = NULL;
  bool cpu = nn_device_get_kind(device) == NN_DEVICE_CPU;
  if (cpu && wire != NN_F32)
    return NN_FAIL(NN_ERR_USAGE, "dist.gradients: bf16 needs GPUs; CPUs sum gradients in float32");
  if (world->size == 1)
    NN_TRY(dist_self_open(out));
  else if (cpu)
    NN_TRY(dist_mpi_duplicate(world, out));
  else
    NN_TRY(open_over_gpus(world, device, wire, out));
  (*out)->deadline = world->deadline;
  (*out)->watch = world->watch;
  return NN_OK;
}

int32_t dist_rank(const dist_group *group) {
  return group->rank;
}

int32_t dist_size(const dist_group *group) {
  return group->size;
}

int32_t dist_local_rank(const dist_group *group) {
  return group->local_rank;
}

int32_t dist_local_size(const dist_group *group) {
  return group->local_size;
}

void dist_set_deadline(dist_group *group, double seconds) {
  group->deadline = seconds;
  dist_watch_deadline(group->watch, seconds);
}

void dist_enter(dist_group *world, const char *phase, int64_t step, double deadline) {
  if (world->deadline != deadline)
    dist_set_deadline(world, deadline);
  dist_watch_phase(world->watch, phase, step);
}

double dist_waited_seconds(const dist_group *group) {
  return group->waited;
}

void dist_abort(dist_group *group, int exit_code) {
  fflush(stdout);
  fflush(stderr);
  group->table->abort(group, exit_code);
  abort(); // not reached: the table's function does not return
}

// ---- requests: taken from the group's spares and put back when the operation has ended

static nn_status request_take(dist_group *group, dist_request **out, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static nn_status request_take(dist_group *group, dist_request **out, const char *format, ...) {
  char what[sizeof group->spare->what];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  if (group->broken)
    return NN_FAIL(NN_ERR_COMM, "rank %d of %d: %s is impossible: an earlier operation failed", group->rank,
                   group->size, what);

  dist_request *request = group->spare;
  if (request != NULL)
    group->spare = request->next;
  else if ((request = calloc(1, sizeof *request)) == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a request (%s)", what);
  request->group = group;
  request->next = NULL;
  request->parts = 0;
  request->number = dist_watch_begin(group->watch);
  memcpy(request->what, what, sizeof what);
  *out = request;
  return NN_OK;
}

static void request_put(dist_request *request) {
  request->next = request->group->spare;
  request->group->spare = request;
}

// After an operation that failed or never ended the ranks are out of step: the group refuses whatever
// follows.
static nn_status request_broken(dist_request *request, nn_status status) {
  dist_group *group = request->group;
  if (!group->broken && group->table->give_up != NULL)
    group->table->give_up(group);
  group->broken = true;
  request_put(request);
  return status;
}

static nn_status request_late(dist_request *request) {
  const dist_group *group = request->group;
  char missing[768];
  dist_watch_explain(group->watch, request->number, missing, sizeof missing);
  return request_broken(request, NN_FAIL(NN_ERR_COMM, "rank %d of %d: %s did not complete within %g s%s",
                                         group->rank, group->size, request->what, group->deadline, missing));
}

// Between two looks: nothing but a yield while an answer within microseconds is likely, since sleeping would
// add its own latency to every collective; later ever longer sleeps, since whoever waits for another rank's
// long work should leave the core to it. MPI moves data only while it is polled, hence several looks a sleep.
static void pause_between(double waited, int look) {
  enum { LOOKS_PER_SLEEP = 32 };
  if (waited < 0.02 || look % LOOKS_PER_SLEEP != 0) {
    sched_yield();
    return;
  }
  struct timespec pause = {.tv_nsec = waited < 1 ? 50000 : 1000000};
  nanosleep(&pause, NULL);
}

static nn_status look(dist_request *request, bool *done) {
  *done = false;
  nn_status status = request->group->table->test(request, done);
  if (status != NN_OK)
    return request_broken(request, status);
  if (*done)
    request_put(request);
  return NN_OK;
}

// No deadline here: between two looks this rank may have computed for long, while nothing moved.
nn_status dist_test(dist_request *request, bool *done) {
  dist_watch_poll(request->group->watch);
  return look(request, done);
}

nn_status dist_wait(dist_request *request) {
  dist_group *group = request->group;
  const double started = dist_seconds(), before = group->waited;
  for (int looks = 1;; looks++) {
    bool done;
    NN_TRY(look(request, &done));
    double waited = dist_seconds() - started;
    group->waited = before + waited;
    if (done)
      return NN_OK;
    if (dist_watch_wait(group->watch, request->number, request->what, waited, group->deadline))
      return request_late(request);
    pause_between(waited, looks);
  }
}

// The second half of every blocking operation: it was started with `status`, now wait for it.
static nn_status finish(dist_request *request, nn_status status) {
  if (status != NN_OK)
    return request_broken(request, status);
  return dist_wait(request);
}

// ---- operations

static nn_status check_message(const dist_group *group, const char *what, const void *data, int64_t count,
                               int32_t peer) {
  if (count < 0 || (count > 0 && data == NULL))
    return NN_FAIL(NN_ERR_INTERNAL, "%s of %lld elements at %p", what, (long long)count, data);
  if (peer < 0 || peer >= group->size)
    return NN_FAIL(NN_ERR_INTERNAL, "%s with rank %d in a group of %d", what, peer, group->size);
  return NN_OK;
}

nn_status dist_allreduce_start(dist_group *group, void *data, int64_t count, dist_type type, dist_op op,
                               dist_request **request) {
  static const char *const names[] = {[DIST_SUM] = "sum", [DIST_MIN] = "minimum", [DIST_MAX] = "maximum"};
  *request = NULL;
  NN_TRY(check_message(group, "all-reduce", data, count, 0));
  dist_request *started;
  NN_TRY(request_take(group, &started, "all-reduce (%s) of %lld %s", names[op], (long long)count,
                      types[type].name));
  if (count > 0) { // an empty one has no parts and is done at the first look
    nn_status status = group->table->allreduce(started, data, count, type, op);
    if (status != NN_OK)
      return request_broken(started, status);
  }
  *request = started;
  return NN_OK;
}

nn_status dist_allreduce(dist_group *group, void *data, int64_t count, dist_type type, dist_op op) {
  dist_request *request;
  NN_TRY(dist_allreduce_start(group, data, count, type, op, &request));
  return dist_wait(request);
}

// Pieces follow each other from 0 on.
static nn_status check_pieces(const dist_group *group, const char *what, const void *data,
                              const int64_t *starts) {
  bool sound = starts[0] == 0 && (data != NULL || starts[group->size] == 0);
  for (int32_t rank = 0; rank < group->size; rank++)
    sound = sound && starts[rank] <= starts[rank + 1];
  return sound ? NN_OK
               : NN_FAIL(NN_ERR_INTERNAL, "%s: the pieces of %p do not follow each other", what, data);
}

nn_status dist_reduce_scatter_start(dist_group *group, float *data, const int64_t *starts,
                                    dist_request **request) {
  dist_request *started;
  *request = NULL;
  NN_TRY(check_pieces(group, "reduce-scatter", data, starts));
  int64_t count = starts[group->size];
  NN_TRY(request_take(group, &started, "reduce-scatter of %lld float32", (long long)count));
  nn_status status = count > 0 ? group->table->reduce_scatter(started, data, starts) : NN_OK;
  if (status != NN_OK)
    return request_broken(started, status);
  *request = started;
  return NN_OK;
}

nn_status dist_allgather_start(dist_group *group, void *data, size_t bytes, const int64_t *starts,
                               dist_request **request) {
  dist_request *started;
  *request = NULL;
  NN_TRY(check_pieces(group, "all-gather", data, starts));
  int64_t count = starts[group->size];
  NN_TRY(request_take(group, &started, "all-gather of %lld x %zu bytes", (long long)count, bytes));
  nn_status status = count > 0 ? group->table->allgather_pieces(started, data, bytes, starts) : NN_OK;
  if (status != NN_OK)
    return request_broken(started, status);
  *request = started;
  return NN_OK;
}

static nn_status check_offered(const dist_group *group, const char *what, bool offered) {
  if (!offered)
    return NN_FAIL(NN_ERR_INTERNAL, "%s: a group over %s has none; use the world", what, group->table->name);
  return NN_OK;
}

nn_status dist_broadcast(dist_group *group, void *data, int64_t bytes, int32_t root) {
  NN_TRY(check_offered(group, "broadcast", group->table->broadcast != NULL));
  NN_TRY(check_message(group, "broadcast", data, bytes, root));
  if (bytes == 0)
    return NN_OK;
  dist_request *request;
  NN_TRY(request_take(group, &request, "broadcast of %lld bytes from rank %d", (long long)bytes, root));
  return finish(request, group->table->broadcast(request, data, bytes, root));
}

nn_status dist_allgather(dist_group *group, const void *mine, int64_t bytes, void *all) {
  NN_TRY(check_offered(group, "all-gather", group->table->allgather != NULL));
  NN_TRY(check_message(group, "all-gather", mine, bytes, 0));
  NN_TRY(check_message(group, "all-gather", all, bytes, 0));
  if (bytes == 0)
    return NN_OK;
  dist_request *request;
  NN_TRY(request_take(group, &request, "all-gather of %lld bytes a rank", (long long)bytes));
  return finish(request, group->table->allgather(request, mine, bytes, all));
}

nn_status dist_barrier(dist_group *group) {
  dist_request *request;
  NN_TRY(check_offered(group, "barrier", group->table->barrier != NULL));
  NN_TRY(request_take(group, &request, "barrier"));
  return finish(request, group->table->barrier(request));
}

static nn_status check_pair(const dist_group *group, const char *what, const void *data, int64_t bytes,
                            int32_t peer, int32_t tag) {
  NN_TRY(check_message(group, what, data, bytes, peer));
  if (peer == group->rank || tag < 0 || tag >= DIST_TAGS)
    return NN_FAIL(NN_ERR_INTERNAL, "%s between ranks %d and %d with tag %d", what, group->rank, peer, tag);
  return check_offered(group, what, group->table->send != NULL);
}

nn_status dist_send(dist_group *group, const void *data, int64_t bytes, int32_t to, int32_t tag) {
  NN_TRY(check_pair(group, "send", data, bytes, to, tag));
  if (bytes == 0)
    return NN_OK;
  dist_request *request;
  NN_TRY(request_take(group, &request, "send of %lld bytes to rank %d", (long long)bytes, to));
  request->number = dist_watch_take_back(group->watch);
  return finish(request, group->table->send(request, data, bytes, to, tag));
}

nn_status dist_receive(dist_group *group, void *data, int64_t bytes, int32_t from, int32_t tag) {
  NN_TRY(check_pair(group, "receive", data, bytes, from, tag));
  if (bytes == 0)
    return NN_OK;
  dist_request *request;
  NN_TRY(request_take(group, &request, "receive of %lld bytes from rank %d", (long long)bytes, from));
  request->number = dist_watch_take_back(group->watch);
  return finish(request, group->table->receive(request, data, bytes, from, tag));
}

// ---- agreement

// What the failing rank tells the others.
typedef struct {
  int32_t status;
  char text[1024];
  char place[128];
} failure;

// Lowest wins: failures by rank, then requests to stop by rank (a failure must not leave with "requeue me"),
// then success.
static int32_t rank_of_failure(const dist_group *group, nn_status mine) {
  if (mine == NN_OK)
    return 2 * group->size;
  return mine == NN_STOPPED ? group->size + group->rank : group->rank;
}

static void describe_failure(const dist_group *group, nn_status mine, failure *out) {
  out->status = (int32_t)mine;
  snprintf(out->text, sizeof out->text, "%s", nn_error_text());
  // An agreed failure may be agreed upon again further out: its place keeps the rank that it names already.
  if (strstr(nn_error_place(), ", rank ") != NULL)
    snprintf(out->place, sizeof out->place, "%s", nn_error_place());
  else
    snprintf(out->place, sizeof out->place, "%.100s, rank %d", nn_error_place(), group->rank);
}

nn_status dist_agree(dist_group *group, nn_status mine) {
  if (group->size == 1 ||
      mine == NN_ERR_COMM) // what failed in another group hangs here too: end all, at once
    return mine;
  int32_t lowest = rank_of_failure(group, mine);
  NN_TRY(dist_allreduce(group, &lowest, 1, DIST_I32, DIST_MIN));
  if (lowest == 2 * group->size)
    return NN_OK;

  int32_t root = lowest % group->size;
  failure told = {0};
  if (group->rank == root)
    describe_failure(group, mine, &told);
  NN_TRY(dist_broadcast(group, &told, (int64_t)sizeof told, root));
  nn_error_set(told.place, told.text);
  return (nn_status)told.status;
}
