// The keys of a plan: one table for every section. Lists and sections inside of a section have a function
// that reads them and one that shows them.
#include "launch/compare/plan.h"

#include <stddef.h> // offsetof
#include <stdio.h>
#include <stdlib.h> // free
#include <string.h>

#include "launch/config/yaml_document.h"

enum { PATH = 256 };

typedef nn_status (*nested_reader)(launch_yaml *yaml, const yaml_node_t *node, const char *path,
                                   void *record);
typedef json_t *(*nested_json)(const void *record);

typedef struct {
  launch_key key;     // path: the name within its section
  nested_reader read; // NULL: a scalar; else gets the section's struct
  nested_json show;
} plan_key;

typedef struct {
  const plan_key *keys;
  int32_t count;
} plan_section;

// clang-format off
#define MEMBER(owner, member)  (((owner *)0)->member)
#define FIELD(owner, member)                                                                                 \
  .path = #member, .offset = offsetof(owner, member), .size = sizeof MEMBER(owner, member)
#define TEXT(owner, member, value) {{FIELD(owner, member), .type = LAUNCH_TEXT, .fallback = (value)}, NULL, NULL}
#define WORD(owner, member, value, list)                                                                      \
  {{FIELD(owner, member), .type = LAUNCH_WORD, .fallback = (value), .words = (list)}, NULL, NULL}
#define WHOLE(owner, member, value, low, high)                                                                \
  {{FIELD(owner, member), .type = LAUNCH_WHOLE, .fallback = (value), .min = (low), .max = (high)}, NULL, NULL}
#define REAL(owner, member, value, low, high)                                                                \
  {{FIELD(owner, member), .type = LAUNCH_REAL, .fallback = (value), .min = (low), .max = (high)}, NULL, NULL}
#define FLAG(owner, member, value) {{FIELD(owner, member), .type = LAUNCH_FLAG, .fallback = (value)}, NULL, NULL}
#define NESTED(name, reader, shower) {{.path = (name)}, (reader), (shower)}
#define SECTION(table) {(table), sizeof(table) / sizeof *(table)}
// clang-format on

// ---- sections

static const plan_key *find_key(const plan_section *section, const char *name) {
  for (int32_t k = 0; k < section->count; k++)
    if (strcmp(section->keys[k].key.path, name) == 0)
      return &section->keys[k];
  return NULL;
}

static nn_status unknown_key(const plan_section *section, const char *where, const char *path) {
  char known[512] = "", shown[LAUNCH_SHOWN];
  for (int32_t k = 0; k < section->count; k++)
    snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", k > 0 ? ", " : "",
             section->keys[k].key.path);
  return NN_FAIL(NN_ERR_USAGE, "%s: unknown key '%s'; expected one of %s", where, launch_shown(path, shown),
                 known);
}

static void use_defaults(const plan_section *section, void *record) {
  for (int32_t k = 0; k < section->count; k++)
    if (section->keys[k].read == NULL)
      (void)launch_key_set(&section->keys[k].key, record, section->keys[k].key.fallback,
                           "default"); // a test reads them all
}

// One key. `path`: as it is called in messages.
static nn_status read_key(launch_yaml *yaml, const yaml_node_t *node, const plan_key *key, const char *path,
                          void *record) {
  if (key->read != NULL)
    return key->read(yaml, node, path, record);
  launch_key named = key->key;
  named.path = path;
  return launch_yaml_set(yaml, node, &named, record);
}

static nn_status read_section(launch_yaml *yaml, const yaml_node_t *node, const plan_section *section,
                              const char *path, void *record) {
  char where[LAUNCH_VALUE], child[PATH];
  uint64_t seen = 0;
  if (node->type != YAML_MAPPING_NODE)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s%sexpected a section of keys, found a %s",
                   launch_yaml_place(yaml, node, where), path, path[0] != '\0' ? ": " : "",
                   launch_yaml_kind(node));
  const yaml_node_pair_t *pair = node->data.mapping.pairs.start;
  for (; pair < node->data.mapping.pairs.top; pair++) {
    const yaml_node_t *name = launch_yaml_node(yaml, pair->key);
    const char *text = NULL;
    NN_TRY(launch_yaml_scalar(yaml, name, "name of a key", &text));
    snprintf(child, sizeof child, "%.160s%s%.80s", path, path[0] != '\0' ? "." : "", text);
    const plan_key *key = find_key(section, text);
    launch_yaml_place(yaml, name, where);
    if (key == NULL)
      return unknown_key(section, where, child);
    uint64_t bit = (uint64_t)1 << (key - section->keys);
    if ((seen & bit) != 0)
      return NN_FAIL(NN_ERR_USAGE, "%s: %s: given twice", where, child);
    seen |= bit;
    NN_TRY(read_key(yaml, launch_yaml_node(yaml, pair->value), key, child, record));
  }
  return NN_OK;
}

static json_t *scalar_json(const launch_key *key, const void *record) {
  const char *field = (const char *)record + key->offset;
  int32_t narrow;
  int64_t wide;
  double real;
  switch (key->type) {
  case LAUNCH_FLAG:
    return json_boolean(*(const bool *)field);
  case LAUNCH_REAL:
    memcpy(&real, field, sizeof real);
    return json_real(real);
  case LAUNCH_WHOLE:
    memcpy(key->size == sizeof narrow ? (void *)&narrow : (void *)&wide, field, key->size);
    return json_integer(key->size == sizeof narrow ? narrow : (json_int_t)wide);
  default:
    return json_string(field);
  }
}

static json_t *section_json(const plan_section *section, const void *record) {
  json_t *object = json_object();
  for (int32_t k = 0; k < section->count; k++) {
    const plan_key *key = &section->keys[k];
    json_t *value = key->show != NULL ? key->show(record) : scalar_json(&key->key, record);
    if (value != NULL)
      json_object_set_new(object, key->key.path, value);
  }
  return object;
}

// ---- lists

// The items of a list of 1 to `most`.
static nn_status list_items(const launch_yaml *yaml, const yaml_node_t *node, const char *path, int32_t most,
                            const yaml_node_item_t **items, int32_t *count) {
  char where[LAUNCH_VALUE];
  launch_yaml_place(yaml, node, where);
  if (node->type != YAML_SEQUENCE_NODE)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected a list, as in [a, b], found a %s", where, path,
                   launch_yaml_kind(node));
  long found = node->data.sequence.items.top - node->data.sequence.items.start;
  if (found < 1 || found > most)
    return NN_FAIL(NN_ERR_USAGE, "%s: %s: expected 1 to %d items, found %ld", where, path, most, found);
  *items = node->data.sequence.items.start;
  *count = (int32_t)found;
  return NN_OK;
}

// A list of scalars as `item` describes them, one behind the other at `values`.
static nn_status read_scalars(launch_yaml *yaml, const yaml_node_t *node, const char *path, launch_key item,
                              int32_t most, void *values, int32_t *count) {
  const yaml_node_item_t *items;
  char child[PATH];
  NN_TRY(list_items(yaml, node, path, most, &items, count));
  for (int32_t i = 0; i < *count; i++) {
    snprintf(child, sizeof child, "%s[%d]", path, i);
    item.path = child;
    NN_TRY(launch_yaml_set(yaml, launch_yaml_node(yaml, items[i]), &item,
                           (char *)values + (size_t)i * item.size));
  }
  return NN_OK;
}

// A list of sections at `records`, `stride` bytes apart. An item that is one scalar stands for the section's
// first key, where `shorthand` allows that.
static nn_status read_sections(launch_yaml *yaml, const yaml_node_t *node, const char *path,
                               const plan_section *section, bool shorthand, int32_t most, void *records,
                               size_t stride, int32_t *count) {
  const yaml_node_item_t *items;
  char child[PATH];
  NN_TRY(list_items(yaml, node, path, most, &items, count));
  memset(records, 0, (size_t)most * stride);
  for (int32_t i = 0; i < *count; i++) {
    const yaml_node_t *item = launch_yaml_node(yaml, items[i]);
    void *record = (char *)records + (size_t)i * stride;
    snprintf(child, sizeof child, "%s[%d]", path, i);
    use_defaults(section, record);
    if (shorthand && item->type == YAML_SCALAR_NODE)
      NN_TRY(read_key(yaml, item, &section->keys[0], child, record));
    else
      NN_TRY(read_section(yaml, item, section, child, record));
  }
  return NN_OK;
}

static json_t *sections_json(const plan_section *section, const void *records, size_t stride, int32_t count) {
  json_t *list = json_array();
  for (int32_t i = 0; i < count; i++)
    json_array_append_new(list, section_json(section, (const char *)records + (size_t)i * stride));
  return list;
}

static json_t *reals_json(const double *values, int32_t count) {
  json_t *list = json_array();
  for (int32_t i = 0; i < count; i++)
    json_array_append_new(list, json_real(values[i]));
  return list;
}

static nn_status read_names(launch_yaml *yaml, const yaml_node_t *node, const char *path,
                            compare_models *out) {
  const launch_key name = {.type = LAUNCH_TEXT, .size = COMPARE_NAME};
  return read_scalars(yaml, node, path, name, COMPARE_MODELS, out->name, &out->count);
}

static json_t *names_json(const compare_models *models) {
  json_t *list = models->count > 0 ? json_array() : NULL;
  for (int32_t i = 0; i < models->count; i++)
    json_array_append_new(list, json_string(models->name[i]));
  return list;
}

// ---- models

static const plan_key model_keys[] = {
    TEXT(compare_model, name, ""),
    TEXT(compare_model, run, ""),
    WORD(compare_model, checkpoint, "last", "last|best"),
    WORD(compare_model, trained, "any", "any|dense|nats|window"),
    FLAG(compare_model, text, "true"),
};
static const plan_section model_section = SECTION(model_keys);

static nn_status read_models(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_plan *plan = record;
  return read_sections(yaml, node, path, &model_section, false, COMPARE_MODELS, plan->models,
                       sizeof *plan->models, &plan->models_count);
}

static json_t *models_json(const void *record) {
  const compare_plan *plan = record;
  return sections_json(&model_section, plan->models, sizeof *plan->models, plan->models_count);
}

// ---- policies

static nn_status read_policy_models(launch_yaml *yaml, const yaml_node_t *node, const char *path,
                                    void *record) {
  return read_names(yaml, node, path, &((compare_policy *)record)->models);
}

static json_t *policy_models_json(const void *record) {
  return names_json(&((const compare_policy *)record)->models);
}

static const plan_key policy_keys[] = {
    TEXT(compare_policy, policy, ""),
    NESTED("models", read_policy_models, policy_models_json),
};
static const plan_section policy_section = SECTION(policy_keys);

static nn_status read_policies(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_plan *plan = record;
  return read_sections(yaml, node, path, &policy_section, true, COMPARE_POLICIES, plan->policies,
                       sizeof *plan->policies, &plan->policies_count);
}

static json_t *policies_json(const void *record) {
  const compare_plan *plan = record;
  return sections_json(&policy_section, plan->policies, sizeof *plan->policies, plan->policies_count);
}

// ---- tasks

static nn_status read_task_models(launch_yaml *yaml, const yaml_node_t *node, const char *path,
                                  void *record) {
  return read_names(yaml, node, path, &((compare_task *)record)->models);
}

static json_t *task_models_json(const void *record) {
  return names_json(&((const compare_task *)record)->models);
}

static const plan_key task_keys[] = {
    TEXT(compare_task, name, ""),
    TEXT(compare_task, data, ""),
    WORD(compare_task, split, "val", "train|val"),
    WORD(compare_task, sample, "document", "stream|document"),
    WHOLE(compare_task, length, "0", 0, 1 << 24),
    WHOLE(compare_task, samples, "0", 0, 1e15),
    WHOLE(compare_task, prompt, "0", 0, 1 << 24),
    NESTED("models", read_task_models, task_models_json),
};
static const plan_section task_section = SECTION(task_keys);

static nn_status read_tasks(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_plan *plan = record;
  return read_sections(yaml, node, path, &task_section, false, COMPARE_TASKS, plan->tasks,
                       sizeof *plan->tasks, &plan->tasks_count);
}

static json_t *tasks_json(const void *record) {
  const compare_plan *plan = record;
  return plan->tasks_count > 0
             ? sections_json(&task_section, plan->tasks, sizeof *plan->tasks, plan->tasks_count)
             : NULL;
}

// ---- the needle

static nn_status read_lengths(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_needle *needle = record;
  const launch_key length = {.type = LAUNCH_WHOLE, .size = sizeof *needle->lengths, .min = 1, .max = 1 << 24};
  return read_scalars(yaml, node, path, length, COMPARE_LENGTHS, needle->lengths, &needle->lengths_count);
}

static json_t *lengths_json(const void *record) {
  const compare_needle *needle = record;
  json_t *list = json_array();
  for (int32_t i = 0; i < needle->lengths_count; i++)
    json_array_append_new(list, json_integer(needle->lengths[i]));
  return list;
}

static nn_status read_depths(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_needle *needle = record;
  const launch_key depth = {.type = LAUNCH_REAL, .size = sizeof *needle->depths, .min = 0, .max = 1};
  return read_scalars(yaml, node, path, depth, COMPARE_DEPTHS, needle->depths, &needle->depths_count);
}

static json_t *depths_json(const void *record) {
  const compare_needle *needle = record;
  return reals_json(needle->depths, needle->depths_count);
}

static nn_status read_needle_models(launch_yaml *yaml, const yaml_node_t *node, const char *path,
                                    void *record) {
  return read_names(yaml, node, path, &((compare_needle *)record)->models);
}

static json_t *needle_models_json(const void *record) {
  return names_json(&((const compare_needle *)record)->models);
}

static const plan_key needle_keys[] = {
    NESTED("lengths", read_lengths, lengths_json),
    NESTED("depths", read_depths, depths_json),
    WHOLE(compare_needle, samples, "16", 1, 1e9),
    WHOLE(compare_needle, digits, "5", 1, 1000),
    WHOLE(compare_needle, vocab, "64", 13, 1 << 24),
    WHOLE(compare_needle, window, "16", 0, 1 << 24),
    FLAG(compare_needle, prompt, "true"),
    NESTED("models", read_needle_models, needle_models_json),
};
static const plan_section needle_section = SECTION(needle_keys);

static nn_status read_needle(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  return read_section(yaml, node, &needle_section, path, &((compare_plan *)record)->needle);
}

static json_t *needle_json(const void *record) {
  const compare_needle *needle = &((const compare_plan *)record)->needle;
  return needle->lengths_count > 0 ? section_json(&needle_section, needle) : NULL;
}

// ---- the plan

static nn_status read_seeds(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_plan *plan = record;
  const launch_key seed = {.type = LAUNCH_WHOLE, .size = sizeof *plan->seeds, .min = 0, .max = 1e15};
  return read_scalars(yaml, node, path, seed, COMPARE_SEEDS, plan->seeds, &plan->seeds_count);
}

static json_t *seeds_json(const void *record) {
  const compare_plan *plan = record;
  json_t *list = json_array();
  for (int32_t i = 0; i < plan->seeds_count; i++)
    json_array_append_new(list, json_integer(plan->seeds[i]));
  return list;
}

static nn_status read_budgets(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  compare_plan *plan = record;
  const launch_key budget = {
      .type = LAUNCH_REAL, .size = sizeof *plan->budgets, .min = 0, .max = 1, .above = true};
  return read_scalars(yaml, node, path, budget, COMPARE_BUDGETS, plan->budgets, &plan->budgets_count);
}

static json_t *budgets_json(const void *record) {
  const compare_plan *plan = record;
  return plan->budgets_count > 0 ? reals_json(plan->budgets, plan->budgets_count) : NULL;
}

static nn_status read_match(launch_yaml *yaml, const yaml_node_t *node, const char *path, void *record) {
  return read_names(yaml, node, path, &((compare_plan *)record)->match);
}

static json_t *match_json(const void *record) {
  return names_json(&((const compare_plan *)record)->match);
}

static const plan_key plan_keys[] = {
    TEXT(compare_plan, data, ""),
    WORD(compare_plan, split, "val", "train|val"),
    WORD(compare_plan, sample, "stream", "stream|document"),
    WHOLE(compare_plan, length, "0", 0, 1 << 24),
    WHOLE(compare_plan, samples, "0", 0, 1e15),
    WHOLE(compare_plan, batch, "8", 1, 1 << 20),
    WHOLE(compare_plan, prompt, "0", 0, 1 << 24),
    WHOLE(compare_plan, page_tokens, "16", 1, 1 << 16),
    WORD(compare_plan, device, "auto", "auto|cpu|cuda"),
    WORD(compare_plan, precision, "auto", "auto|float32|bf16"),
    WHOLE(compare_plan, threads, "0", 0, 4096),
    NESTED("seeds", read_seeds, seeds_json),
    NESTED("models", read_models, models_json),
    NESTED("policies", read_policies, policies_json),
    NESTED("budgets", read_budgets, budgets_json),
    NESTED("match", read_match, match_json),
    REAL(compare_plan, tolerance, "0.1", 0, 1),
    NESTED("tasks", read_tasks, tasks_json),
    NESTED("needle", read_needle, needle_json),
};
static const plan_section whole_plan = SECTION(plan_keys);

json_t *compare_plan_json(const compare_plan *plan) {
  return section_json(&whole_plan, plan);
}

static void use_plan_defaults(compare_plan *plan) {
  memset(plan, 0, sizeof *plan);
  use_defaults(&whole_plan, plan);
  use_defaults(&needle_section, &plan->needle);
  plan->seeds_count = 3;
  for (int32_t i = 0; i < plan->seeds_count; i++)
    plan->seeds[i] = i + 1;
}

static nn_status read_file(const char *path, compare_plan *plan) {
  launch_yaml yaml;
  char *text;
  NN_TRY(launch_yaml_read(path, &text));
  nn_status status = launch_yaml_parse(text, path, &yaml);
  free(text);
  NN_TRY(status);
  const yaml_node_t *root = launch_yaml_root(&yaml);
  if (root != NULL)
    status = read_section(&yaml, root, &whole_plan, "", plan);
  launch_yaml_free(&yaml);
  return status;
}

// "needle.samples=4" or "budgets=[0.1, 0.2]".
static nn_status override(const char *assignment, compare_plan *plan) {
  static const char where[] = "command line", prefix[] = "needle.";
  char shown[LAUNCH_SHOWN], path[PATH];
  const char *equals = strchr(assignment, '=');
  if (equals == NULL)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected key=value, found '%s'", where,
                   launch_shown(assignment, shown));
  snprintf(path, sizeof path, "%.*s", (int)(equals - assignment < 128 ? equals - assignment : 128),
           assignment);
  bool inside = strncmp(path, prefix, sizeof prefix - 1) == 0;
  const plan_section *section = inside ? &needle_section : &whole_plan;
  const plan_key *key = find_key(section, inside ? path + sizeof prefix - 1 : path);
  if (key == NULL)
    return unknown_key(section, where, path);
  launch_yaml yaml;
  NN_TRY(launch_yaml_parse(equals + 1, where, &yaml));
  const yaml_node_t *root = launch_yaml_root(&yaml);
  nn_status status = root == NULL
                         ? NN_FAIL(NN_ERR_USAGE, "%s: %s: expected a value, found nothing", where, path)
                         : read_key(&yaml, root, key, path, inside ? (void *)&plan->needle : (void *)plan);
  launch_yaml_free(&yaml);
  return status;
}

nn_status compare_plan_read(const char *path, const char *const *overrides, int count, compare_plan *plan) {
  use_plan_defaults(plan);
  NN_TRY(read_file(path, plan));
  for (int i = 0; i < count; i++)
    NN_TRY(override(overrides[i], plan));
  return compare_plan_check(path, plan);
}
