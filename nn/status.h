// Errors as values. Every function of this project that can fail returns an nn_status, and the text of the
// failure (one line: what, where, what was expected) is kept beside it until somebody reports it.
//
// Library rooms (nn, dist, nats, data) never exit, abort or assert on input: they fail with a status.
#pragma once

#include <stdbool.h> // bool

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  NN_OK = 0,
  NN_ERR_USAGE,       // the command line or the configuration is wrong (exit code 2)
  NN_ERR_INPUT,       // a file or a tensor does not hold what it should (exit code 1, as all below)
  NN_ERR_IO,          // the operating system refused to read or write
  NN_ERR_MEMORY,      // out of memory, on the host or on a device
  NN_ERR_COMM,        // a collective failed or another rank did
  NN_ERR_NUMERIC,     // too many steps in a row with a non-finite gradient
  NN_ERR_UNSUPPORTED, // this build or this device cannot do it
  NN_ERR_INTERNAL,    // a broken promise inside the program
  NN_STOPPED,         // not a failure: a signal asked to stop and a checkpoint was written (exit code 75)
} nn_status;

// Records the text of a failure for this thread and returns `code`. The first text is kept: a later failure,
// for example while cleaning up, does not replace it until nn_error_clear().
nn_status nn_fail(nn_status code, const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

// The recorded text, "" when there is none. Belongs to the thread that failed.
const char *nn_error_text(void);

// "file.c:123" of the recorded failure, "" when there is none.
const char *nn_error_place(void);

void nn_error_clear(void);

// Replaces the recorded text, whatever it was; used when a failure is passed from one thread or rank to
// another.
void nn_error_set(const char *place, const char *text);

// A word for a status: "input", "comm", ...
const char *nn_status_name(nn_status status);

// The process exit code that a status stands for: 0, 1, 2 or 75.
int nn_exit_code(nn_status status);

// Its value is `code` itself, so that compilers and analysers see that what follows NN_TRY is not reached.
#define NN_FAIL(code, ...) nn_failed_as(nn_fail((code), __FILE__, __LINE__, __VA_ARGS__), (code))
static inline nn_status nn_failed_as(nn_status recorded, nn_status code) {
  (void)recorded;
  return code;
}

// Returns from the calling function when `expression` fails.
#define NN_TRY(expression)                                                                                   \
  do {                                                                                                       \
    nn_status nn_try_status_ = (expression);                                                                 \
    if (nn_try_status_ != NN_OK)                                                                             \
      return nn_try_status_;                                                                                 \
  } while (0)

// A broken promise of the caller, checked before an operator is called: the condition itself is the message.
#define NN_NEED(condition)                                                                                   \
  do {                                                                                                       \
    if (!(condition))                                                                                        \
      return NN_FAIL(NN_ERR_INTERNAL, "%s: needs %s", __func__, #condition);                                 \
  } while (0)

// Stores the status in `status` and jumps to `label` when `expression` fails.
#define NN_GOTO(status, label, expression)                                                                   \
  do {                                                                                                       \
    (status) = (expression);                                                                                 \
    if ((status) != NN_OK)                                                                                   \
      goto label;                                                                                            \
  } while (0)

// Evaluates `expression` and keeps the first failure in `status`: for clean-up that must run to its end.
#define NN_KEEP(status, expression)                                                                          \
  do {                                                                                                       \
    nn_status nn_keep_status_ = (expression);                                                                \
    if ((status) == NN_OK)                                                                                   \
      (status) = nn_keep_status_;                                                                            \
  } while (0)

#ifdef __cplusplus
}
#endif
