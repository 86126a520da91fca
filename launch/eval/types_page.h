// One self-contained HTML file on which a reader sees a text with each token marked by its type, and what the
// cache of a head holds at any position. The page itself is in launch/types_page/.
#pragma once

#include <stdio.h>

#include "launch/eval/run_folder.h"

typedef struct {
  const launch_run *run;
  const char *name;      // of the model, as the user called it
  const char *source;    // where the text is from, a few words
  int32_t length;        // T
  const int32_t *tokens; // [T]
  const uint8_t *types;  // [layers, Hk, n], n = nats_chunks(T, type_chunk)
} launch_types_page;

// Errors: NN_ERR_MEMORY. Whether the bytes arrived is for whoever closes the file to ask.
nn_status launch_types_page_write(FILE *file, const launch_types_page *page);

// The page before and after its data, as text that ends with 0.
extern const unsigned char launch_types_page_head[], launch_types_page_tail[];
