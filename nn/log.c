#include "nn/log.h"

#include <stdarg.h> // va_list
#include <stdbool.h>
#include <stdio.h>

#include "nn/status.h"

static int log_rank = 0;
static int log_size = 1;
static bool line_open = false;

void nn_log_identify(int rank, int size) {
  log_rank = rank;
  log_size = size;
}

void nn_log_line_open(void) {
  line_open = true;
}

void nn_log_line_closed(void) {
  line_open = false;
}

// One write per line, so that lines of several ranks do not mix.
static void print_line(const char *label, const char *format, va_list arguments) {
  char line[1400];
  size_t used = 0;
  if (line_open)
    line[used++] = '\n';
  line_open = false;
  int head = log_size > 1 && label[0] != '\0'
                 ? snprintf(line + used, sizeof line - used, "natsformer[%d]: %s", log_rank, label)
                 : snprintf(line + used, sizeof line - used, "natsformer: %s", label);
  used += head > 0 ? (size_t)head : 0;
  int body = vsnprintf(line + used, sizeof line - used - 1, format, arguments);
  used += body > 0 ? (size_t)body : 0;
  if (used > sizeof line - 2)
    used = sizeof line - 2;
  line[used++] = '\n';
  fwrite(line, 1, used, stderr);
  fflush(stderr);
}

void nn_info(const char *format, ...) {
  if (log_rank != 0)
    return;
  va_list arguments;
  va_start(arguments, format);
  print_line("", format, arguments);
  va_end(arguments);
}

void nn_warn(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_line("warning: ", format, arguments);
  va_end(arguments);
}

void nn_error(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print_line("error: ", format, arguments);
  va_end(arguments);
}

void nn_error_report(void) {
  nn_error("%s (%s)", nn_error_text()[0] ? nn_error_text() : "failed without a message", nn_error_place());
}
