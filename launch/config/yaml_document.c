#include "launch/config/yaml_document.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h> // malloc
#include <string.h>

enum { LARGEST_FILE = 1 << 20 };

// ---- what stands in a document

const yaml_node_t *launch_yaml_node(launch_yaml *yaml, int index) {
  return yaml_document_get_node(&yaml->document, index);
}

bool launch_yaml_is_null(const yaml_node_t *node) {
  const char *text = (const char *)node->data.scalar.value;
  return node->type == YAML_SCALAR_NODE && node->data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
         (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0);
}

const yaml_node_t *launch_yaml_root(launch_yaml *yaml) {
  const yaml_node_t *root = yaml_document_get_root_node(&yaml->document);
  return root == NULL || launch_yaml_is_null(root) ? NULL : root;
}

const char *launch_yaml_place(const launch_yaml *yaml, const yaml_node_t *node, char text[LAUNCH_VALUE]) {
  snprintf(text, LAUNCH_VALUE, "%s:%zu", yaml->name, node->start_mark.line + 1);
  return text;
}

const char *launch_yaml_kind(const yaml_node_t *node) {
  return node->type == YAML_SEQUENCE_NODE ? "list" : node->type == YAML_MAPPING_NODE ? "section" : "value";
}

nn_status launch_yaml_scalar(const launch_yaml *yaml, const yaml_node_t *node, const char *what,
                             const char **text) {
  char where[LAUNCH_VALUE], shown[LAUNCH_SHOWN];
  if (node->type != YAML_SCALAR_NODE)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected one value, found a %s",
                   launch_yaml_place(yaml, node, where), what, launch_yaml_kind(node));
  if (strcmp((const char *)node->tag, YAML_DEFAULT_SCALAR_TAG) != 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected a value without a tag, found %s",
                   launch_yaml_place(yaml, node, where), what, launch_shown((const char *)node->tag, shown));
  *text = (const char *)node->data.scalar.value;
  if (strlen(*text) != node->data.scalar.length)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected text, found a NUL byte",
                   launch_yaml_place(yaml, node, where), what);
  return NN_OK;
}

nn_status launch_yaml_set(const launch_yaml *yaml, const yaml_node_t *node, const launch_key *key,
                          void *record) {
  char where[LAUNCH_VALUE], expected[LAUNCH_VALUE], shown[LAUNCH_SHOWN];
  launch_yaml_place(yaml, node, where);
  launch_key_expects(key, expected);
  const char *text = NULL;
  NN_TRY(launch_yaml_scalar(yaml, node, key->path, &text));
  if (launch_yaml_is_null(node))
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected %s, found nothing", where, key->path, expected);
  bool quoted = node->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
  if (quoted && key->type != LAUNCH_TEXT && key->type != LAUNCH_WORD)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected %s, found the text \"%s\"", where, key->path, expected,
                   launch_shown(text, shown));
  return launch_key_set(key, record, text, where);
}

// ---- documents

static nn_status parser_failure(const yaml_parser_t *parser, const char *name) {
  if (parser->error == YAML_MEMORY_ERROR)
    return NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", name);
  return NN_FAIL(NN_ERR_USAGE, "%s:%zu: not valid YAML: %s%s%s", name, parser->problem_mark.line + 1,
                 parser->context ? parser->context : "", parser->context ? ", " : "",
                 parser->problem ? parser->problem : "unreadable");
}

// What follows the first document must be nothing.
static nn_status expect_end(yaml_parser_t *parser, const char *name) {
  yaml_document_t second;
  if (!yaml_parser_load(parser, &second))
    return parser_failure(parser, name);
  bool found = yaml_document_get_root_node(&second) != NULL;
  yaml_document_delete(&second);
  return found ? NN_FAIL(NN_ERR_USAGE, "%s: expected one YAML document, found a second one", name) : NN_OK;
}

nn_status launch_yaml_parse(const char *text, const char *name, launch_yaml *out) {
  nn_status status = NN_OK;
  yaml_parser_t parser;
  *out = (launch_yaml){.name = name};
  if (!yaml_parser_initialize(&parser))
    return NN_FAIL(NN_ERR_MEMORY, "%s: out of memory", name);
  yaml_parser_set_encoding(&parser, YAML_UTF8_ENCODING);
  yaml_parser_set_input_string(&parser, (const unsigned char *)text, strlen(text));
  if (!yaml_parser_load(&parser, &out->document)) {
    status = parser_failure(&parser, name);
    goto done;
  }
  if (yaml_document_get_root_node(&out->document) != NULL)
    status = expect_end(&parser, name);
  if (status != NN_OK)
    launch_yaml_free(out);
done:
  yaml_parser_delete(&parser);
  return status;
}

void launch_yaml_free(launch_yaml *yaml) {
  yaml_document_delete(&yaml->document);
}

nn_status launch_yaml_read(const char *path, char **out) {
  nn_status status = NN_OK;
  *out = NULL;
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
  if (status == NN_OK) {
    text[bytes] = '\0';
    *out = text;
  }
close:
  if (status != NN_OK)
    free(text);
  fclose(file);
  return status;
}
