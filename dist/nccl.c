// The group that sums gradients over GPUs, by NCCL, on a stream of its own beside the device's: what an
// all-reduce adds has been computed when an event on the device's stream says so, and the sums are there when
// an event behind the all-reduce is done, which the host looks for before it gives the device more work.
//
// The communicator is non-blocking: setting it up, the first all-reduce (which connects the GPUs) and the end
// go on in the background while this file watches the group's deadline. A communicator that failed, or whose
// deadline passed, is aborted: its kernels would otherwise spin on the GPU and keep the process from ending.
#include <nccl.h>
#include <stdio.h>  // snprintf
#include <stdlib.h> // calloc
#include <time.h>   // nanosleep

#include "dist/cuda/cast.h"
#include "dist/group_table.h"
#include "nn/cuda/stream.h"

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 14, 0)
#error "NCCL 2.14 or later is needed: the first with non-blocking communicators"
#endif

typedef struct {
  dist_group *world; // ends the ranks
  nn_device *device;
  ncclComm_t comm; // NULL: not yet, or aborted
  cudaStream_t stream;
  cudaEvent_t computed, reduced; // with times: the mark, and the end of the last all-reduce
  nn_dtype wire;
  void *packed; // bf16 copy of the all-reduce that runs; on one stream they run one after the other
  size_t packed_bytes;
} nccl_own;

// Of one request, kept while it is spare.
typedef struct {
  cudaEvent_t given, done;
} nccl_events;

// ---- waiting and failing

static nn_status nccl_failed(const dist_group *group, const char *what, ncclResult_t result) {
  const nccl_own *own = group->own;
  return NN_FAIL(NN_ERR_COMM, "rank %d of %d: %s failed: %s: %s (NCCL_DEBUG=INFO tells more)", group->rank,
                 group->size, what, ncclGetErrorString(result), ncclGetLastError(own->comm));
}

static nn_status nccl_late(const dist_group *group, const char *what) {
  return NN_FAIL(NN_ERR_COMM,
                 "rank %d of %d: %s did not complete within %g s: another rank hangs, is far behind or has "
                 "ended",
                 group->rank, group->size, what, group->deadline);
}

// What a call on a non-blocking communicator came to.
static nn_status settle(const dist_group *group, const char *what, ncclResult_t result) {
  const nccl_own *own = group->own;
  const double started = dist_seconds();
  while (result == ncclInProgress) {
    if (group->deadline > 0 && dist_seconds() - started > group->deadline)
      return nccl_late(group, what);
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
    ncclResult_t asked = ncclCommGetAsyncError(own->comm, &result);
    if (asked != ncclSuccess)
      result = asked;
  }
  return result == ncclSuccess ? NN_OK : nccl_failed(group, what, result);
}

static void nccl_give_up(dist_group *group) {
  nccl_own *own = group->own;
  if (own->comm != NULL)
    ncclCommAbort(own->comm);
  own->comm = NULL;
}

static void nccl_abort(dist_group *group, int exit_code) {
  const nccl_own *own = group->own;
  own->world->table->abort(own->world, exit_code);
}

// ---- requests

static nn_status reserve_events(dist_request *request) {
  if (request->own != NULL)
    return NN_OK;
  nccl_events *events = calloc(1, sizeof *events);
  if (events == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a request (%s)", request->what);
  request->own = events;
  NN_CUDA_TRY(cudaEventCreateWithFlags(&events->given, cudaEventDisableTiming));
  NN_CUDA_TRY(cudaEventCreateWithFlags(&events->done, cudaEventDisableTiming));
  return NN_OK;
}

static void nccl_request_close(dist_request *request) {
  nccl_events *events = request->own;
  if (events == NULL)
    return;
  if (events->given != NULL)
    cudaEventDestroy(events->given);
  if (events->done != NULL)
    cudaEventDestroy(events->done);
  free(events);
}

static nn_status nccl_test(dist_request *request, bool *done) {
  const nccl_own *own = request->group->own;
  const nccl_events *events = request->own;
  *done = request->parts == 0;
  if (*done)
    return NN_OK;
  if (own->comm == NULL)
    return NN_FAIL(NN_ERR_COMM, "rank %d of %d: %s was given up: an earlier operation failed",
                   request->group->rank, request->group->size, request->what);
  ncclResult_t state = ncclSuccess, asked = ncclCommGetAsyncError(own->comm, &state);
  if (asked != ncclSuccess)
    state = asked;
  if (state != ncclSuccess && state != ncclInProgress)
    return nccl_failed(request->group, request->what, state);
  cudaError_t event = cudaEventQuery(events->done);
  if (event == cudaErrorNotReady) {
    (void)cudaGetLastError(); // which that was no
    return NN_OK;
  }
  *done = event == cudaSuccess;
  return nn_cuda_status(event, request->what, __FILE__, __LINE__);
}

// ---- all-reduce

static nn_status reduce(const dist_request *request, void *data, int64_t count, ncclDataType_t type,
                        ncclRedOp_t op) {
  const dist_group *group = request->group;
  const nccl_own *own = group->own;
  return settle(group, request->what,
                ncclAllReduce(data, data, (size_t)count, type, op, own->comm, own->stream));
}

// The first bucket is as large as any, so this allocates once.
static nn_status reserve_packed(nccl_own *own, int64_t count) {
  const size_t bytes = (size_t)count * sizeof(uint16_t);
  if (bytes <= own->packed_bytes)
    return NN_OK;
  NN_CUDA_TRY(cudaStreamSynchronize(own->stream)); // an earlier all-reduce may use the old copy
  nn_device_free(own->device, own->packed);
  own->packed = NULL;
  own->packed_bytes = 0;
  NN_TRY(nn_device_alloc(own->device, bytes, "gradients that travel as bf16", &own->packed));
  NN_TRY(nn_device_sync(own->device)); // memory is given in the order of the device's stream, not of ours
  own->packed_bytes = bytes;
  return NN_OK;
}

static nn_status reduce_packed(const dist_request *request, float *data, int64_t count) {
  nccl_own *own = request->group->own;
  NN_TRY(reserve_packed(own, count));
  NN_TRY(dist_cuda_to_bf16(own->stream, data, own->packed, count));
  NN_TRY(reduce(request, own->packed, count, ncclBfloat16, ncclSum));
  return dist_cuda_from_bf16(own->stream, own->packed, data, count);
}

// Everything between these two is on our stream, after what the device has been given so far.
static nn_status begin_on_stream(dist_request *request) {
  const nccl_own *own = request->group->own;
  NN_TRY(reserve_events(request));
  const nccl_events *events = request->own;
  NN_CUDA_TRY(cudaEventRecord(events->given, nn_cuda_stream(own->device)));
  NN_CUDA_TRY(cudaStreamWaitEvent(own->stream, events->given, 0));
  return NN_OK;
}

static nn_status end_on_stream(dist_request *request) {
  const nccl_own *own = request->group->own;
  const nccl_events *events = request->own;
  NN_CUDA_TRY(cudaEventRecord(events->done, own->stream));
  NN_CUDA_TRY(cudaEventRecord(own->reduced, own->stream));
  request->parts = 1;
  return NN_OK;
}

static nn_status nccl_allreduce(dist_request *request, void *data, int64_t count, dist_type type,
                                dist_op op) {
  static const ncclDataType_t types[] = {
      [DIST_U8] = ncclUint8,    [DIST_I32] = ncclInt32,   [DIST_I64] = ncclInt64,
      [DIST_F32] = ncclFloat32, [DIST_F64] = ncclFloat64,
  };
  static const ncclRedOp_t ops[] = {[DIST_SUM] = ncclSum, [DIST_MIN] = ncclMin, [DIST_MAX] = ncclMax};
  const nccl_own *own = request->group->own;
  NN_TRY(begin_on_stream(request));
  if (own->wire == NN_BF16 && type == DIST_F32 && op == DIST_SUM)
    NN_TRY(reduce_packed(request, data, count));
  else
    NN_TRY(reduce(request, data, count, types[type], ops[op]));
  return end_on_stream(request);
}

// ---- pieces. NCCL knows equal ones, as all buckets but one have; uneven ones are an operation for each
// rank, which NCCL runs together as a group.

static bool pieces_are_equal(const dist_group *group, const int64_t *starts) {
  for (int32_t rank = 1; rank < group->size; rank++)
    if (starts[rank + 1] - starts[rank] != starts[1])
      return false;
  return true;
}

static ncclResult_t reduce_each(const dist_group *group, char *data, const int64_t *starts, size_t bytes,
                                ncclDataType_t type) {
  const nccl_own *own = group->own;
  ncclResult_t first = ncclGroupStart();
  for (int32_t rank = 0; rank < group->size && first == ncclSuccess; rank++) {
    char *piece = data + starts[rank] * (int64_t)bytes;
    size_t count = (size_t)(starts[rank + 1] - starts[rank]);
    if (count > 0)
      first = ncclReduce(piece, piece, count, type, ncclSum, rank, own->comm, own->stream);
    first = first == ncclInProgress ? ncclSuccess : first;
  }
  ncclResult_t end = ncclGroupEnd();
  return first != ncclSuccess ? first : end;
}

static nn_status reduce_pieces(const dist_request *request, void *data, const int64_t *starts, size_t bytes,
                               ncclDataType_t type) {
  const dist_group *group = request->group;
  const nccl_own *own = group->own;
  char *mine = (char *)data + starts[group->rank] * (int64_t)bytes;
  ncclResult_t result =
      pieces_are_equal(group, starts)
          ? ncclReduceScatter(data, mine, (size_t)starts[1], type, ncclSum, own->comm, own->stream)
          : reduce_each(group, data, starts, bytes, type);
  return settle(group, request->what, result);
}

static nn_status reduce_pieces_packed(const dist_request *request, float *data, const int64_t *starts) {
  const dist_group *group = request->group;
  nccl_own *own = group->own;
  const size_t bytes = sizeof(uint16_t);
  int64_t begin = starts[group->rank], count = starts[group->rank + 1] - begin;
  NN_TRY(reserve_packed(own, starts[group->size]));
  NN_TRY(dist_cuda_to_bf16(own->stream, data, own->packed, starts[group->size]));
  NN_TRY(reduce_pieces(request, own->packed, starts, bytes, ncclBfloat16));
  if (count == 0)
    return NN_OK;
  return dist_cuda_from_bf16(own->stream, (const char *)own->packed + begin * (int64_t)bytes, data + begin,
                             count);
}

static nn_status nccl_reduce_scatter(dist_request *request, float *data, const int64_t *starts) {
  const nccl_own *own = request->group->own;
  NN_TRY(begin_on_stream(request));
  if (own->wire == NN_BF16)
    NN_TRY(reduce_pieces_packed(request, data, starts));
  else
    NN_TRY(reduce_pieces(request, data, starts, sizeof *data, ncclFloat32));
  return end_on_stream(request);
}

static ncclResult_t broadcast_each(const dist_group *group, char *data, size_t bytes, const int64_t *starts) {
  const nccl_own *own = group->own;
  ncclResult_t first = ncclGroupStart();
  for (int32_t rank = 0; rank < group->size && first == ncclSuccess; rank++) {
    char *piece = data + starts[rank] * (int64_t)bytes;
    size_t count = (size_t)(starts[rank + 1] - starts[rank]) * bytes;
    if (count > 0)
      first = ncclBroadcast(piece, piece, count, ncclUint8, rank, own->comm, own->stream);
    first = first == ncclInProgress ? ncclSuccess : first;
  }
  ncclResult_t end = ncclGroupEnd();
  return first != ncclSuccess ? first : end;
}

static nn_status nccl_allgather_pieces(dist_request *request, char *data, size_t bytes,
                                       const int64_t *starts) {
  const dist_group *group = request->group;
  const nccl_own *own = group->own;
  NN_TRY(begin_on_stream(request));
  const char *mine = data + starts[group->rank] * (int64_t)bytes;
  ncclResult_t result = pieces_are_equal(group, starts) ? ncclAllGather(mine, data, (size_t)starts[1] * bytes,
                                                                        ncclUint8, own->comm, own->stream)
                                                        : broadcast_each(group, data, bytes, starts);
  NN_TRY(settle(group, request->what, result));
  return end_on_stream(request);
}

// ---- how much of it the device waited for

static nn_status nccl_mark(dist_group *group) {
  const nccl_own *own = group->own;
  NN_CUDA_TRY(cudaEventRecord(own->computed, nn_cuda_stream(own->device)));
  return NN_OK;
}

static nn_status nccl_exposed(dist_group *group, double *seconds) {
  const nccl_own *own = group->own;
  float milliseconds = 0;
  NN_CUDA_TRY(cudaEventSynchronize(own->computed));
  NN_CUDA_TRY(cudaEventSynchronize(own->reduced)); // which comes right after the event that requests wait for
  NN_CUDA_TRY(cudaEventElapsedTime(&milliseconds, own->computed, own->reduced));
  *seconds = milliseconds > 0 ? 1e-3 * (double)milliseconds : 0;
  return NN_OK;
}

// ---- the group

// A group whose ranks are in step ends its communicator together; any other has been aborted.
static void close_communicator(dist_group *group) {
  nccl_own *own = group->own;
  if (own->comm == NULL)
    return;
  if (settle(group, "the end of the NCCL communicator", ncclCommFinalize(own->comm)) != NN_OK) {
    nn_error_clear();
    nccl_give_up(group);
    return;
  }
  ncclCommDestroy(own->comm);
  own->comm = NULL;
}

static void nccl_free(dist_group *group) {
  nccl_own *own = group->own;
  if (own == NULL)
    return;
  close_communicator(group);
  nn_device_free(own->device, own->packed);
  if (own->reduced != NULL)
    cudaEventDestroy(own->reduced);
  if (own->computed != NULL)
    cudaEventDestroy(own->computed);
  if (own->stream != NULL)
    cudaStreamDestroy(own->stream);
  free(own);
}

static const dist_group_table nccl_table = {
    .name = "nccl",
    .allreduce = nccl_allreduce,
    .reduce_scatter = nccl_reduce_scatter,
    .allgather_pieces = nccl_allgather_pieces,
    .test = nccl_test,
    .request_close = nccl_request_close,
    .abort = nccl_abort,
    .free = nccl_free,
    .give_up = nccl_give_up,
    .mark = nccl_mark,
    .exposed = nccl_exposed,
};

// What a rank does by itself. The stream goes before others, so that all-reduces get processors while
// backward keeps the GPU full.
static nn_status make_group(dist_group *world, nn_device *device, nn_dtype wire, dist_group **out) {
  int least = 0, greatest = 0;
  NN_TRY(dist_group_new(&nccl_table, out));
  dist_group *group = *out;
  group->rank = world->rank;
  group->size = world->size;
  group->local_rank = world->local_rank;
  group->local_size = world->local_size;
  group->deadline = world->deadline;
  nccl_own *own = calloc(1, sizeof *own);
  if (own == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a group of ranks");
  group->own = own;
  own->world = world;
  own->device = device;
  own->wire = wire;
  NN_CUDA_TRY(cudaSetDevice(nn_cuda_ordinal(device)));
  NN_CUDA_TRY(cudaDeviceGetStreamPriorityRange(&least, &greatest));
  NN_CUDA_TRY(cudaStreamCreateWithPriority(&own->stream, cudaStreamNonBlocking, greatest));
  NN_CUDA_TRY(cudaEventCreate(&own->computed));
  NN_CUDA_TRY(cudaEventCreate(&own->reduced));
  return NN_OK;
}

static nn_status make_id(const dist_group *group, ncclUniqueId *id) {
  if (group->rank != 0)
    return NN_OK;
  ncclResult_t result = ncclGetUniqueId(id);
  return result == ncclSuccess ? NN_OK : nccl_failed(group, "starting NCCL", result);
}

static nn_status connect_ranks(dist_group *group, ncclUniqueId id) {
  nccl_own *own = group->own;
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return settle(group, "connecting the GPUs of all ranks",
                ncclCommInitRankConfig(&own->comm, group->size, id, group->rank, &config));
}

nn_status dist_nccl_open(dist_group *world, nn_device *device, nn_dtype wire, dist_group **out) {
  dist_group *group = NULL;
  ncclUniqueId id = {.internal = ""};
  nn_status status = make_group(world, device, wire, &group);
  if (status == NN_OK)
    status = make_id(group, &id);
  NN_GOTO(status, fail, dist_agree(world, status));
  NN_GOTO(status, fail, dist_broadcast(world, &id, (int64_t)sizeof id, 0));
  NN_GOTO(status, fail, connect_ranks(group, id));
  *out = group;
  return NN_OK;

fail:
  if (group != NULL && group->own != NULL)
    nccl_give_up(group);
  dist_group_free(group);
  return status;
}

void dist_nccl_version(char *text, size_t size) {
  int version = 0; // of the library that is loaded: 22803 is 2.28.3
  (void)ncclGetVersion(&version);
  snprintf(text, size, "NCCL %d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}
