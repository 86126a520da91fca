// Options of a subcommand: "--name value", "--name=value", "--flag"; all else is an operand. "--" ends them.
#pragma once

#include <stdint.h>

#include "nn/status.h"

typedef enum {
  LAUNCH_OPTION_FLAG,  // bool: true when it is there
  LAUNCH_OPTION_INT32, // whole numbers from min to max
  LAUNCH_OPTION_INT64,
  LAUNCH_OPTION_REAL, // a number from min to max
  LAUNCH_OPTION_TEXT, // const char *, into argv
  LAUNCH_OPTION_LIST, // launch_list: may be given several times
} launch_option_type;

typedef struct {
  const char **items; // into argv; room for argc of them is the caller's to provide
  int64_t count;
} launch_list;

typedef struct {
  const char *name; // "--length"
  launch_option_type type;
  void *value;     // keeps its value where the option is not given
  double min, max; // of numbers, inclusive
} launch_option;

// Reads argv[1..argc). `where`: the command, for messages. Errors: NN_ERR_USAGE for unknown options, missing
// or impossible values, and options given twice.
nn_status launch_options_read(const char *where, const launch_option *options, int count, int argc,
                              char **argv, launch_list *operands);
