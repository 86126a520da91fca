// What cannot be in a plan, across keys; and which models its names mean.
#include <stdio.h>
#include <string.h>

#include "launch/compare/choice.h"
#include "launch/compare/plan.h"

enum { KEY_PATH = 64 };

// Names stand in names of files.
static nn_status check_name(const char *file, const char *what, int32_t index, const char *name) {
  size_t good = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
  if (name[0] == '\0' || name[0] == '.' || name[good] != '\0')
    return NN_FAIL(NN_ERR_USAGE, "%s: %s[%d].name: expected letters, digits, '.', '_' and '-', found '%s'",
                   file, what, index, name);
  return NN_OK;
}

static int32_t find_model(const compare_plan *plan, const char *name, int32_t count) {
  for (int32_t m = 0; m < count; m++)
    if (strcmp(plan->models[m].name, name) == 0)
      return m;
  return -1;
}

static nn_status resolve(const char *file, const compare_plan *plan, const char *path,
                         compare_models *models) {
  for (int32_t i = 0; i < models->count; i++) {
    models->model[i] = find_model(plan, models->name[i], plan->models_count);
    if (models->model[i] < 0)
      return NN_FAIL(NN_ERR_USAGE, "%s: %s[%d]: expected the name of a model of this plan, found '%s'", file,
                     path, i, models->name[i]);
  }
  return NN_OK;
}

static nn_status check_models(const char *file, compare_plan *plan) {
  if (plan->models_count == 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: models: expected at least one", file);
  for (int32_t m = 0; m < plan->models_count; m++) {
    const compare_model *model = &plan->models[m];
    NN_TRY(check_name(file, "models", m, model->name));
    if (find_model(plan, model->name, m) >= 0)
      return NN_FAIL(NN_ERR_USAGE, "%s: models[%d].name: '%s' is taken by another model", file, m,
                     model->name);
    if (model->run[0] == '\0')
      return NN_FAIL(NN_ERR_USAGE, "%s: models[%d].run: expected a run folder, found nothing", file, m);
  }
  return NN_OK;
}

static nn_status check_policies(const char *file, compare_plan *plan) {
  char path[KEY_PATH];
  NN_TRY(resolve(file, plan, "match", &plan->match));
  for (int32_t p = 0; p < plan->policies_count; p++) {
    snprintf(path, sizeof path, "policies[%d].models", p);
    NN_TRY(resolve(file, plan, path, &plan->policies[p].models));
    for (int32_t other = 0; other < p; other++)
      if (strcmp(plan->policies[p].policy, plan->policies[other].policy) == 0)
        return NN_FAIL(NN_ERR_USAGE, "%s: policies[%d]: '%s' is given twice", file, p,
                       plan->policies[p].policy);
  }
  for (int32_t p = 0; p < plan->policies_count && plan->budgets_count + plan->match.count == 0; p++) {
    const char *text = plan->policies[p].policy;
    const nats_policy *policy = compare_find_policy(text);
    if (policy != NULL && !compare_has_size(policy, text)) // those that do not exist: once models are known
      return NN_FAIL(NN_ERR_USAGE, "%s: policies[%d]: '%s' has no %s: expected budgets or match", file, p,
                     text, policy->size);
  }
  return NN_OK;
}

static nn_status check_tasks(const char *file, compare_plan *plan) {
  char path[KEY_PATH];
  for (int32_t t = 0; t < plan->tasks_count; t++) {
    compare_task *task = &plan->tasks[t];
    NN_TRY(check_name(file, "tasks", t, task->name));
    if (strcmp(task->name, "text") == 0 || strncmp(task->name, "needle-", 7) == 0)
      return NN_FAIL(NN_ERR_USAGE, "%s: tasks[%d].name: '%s' is the name of another measurement", file, t,
                     task->name);
    for (int32_t other = 0; other < t; other++)
      if (strcmp(task->name, plan->tasks[other].name) == 0)
        return NN_FAIL(NN_ERR_USAGE, "%s: tasks[%d].name: '%s' is taken by another task", file, t,
                       task->name);
    if (task->data[0] == '\0' || task->models.count == 0)
      return NN_FAIL(NN_ERR_USAGE, "%s: tasks[%d].%s: expected one, found nothing", file, t,
                     task->data[0] == '\0' ? "data" : "models");
    snprintf(path, sizeof path, "tasks[%d].models", t);
    NN_TRY(resolve(file, plan, path, &task->models));
  }
  return NN_OK;
}

static nn_status check_needle(const char *file, compare_plan *plan) {
  compare_needle *needle = &plan->needle;
  bool wanted = needle->lengths_count > 0 || needle->depths_count > 0 || needle->models.count > 0;
  if (!wanted)
    return NN_OK;
  const char *missing = needle->lengths_count == 0  ? "lengths"
                        : needle->depths_count == 0 ? "depths"
                        : needle->models.count == 0 ? "models"
                                                    : NULL;
  if (missing != NULL)
    return NN_FAIL(NN_ERR_USAGE, "%s: needle.%s: expected a list, found nothing", file, missing);
  if (plan->seeds_count < 2)
    return NN_FAIL(NN_ERR_USAGE, "%s: seeds: a needle's interval needs at least 2 of them, found %d", file,
                   plan->seeds_count);
  for (int32_t d = 0; d < needle->depths_count; d++)
    for (int32_t other = 0; other < d; other++)
      if (!(needle->depths[d] < needle->depths[other]) && !(needle->depths[d] > needle->depths[other]))
        return NN_FAIL(NN_ERR_USAGE, "%s: needle.depths[%d]: %g is given twice", file, d, needle->depths[d]);
  return resolve(file, plan, "needle.models", &needle->models);
}

// A seed that stands twice would count twice, and intervals would be too narrow.
static nn_status check_seeds(const char *file, const compare_plan *plan) {
  for (int32_t s = 0; s < plan->seeds_count; s++)
    for (int32_t other = 0; other < s; other++)
      if (plan->seeds[s] == plan->seeds[other])
        return NN_FAIL(NN_ERR_USAGE, "%s: seeds[%d]: %lld is given twice", file, s,
                       (long long)plan->seeds[s]);
  return NN_OK;
}

nn_status compare_plan_check(const char *file, compare_plan *plan) {
  NN_TRY(check_models(file, plan));
  NN_TRY(check_policies(file, plan));
  NN_TRY(check_tasks(file, plan));
  NN_TRY(check_needle(file, plan));
  NN_TRY(check_seeds(file, plan));
  if (plan->data[0] == '\0' && plan->tasks_count == 0 && plan->needle.lengths_count == 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected something to measure: data, tasks or needle", file);
  return NN_OK;
}
