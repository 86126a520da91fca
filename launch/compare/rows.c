// Which rows a plan has, and where they stand.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/manifest.h" // data_path_join
#include "launch/compare/choice.h"
#include "launch/compare/compare.h"

const char *compare_row_policy(const comparison *c, const compare_row *row) {
  return row->policy < 0 ? NULL : c->plan.policies[row->policy].policy;
}

const char *compare_row_role(const comparison *c, const compare_row *row) {
  if (row->policy >= 0)
    return "post hoc";
  switch (c->models[row->model].config.attention) {
  case NATS_ATTENTION_NATS:
    return "learned";
  case NATS_ATTENTION_WINDOW:
    return "co-trained";
  default:
    return "dense";
  }
}

const char *compare_row_task(const comparison *c, const compare_row *row, char text[COMPARE_NAME]) {
  if (row->measure == COMPARE_NEEDLE)
    snprintf(text, COMPARE_NAME, "needle-%d", c->plan.needle.lengths[row->task]);
  else
    snprintf(text, COMPARE_NAME, "%s", row->measure == COMPARE_TEXT ? "text" : c->plan.tasks[row->task].name);
  return text;
}

const char *compare_row_budget(const comparison *c, const compare_row *row, char text[96]) {
  const compare_plan *plan = &c->plan;
  text[0] = '\0';
  if (row->budget >= plan->budgets_count)
    snprintf(text, 96, "as %s", plan->match.name[row->budget - plan->budgets_count]);
  else if (row->budget >= 0)
    snprintf(text, 96, "share %g", plan->budgets[row->budget]);
  return text;
}

const compare_row *compare_row_own(const comparison *c, const compare_row *row, int32_t model) {
  for (int32_t r = 0; r < c->row_count; r++) {
    const compare_row *other = &c->rows[r];
    if (other->policy < 0 && other->measure == row->measure && other->task == row->task &&
        other->model == model)
      return other;
  }
  return NULL;
}

// ---- files

nn_status compare_row_path(const comparison *c, const compare_row *row, char path[COMPARE_PATH + 300]) {
  char name[COMPARE_ROW_NAME + 16];
  snprintf(name, sizeof name, "rows/%s.json", row->name);
  return data_path_join(path, COMPARE_PATH + 300, c->folder, name);
}

bool compare_row_measured(const comparison *c, const compare_row *row) {
  char path[COMPARE_PATH + 300];
  return row->key[0] != '\0' && compare_row_path(c, row, path) == NN_OK && access(path, F_OK) == 0;
}

json_t *compare_row_read(const comparison *c, const compare_row *row) {
  char path[COMPARE_PATH + 300];
  if (compare_row_path(c, row, path) != NN_OK)
    return NULL;
  json_t *object = json_load_file(path, 0, NULL);
  if (object != NULL && !json_is_object(object)) {
    json_decref(object);
    return NULL;
  }
  return object;
}

// ---- the list

// TASK+MODEL, and post hoc +POLICY and +BUDGET. '+' is in no name, and what a policy's text has beside
// letters and digits is no good in a file's name.
static void name_row(const comparison *c, compare_row *row) {
  char task[COMPARE_NAME], budget[96];
  compare_row_task(c, row, task);
  compare_row_budget(c, row, budget);
  const char *policy = compare_row_policy(c, row);
  size_t at = (size_t)snprintf(row->name, sizeof row->name, "%s+%s", task, c->plan.models[row->model].name);
  if (policy == NULL)
    return;
  snprintf(row->name + at, sizeof row->name - at, "%s%s%s%s", "+", policy, budget[0] != '\0' ? "+" : "",
           budget[0] == 's' ? strchr(budget, ' ') + 1 : budget);
  for (char *letter = row->name + at; *letter != '\0'; letter++)
    if (strchr(":=, ", *letter) != NULL)
      *letter = '-';
}

static nn_status add(comparison *c, compare_row row) {
  name_row(c, &row);
  for (int32_t r = 0; r < c->row_count; r++)
    if (strcmp(c->rows[r].name, row.name) == 0)
      return NN_FAIL(NN_ERR_USAGE, "the plan asks for %s twice", row.name);
  compare_row *rows = realloc(c->rows, (size_t)(c->row_count + 1) * sizeof *rows);
  if (rows == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %d rows", c->row_count);
  c->rows = rows;
  rows[c->row_count++] = row;
  return NN_OK;
}

static bool is_among(const compare_models *models, int32_t model) {
  for (int32_t i = 0; i < models->count; i++)
    if (models->model[i] == model)
      return true;
  return false;
}

// Models that a policy is applied to: those that are named, or those that it is made for.
static bool applies(const comparison *c, const compare_policy *policy, const nats_policy *row,
                    int32_t model) {
  if (policy->models.count > 0)
    return is_among(&policy->models, model);
  nats_attention_kind wanted = row->needs_head_use ? NATS_ATTENTION_NATS : NATS_ATTENTION_DENSE;
  return c->models[model].config.attention == wanted;
}

static nn_status add_policy(comparison *c, compare_row row, const nats_policy *policy,
                            const compare_models *beside) {
  const compare_plan *plan = &c->plan;
  row.budget = -1;
  if (compare_has_size(policy, compare_row_policy(c, &row)))
    return add(c, row);
  for (row.budget = 0; row.budget < plan->budgets_count + plan->match.count; row.budget++) {
    int32_t match = row.budget - plan->budgets_count;
    if (match < 0 || is_among(beside, plan->match.model[match]))
      NN_TRY(add(c, row));
  }
  return NN_OK;
}

// Before hours of measuring: whether the model can have this policy.
static nn_status check_policy(const comparison *c, const compare_row *row, const nats_policy *policy) {
  const char *text = compare_row_policy(c, row);
  const nats_model_config *config = &c->models[row->model].config;
  nats_policy_choice unused;
  if (policy != NULL && policy->needs_head_use && config->attention != NATS_ATTENTION_NATS)
    return NN_FAIL(NN_ERR_USAGE,
                   "policies[%d]: '%s' ranks heads by their use of the cache: expected models "
                   "with token types (attention: nats), found %s",
                   row->policy, text, c->plan.models[row->model].name);
  return compare_choose(text, config, &unused);
}

// One task with its models.
static nn_status add_task(comparison *c, compare_measure measure, int32_t task,
                          const compare_models *models) {
  const compare_plan *plan = &c->plan;
  for (int32_t i = 0; i < models->count; i++) {
    compare_row row = {
        .measure = measure, .task = task, .model = models->model[i], .policy = -1, .budget = -1};
    NN_TRY(add(c, row));
    for (row.policy = 0; row.policy < plan->policies_count; row.policy++) {
      const compare_policy *policy = &plan->policies[row.policy];
      const nats_policy *found = compare_find_policy(policy->policy);
      if (found != NULL && !applies(c, policy, found, row.model))
        continue;
      NN_TRY(check_policy(c, &row, found));
      NN_TRY(add_policy(c, row, found, models));
    }
  }
  return NN_OK;
}

nn_status compare_rows_list(comparison *c) {
  const compare_plan *plan = &c->plan;
  compare_models text = {0};
  for (int32_t m = 0; m < plan->models_count; m++)
    if (plan->models[m].text)
      text.model[text.count++] = m;
  if (plan->data[0] != '\0')
    NN_TRY(add_task(c, COMPARE_TEXT, 0, &text));
  for (int32_t t = 0; t < plan->tasks_count; t++)
    NN_TRY(add_task(c, COMPARE_TASK, t, &plan->tasks[t].models));
  for (int32_t l = 0; l < plan->needle.lengths_count; l++)
    NN_TRY(add_task(c, COMPARE_NEEDLE, l, &plan->needle.models));
  return NN_OK;
}
