#include "launch/config/options.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "launch/config/table.h" // launch_key_set: one strict converter for all

static const launch_option *find(const launch_option *options, int count, const char *name, size_t length) {
  for (int i = 0; i < count; i++)
    if (strlen(options[i].name) == length && memcmp(options[i].name, name, length) == 0)
      return &options[i];
  return NULL;
}

static nn_status set_number(const launch_option *option, const char *text, const char *where) {
  bool real = option->type == LAUNCH_OPTION_REAL;
  launch_key key = {.path = option->name,
                    .type = real ? LAUNCH_REAL : LAUNCH_WHOLE,
                    .size = option->type == LAUNCH_OPTION_INT32 ? sizeof(int32_t) : sizeof(int64_t),
                    .min = option->min,
                    .max = option->max};
  return launch_key_set(&key, option->value, text, where); // a "configuration" of this one value
}

static nn_status set(const launch_option *option, const char *text, const char *where) {
  launch_list *list = option->value;
  switch (option->type) {
  case LAUNCH_OPTION_TEXT:
    *(const char **)option->value = text;
    return NN_OK;
  case LAUNCH_OPTION_LIST:
    list->items[list->count++] = text;
    return NN_OK;
  default:
    return set_number(option, text, where);
  }
}

// argv[*at] is an option; *at moves to its last word.
static nn_status read_option(const char *where, const launch_option *options, int count, int argc,
                             char **argv, int *at, uint64_t *seen) {
  char shown[LAUNCH_SHOWN];
  const char *word = argv[*at], *equals = strchr(word, '=');
  size_t length = equals != NULL ? (size_t)(equals - word) : strlen(word);
  const launch_option *option = find(options, count, word, length);
  if (option == NULL)
    return NN_FAIL(NN_ERR_USAGE, "%s: unknown option '%s'", where, launch_shown(word, shown));
  uint64_t bit = (uint64_t)1 << (option - options);
  if ((*seen & bit) != 0 && option->type != LAUNCH_OPTION_LIST)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s is given twice", where, option->name);
  *seen |= bit;
  if (option->type == LAUNCH_OPTION_FLAG) {
    if (equals != NULL)
      return NN_FAIL(NN_ERR_USAGE, "%s: %s takes no value", where, option->name);
    *(bool *)option->value = true;
    return NN_OK;
  }
  if (equals == NULL && *at + 1 == argc)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s needs a value", where, option->name);
  return set(option, equals != NULL ? equals + 1 : argv[++*at], where);
}

nn_status launch_options_read(const char *where, const launch_option *options, int count, int argc,
                              char **argv, launch_list *operands) {
  uint64_t seen = 0;
  bool ended = false;
  operands->count = 0;
  for (int i = 1; i < argc; i++) {
    if (!ended && strcmp(argv[i], "--") == 0)
      ended = true;
    else if (!ended && strncmp(argv[i], "--", 2) == 0)
      NN_TRY(read_option(where, options, count, argc, argv, &i, &seen));
    else
      operands->items[operands->count++] = argv[i];
  }
  return NN_OK;
}
