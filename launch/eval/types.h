// `natsformer eval RUN --types FILE.html`: the types that a model gives to the tokens of one text, as a page.
#pragma once

#include "data/dataset.h"
#include "launch/eval/run_folder.h"

enum { LAUNCH_TYPES_LENGTH = 4096 }; // tokens of a page at most: each is an element of its own

typedef struct {
  const launch_run *run;
  const char *name; // of the run, as the user called it
  const char *file; // that is written
  int32_t length;   // tokens at most
  bool json;        // the report

  const char *text; // a UTF-8 file; NULL: a sample of the data
  data_loader *loader;
  const char *data, *split; // what the loader reads, for the reader
  int64_t sample;
} launch_types_request;

// Writes the page, and a line about it (or one JSON object) to standard output. Errors: NN_ERR_USAGE (a model
// without types, lengths and samples that are none), and those of reading, computing and writing.
nn_status launch_eval_types(const launch_types_request *request);
