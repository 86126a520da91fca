// The documents of an input file, one behind the other, read piece by piece: neither a file nor a document
// has to fit into memory.
//
//   .txt    the whole file is one document, as it stands
//   .jsonl  one JSON object a line; the string in its field `text` (or another) is a document
//   .zst    behind either: Zstandard
//
// What is not UTF-8 is an error that names file, line and byte. Documents without text are left out.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

typedef struct data_text_source data_text_source;

// `field`: of .jsonl. Errors: NN_ERR_IO, NN_ERR_INPUT (another kind of file), NN_ERR_UNSUPPORTED (no .zst).
nn_status data_text_source_open(const char *path, const char *field, data_text_source **out);
void data_text_source_close(data_text_source *source); // NULL is allowed

// Reads up to `room` bytes of the document under way: less only at its end. *end: the document is complete;
// the next call begins the next one. *count 0 with *end false: the file has no more.
nn_status data_text_source_read(data_text_source *source, char *text, size_t room, size_t *count, bool *end);

// Where the next document begins, when the last one is complete: data_text_source_seek continues there, only
// forward in compressed files. `line` is for messages.
void data_text_source_tell(const data_text_source *source, int64_t *offset, int64_t *line);
nn_status data_text_source_seek(data_text_source *source, int64_t offset, int64_t line);

// Bytes of the file on disk, and how many of them have been read: for progress.
void data_text_source_progress(const data_text_source *source, int64_t *size, int64_t *read);
