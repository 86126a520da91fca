#include "data/lock.h"

#include <errno.h>
#include <fcntl.h> // open, fcntl
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "data/checkpoint.h"
#include "data/manifest.h"

enum { HOST = 64 };

// The file holds "PID HOST" of whoever took the lock last; the kernel's own answer has no host.
static void read_host(int fd, char host[HOST]) {
  char text[HOST + 32] = "";
  ssize_t got = pread(fd, text, sizeof text - 1, 0);
  if (got <= 0 || sscanf(text, "%*d %63s", host) != 1)
    snprintf(host, HOST, "%s", "an unknown host");
}

static nn_status taken(int fd, const char *folder, const char *path, const char *use) {
  struct flock holder = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  char host[HOST];
  read_host(fd, host);
  if (fcntl(fd, F_GETLK, &holder) != 0 || holder.l_type == F_UNLCK)
    return NN_FAIL(NN_ERR_USAGE, "%s: another process was using this folder a moment ago (lock file %s)",
                   folder, path);
  return NN_FAIL(NN_ERR_USAGE, "%s: process %ld on %s is %s", folder, (long)holder.l_pid, host, use);
}

static void sign(int fd) {
  char host[HOST] = "", text[HOST + 32];
  gethostname(host, sizeof host - 1);
  int length = snprintf(text, sizeof text, "%ld %s\n", (long)getpid(), host);
  // Only for the message above: the lock holds without it, so a full disk is no reason to fail.
  if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)length, 0) != length)
    return;
}

// Whether `path` still names the open file: its last holder may have removed it before we had the lock.
static bool is_there(int fd, const char *path) {
  struct stat ours, named;
  return fstat(fd, &ours) == 0 && stat(path, &named) == 0 && ours.st_dev == named.st_dev &&
         ours.st_ino == named.st_ino;
}

// `*fd` stays -1 where the lock is of a file that has gone.
static nn_status try_take(const char *folder, const char *path, const char *use, int *fd) {
  int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (file < 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
  struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
  nn_status status = NN_OK;
  if (fcntl(file, F_SETLK, &lock) != 0)
    status = errno == EACCES || errno == EAGAIN
                 ? taken(file, folder, path, use)
                 : NN_FAIL(NN_ERR_IO, "%s: cannot lock: %s", path, strerror(errno));
  if (status != NN_OK || !is_there(file, path)) {
    close(file);
    return status;
  }
  sign(file);
  *fd = file;
  return NN_OK;
}

nn_status data_lock_take(const char *folder, const char *name, const char *use, int *fd) {
  enum { TRIES = 100 }; // each fails only when a holder ends at that moment
  char path[PATH_MAX];
  *fd = -1;
  NN_TRY(data_path_join(path, sizeof path, folder, name));
  for (int i = 0; i < TRIES && *fd < 0; i++)
    NN_TRY(try_take(folder, path, use, fd));
  return *fd >= 0 ? NN_OK : NN_FAIL(NN_ERR_IO, "%s: cannot lock: it is replaced again and again", path);
}

void data_lock_free(int fd) {
  if (fd >= 0)
    close(fd);
}

void data_lock_remove(const char *folder, const char *name, int fd) {
  char path[PATH_MAX];
  // While it is still held, so that it is our own file; one that cannot be removed locks nobody out.
  if (fd >= 0 && data_path_join(path, sizeof path, folder, name) == NN_OK)
    unlink(path);
  data_lock_free(fd);
}

// ---- run folders

nn_status data_run_lock(dist_group *world, const char *run_folder, int *fd) {
  static const char use[] = "using this run folder; stop it or choose another `run`";
  *fd = -1;
  return dist_agree(world, dist_rank(world) == 0 ? data_lock_take(run_folder, "lock", use, fd) : NN_OK);
}

void data_run_unlock(int fd) {
  data_lock_free(fd);
}
