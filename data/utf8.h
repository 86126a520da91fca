// UTF-8 checked piece by piece, as it is read: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  uint32_t seen, left;       // bytes of the character under way, and those that it still needs
  unsigned char least, most; // what the next of them may be
} data_utf8;                 // {0}: between two characters

// Checks `count` bytes that follow those seen before. Returns how many are fine: `count`, or the offset of
// the first byte that cannot be; the character that it breaks began state->seen bytes before.
size_t data_utf8_check(data_utf8 *state, const char *text, size_t count);
// The text may end here: no character is under way.
bool data_utf8_complete(const data_utf8 *state);

// The longest prefix of valid UTF-8 that does not end within a character.
size_t data_utf8_whole(const char *text, size_t count);

// Writes the character `point` (no surrogate, at most 0x10FFFF); returns its 1 to 4 bytes.
size_t data_utf8_put(uint32_t point, char out[4]);
