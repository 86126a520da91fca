// Private to launch/config*.c: the table of keys behind launch_config, and the one strict converter between
// text and values.
#pragma once

#include <stdbool.h>
#include <stddef.h> // size_t

#include "launch/config/config.h"

typedef enum { LAUNCH_TEXT, LAUNCH_WORD, LAUNCH_WHOLE, LAUNCH_REAL, LAUNCH_FLAG } launch_key_type;

typedef struct {
  const char *path; // "model.width"
  launch_key_type type;
  size_t offset, size;  // of the field in launch_config; WHOLE: 4 or 8 bytes, TEXT and WORD: with the NUL
  const char *fallback; // the default, as text
  double min, max;      // WHOLE and REAL, inclusive ...
  bool above;           // ... but for REAL that must exceed min
  const char *words;    // WORD: "cosine|wsd|constant"
  bool fixed;           // must not differ when a run is resumed
  const char *help;
} launch_key;

extern const launch_key launch_keys[];
extern const int launch_key_count;

const launch_key *launch_key_find(const char *path); // NULL where there is none
const char *
launch_key_near(const char *path); // the path that was probably meant; NULL where none comes close

// Converts the whole of `text` and stores it in the struct that key->offset belongs to: a launch_config for
// the keys above. Errors: NN_ERR_USAGE, "WHERE: PATH: expected ..., found '...'".
nn_status launch_key_set(const launch_key *key, void *record, const char *text, const char *where);

// The value as text that launch_key_set turns back into the same value. At most LAUNCH_VALUE bytes.
enum { LAUNCH_VALUE = 1100 };
void launch_key_get(const launch_key *key, const launch_config *config, char text[LAUNCH_VALUE]);

// A piece of what somebody typed, for a message of one line: cut, and without control characters.
enum { LAUNCH_SHOWN = 81 };
const char *launch_shown(const char *text, char shown[LAUNCH_SHOWN]);

// "a whole number from 1 to 4096", for messages and help.
void launch_key_expects(const launch_key *key, char text[LAUNCH_VALUE]);
