#include "data/input_file.h"

#include <errno.h>
#include <fcntl.h> // open
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h> // read
#ifdef DATA_WITH_ZSTD
#include <zstd.h>
#endif

enum { PIECE = 256 << 10 };

struct data_input_file {
  char *path;
  int fd;
  bool compressed;
  int64_t size, read; // on disk
  int64_t position;   // behind the last piece, decompressed
  char *piece;        // [PIECE] what was read
  char *plain;        // [PIECE] decompressed
  const char *kept;   // what a seek left of a piece
  size_t kept_count;
#ifdef DATA_WITH_ZSTD
  ZSTD_DStream *stream;
  ZSTD_inBuffer in;
  size_t pending; // not 0: a frame is under way
#endif
};

static bool ends_with(const char *text, const char *end) {
  size_t length = strlen(text), tail = strlen(end);
  return length >= tail && strcmp(text + length - tail, end) == 0;
}

static nn_status refused(const char *verb, const char *path) {
  return NN_FAIL(NN_ERR_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
}

static nn_status open_stream(data_input_file *file) {
#ifdef DATA_WITH_ZSTD
  file->plain = malloc(PIECE);
  file->stream = ZSTD_createDStream();
  if (file->plain == NULL || file->stream == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to decompress it", file->path);
  return NN_OK;
#else
  return NN_FAIL(NN_ERR_UNSUPPORTED, "%s: .zst needs Zstandard, which was left out of this build (%s)",
                 file->path, "NATSFORMER_ZSTD=OFF");
#endif
}

nn_status data_input_file_open(const char *path, data_input_file **out) {
  struct stat info;
  nn_status status = NN_OK;
  data_input_file *file = calloc(1, sizeof *file);
  if (file == NULL || (file->path = strdup(path)) == NULL || (file->piece = malloc(PIECE)) == NULL) {
    status = NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", path);
    goto fail;
  }
  file->fd = open(path, O_RDONLY | O_CLOEXEC);
  if (file->fd < 0 || fstat(file->fd, &info) != 0)
    NN_GOTO(status, fail, refused("open", path));
  if (!S_ISREG(info.st_mode))
    NN_GOTO(status, fail, NN_FAIL(NN_ERR_INPUT, "%s: is not a file", path));
  file->size = info.st_size;
  file->compressed = ends_with(path, ".zst");
  if (file->compressed)
    NN_GOTO(status, fail, open_stream(file));
  *out = file;
  return NN_OK;
fail:
  data_input_file_close(file);
  return status;
}

void data_input_file_close(data_input_file *file) {
  if (file == NULL)
    return;
#ifdef DATA_WITH_ZSTD
  ZSTD_freeDStream(file->stream);
#endif
  if (file->fd > 0)
    close(file->fd);
  free(file->plain);
  free(file->piece);
  free(file->path);
  free(file);
}

int64_t data_input_file_size(const data_input_file *file) {
  return file->size;
}

int64_t data_input_file_read(const data_input_file *file) {
  return file->read;
}

static nn_status read_piece(data_input_file *file, size_t *count) {
  ssize_t got;
  do
    got = read(file->fd, file->piece, PIECE);
  while (got < 0 && errno == EINTR);
  if (got < 0)
    return refused("read", file->path);
  file->read += got;
  *count = (size_t)got;
  return NN_OK;
}

// The next bytes out of the decompressor; none at the end of the file, which must be the end of a frame.
static nn_status decompress_piece(data_input_file *file, size_t *count) {
#ifdef DATA_WITH_ZSTD
  ZSTD_outBuffer out = {.dst = file->plain, .size = PIECE};
  while (out.pos == 0) {
    if (file->in.pos == file->in.size) {
      file->in = (ZSTD_inBuffer){.src = file->piece};
      NN_TRY(read_piece(file, &file->in.size));
      if (file->in.size == 0 && file->pending != 0)
        return NN_FAIL(NN_ERR_INPUT, "%s: is cut off: the last Zstandard frame has no end", file->path);
      if (file->in.size == 0)
        break;
    }
    file->pending = ZSTD_decompressStream(file->stream, &out, &file->in);
    if (ZSTD_isError(file->pending))
      return NN_FAIL(NN_ERR_INPUT, "%s: is no Zstandard file or damaged: %s", file->path,
                     ZSTD_getErrorName(file->pending));
  }
  *count = out.pos;
#else
  (void)file;
  *count = 0;
#endif
  return NN_OK;
}

nn_status data_input_file_next(data_input_file *file, const char **bytes, size_t *count) {
  *bytes = file->kept;
  *count = file->kept_count;
  file->kept_count = 0;
  if (*count > 0)
    return NN_OK;
  NN_TRY(file->compressed ? decompress_piece(file, count) : read_piece(file, count));
  *bytes = file->compressed ? file->plain : file->piece;
  file->position += (int64_t)*count;
  return NN_OK;
}

nn_status data_input_file_seek(data_input_file *file, int64_t offset) {
  if (!file->compressed) {
    if (lseek(file->fd, offset, SEEK_SET) != offset)
      return refused("seek", file->path);
    file->position = file->read = offset;
    file->kept_count = 0;
    return NN_OK;
  }
  while (file->position < offset) {
    const char *bytes = NULL;
    size_t count = 0;
    file->kept_count = 0;
    NN_TRY(data_input_file_next(file, &bytes, &count));
    if (count == 0)
      return NN_FAIL(NN_ERR_INPUT, "%s: became shorter while it was read", file->path);
    file->kept_count = file->position > offset ? (size_t)(file->position - offset) : 0;
    file->kept = bytes + count - file->kept_count;
  }
  return NN_OK;
}
