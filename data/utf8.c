#include "data/utf8.h"

#include <string.h>

// Skips ASCII, eight bytes at a time.
static size_t skip_ascii(const char *text, size_t count) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8) {
    uint64_t word;
    memcpy(&word, text + i, sizeof word);
    if (word & 0x8080808080808080u)
      break;
  }
  while (i < count && (unsigned char)text[i] < 0x80)
    i++;
  return i;
}

// The first byte of a longer character: what must follow it (Unicode standard, table 3-7).
static bool start(data_utf8 *state, unsigned char first) {
  state->least = 0x80;
  state->most = 0xBF;
  if (first >= 0xC2 && first <= 0xDF) {
    state->left = 1;
  } else if ((first & 0xF0) == 0xE0) {
    state->left = 2;
    state->least = first == 0xE0 ? 0xA0 : 0x80;
    state->most = first == 0xED ? 0x9F : 0xBF;
  } else if (first >= 0xF0 && first <= 0xF4) {
    state->left = 3;
    state->least = first == 0xF0 ? 0x90 : 0x80;
    state->most = first == 0xF4 ? 0x8F : 0xBF;
  } else {
    return false;
  }
  return true;
}

size_t data_utf8_check(data_utf8 *state, const char *text, size_t count) {
  for (size_t i = 0; i < count; i++) {
    if (state->left == 0) {
      i += skip_ascii(text + i, count - i);
      if (i == count)
        break;
      if (!start(state, (unsigned char)text[i]))
        return i;
      state->seen = 1;
      continue;
    }
    unsigned char byte = (unsigned char)text[i];
    if (byte < state->least || byte > state->most)
      return i;
    state->left--;
    state->seen = state->left > 0 ? state->seen + 1 : 0;
    state->least = 0x80;
    state->most = 0xBF;
  }
  return count;
}

bool data_utf8_complete(const data_utf8 *state) {
  return state->left == 0;
}

size_t data_utf8_whole(const char *text, size_t count) {
  size_t start_of_last = count;
  while (start_of_last > 0 && count - start_of_last < 4) {
    unsigned char byte = (unsigned char)text[--start_of_last];
    if (byte < 0x80)
      return start_of_last + 1;
    if (byte >= 0xC0) {
      size_t needs = byte >= 0xF0 ? 4 : byte >= 0xE0 ? 3 : 2;
      return count - start_of_last >= needs ? start_of_last + needs : start_of_last;
    }
  }
  return start_of_last;
}

size_t data_utf8_put(uint32_t point, char out[4]) {
  if (point < 0x80) {
    out[0] = (char)point;
    return 1;
  }
  size_t count = point < 0x800 ? 2 : point < 0x10000 ? 3 : 4;
  for (size_t i = count - 1; i > 0; i--) {
    out[i] = (char)(0x80 | (point & 0x3F));
    point >>= 6;
  }
  static const unsigned char marks[] = {0, 0, 0xC0, 0xE0, 0xF0};
  out[0] = (char)(marks[count] | point);
  return count;
}
