// Reading a configuration: YAML by libyaml, and key.path=value from the command line.
//
// libyaml composes the document; nothing of YAML's guessing of types is used. A document is a mapping of keys
// and of sections, a section is a mapping of keys, and every value is a scalar whose text goes through
// launch_key_set.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h> // malloc
#include <string.h>
#include <yaml.h> // libyaml

#include "launch/config_table.h"

enum { LARGEST_FILE = 1 << 20 };
enum { MOST_KEYS = 128 };

typedef struct {
  launch_config *config;
  const char *name; // of the file
  yaml_document_t *document;
  size_t seen_line[MOST_KEYS]; // where each key was given; 0: nowhere yet
} reading;

// "config.yaml:12", in a buffer of the caller.
static const char *place(const reading *r, const yaml_node_t *node, char text[LAUNCH_VALUE]) {
  snprintf(text, LAUNCH_VALUE, "%s:%zu", r->name, node->start_mark.line + 1);
  return text;
}

static nn_status unknown_key(const char *where, const char *path) {
  char shown[LAUNCH_SHOWN];
  const char *near = launch_key_near(path);
  if (near != NULL)
    return NN_FAIL(NN_ERR_USAGE, "%s: unknown key '%s'; did you mean '%s'?", where, launch_shown(path, shown),
                   near);
  return NN_FAIL(NN_ERR_USAGE, "%s: unknown key '%s'; `natsformer train --help-config` lists all", where,
                 launch_shown(path, shown));
}

// "model" when there are keys "model....".
static bool is_section(const char *name) {
  size_t length = strlen(name);
  for (int i = 0; i < launch_key_count; i++)
    if (strncmp(launch_keys[i].path, name, length) == 0 && launch_keys[i].path[length] == '.')
      return true;
  return false;
}

// The text of a scalar without a tag. Errors name `what`.
static nn_status scalar_text(const reading *r, const yaml_node_t *node, const char *what, const char **text) {
  char where[LAUNCH_VALUE], shown[LAUNCH_SHOWN];
  if (node->type != YAML_SCALAR_NODE)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected one value, found a %s", place(r, node, where), what,
                   node->type == YAML_SEQUENCE_NODE ? "list" : "section");
  if (strcmp((const char *)node->tag, YAML_DEFAULT_SCALAR_TAG) != 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected a value without a tag, found %s", place(r, node, where),
                   what, launch_shown((const char *)node->tag, shown));
  *text = (const char *)node->data.scalar.value;
  if (strlen(*text) != node->data.scalar.length)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected text, found a NUL byte", place(r, node, where), what);
  return NN_OK;
}

static bool is_null(const yaml_node_t *node) {
  const char *text = (const char *)node->data.scalar.value;
  return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
         (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

static nn_status read_value(reading *r, const launch_key *key, const yaml_node_t *node) {
  char where[LAUNCH_VALUE], expected[LAUNCH_VALUE], shown[LAUNCH_SHOWN];
  place(r, node, where);
  size_t *seen = &r->seen_line[key - launch_keys];
  if (*seen != 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: given twice, first in line %zu", where, key->path, *seen);
  *seen = node->start_mark.line + 1;
  launch_key_expects(key, expected);
  const char *text = NULL;
  NN_TRY(scalar_text(r, node, key->path, &text));
  if (is_null(node))
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected %s, found nothing", where, key->path, expected);
  bool quoted = node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
  if (quoted && key->type != LAUNCH_TEXT && key->type != LAUNCH_WORD)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected %s, found the text \"%s\"", where, key->path, expected,
                   launch_shown(text, shown));
  return launch_key_set(key, r->config, text, where);
}

// The keys of a mapping: of the document (section NULL) or of one section.
static nn_status read_mapping(reading *r, const yaml_node_t *mapping, const char *section) {
  const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
  for (; pair < mapping->data.mapping.pairs.top; pair++) {
    const yaml_node_t *name = yaml_document_get_node(r->document, pair->key);
    const yaml_node_t *value = yaml_document_get_node(r->document, pair->value);
    const char *text = NULL;
    char where[LAUNCH_VALUE], path[160];
    NN_TRY(scalar_text(r, name, "name of a key", &text));
    snprintf(path, sizeof path, "%s%s%.80s", section ? section : "", section ? "." : "", text);
    const launch_key *key = launch_key_find(path);
    place(r, name, where);
    if (key != NULL && section == NULL && strchr(path, '.') != NULL)
      return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected section and key on lines of their own", where, path);
    if (key != NULL) {
      NN_TRY(read_value(r, key, value));
    } else if (section == NULL && is_section(text)) {
      for (const yaml_node_pair_t *other = mapping->data.mapping.pairs.start; other < pair; other++)
        if (strcmp((char *)yaml_document_get_node(r->document, other->key)->data.scalar.value, text) == 0)
          return NN_FAIL(NN_ERR_USAGE, "%s: %s: section given twice", where, text);
      if (value->type == YAML_MAPPING_NODE)
        NN_TRY(read_mapping(r, value, text));
      else if (!is_null(value)) // all its keys may be commented out
        return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected a section of keys, found a %s", where, text,
                       value->type == YAML_SEQUENCE_NODE ? "list" : "value");
    } else {
      return unknown_key(where, path);
    }
  }
  return NN_OK;
}

static nn_status read_document(reading *r) {
  const yaml_node_t *root = yaml_document_get_root_node(r->document);
  char where[LAUNCH_VALUE];
  if (root == NULL || is_null(root))
    return NN_OK; // empty: every key keeps its value
  if (root->type != YAML_MAPPING_NODE)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected keys and sections, found a %s", place(r, root, where),
                   root->type == YAML_SEQUENCE_NODE ? "list" : "value");
  return read_mapping(r, root, NULL);
}

static nn_status parser_failure(const yaml_parser_t *parser, const char *name) {
  if (parser->error == YAML_MEMORY_ERROR)
    return NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", name);
  return NN_FAIL(NN_ERR_USAGE, "%s:%zu: not valid YAML: %s%s%s", name, parser->problem_mark.line + 1,
                 parser->context ? parser->context : "", parser->context ? ", " : "",
                 parser->problem ? parser->problem : "unreadable");
}

nn_status launch_config_parse(launch_config *config, const char *yaml, const char *name) {
  nn_status status = NN_OK;
  yaml_parser_t parser;
  yaml_document_t document, second;
  if (!yaml_parser_initialize(&parser))
    return NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", name);
  yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&parser, (const unsigned char *)yaml, strlen(yaml));
  if (!yaml_parser_load(&parser, &document)) {
    status = parser_failure(&parser, name);
    goto free_parser;
  }
  reading r = {.config = config, .name = name, .document = &document};
  NN_GOTO(status, free_document, read_document(&r));
  if (yaml_document_get_root_node(&document) != NULL) {
    if (!yaml_parser_load(&parser, &second)) {
      status = parser_failure(&parser, name);
      goto free_document;
    }
    if (yaml_document_get_root_node(&second) != NULL)
      status = NN_FAIL(NN_ERR_USAGE, "%s: expected one YAML document, found a second one", name);
    yaml_document_delete(&second);
  }
free_document:
  yaml_document_delete(&document);
free_parser:
  yaml_parser_delete(&parser);
  return status;
}

nn_status launch_config_read(launch_config *config, const char *path) {
  nn_status status = NN_OK;
  FILE *file = fopen(path, "rb");
  if (file == NULL)
    return NN_FAIL(NN_ERR_USAGE, "%s: cannot read the configuration: %s", path, strerror(errno));
  char *text = malloc(LARGEST_FILE + 1);
  if (text == NULL) {
    status = NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", path);
    goto close;
  }
  size_t bytes = fread(text, 1, LARGEST_FILE + 1, file);
  if (ferror(file))
    status = NN_FAIL(NN_ERR_USAGE, "%s: cannot read the configuration: %s", path, strerror(errno));
  else if (bytes > LARGEST_FILE)
    status = NN_FAIL(NN_ERR_USAGE, "%s: a configuration of more than %d bytes", path, LARGEST_FILE);
  else if (memchr(text, '\0', bytes) != NULL)
    status = NN_FAIL(NN_ERR_USAGE, "%s: expected YAML, found a NUL byte", path);
  if (status != NN_OK)
    goto close;
  text[bytes] = '\0';
  status = launch_config_parse(config, text, path);
close:
  free(text);
  fclose(file);
  return status;
}

nn_status launch_config_override(launch_config *config, const char *assignment) {
  char shown[LAUNCH_SHOWN];
  const char *equals = strchr(assignment, '=');
  if (equals == NULL)
    return NN_FAIL(NN_ERR_USAGE, "command line: expected key.path=value, found '%s'",
                   launch_shown(assignment, shown));
  char path[160];
  snprintf(path, sizeof path, "%.*s", (int)(equals - assignment < 128 ? equals - assignment : 128),
           assignment);
  const launch_key *key = launch_key_find(path);
  if (key == NULL)
    return unknown_key("command line", path);
  return launch_key_set(key, config, equals + 1, "command line");
}

static nn_status load(const char *path, const char *const *overrides, int count, launch_config *config) {
  launch_config_defaults(config);
  if (path != NULL)
    NN_TRY(launch_config_read(config, path));
  for (int i = 0; i < count; i++)
    NN_TRY(launch_config_override(config, overrides[i]));
  return NN_OK;
}

nn_status launch_config_load(dist_group *world, const char *path, const char *const *overrides, int count,
                             launch_config *config) {
  nn_status status = dist_rank(world) == 0 ? load(path, overrides, count, config) : NN_OK;
  NN_TRY(dist_agree(world, status));
  return dist_broadcast(world, config, (int64_t)sizeof *config, 0);
}
