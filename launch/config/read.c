// Reading a configuration: YAML, and key.path=value from the command line.
//
// A document is a mapping of keys and of sections, a section is a mapping of keys.
#include <stdio.h>
#include <stdlib.h> // free
#include <string.h>

#include "launch/config/yaml_document.h"

enum { MOST_KEYS = 128 };

typedef struct {
  launch_config *config;
  launch_yaml yaml;
  size_t seen_line[MOST_KEYS]; // where each key was given; 0: nowhere yet
} reading;

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

static nn_status read_value(reading *r, const launch_key *key, const yaml_node_t *node) {
  char where[LAUNCH_VALUE];
  size_t *seen = &r->seen_line[key - launch_keys];
  if (*seen != 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: given twice, first in line %zu",
                   launch_yaml_place(&r->yaml, node, where), key->path, *seen);
  *seen = node->start_mark.line + 1;
  return launch_yaml_set(&r->yaml, node, key, r->config);
}

// The keys of a mapping: of the document (section NULL) or of one section.
static nn_status read_mapping(reading *r, const yaml_node_t *mapping, const char *section) {
  const yaml_node_pair_t *pair = mapping->data.mapping.pairs.start;
  for (; pair < mapping->data.mapping.pairs.top; pair++) {
    const yaml_node_t *name = launch_yaml_node(&r->yaml, pair->key);
    const yaml_node_t *value = launch_yaml_node(&r->yaml, pair->value);
    const char *text = NULL;
    char where[LAUNCH_VALUE], path[160];
    NN_TRY(launch_yaml_scalar(&r->yaml, name, "name of a key", &text));
    snprintf(path, sizeof path, "%s%s%.80s", section ? section : "", section ? "." : "", text);
    const launch_key *key = launch_key_find(path);
    launch_yaml_place(&r->yaml, name, where);
    if (key != NULL && section == NULL && strchr(path, '.') != NULL)
      return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected section and key on lines of their own", where, path);
    if (key != NULL) {
      NN_TRY(read_value(r, key, value));
    } else if (section == NULL && is_section(text)) {
      for (const yaml_node_pair_t *other = mapping->data.mapping.pairs.start; other < pair; other++)
        if (strcmp((char *)launch_yaml_node(&r->yaml, other->key)->data.scalar.value, text) == 0)
          return NN_FAIL(NN_ERR_USAGE, "%s: %s: section given twice", where, text);
      if (value->type == YAML_MAPPING_NODE)
        NN_TRY(read_mapping(r, value, text));
      else if (!launch_yaml_is_null(value)) // all its keys may be commented out
        return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected a section of keys, found a %s", where, text,
                       launch_yaml_kind(value));
    } else {
      return unknown_key(where, path);
    }
  }
  return NN_OK;
}

static nn_status read_document(reading *r) {
  const yaml_node_t *root = launch_yaml_root(&r->yaml);
  char where[LAUNCH_VALUE];
  if (root == NULL)
    return NN_OK; // empty: every key keeps its value
  if (root->type != YAML_MAPPING_NODE)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected keys and sections, found a %s",
                   launch_yaml_place(&r->yaml, root, where), launch_yaml_kind(root));
  return read_mapping(r, root, NULL);
}

nn_status launch_config_parse(launch_config *config, const char *yaml, const char *name) {
  reading r = {.config = config};
  NN_TRY(launch_yaml_parse(yaml, name, &r.yaml));
  nn_status status = read_document(&r);
  launch_yaml_free(&r.yaml);
  return status;
}

nn_status launch_config_read(launch_config *config, const char *path) {
  char *text;
  NN_TRY(launch_yaml_read(path, &text));
  nn_status status = launch_config_parse(config, text, path);
  free(text);
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
