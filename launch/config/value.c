// The strict converter between text and the values of a configuration.
#include <errno.h>
#include <math.h> // isfinite
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h> // strtod, strtoll
#include <string.h>

#include "data/utf8.h"
#include "launch/config/table.h"

static bool is_digit(char c) {
  return c >= '0' && c <= '9';
}

static const char *skip_digits(const char *text) {
  while (is_digit(*text))
    text++;
  return text;
}

// -?(0|[1-9][0-9]*): no leading zeros, which YAML 1.1 would read as octal.
static bool spells_whole(const char *text) {
  const char *digits = text + (*text == '-');
  const char *end = skip_digits(digits);
  return end > digits && *end == '\0' && !(digits[0] == '0' && end > digits + 1);
}

// A decimal number with optional fraction and exponent: neither hexadecimal nor inf nor nan.
static bool spells_real(const char *text) {
  const char *begin = text + (*text == '-');
  const char *end = skip_digits(begin);
  bool digits = end > begin;
  if (*end == '.') {
    const char *fraction = end + 1;
    end = skip_digits(fraction);
    digits = digits || end > fraction;
  }
  if (digits && (*end == 'e' || *end == 'E')) {
    const char *exponent = end + 1;
    exponent += *exponent == '-' || *exponent == '+';
    end = skip_digits(exponent);
    digits = end > exponent;
  }
  return digits && *end == '\0';
}

static bool in_words(const char *words, const char *text) {
  size_t length = strlen(text);
  for (const char *word = words; length > 0 && *word != '\0'; word += *word == '|') {
    size_t span = strcspn(word, "|");
    if (span == length && memcmp(word, text, span) == 0)
      return true;
    word += span;
  }
  return false;
}

// What can be written into a YAML file and read back: UTF-8 without control characters.
static bool is_plain_text(const char *text) {
  size_t length = strlen(text);
  data_utf8 state = {0};
  for (size_t i = 0; i < length; i++)
    if ((unsigned char)text[i] < 0x20 || text[i] == 0x7F)
      return false;
  return data_utf8_check(&state, text, length) == length && data_utf8_complete(&state);
}

const char *launch_shown(const char *text, char shown[LAUNCH_SHOWN]) {
  size_t length = strnlen(text, LAUNCH_SHOWN - 1);
  for (size_t i = 0; i < length; i++)
    shown[i] = (unsigned char)text[i] < 0x20 || text[i] == 0x7F ? '?' : text[i];
  shown[length] = '\0';
  return shown;
}

void launch_key_expects(const launch_key *key, char text[LAUNCH_VALUE]) {
  switch (key->type) {
  case LAUNCH_TEXT:
    snprintf(text, LAUNCH_VALUE, "UTF-8 text of at most %zu bytes on one line", key->size - 1);
    break;
  case LAUNCH_FLAG:
    snprintf(text, LAUNCH_VALUE, "true or false");
    break;
  case LAUNCH_WORD:
    snprintf(text, LAUNCH_VALUE, "one of %s", key->words);
    break;
  case LAUNCH_WHOLE:
    snprintf(text, LAUNCH_VALUE, "a whole number from %.0f to %.0f", key->min, key->max);
    break;
  case LAUNCH_REAL:
    snprintf(text, LAUNCH_VALUE, "a number %s %g to %g", key->above ? "above" : "from", key->min, key->max);
    break;
  }
}

static bool set_text(const launch_key *key, void *field, const char *text) {
  if (strlen(text) >= key->size || !is_plain_text(text))
    return false;
  memset(field, 0, key->size); // two equal configurations are equal byte for byte
  memcpy(field, text, strlen(text));
  return true;
}

static bool set_whole(const launch_key *key, void *field, const char *text) {
  if (!spells_whole(text))
    return false;
  errno = 0;
  long long value = strtoll(text, NULL, 10);
  if (errno != 0 || (double)value < key->min || (double)value > key->max)
    return false;
  int32_t narrow = (int32_t)value; // max of a 4-byte key fits
  int64_t wide = value;
  memcpy(field, key->size == sizeof narrow ? (void *)&narrow : (void *)&wide, key->size);
  return true;
}

static bool set_real(const launch_key *key, void *field, const char *text) {
  if (!spells_real(text))
    return false;
  errno = 0;
  double value = strtod(text, NULL);
  if (errno != 0 || !isfinite(value) || value < key->min || value > key->max)
    return false;
  if (key->above && value <= key->min)
    return false;
  memcpy(field, &value, sizeof value);
  return true;
}

static bool set_flag(void *field, const char *text) {
  bool value = strcmp(text, "true") == 0;
  if (!value && strcmp(text, "false") != 0)
    return false;
  memcpy(field, &value, sizeof value);
  return true;
}

nn_status launch_key_set(const launch_key *key, void *record, const char *text, const char *where) {
  void *field = (char *)record + key->offset;
  bool valid = false;
  switch (key->type) {
  case LAUNCH_TEXT:
    valid = set_text(key, field, text);
    break;
  case LAUNCH_WORD:
    valid = in_words(key->words, text) && set_text(key, field, text);
    break;
  case LAUNCH_WHOLE:
    valid = set_whole(key, field, text);
    break;
  case LAUNCH_REAL:
    valid = set_real(key, field, text);
    break;
  case LAUNCH_FLAG:
    valid = set_flag(field, text);
    break;
  }
  if (valid)
    return NN_OK;
  char expected[LAUNCH_VALUE], shown[LAUNCH_SHOWN];
  launch_key_expects(key, expected);
  return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected %s, found '%s'", where, key->path, expected,
                 launch_shown(text, shown));
}

// The shortest decimal that reads back to the same double.
static void print_real(double value, char text[LAUNCH_VALUE]) {
  for (int digits = 6; digits <= 17; digits++) {
    snprintf(text, LAUNCH_VALUE, "%.*g", digits, value);
    if (strtod(text, NULL) == value)
      return;
  }
}

void launch_key_get(const launch_key *key, const launch_config *config, char text[LAUNCH_VALUE]) {
  const void *field = (const char *)config + key->offset;
  switch (key->type) {
  case LAUNCH_TEXT:
  case LAUNCH_WORD:
    snprintf(text, LAUNCH_VALUE, "%s", (const char *)field);
    break;
  case LAUNCH_WHOLE: {
    int32_t narrow = 0;
    int64_t wide = 0;
    memcpy(key->size == sizeof narrow ? (void *)&narrow : (void *)&wide, field, key->size);
    snprintf(text, LAUNCH_VALUE, "%lld", (long long)(key->size == sizeof narrow ? narrow : wide));
    break;
  }
  case LAUNCH_REAL: {
    double value = 0;
    memcpy(&value, field, sizeof value);
    print_real(value, text);
    break;
  }
  case LAUNCH_FLAG:
    snprintf(text, LAUNCH_VALUE, "%s", *(const bool *)field ? "true" : "false");
    break;
  }
}
