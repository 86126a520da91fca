#include "launch/records/output_file.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/stat.h> // lstat
#include <unistd.h>   // unlink

static nn_status refused(const char *verb, const char *path, int error) {
  return NN_FAIL(NN_ERR_IO, "%s: cannot %s: %s", path, verb, strerror(error));
}

// A rename would put a plain file in the place of a device, a pipe or a link.
static bool replaceable(const char *path) {
  struct stat info;
  return lstat(path, &info) != 0 || S_ISREG(info.st_mode);
}

nn_status launch_output_open(const char *path, launch_output *out) {
  *out = (launch_output){.path = path};
  bool direct = !replaceable(path);
  if (!direct && snprintf(out->temporary, sizeof out->temporary, "%s.tmp", path) >= PATH_MAX)
    return refused("create", path, ENAMETOOLONG);
  out->file = fopen(direct ? path : out->temporary, "we");
  return out->file != NULL ? NN_OK : refused("create", path, errno);
}

nn_status launch_output_keep(launch_output *output) {
  if (output->file == NULL)
    return NN_OK;
  bool failed = ferror(output->file) != 0; // of an earlier write, whose reason is gone
  int error = fclose(output->file) != 0 ? errno : failed ? EIO : 0;
  output->file = NULL;
  if (error == 0 && output->temporary[0] != '\0' && rename(output->temporary, output->path) != 0)
    error = errno;
  if (error == 0)
    return NN_OK;
  if (output->temporary[0] != '\0')
    unlink(output->temporary);
  return refused("write", output->path, error);
}

void launch_output_discard(launch_output *output) {
  if (output->file == NULL)
    return;
  fclose(output->file);
  output->file = NULL;
  if (output->temporary[0] != '\0')
    unlink(output->temporary);
}

nn_status launch_print_json(json_t *value) {
  if (value == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for the report");
  json_dumpf(value, stdout, JSON_REAL_PRECISION(9));
  putchar('\n');
  json_decref(value);
  return NN_OK;
}
