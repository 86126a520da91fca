// Groups over MPI, for host memory. Every operation is a non-blocking one of MPI 3, so that dist/group.c can
// give up on it at the deadline; messages longer than MPI's int counts travel as several, all posted at once
// (posting the next part only when the last one is done would let ranks post in different orders).
#include <mpi.h>    // MPI_*
#include <stdio.h>  // snprintf
#include <stdlib.h> // getenv, realloc
#include <string.h> // memcpy, strcspn

#include "dist/group_table.h"

int64_t dist_mpi_part_bytes = (int64_t)1 << 30;

typedef struct {
  MPI_Comm comm;
  bool world; // MPI_COMM_WORLD itself: freeing it ends MPI
} mpi_own;

static MPI_Comm comm_of(const dist_request *request) {
  return ((const mpi_own *)request->group->own)->comm;
}

static nn_status mpi_failed(const dist_group *group, const char *what, int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return NN_FAIL(NN_ERR_COMM, "rank %d of %d: %s failed: %s", group->rank, group->size, what, text);
}

#define MPI_TRY(group, what, call)                                                                           \
  do {                                                                                                       \
    int mpi_code_ = (call);                                                                                  \
    if (mpi_code_ != MPI_SUCCESS)                                                                            \
      return mpi_failed((group), (what), mpi_code_);                                                         \
  } while (0)

// ---- launchers

// Set for every rank by: Open MPI's mpirun; PMIx (Open MPI 5, srun --mpi=pmix); PMI 1 and 2 (MPICH, Intel
// MPI, srun --mpi=pmi2); MVAPICH2; Cray PALS. The second column is the number of ranks, where there is one.
static const struct {
  const char *sign, *ranks;
} launchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"}, {"PMIX_RANK", NULL},   {"PMI_RANK", "PMI_SIZE"},
    {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"},   {"PALS_RANKID", NULL},
};

bool dist_mpi_launched(int32_t *ranks) {
  *ranks = 0;
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    if (getenv(launchers[i].sign) == NULL)
      continue;
    const char *count = launchers[i].ranks != NULL ? getenv(launchers[i].ranks) : NULL;
    *ranks = count != NULL ? (int32_t)strtol(count, NULL, 10) : 0;
    return true;
  }
  return false;
}

// ---- requests

// Of one request, kept while it is spare.
typedef struct {
  MPI_Request *handles;
  int64_t room; // handles
  // Of a reduce-scatter: this rank's piece, and where those of the others arrive, one after the other.
  float *mine; // NULL: nothing to add up
  int64_t count;
  float *others;
  size_t others_bytes;
} mpi_messages;

// Room for `parts` messages.
static nn_status reserve_parts(dist_request *request, int64_t parts) {
  mpi_messages *m = request->own;
  if (m == NULL)
    request->own = m = calloc(1, sizeof *m);
  if (m != NULL && m->room >= parts)
    return NN_OK;
  MPI_Request *grown = m != NULL ? realloc(m->handles, (size_t)parts * sizeof *grown) : NULL;
  if (grown == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld parts of a message", (long long)parts);
  m->handles = grown;
  m->room = parts;
  return NN_OK;
}

// Where the handle of the next message goes; request->parts counts those that were posted.
static MPI_Request *next_handle(const dist_request *request) {
  return ((const mpi_messages *)request->own)->handles + request->parts;
}

static void mpi_request_close(dist_request *request) {
  mpi_messages *m = request->own;
  if (m == NULL)
    return;
  free(m->others);
  free(m->handles);
  free(m);
}

// Adds what has arrived from the others to this rank's piece, in the order of the ranks: the same numbers
// give the same bits, whatever arrives first.
static void add_pieces(const dist_group *group, const mpi_messages *m) {
  enum { BLOCK = 1024 };
  for (int64_t at = 0; at < m->count; at += BLOCK) {
    float sum[BLOCK] = {0};
    int64_t count = m->count - at < BLOCK ? m->count - at : BLOCK;
    const float *others = m->others + at;
    for (int32_t rank = 0; rank < group->size; rank++) {
      const float *from = rank == group->rank ? m->mine + at : others;
      for (int64_t i = 0; i < count; i++)
        sum[i] += from[i];
      others += rank == group->rank ? 0 : m->count;
    }
    memcpy(m->mine + at, sum, (size_t)count * sizeof *sum);
  }
}

static nn_status mpi_test(dist_request *request, bool *done) {
  mpi_messages *m = request->own;
  int all_done = 1;
  *done = request->parts == 0;
  if (*done)
    return NN_OK;
  MPI_TRY(request->group, request->what,
          MPI_Testall(request->parts, m->handles, &all_done, MPI_STATUSES_IGNORE));
  *done = all_done != 0;
  if (*done && m->mine != NULL) {
    add_pieces(request->group, m);
    m->mine = NULL;
  }
  return NN_OK;
}

// A message of `count` elements in parts of at most dist_mpi_part_bytes.
typedef struct {
  int64_t size;  // bytes of an element
  int64_t count; // elements of all parts
  int64_t most;  // elements of a part
  int64_t parts;
} split;

static split split_message(int64_t count, size_t size) {
  int64_t most = dist_mpi_part_bytes / (int64_t)size;
  if (most < 1)
    most = 1;
  return (split){.size = (int64_t)size, .count = count, .most = most, .parts = (count + most - 1) / most};
}

static int part_count(const split *s, int64_t part) {
  int64_t left = s->count - part * s->most;
  return (int)(left < s->most ? left : s->most);
}

static char *part_at(const split *s, const void *data, int64_t part) {
  return (char *)data + part * s->most * s->size;
}

// ---- operations

static nn_status mpi_allreduce(dist_request *request, void *data, int64_t count, dist_type type, dist_op op) {
  static const MPI_Datatype types[] = {
      [DIST_U8] = MPI_UINT8_T, [DIST_I32] = MPI_INT32_T, [DIST_I64] = MPI_INT64_T,
      [DIST_F32] = MPI_FLOAT,  [DIST_F64] = MPI_DOUBLE,
  };
  static const MPI_Op ops[] = {[DIST_SUM] = MPI_SUM, [DIST_MIN] = MPI_MIN, [DIST_MAX] = MPI_MAX};
  split s = split_message(count, dist_type_size(type));
  NN_TRY(reserve_parts(request, s.parts));
  for (int64_t part = 0; part < s.parts; part++, request->parts++)
    MPI_TRY(request->group, request->what,
            MPI_Iallreduce(MPI_IN_PLACE, part_at(&s, data, part), part_count(&s, part), types[type], ops[op],
                           comm_of(request), next_handle(request)));
  return NN_OK;
}

// Posts the parts of one broadcast behind what the request has already.
static nn_status post_broadcast(dist_request *request, const split *s, void *data, int32_t root) {
  for (int64_t part = 0; part < s->parts; part++, request->parts++)
    MPI_TRY(request->group, request->what,
            MPI_Ibcast(part_at(s, data, part), part_count(s, part), MPI_BYTE, root, comm_of(request),
                       next_handle(request)));
  return NN_OK;
}

static nn_status mpi_broadcast(dist_request *request, void *data, int64_t bytes, int32_t root) {
  split s = split_message(bytes, 1);
  NN_TRY(reserve_parts(request, s.parts));
  return post_broadcast(request, &s, data, root);
}

// Long pieces are broadcast by each rank in turn: an all-gather in parts would need the pieces interleaved.
static nn_status gather_by_broadcast(dist_request *request, const void *mine, int64_t bytes, char *all) {
  const dist_group *group = request->group;
  split s = split_message(bytes, 1);
  NN_TRY(reserve_parts(request, s.parts * group->size));
  memmove(all + bytes * group->rank, mine, (size_t)bytes);
  for (int32_t root = 0; root < group->size; root++)
    NN_TRY(post_broadcast(request, &s, all + bytes * root, root));
  return NN_OK;
}

static nn_status mpi_allgather(dist_request *request, const void *mine, int64_t bytes, void *all) {
  if (bytes > dist_mpi_part_bytes / request->group->size)
    return gather_by_broadcast(request, mine, bytes, all);
  NN_TRY(reserve_parts(request, 1));
  MPI_TRY(request->group, request->what,
          MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, comm_of(request),
                         next_handle(request)));
  request->parts = 1;
  return NN_OK;
}

// ---- pieces: every rank sends straight to every other one. No byte travels twice, and the sums of a
// reduce-scatter are made in an order that this file chooses.

enum {
  PIECES_TAG = DIST_TAGS
}; // the largest that every MPI has; messages of one tag do not overtake each other

static nn_status post_send(dist_request *request, const split *s, const void *data, int32_t to, int32_t tag) {
  for (int64_t part = 0; part < s->parts; part++, request->parts++)
    MPI_TRY(request->group, request->what,
            MPI_Isend(part_at(s, data, part), part_count(s, part), MPI_BYTE, to, tag, comm_of(request),
                      next_handle(request)));
  return NN_OK;
}

static nn_status post_receive(dist_request *request, const split *s, void *data, int32_t from, int32_t tag) {
  for (int64_t part = 0; part < s->parts; part++, request->parts++)
    MPI_TRY(request->group, request->what,
            MPI_Irecv(part_at(s, data, part), part_count(s, part), MPI_BYTE, from, tag, comm_of(request),
                      next_handle(request)));
  return NN_OK;
}

static nn_status reserve_pieces(dist_request *request, size_t bytes, const int64_t *starts) {
  int64_t most = 0;
  for (int32_t rank = 0; rank < request->group->size; rank++) {
    split s = split_message((starts[rank + 1] - starts[rank]) * (int64_t)bytes, 1);
    most = s.parts > most ? s.parts : most;
  }
  return reserve_parts(request, 2 * most * request->group->size + 1);
}

static nn_status reserve_others(mpi_messages *m, const dist_group *group, int64_t count) {
  size_t bytes = (size_t)count * (size_t)(group->size - 1) * sizeof(float);
  if (bytes <= m->others_bytes)
    return NN_OK;
  free(m->others);
  m->others_bytes = 0;
  m->others = malloc(bytes);
  if (m->others == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory: %zu bytes of gradients from other ranks", bytes);
  m->others_bytes = bytes;
  return NN_OK;
}

static nn_status mpi_reduce_scatter(dist_request *request, float *data, const int64_t *starts) {
  const dist_group *group = request->group;
  NN_TRY(reserve_pieces(request, sizeof *data, starts));
  mpi_messages *m = request->own;
  int64_t count = starts[group->rank + 1] - starts[group->rank];
  NN_TRY(reserve_others(m, group, count));
  split own = split_message(count * (int64_t)sizeof *data, 1);
  float *to = m->others;
  for (int32_t rank = 0; rank < group->size; rank++)
    if (rank != group->rank) {
      NN_TRY(post_receive(request, &own, to, rank, PIECES_TAG));
      to += count;
    }
  for (int32_t step = 1; step < group->size; step++) { // not all to the same rank at once
    int32_t rank = (group->rank + step) % group->size;
    split s = split_message((starts[rank + 1] - starts[rank]) * (int64_t)sizeof *data, 1);
    NN_TRY(post_send(request, &s, data + starts[rank], rank, PIECES_TAG));
  }
  m->mine = count > 0 ? data + starts[group->rank] : NULL;
  m->count = count;
  return NN_OK;
}

static nn_status mpi_allgather_pieces(dist_request *request, char *data, size_t bytes,
                                      const int64_t *starts) {
  const dist_group *group = request->group;
  NN_TRY(reserve_pieces(request, bytes, starts));
  split own = split_message((starts[group->rank + 1] - starts[group->rank]) * (int64_t)bytes, 1);
  for (int32_t step = 1; step < group->size; step++) {
    int32_t rank = (group->rank + step) % group->size;
    split s = split_message((starts[rank + 1] - starts[rank]) * (int64_t)bytes, 1);
    NN_TRY(post_receive(request, &s, data + starts[rank] * (int64_t)bytes, rank, PIECES_TAG));
    NN_TRY(post_send(request, &own, data + starts[group->rank] * (int64_t)bytes, rank, PIECES_TAG));
  }
  return NN_OK;
}

// ---- the rest

static nn_status mpi_barrier(dist_request *request) {
  NN_TRY(reserve_parts(request, 1));
  MPI_TRY(request->group, request->what, MPI_Ibarrier(comm_of(request), next_handle(request)));
  request->parts = 1;
  return NN_OK;
}

static nn_status mpi_send(dist_request *request, const void *data, int64_t bytes, int32_t to, int32_t tag) {
  split s = split_message(bytes, 1);
  NN_TRY(reserve_parts(request, s.parts));
  return post_send(request, &s, data, to, tag);
}

static nn_status mpi_receive(dist_request *request, void *data, int64_t bytes, int32_t from, int32_t tag) {
  split s = split_message(bytes, 1);
  NN_TRY(reserve_parts(request, s.parts));
  return post_receive(request, &s, data, from, tag);
}

// ---- groups

static void mpi_abort(dist_group *group, int exit_code) {
  MPI_Abort(((mpi_own *)group->own)->comm, exit_code);
}

// Freeing and finalizing are collective and would wait for ever in a group whose ranks are out of step. A
// process that leaves without finalizing makes mpirun end the others, which is then what is wanted.
static void mpi_free(dist_group *group) {
  mpi_own *own = group->own;
  if (own == NULL)
    return;
  if (own->world) {
    bool orderly = !group->broken && dist_barrier(group) == NN_OK;
    dist_watch_close(group->watch, orderly);
    if (orderly)
      MPI_Finalize();
  }
  if (!own->world && own->comm != MPI_COMM_NULL && !group->broken)
    MPI_Comm_free(&own->comm);
  free(own);
}

static const dist_group_table mpi_table = {
    .name = "mpi",
    .allreduce = mpi_allreduce,
    .reduce_scatter = mpi_reduce_scatter,
    .allgather_pieces = mpi_allgather_pieces,
    .broadcast = mpi_broadcast,
    .allgather = mpi_allgather,
    .barrier = mpi_barrier,
    .send = mpi_send,
    .receive = mpi_receive,
    .test = mpi_test,
    .request_close = mpi_request_close,
    .abort = mpi_abort,
    .free = mpi_free,
};

static nn_status new_group(dist_group **out) {
  NN_TRY(dist_group_new(&mpi_table, out));
  mpi_own *own = calloc(1, sizeof *own);
  if (own == NULL) {
    dist_group_free(*out);
    *out = NULL;
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a group of ranks");
  }
  own->comm = MPI_COMM_NULL;
  (*out)->own = own;
  return NN_OK;
}

// Rank and size here and among the ranks of this machine.
static nn_status find_place(dist_group *group, MPI_Comm comm) {
  int rank = 0, size = 1;
  MPI_Comm_rank(comm, &rank);
  MPI_Comm_size(comm, &size);
  group->rank = rank;
  group->size = size;
  MPI_Comm machine;
  MPI_TRY(group, "splitting the ranks by machine",
          MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &machine));
  MPI_Comm_rank(machine, &rank);
  MPI_Comm_size(machine, &size);
  group->local_rank = rank;
  group->local_size = size;
  MPI_Comm_free(&machine);
  return NN_OK;
}

// A launcher of another MPI than the one this program is linked with starts N worlds of one rank each.
static nn_status check_launcher(const dist_group *group, int32_t launched) {
  if (launched != 0 && launched != group->size)
    return NN_FAIL(
        NN_ERR_COMM,
        "the launcher started %d ranks, but the MPI library of this program sees %d: use the mpirun "
        "that belongs to the MPI which natsformer was built with",
        launched, group->size);
  return NN_OK;
}

nn_status dist_mpi_open(int *argc, char ***argv, dist_group **out) {
  NN_TRY(new_group(out));
  dist_group *group = *out;
  mpi_own *own = group->own;
  nn_status status = NN_OK;

  int32_t launched = 0;
  dist_mpi_launched(&launched); // before MPI_Init, which writes such variables itself
  int provided = MPI_THREAD_SINGLE;
  int code = MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided);
  if (code != MPI_SUCCESS || provided < MPI_THREAD_FUNNELED) {
    status = NN_FAIL(NN_ERR_COMM, "MPI_Init_thread failed (code %d, thread level %d of %d)", code, provided,
                     MPI_THREAD_FUNNELED);
    goto fail;
  }
  own->comm = MPI_COMM_WORLD;
  own->world = true;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  NN_GOTO(status, fail, find_place(group, MPI_COMM_WORLD));
  NN_GOTO(status, fail, check_launcher(group, launched));
  if (group->size > 1)
    NN_GOTO(status, fail, dist_watch_open(group->rank, group->size, &group->watch));
  dist_watch_deadline(group->watch, group->deadline);
  return NN_OK;

fail:
  group->broken = true;
  dist_group_free(group);
  *out = NULL;
  return status;
}

// Duplicating blocks without a deadline; the barrier before it does not, and proves that all ranks come
// along.
nn_status dist_mpi_duplicate(dist_group *world, dist_group **out) {
  dist_group *group = NULL;
  NN_TRY(dist_barrier(world));
  NN_TRY(new_group(&group));
  mpi_own *own = group->own;
  group->rank = world->rank;
  group->size = world->size;
  group->local_rank = world->local_rank;
  group->local_size = world->local_size;
  group->deadline = world->deadline;
  group->watch = world->watch;
  *out = group;
  if (MPI_Comm_dup(((mpi_own *)world->own)->comm, &own->comm) == MPI_SUCCESS)
    return NN_OK;
  dist_group_free(group);
  *out = NULL;
  return NN_FAIL(NN_ERR_COMM, "rank %d of %d: duplicating the MPI communicator failed", world->rank,
                 world->size);
}

// MPI answers this before it is started, too.
void dist_libraries(char *text, size_t size) {
  char version[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(version, &length);
  version[strcspn(version, ",\n")] = '\0'; // "Open MPI v4.1.4, package: ..."
  snprintf(text, size, "%s", version);
#ifdef DIST_WITH_NCCL
  size_t used = strlen(text);
  if (used + 2 < size) {
    memcpy(text + used, ", ", 3);
    dist_nccl_version(text + used + 2, size - used - 2);
  }
#endif
}
