#include "nn/status.h"

#include <stdarg.h> // va_list
#include <stdio.h>  // vsnprintf
#include <string.h> // strrchr

static _Thread_local char error_text[1024];
static _Thread_local char error_place[128];

nn_status nn_fail(nn_status code, const char *file, int line, const char *format, ...) {
  if (error_text[0] != '\0')
    return code;
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(error_text, sizeof error_text, format, arguments);
  va_end(arguments);
  const char *slash = strrchr(file, '/');
  snprintf(error_place, sizeof error_place, "%s:%d", slash ? slash + 1 : file, line);
  return code;
}

const char *nn_error_text(void) {
  return error_text;
}

const char *nn_error_place(void) {
  return error_place;
}

void nn_error_clear(void) {
  error_text[0] = error_place[0] = '\0';
}

void nn_error_set(const char *place, const char *text) {
  snprintf(error_place, sizeof error_place, "%s", place);
  snprintf(error_text, sizeof error_text, "%s", text);
}

const char *nn_status_name(nn_status status) {
  static const char *const names[] = {
      [NN_OK] = "ok",
      [NN_ERR_USAGE] = "usage",
      [NN_ERR_INPUT] = "input",
      [NN_ERR_IO] = "io",
      [NN_ERR_MEMORY] = "memory",
      [NN_ERR_COMM] = "communication",
      [NN_ERR_NUMERIC] = "numeric",
      [NN_ERR_UNSUPPORTED] = "unsupported",
      [NN_ERR_INTERNAL] = "internal",
      [NN_STOPPED] = "stopped",
  };
  return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

int nn_exit_code(nn_status status) {
  switch (status) {
  case NN_OK:
    return 0;
  case NN_ERR_USAGE:
    return 2;
  case NN_STOPPED:
    return 75;
  default:
    return 1;
  }
}
