// Reading YAML without guessing: libyaml composes the document, and every value is a scalar whose text goes
// through launch_key_set. What keys there are is up to launch/config/read.c and launch/compare/plan.c.
#pragma once

#include <yaml.h> // libyaml

#include "launch/config/table.h"

typedef struct {
  const char *name; // of the file, for messages
  yaml_document_t document;
} launch_yaml;

// The text of a file, malloc'ed. Errors: NN_ERR_USAGE (unreadable, too large, a NUL byte).
nn_status launch_yaml_read(const char *path, char **text);

// One document; `name` is kept. Errors: NN_ERR_USAGE with file and line.
nn_status launch_yaml_parse(const char *text, const char *name, launch_yaml *out);
void launch_yaml_free(launch_yaml *yaml);

// The root, NULL where the document is empty.
const yaml_node_t *launch_yaml_root(launch_yaml *yaml);
const yaml_node_t *launch_yaml_node(launch_yaml *yaml, int index);

// "config.yaml:12", in a buffer of the caller.
const char *launch_yaml_place(const launch_yaml *yaml, const yaml_node_t *node, char text[LAUNCH_VALUE]);

// "list", "section" or "value", for messages.
const char *launch_yaml_kind(const yaml_node_t *node);

bool launch_yaml_is_null(const yaml_node_t *node);

// The text of a scalar without a tag. Errors name `what`.
nn_status launch_yaml_scalar(const launch_yaml *yaml, const yaml_node_t *node, const char *what,
                             const char **text);

// Stores a scalar in the struct that key->offset belongs to: launch_key_set for what stands in a file.
nn_status launch_yaml_set(const launch_yaml *yaml, const yaml_node_t *node, const launch_key *key,
                          void *record);
