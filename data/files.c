#include "data/files.h"

#include <errno.h>
#include <fcntl.h> // open
#include <ftw.h>   // nftw
#include <inttypes.h>
#include <limits.h> // PATH_MAX
#include <stdio.h>  // snprintf, remove, rename
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h> // read, write, fsync
#include <xxhash.h>

// Fails with what the operating system said about `path`.
static nn_status refused(const char *verb, const char *path) {
  return NN_FAIL(NN_ERR_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
}

static nn_status read_all(int fd, const char *path, char *bytes, size_t count) {
  for (size_t done = 0; done < count;) {
    ssize_t got = read(fd, bytes + done, count - done);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      return refused("read", path);
    if (got == 0)
      return NN_FAIL(NN_ERR_IO, "%s: became shorter while it was read", path);
    done += (size_t)got;
  }
  return NN_OK;
}

nn_status data_file_read(const char *path, char **bytes, size_t *count) {
  nn_status status = NN_OK;
  char *buffer = NULL;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return refused("open", path);
  struct stat info;
  if (fstat(fd, &info) != 0)
    NN_GOTO(status, done, refused("examine", path));
  if (!S_ISREG(info.st_mode))
    NN_GOTO(status, done, NN_FAIL(NN_ERR_IO, "%s: is not a file", path));
  buffer = malloc((size_t)info.st_size + 1);
  if (buffer == NULL)
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %jd bytes", path, (intmax_t)info.st_size));
  NN_GOTO(status, done, read_all(fd, path, buffer, (size_t)info.st_size));
  buffer[info.st_size] = '\0';
  *bytes = buffer;
  *count = (size_t)info.st_size;
  buffer = NULL;
done:
  free(buffer);
  close(fd);
  return status;
}

nn_status data_file_write(const char *path, const void *bytes, size_t count) {
  nn_status status = NN_OK;
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0)
    return refused("create", path);
  for (size_t done = 0; done < count;) {
    ssize_t put = write(fd, (const char *)bytes + done, count - done);
    if (put < 0 && errno == EINTR)
      continue;
    if (put < 0)
      NN_GOTO(status, done, refused("write", path));
    done += (size_t)put;
  }
  if (fsync(fd) != 0)
    status = refused("flush", path);
done:
  if (close(fd) != 0)
    NN_KEEP(status, refused("close", path));
  return status;
}

nn_status data_file_replace(const char *path, const void *bytes, size_t count) {
  char temporary[PATH_MAX];
  if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary)
    return NN_FAIL(NN_ERR_IO, "%s: the name is too long", path);
  nn_status status = data_file_write(temporary, bytes, count);
  if (status == NN_OK && rename(temporary, path) != 0)
    status = refused("rename to its final name", path);
  if (status != NN_OK)
    unlink(temporary);
  return status;
}

nn_status data_file_hash(const char *path, uint64_t *hash, int64_t *size) {
  enum { PIECE = 1 << 20 };
  nn_status status = NN_OK;
  int64_t total = 0;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return refused("open", path);
  char *buffer = malloc(PIECE);
  XXH3_state_t *state = XXH3_createState();
  if (buffer == NULL || state == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory to hash it", path));
  XXH3_64bits_reset(state);
  for (;;) {
    ssize_t got = read(fd, buffer, PIECE);
    if (got < 0 && errno == EINTR)
      continue;
    if (got < 0)
      NN_GOTO(status, done, refused("read", path));
    if (got == 0)
      break;
    XXH3_64bits_update(state, buffer, (size_t)got);
    total += got;
  }
  *hash = XXH3_64bits_digest(state);
  if (size != NULL)
    *size = total;
done:
  XXH3_freeState(state);
  free(buffer);
  close(fd);
  return status;
}

void data_hash_format(uint64_t hash, char text[DATA_HASH_DIGITS + 1]) {
  snprintf(text, DATA_HASH_DIGITS + 1, "%016" PRIx64, hash);
}

bool data_hash_parse(const char *text, uint64_t *hash) {
  if (strlen(text) != DATA_HASH_DIGITS || strspn(text, "0123456789abcdef") != DATA_HASH_DIGITS)
    return false;
  *hash = strtoull(text, NULL, 16);
  return true;
}

nn_status data_folder_create(const char *path) {
  char part[PATH_MAX];
  if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
    return NN_FAIL(NN_ERR_IO, "%s: the name is too long", path);
  for (char *slash = part; slash != NULL;) {
    slash = strchr(slash + 1, '/'); // a leading slash is the root and is there
    if (slash != NULL)
      *slash = '\0';
    if (mkdir(part, 0777) != 0 && errno != EEXIST)
      return refused("create the folder", part);
    if (slash != NULL)
      *slash = '/';
  }
  struct stat info;
  if (stat(path, &info) != 0)
    return refused("examine", path);
  return S_ISDIR(info.st_mode) ? NN_OK : NN_FAIL(NN_ERR_IO, "%s: is not a folder", path);
}

nn_status data_folder_sync(const char *path) {
  int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0)
    return refused("open the folder", path);
  nn_status status = NN_OK;
  if (fsync(fd) != 0 && errno != EINVAL) // some network file systems cannot flush a folder
    status = refused("flush the folder", path);
  close(fd);
  return status;
}

static int remove_entry(const char *path, const struct stat *info, int kind, struct FTW *walk) {
  (void)info, (void)kind, (void)walk;
  return remove(path);
}

nn_status data_folder_remove(const char *path) {
  enum { OPEN_FOLDERS = 8 };
  if (nftw(path, remove_entry, OPEN_FOLDERS, FTW_DEPTH | FTW_PHYS) != 0 && errno != ENOENT)
    return refused("remove", path);
  return NN_OK;
}
