#include "data/checkpoint_writer.h"

#include <errno.h>
#include <fcntl.h> // open
#include <pthread.h>
#include <signal.h> // sigfillset
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h> // nanosleep
#include <unistd.h>

#include "data/files.h"

typedef struct {
  int64_t pwrite_fails, fsync_fails; // which call, from 1; 0: none
  int64_t slow_ms;
  int64_t pwrites, fsyncs; // calls so far
} fault_plan;

struct data_writer {
  pthread_t thread;
  bool started;
  atomic_bool done;
  data_writer_file *files;
  int32_t count;
  fault_plan faults; // the thread's while it runs
  // what came of it: the thread's until it is joined
  nn_status status;
  char text[1024], place[128];
};

// ---- injected faults

static nn_status read_fault(const char *item, fault_plan *plan) {
  const struct {
    const char *name;
    int64_t *value;
  } known[] = {{"checkpoint-pwrite:", &plan->pwrite_fails},
               {"checkpoint-fsync:", &plan->fsync_fails},
               {"checkpoint-slow:", &plan->slow_ms}};
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    size_t length = strlen(known[i].name);
    char *end;
    if (strncmp(item, known[i].name, length) != 0)
      continue;
    *known[i].value = strtoll(item + length, &end, 10);
    if (end != item + length && *end == '\0' && *known[i].value > 0)
      return NN_OK;
  }
  return NN_FAIL(NN_ERR_USAGE, "NATSFORMER_FAULT: '%s' is no fault that this program knows", item);
}

static nn_status read_faults(fault_plan *plan) {
  const char *value = getenv("NATSFORMER_FAULT");
  char list[256], *rest = list;
  snprintf(list, sizeof list, "%s", value != NULL ? value : "");
  for (char *item; (item = strsep(&rest, ",")) != NULL;)
    if (strncmp(item, "checkpoint-", strlen("checkpoint-")) == 0) // others are for others
      NN_TRY(read_fault(item, plan));
  return NN_OK;
}

static void sleep_ms(int64_t ms) {
  nanosleep(&(struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000}, NULL);
}

// pwrite and fsync as the rest of this file sees them.
static ssize_t faulty_pwrite(fault_plan *plan, int fd, const void *bytes, size_t count, int64_t offset) {
  if (plan->slow_ms > 0)
    sleep_ms(plan->slow_ms);
  if (++plan->pwrites == plan->pwrite_fails) {
    errno = ENOSPC;
    return -1;
  }
  return pwrite(fd, bytes, count, offset);
}

static int faulty_fsync(fault_plan *plan, int fd) {
  if (++plan->fsyncs == plan->fsync_fails) {
    errno = EIO;
    return -1;
  }
  return fsync(fd);
}

// ---- the thread

static nn_status write_extent(fault_plan *plan, int fd, const char *path, const data_extent *extent) {
  const size_t piece = (size_t)64 << 20; // keeps one call well below the kernel's limit of 2 GiB
  for (size_t done = 0; done < extent->count;) {
    size_t some = extent->count - done < piece ? extent->count - done : piece;
    ssize_t put =
        faulty_pwrite(plan, fd, (const char *)extent->bytes + done, some, extent->offset + (int64_t)done);
    if (put < 0 && errno == EINTR)
      continue;
    if (put < 0)
      return NN_FAIL(NN_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
    done += (size_t)put;
  }
  return NN_OK;
}

static nn_status write_file(fault_plan *plan, data_writer_file *file) {
  nn_status status = NN_OK;
  int fd = open(file->path, O_WRONLY | O_CLOEXEC | (file->create ? O_CREAT | O_EXCL : 0), 0666);
  if (fd < 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot open to write: %s", file->path, strerror(errno));
  for (int32_t i = 0; i < file->count && status == NN_OK; i++)
    status = write_extent(plan, fd, file->path, &file->extents[i]);
  if (status == NN_OK && faulty_fsync(plan, fd) != 0)
    status = NN_FAIL(NN_ERR_IO, "%s: cannot flush: %s", file->path, strerror(errno));
  if (close(fd) != 0)
    NN_KEEP(status, NN_FAIL(NN_ERR_IO, "%s: cannot close: %s", file->path, strerror(errno)));
  return status == NN_OK ? data_file_hash(file->path, &file->hash, &file->size) : status;
}

static void *run(void *context) {
  data_writer *writer = context;
  for (int32_t i = 0; i < writer->count && writer->status == NN_OK; i++)
    writer->status = write_file(&writer->faults, &writer->files[i]);
  snprintf(writer->text, sizeof writer->text, "%s", nn_error_text());
  snprintf(writer->place, sizeof writer->place, "%s", nn_error_place());
  atomic_store(&writer->done, true);
  return NULL;
}

// ---- its owner

nn_status data_writer_create(data_writer **out) {
  data_writer *writer = calloc(1, sizeof *writer);
  if (writer == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for the writer of checkpoints");
  atomic_init(&writer->done, true);
  nn_status status = read_faults(&writer->faults);
  if (status != NN_OK) {
    free(writer);
    return status;
  }
  *out = writer;
  return NN_OK;
}

void data_writer_free(data_writer *writer) {
  if (writer != NULL && writer->started)
    pthread_join(writer->thread, NULL);
  free(writer);
}

void data_writer_start(data_writer *writer, data_writer_file *files, int32_t count) {
  writer->files = files;
  writer->count = count;
  writer->status = NN_OK;
  atomic_store(&writer->done, false);
  // Signals are for the thread that trains: this one inherits a mask that blocks them all.
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int error = pthread_create(&writer->thread, NULL, run, writer);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  writer->started = error == 0;
  if (error == 0)
    return;
  writer->status = NN_ERR_IO;
  snprintf(writer->text, sizeof writer->text, "cannot start the thread that writes checkpoints: %s",
           strerror(error));
  atomic_store(&writer->done, true);
}

bool data_writer_done(const data_writer *writer) {
  return atomic_load(&writer->done);
}

nn_status data_writer_join(data_writer *writer) {
  if (writer->started)
    pthread_join(writer->thread, NULL);
  writer->started = false;
  if (writer->status != NN_OK)
    nn_error_set(writer->place, writer->text);
  return writer->status;
}
