// The lock of a run folder: an fcntl write lock on RUN/lock. The kernel frees it with the process, however
// that ends. Closing any other descriptor of the same file would free it too: nothing else opens it.
#include <errno.h>
#include <fcntl.h> // open, fcntl
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "data/checkpoint.h"

enum { HOST = 64 };

// The file holds "PID HOST" of whoever took the lock last; the kernel's own answer has no host.
static void read_host(int fd, char host[HOST]) {
  char text[HOST + 32] = "";
  ssize_t got = pread(fd, text, sizeof text - 1, 0);
  if (got <= 0 || sscanf(text, "%*d %63s", host) != 1)
    snprintf(host, HOST, "%s", "an unknown host");
}

static nn_status taken(int fd, const char *run_folder) {
  struct flock holder = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  char host[HOST];
  read_host(fd, host);
  if (fcntl(fd, F_GETLK, &holder) != 0 || holder.l_type == F_UNLCK)
    return NN_FAIL(NN_ERR_USAGE, "%s: another run was using this folder a moment ago (lock file %s/lock)",
                   run_folder, run_folder);
  return NN_FAIL(NN_ERR_USAGE,
                 "%s: process %ld on %s is using this run folder; stop it or choose another `run`",
                 run_folder, (long)holder.l_pid, host);
}

static void sign(int fd) {
  char host[HOST] = "", text[HOST + 32];
  gethostname(host, sizeof host - 1);
  int length = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host);
  // Only for the message above: the lock holds without it, so a full disk is no reason to fail.
  if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length)
    return;
}

static nn_status take(const char *run_folder, int *fd) {
  char path[PATH_MAX];
  if (snprintf(path, sizeof path, "%s/lock", run_folder) >= (int)sizeof path)
    return NN_FAIL(NN_ERR_USAGE, "%s: the name of the run folder is too long", run_folder);
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  nn_status status = NN_OK;
  if (fcntl(file, F_SETLK, &lock) != 0)
    status = errno == EACCES || errno == EAGAIN
                 ? taken(file, run_folder)
                 : NN_FAIL(NN_ERR_IO, "%s: cannot lock: %s", path, strerror(errno));
  if (status != NN_OK) {
    close(file);
    return status;
  }
  sign(file);
  *fd = file;
  return NN_OK;
}

nn_status data_run_lock(dist_group *world, const char *run_folder, int *fd) {
  *fd = -1;
  nn_status status = dist_rank(world) == 0 ? take(run_folder, fd) : NN_OK;
  return dist_agree(world, status);
}

void data_run_unlock(int fd) {
  if (fd >= 0)
    close(fd);
}
