// Private to this room: one string field out of every line of a JSON Lines file, without holding a line. The
// grammar of JSON is checked all the way; each line is one object (blank lines are skipped).
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nn/status.h"

enum { DATA_JSON_NAME = 128, DATA_JSON_DEPTH = 256 };

typedef enum {
  DATA_JSON_INPUT,  // all of the input is used up
  DATA_JSON_OUTPUT, // the room for output is used up
  DATA_JSON_LINE,   // a line has ended: the field was in it
} data_json_event;

typedef struct {
  const char *path;  // for messages
  const char *field; // name of the field, at most DATA_JSON_NAME - 1 bytes
  int64_t line;      // the number of the line under way, from 1
  int state;         // private from here on
  int depth;
  uint64_t arrays[DATA_JSON_DEPTH / 64]; // bit d: the container at depth d is an array
  bool naming;                           // the string under way is a name
  int role;                              // what becomes of it
  char name[DATA_JSON_NAME];             // of the field under way, cut
  size_t name_count;
  bool found;
  char word[8]; // a literal, or the digits of \u
  size_t word_count;
  uint32_t high;   // the first half of a surrogate pair
  char pending[4]; // bytes of an escaped character that found no room
  size_t pending_count;
} data_json_lines;

void data_json_lines_start(data_json_lines *lines, const char *path, const char *field);

// Reads on. *used and *made say how much of `in` and `out` was used. Input is expected to be UTF-8. Errors:
// NN_ERR_INPUT with the line's number.
nn_status data_json_lines_read(data_json_lines *lines, const char *in, size_t in_count, size_t *used,
                               char *out, size_t out_room, size_t *made, data_json_event *event);
// The file ends here: like data_json_lines_read when a last line has no newline (event LINE), else event
// INPUT.
nn_status data_json_lines_end(data_json_lines *lines, data_json_event *event);
