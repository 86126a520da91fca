#include "data/json_lines.h"

#include <inttypes.h>
#include <string.h>

#include "data/utf8.h"

enum {
  LINE, // before an object
  KEY_OR_END,
  KEY,
  COLON,
  VALUE,
  VALUE_OR_END,
  AFTER_VALUE,
  AFTER_OBJECT, // before the end of the line
  LITERAL,
  NUMBER_SIGN,
  NUMBER_ZERO,
  NUMBER_WHOLE,
  NUMBER_POINT,
  NUMBER_FRACTION,
  NUMBER_E,
  NUMBER_E_SIGN,
  NUMBER_EXPONENT,
  STRING,
  ESCAPE,
  HEX,
  SECOND_BACKSLASH, // of a surrogate pair
  SECOND_U,
};
enum { OTHER_STRING, NAME_STRING, FIELD_STRING }; // roles

// What the grammar allows in each state, for messages.
static const char *expected(int state) {
  static const char *const texts[] = {
      [LINE] = "a JSON object",
      [KEY_OR_END] = "a field or '}'",
      [KEY] = "a field",
      [COLON] = "':'",
      [VALUE] = "a value",
      [VALUE_OR_END] = "a value or ']'",
      [AFTER_VALUE] = "',' or the end of the object",
      [AFTER_OBJECT] = "the end of the line after its object",
      [LITERAL] = "true, false or null",
      [NUMBER_SIGN] = "a digit",
      [NUMBER_POINT] = "a digit",
      [NUMBER_E] = "a digit",
      [NUMBER_E_SIGN] = "a digit",
      [STRING] = "the end of the string",
      [ESCAPE] = "one of \"\\/bfnrtu after a backslash",
      [HEX] = "4 hexadecimal digits after \\u",
      [SECOND_BACKSLASH] = "the second half of a surrogate pair",
      [SECOND_U] = "the second half of a surrogate pair",
  };
  return (size_t)state < sizeof texts / sizeof *texts && texts[state] ? texts[state] : "a digit";
}

static nn_status unexpected(const data_json_lines *lines, char found) {
  const char *what = expected(lines->state);
  if (found == '\n')
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": expected %s, found the end of the line", lines->path,
                   lines->line, what);
  if ((unsigned char)found < 0x20 || (unsigned char)found > 0x7E)
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": expected %s, found the byte 0x%02X", lines->path,
                   lines->line, what, (unsigned char)found);
  return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": expected %s, found '%c'", lines->path, lines->line,
                 what, found);
}

static bool in_array(const data_json_lines *lines) {
  int top = lines->depth - 1;
  return lines->arrays[top / 64] >> (top % 64) & 1;
}

static nn_status push(data_json_lines *lines, bool array) {
  if (lines->depth == DATA_JSON_DEPTH)
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": nested deeper than %d", lines->path, lines->line,
                   DATA_JSON_DEPTH);
  int top = lines->depth++;
  uint64_t bit = (uint64_t)1 << (top % 64);
  lines->arrays[top / 64] = array ? lines->arrays[top / 64] | bit : lines->arrays[top / 64] & ~bit;
  lines->state = array ? VALUE_OR_END : KEY_OR_END;
  return NN_OK;
}

static void value_ends(data_json_lines *lines) {
  lines->state = lines->depth == 0 ? AFTER_OBJECT : AFTER_VALUE;
}

static void pop(data_json_lines *lines) {
  lines->depth--;
  value_ends(lines);
}

// ---- strings

static void string_starts(data_json_lines *lines, bool naming, int role) {
  lines->naming = naming;
  lines->role = role;
  lines->state = STRING;
  if (role == NAME_STRING)
    lines->name_count = 0;
}

static void string_ends(data_json_lines *lines) {
  if (lines->naming)
    lines->state = COLON;
  else
    value_ends(lines);
}

// Takes part of a string where its role wants it: appends to the name, or to the output as far as it has
// room. Returns how many bytes were taken.
static size_t take(data_json_lines *lines, const char *bytes, size_t count, char *out, size_t room) {
  if (lines->role == FIELD_STRING) {
    count = count < room ? count : room;
    memcpy(out, bytes, count);
  } else if (lines->role == NAME_STRING) {
    size_t keep = sizeof lines->name - lines->name_count;
    keep = keep < count ? keep : count; // a longer name is no match anyway
    memcpy(lines->name + lines->name_count, bytes, keep);
    lines->name_count += keep;
  }
  return count;
}

// The bytes of a string up to the next one that means something.
static size_t plain_run(const char *in, size_t count) {
  size_t i = 0;
  while (i < count && in[i] != '"' && in[i] != '\\' && (unsigned char)in[i] >= 0x20)
    i++;
  return i;
}

static void character(data_json_lines *lines, uint32_t point) {
  lines->pending_count = data_utf8_put(point, lines->pending);
  lines->state = STRING;
}

static nn_status lone_surrogate(const data_json_lines *lines, uint32_t unit) {
  return NN_FAIL(NN_ERR_INPUT,
                 "%s: line %" PRId64 ": \\u%04" PRIX32 " is half a surrogate pair, which no UTF-8 can hold",
                 lines->path, lines->line, unit);
}

static nn_status code_unit(data_json_lines *lines) {
  uint32_t unit = 0;
  for (int i = 0; i < 4; i++) {
    char c = lines->word[i];
    unit = unit << 4 | (uint32_t)(c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  bool high = unit >= 0xD800 && unit < 0xDC00, low = unit >= 0xDC00 && unit < 0xE000;
  if (lines->high != 0 ? !low : low)
    return lone_surrogate(lines, lines->high != 0 ? lines->high : unit);
  if (high) {
    lines->high = unit;
    lines->state = SECOND_BACKSLASH;
  } else {
    character(lines, low ? 0x10000 + ((lines->high - 0xD800) << 10) + (unit - 0xDC00) : unit);
    lines->high = 0;
  }
  return NN_OK;
}

static nn_status escape(data_json_lines *lines, char c) {
  static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
  const char *at = c != '\0' ? strchr(from, c) : NULL;
  if (c == 'u') {
    lines->state = HEX;
    lines->word_count = 0;
  } else if (at != NULL) {
    character(lines, (unsigned char)to[at - from]);
  } else {
    return unexpected(lines, c);
  }
  return NN_OK;
}

static bool is_hex(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

// ---- one byte outside the plain run of a string

static nn_status value_starts(data_json_lines *lines, char c) {
  bool wanted = lines->depth == 1 && strlen(lines->field) == lines->name_count &&
                memcmp(lines->name, lines->field, lines->name_count) == 0;
  if (wanted && (c != '"' || lines->found))
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": the field '%s' %s", lines->path, lines->line,
                   lines->field, lines->found ? "stands there twice" : "is not a string");
  if (c == '"') {
    lines->found = lines->found || wanted;
    string_starts(lines, false, wanted ? FIELD_STRING : OTHER_STRING);
    return NN_OK;
  }
  if (c == '{' || c == '[')
    return push(lines, c == '[');
  if (c == '-')
    lines->state = NUMBER_SIGN;
  else if (c >= '0' && c <= '9')
    lines->state = c == '0' ? NUMBER_ZERO : NUMBER_WHOLE;
  else if (c == 't' || c == 'f' || c == 'n') {
    lines->state = LITERAL;
    lines->word[0] = c;
    lines->word_count = 1;
  } else
    return unexpected(lines, c);
  return NN_OK;
}

static nn_status literal(data_json_lines *lines, char c) {
  const char *word = lines->word[0] == 't' ? "true" : lines->word[0] == 'f' ? "false" : "null";
  if (c != word[lines->word_count])
    return unexpected(lines, c);
  if (word[++lines->word_count] == '\0')
    value_ends(lines);
  return NN_OK;
}

// A number's next byte. *again: the number has ended before it.
static nn_status number(data_json_lines *lines, char c, bool *again) {
  bool digit = c >= '0' && c <= '9', e = c == 'e' || c == 'E';
  int state = lines->state;
  bool whole = state == NUMBER_ZERO || state == NUMBER_WHOLE;
  if (digit && state != NUMBER_ZERO)
    lines->state = state == NUMBER_SIGN    ? (c == '0' ? NUMBER_ZERO : NUMBER_WHOLE)
                   : state == NUMBER_POINT ? NUMBER_FRACTION
                   : state >= NUMBER_E     ? NUMBER_EXPONENT
                                           : state;
  else if (c == '.' && whole)
    lines->state = NUMBER_POINT;
  else if (e && (whole || state == NUMBER_FRACTION))
    lines->state = NUMBER_E;
  else if ((c == '+' || c == '-') && state == NUMBER_E)
    lines->state = NUMBER_E_SIGN;
  else if (whole || state == NUMBER_FRACTION || state == NUMBER_EXPONENT) {
    value_ends(lines);
    *again = true;
  } else
    return unexpected(lines, c);
  return NN_OK;
}

static nn_status line_ends(data_json_lines *lines) {
  if (!lines->found)
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": no field '%s' in this object (--field names another)",
                   lines->path, lines->line, lines->field);
  lines->found = false;
  lines->state = LINE;
  lines->line++;
  return NN_OK;
}

static nn_status structure(data_json_lines *lines, char c) {
  bool array = lines->depth > 0 && in_array(lines);
  switch (lines->state) {
  case LINE:
    return c == '{' ? push(lines, false) : unexpected(lines, c);
  case KEY_OR_END:
  case KEY:
    if (c == '"')
      string_starts(lines, true, lines->depth == 1 ? NAME_STRING : OTHER_STRING);
    else if (c == '}' && lines->state == KEY_OR_END)
      pop(lines);
    else
      return unexpected(lines, c);
    return NN_OK;
  case COLON:
    if (c != ':')
      return unexpected(lines, c);
    lines->state = VALUE;
    return NN_OK;
  case VALUE_OR_END:
    if (c == ']') {
      pop(lines);
      return NN_OK;
    }
    return value_starts(lines, c);
  case VALUE:
    return value_starts(lines, c);
  case AFTER_VALUE:
    if (c == ',')
      lines->state = array ? VALUE : KEY;
    else if (c == (array ? ']' : '}'))
      pop(lines);
    else
      return unexpected(lines, c);
    return NN_OK;
  default:
    return unexpected(lines, c);
  }
}

static bool is_space(char c) {
  return c == ' ' || c == '\t' || c == '\r';
}

// One byte outside the plain run of a string; *again: it is to be read once more in the new state.
static nn_status step(data_json_lines *lines, char c, bool *again) {
  switch (lines->state) {
  case STRING:
    if (c != '"' && c != '\\')
      return unexpected(lines, c); // a control character
    if (c == '"')
      string_ends(lines);
    else
      lines->state = ESCAPE;
    return NN_OK;
  case ESCAPE:
    return escape(lines, c);
  case HEX:
    if (!is_hex(c))
      return unexpected(lines, c);
    lines->word[lines->word_count++] = c;
    return lines->word_count == 4 ? code_unit(lines) : NN_OK;
  case SECOND_BACKSLASH:
  case SECOND_U:
    if (c != (lines->state == SECOND_U ? 'u' : '\\'))
      return lone_surrogate(lines, lines->high);
    lines->word_count = 0;
    lines->state = lines->state == SECOND_U ? HEX : SECOND_U;
    return NN_OK;
  case LITERAL:
    return literal(lines, c);
  default:
    if (lines->state >= NUMBER_SIGN && lines->state <= NUMBER_EXPONENT)
      return number(lines, c, again);
    return is_space(c) ? NN_OK : structure(lines, c);
  }
}

void data_json_lines_start(data_json_lines *lines, const char *path, const char *field) {
  *lines = (data_json_lines){.path = path, .field = field, .line = 1, .state = LINE};
}

nn_status data_json_lines_read(data_json_lines *lines, const char *in, size_t in_count, size_t *used,
                               char *out, size_t out_room, size_t *made, data_json_event *event) {
  *used = *made = 0;
  for (;;) {
    if (lines->pending_count > 0) {
      size_t taken = take(lines, lines->pending, lines->pending_count, out + *made, out_room - *made);
      *made += lines->role == FIELD_STRING ? taken : 0;
      lines->pending_count -= taken;
      memmove(lines->pending, lines->pending + taken, lines->pending_count);
      *event = DATA_JSON_OUTPUT;
      if (lines->pending_count > 0)
        return NN_OK;
    }
    if (lines->state == STRING) {
      size_t run = plain_run(in + *used, in_count - *used);
      size_t taken = take(lines, in + *used, run, out + *made, out_room - *made);
      *made += lines->role == FIELD_STRING ? taken : 0;
      *used += taken;
      *event = DATA_JSON_OUTPUT;
      if (taken < run)
        return NN_OK;
    }
    *event = DATA_JSON_INPUT;
    if (*used == in_count)
      return NN_OK;
    char c = in[*used];
    if (c == '\n' && lines->state == AFTER_OBJECT) {
      *event = DATA_JSON_LINE;
      ++*used;
      return line_ends(lines);
    }
    bool again = false;
    if (c == '\n' && lines->state == LINE)
      lines->line++;
    else
      NN_TRY(step(lines, c, &again));
    *used += !again;
  }
}

nn_status data_json_lines_end(data_json_lines *lines, data_json_event *event) {
  *event = DATA_JSON_INPUT;
  if (lines->state == LINE)
    return NN_OK;
  if (lines->state != AFTER_OBJECT)
    return NN_FAIL(NN_ERR_INPUT, "%s: line %" PRId64 ": expected %s, found the end of the file", lines->path,
                   lines->line, expected(lines->state));
  *event = DATA_JSON_LINE;
  return line_ends(lines);
}
