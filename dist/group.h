// A group of ranks and its collectives. One table (dist/group_table.h), several implementations: self (one
// process, no MPI call at all), MPI (host memory), NCCL (device memory).
//
// The world group moves host memory: counts, statuses, text. The gradient group moves the memory of the
// device: on CPUs a second MPI communicator, on GPUs NCCL. Both are dist_group.
//
// A collective for which a rank waits longer than the group's deadline fails with NN_ERR_COMM; its text names
// the operation, the phase and the ranks that did not come (dist/watch.h); dist_abort then ends all ranks.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/device.h"
#include "nn/status.h"

typedef struct dist_group dist_group;
typedef struct dist_request dist_request;

typedef enum { DIST_U8, DIST_I32, DIST_I64, DIST_F32, DIST_F64 } dist_type;
typedef enum { DIST_SUM, DIST_MIN, DIST_MAX } dist_op;

// Starts MPI when an MPI launcher started this process (mpirun, srun), else makes a group of one without
// touching MPI. Call once, before anything else. Sets the rank of nn/log.h.
nn_status dist_init(int *argc, char ***argv, dist_group **world);
// Ends what dist_init started; collective. Not called after a failure that other ranks may not share: see
// dist_abort.
void dist_finalize(dist_group *world);

// The group that reduces gradients living on `device`, over the ranks of `world`: over GPUs it has the
// non-blocking collectives below and nothing else. Collective; all ranks pass devices of one kind, and no two
// ranks the same GPU.
//
// `wire` is what float32 sums travel as. NN_BF16 (GPUs only) halves the messages: every rank's part is
// rounded to 8 significant bits before it is added, and so is each partial sum on the way; ranks still end
// with the same bits. Errors: NN_ERR_USAGE (bf16 on CPUs), NN_ERR_UNSUPPORTED (a build without NCCL),
// NN_ERR_COMM.
nn_status dist_group_for_device(dist_group *world, nn_device *device, nn_dtype wire, dist_group **out);
// Whether this build can reduce gradients over several ranks on devices of this kind.
bool dist_reduces_on(nn_device_kind kind);
void dist_group_free(dist_group *group); // NULL is allowed; not for the world

// A group of this rank alone, on the same machine as before (dist_local_rank), for work that every rank does
// by itself. Not collective; free with dist_group_free.
nn_status dist_group_alone(const dist_group *world, dist_group **out);

int32_t dist_rank(const dist_group *group);
int32_t dist_size(const dist_group *group);
int32_t dist_local_rank(const dist_group *group); // among the ranks of this machine
int32_t dist_local_size(const dist_group *group);
void dist_set_deadline(dist_group *group, double seconds); // default 600; 0: none

// What this rank does from now on, for messages about ranks that wait in vain, and how long a collective of
// the world may take meanwhile. `step` -1: none.
void dist_enter(dist_group *world, const char *phase, int64_t step, double deadline);
// Seconds that this rank has waited for collectives of this group so far.
double dist_waited_seconds(const dist_group *group);

// In-place collectives. Counts may exceed 2^31 - 1. All ranks pass the same arguments.
nn_status dist_allreduce(dist_group *group, void *data, int64_t count, dist_type type, dist_op op);
nn_status dist_broadcast(dist_group *group, void *data, int64_t bytes, int32_t root);
nn_status dist_allgather(dist_group *group, const void *mine, int64_t bytes, void *all); // all: size * bytes
nn_status dist_barrier(dist_group *group);

// Point-to-point, for handing out work: blocking, bytes, tags below DIST_TAGS.
enum { DIST_TAGS = 32767 };
nn_status dist_send(dist_group *group, const void *data, int64_t bytes, int32_t to, int32_t tag);
nn_status dist_receive(dist_group *group, void *data, int64_t bytes, int32_t from, int32_t tag);

// Non-blocking collectives. Over MPI they advance only while somebody calls dist_test or dist_wait: poll
// them.
nn_status dist_allreduce_start(dist_group *group, void *data, int64_t count, dist_type type, dist_op op,
                               dist_request **request);
// Of one array cut into a piece for each rank: piece r is [starts[r], starts[r + 1]) in elements. Pieces may
// be uneven and empty; all ranks pass the same `starts`, [size + 1], which are read during the call only.
//
// Sums over ranks, rank by rank in their order: each gets those of its own piece, in place, and of the
// others' nothing that it could use.
nn_status dist_reduce_scatter_start(dist_group *group, float *data, const int64_t *starts,
                                    dist_request **request);
// Each rank gets the pieces of all others, in place. An element has `bytes` bytes.
nn_status dist_allgather_start(dist_group *group, void *data, size_t bytes, const int64_t *starts,
                               dist_request **request);
nn_status dist_test(dist_request *request, bool *done); // frees the request when done
nn_status dist_wait(dist_request *request);             // frees the request

// All ranks learn whether any of them failed. Returns NN_OK when all passed NN_OK; otherwise every rank
// returns the status of the lowest rank that failed, with that rank's text recorded (nn_error_text), so that
// one line can be printed by rank 0. Collective: call it wherever some ranks may fail and others not.
nn_status dist_agree(dist_group *group, nn_status mine);

// What moves the data: "Open MPI v4.1.4, NCCL 2.28.3".
void dist_libraries(char *text, size_t size);

// Ends all ranks now, with `exit_code`: for failures that the others cannot learn of in any other way.
_Noreturn void dist_abort(dist_group *group, int exit_code);
