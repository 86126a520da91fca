// Private to the implementations of dist_group.
#pragma once

#include "dist/group.h"

typedef struct {
  const char *name; // "self", "mpi", "nccl"
  nn_status (*allreduce_start)(dist_group *, void *, int64_t count, dist_type, dist_op, dist_request **);
  nn_status (*test)(dist_request *, bool *done);
  nn_status (*broadcast)(dist_group *, void *, int64_t bytes, int32_t root);
  nn_status (*allgather)(dist_group *, const void *, int64_t bytes, void *);
  nn_status (*barrier)(dist_group *);
  nn_status (*send)(dist_group *, const void *, int64_t bytes, int32_t to, int32_t tag);
  nn_status (*receive)(dist_group *, void *, int64_t bytes, int32_t from, int32_t tag);
  void (*abort)(dist_group *, int exit_code); // does not return
  void (*free)(dist_group *);
} dist_group_table;

struct dist_group {
  const dist_group_table *table;
  int32_t rank, size, local_rank, local_size;
  double deadline; // seconds, 0: none
  void *own;
};

struct dist_request {
  dist_group *group;
  const char *what; // for messages: "all-reduce of 1048576 float32"
  double started;
  void *own;
};

nn_status dist_self_open(dist_group **out);
nn_status dist_mpi_open(int *argc, char ***argv, dist_group **out);
nn_status dist_mpi_duplicate(dist_group *world, dist_group **out);
