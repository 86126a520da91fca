// Results of commands: a file, whose old contents stay until the new ones are whole, or an object on standard
// output.
#pragma once

#include <jansson.h>
#include <limits.h> // PATH_MAX
#include <stdio.h>

#include "nn/status.h"

typedef struct {
  const char *path;
  char temporary[PATH_MAX]; // PATH.tmp; "": written directly
  FILE *file;               // NULL: not open
} launch_output;

// Opens PATH.tmp, so that a path that cannot be written is known before the work. What is there and is no
// regular file (/dev/stdout, a pipe, a link) is opened itself. `path` is kept, not copied. Errors: NN_ERR_IO.
nn_status launch_output_open(const char *path, launch_output *out);

// Closes the file and gives it its name, or removes it when not all of it could be written (NN_ERR_IO).
// Nothing to do where none is open.
nn_status launch_output_keep(launch_output *output);

// Closes and removes what was written so far; fine where none is open.
void launch_output_discard(launch_output *output);

// One JSON value on one line of standard output, numbers with 9 digits (float32 to the last bit): what --json
// promises. Takes the value over, NULL too. Errors: NN_ERR_MEMORY (NULL).
nn_status launch_print_json(json_t *value);
