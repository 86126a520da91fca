// Private to the implementations of dist_group: the table that each of them fills, one file per
// implementation.
//
// Every collective is started by the table and then polled by dist/group.c, which alone knows about
// deadlines (NCCL also has to wait for its own setting up, and does so within the same one). Arguments have
// been checked when a slot is called, and no slot sees an empty message. A collective whose slot is empty is
// refused.
#pragma once

#include "dist/group.h"
#include "dist/watch.h"

typedef struct {
  const char *name; // "self", "mpi", "nccl"
  // Each starts an operation and fills the request; `test` reports its end.
  nn_status (*allreduce)(dist_request *, void *data, int64_t count, dist_type, dist_op);
  nn_status (*reduce_scatter)(dist_request *, float *data, const int64_t *starts);
  nn_status (*allgather_pieces)(dist_request *, char *data, size_t bytes, const int64_t *starts);
  nn_status (*broadcast)(dist_request *, void *data, int64_t bytes, int32_t root);
  nn_status (*allgather)(dist_request *, const void *mine, int64_t bytes, void *all);
  nn_status (*barrier)(dist_request *);
  nn_status (*send)(dist_request *, const void *data, int64_t bytes, int32_t to, int32_t tag);
  nn_status (*receive)(dist_request *, void *data, int64_t bytes, int32_t from, int32_t tag);
  nn_status (*test)(dist_request *, bool *done);
  void (*request_close)(dist_request *);      // frees request->own; empty: nothing to free
  void (*abort)(dist_group *, int exit_code); // does not return
  void (*free)(dist_group *);                 // frees group->own; empty: nothing to free
  // After an operation that failed or never ended: stops what is under way, so that the process can go on to
  // its end. Empty: nothing keeps it. Called once.
  void (*give_up)(dist_group *);
  // Where the device runs ahead of the host, waiting on the host says nothing about what communication cost:
  // `mark` notes what the device has been given to compute so far, `exposed` tells how much later than that
  // the last all-reduce ended. Both empty: the host's clock is right.
  nn_status (*mark)(dist_group *);
  nn_status (*exposed)(dist_group *, double *seconds);
} dist_group_table;

struct dist_group {
  const dist_group_table *table;
  int32_t rank, size, local_rank, local_size;
  double deadline;     // seconds, 0: none
  bool broken;         // an operation failed or never ended: ranks are out of step, so nothing may follow
  dist_request *spare; // requests to use again: a training step allocates none
  dist_watch *watch;   // the world's, NULL: nobody to watch
  double waited;       // seconds spent in dist_wait so far
  void *own;
};

struct dist_request {
  dist_group *group;
  dist_request *next; // in group->spare
  char what[64];      // for messages: "all-reduce of 1048576 float32"
  int64_t number;     // of the collective, as dist/watch.h counts
  void *own;          // the implementation's; kept while the request is spare
  int32_t parts;      // messages under way, 0: none
};

// Groups to fill: allocated with the deadline's default, freed with dist_group_free.
nn_status dist_group_new(const dist_group_table *table, dist_group **out);

nn_status dist_self_open(dist_group **out);
nn_status dist_mpi_open(int *argc, char ***argv, dist_group **out);
nn_status dist_mpi_duplicate(dist_group *world, dist_group **out);
nn_status dist_nccl_open(dist_group *world, nn_device *device, nn_dtype wire, dist_group **out); // with NCCL

// An MPI launcher started this process; *ranks is how many it says it started, 0 where it does not say.
bool dist_mpi_launched(int32_t *ranks);

// "NCCL 2.28.3"; in a build with NCCL.
void dist_nccl_version(char *text, size_t size);

// Messages above this many bytes travel in several parts, since MPI counts with int. Tests lower it.
extern int64_t dist_mpi_part_bytes;

size_t dist_type_size(dist_type type);
double dist_seconds(void); // a monotonic clock
