// Private to the implementations of dist_group: the table that each of them fills, one file per
// implementation.
//
// Every collective is started by the table and then polled by dist/group.c, which alone knows about
// deadlines. Arguments have been checked when a slot is called, and no slot sees an empty message.
#pragma once

#include "dist/group.h"

typedef struct {
  const char *name; // "self", "mpi", "nccl"
  // Each starts an operation and fills the request; `test` reports its end.
  nn_status (*allreduce)(dist_request *, void *data, int64_t count, dist_type, dist_op);
  nn_status (*broadcast)(dist_request *, void *data, int64_t bytes, int32_t root);
  nn_status (*allgather)(dist_request *, const void *mine, int64_t bytes, void *all);
  nn_status (*barrier)(dist_request *);
  nn_status (*send)(dist_request *, const void *data, int64_t bytes, int32_t to, int32_t tag);
  nn_status (*receive)(dist_request *, void *data, int64_t bytes, int32_t from, int32_t tag);
  nn_status (*test)(dist_request *, bool *done);
  void (*request_close)(dist_request *);      // frees request->own; empty: nothing to free
  void (*abort)(dist_group *, int exit_code); // does not return
  void (*free)(dist_group *);                 // frees group->own; empty: nothing to free
} dist_group_table;

struct dist_group {
  const dist_group_table *table;
  int32_t rank, size, local_rank, local_size;
  double deadline;     // seconds, 0: none
  bool broken;         // an operation failed or never ended: ranks are out of step, so nothing may follow
  dist_request *spare; // requests to use again: a training step allocates none
  void *own;
};

struct dist_request {
  dist_group *group;
  dist_request *next; // in group->spare
  char what[64];      // for messages: "all-reduce of 1048576 float32"
  void *own;          // the implementation's; kept while the request is spare
  size_t own_bytes;   // memory that it has reserved there
  int32_t parts;      // messages under way, 0: none
};

// Groups to fill: allocated with the deadline's default, freed with dist_group_free.
nn_status dist_group_new(const dist_group_table *table, dist_group **out);

nn_status dist_self_open(dist_group **out);
nn_status dist_mpi_open(int *argc, char ***argv, dist_group **out);
nn_status dist_mpi_duplicate(dist_group *world, dist_group **out);

// An MPI launcher started this process; *ranks is how many it says it started, 0 where it does not say.
bool dist_mpi_launched(int32_t *ranks);

// Messages above this many bytes travel in several parts, since MPI counts with int. Tests lower it.
extern int64_t dist_mpi_part_bytes;

size_t dist_type_size(dist_type type);
double dist_seconds(void); // a monotonic clock
