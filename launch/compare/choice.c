#include "launch/compare/choice.h"

#include <stdio.h>
#include <string.h>

int32_t compare_parameter_index(const nats_policy *policy, const char *name) {
  for (int32_t p = 0; p < NATS_POLICY_PARAMETERS && policy->parameters[p].name != NULL; p++)
    if (strcmp(policy->parameters[p].name, name) == 0)
      return p;
  return -1;
}

const nats_policy *compare_find_policy(const char *text) {
  size_t length = strcspn(text, ":");
  const nats_policy *policy;
  for (int32_t i = 0; (policy = nats_policy_at(i)) != NULL; i++)
    if (strlen(policy->name) == length && memcmp(policy->name, text, length) == 0)
      return policy;
  return NULL;
}

bool compare_has_size(const nats_policy *policy, const char *text) {
  char key[64];
  if (policy->size == NULL)
    return true;
  snprintf(key, sizeof key, "%s=", policy->size);
  for (const char *at = strchr(text, ':'); at != NULL; at = strchr(at, ','))
    if (strncmp(++at, key, strlen(key)) == 0)
      return true;
  return false;
}

nn_status compare_choose(const char *text, const nats_model_config *config, nats_policy_choice *out) {
  const nats_policy *policy = compare_find_policy(text);
  if (policy == NULL || compare_has_size(policy, text)) // says which there are
    return nats_policy_choose(text, config, out);
  char sized[COMPARE_CHOICE];
  int32_t least = policy->parameters[compare_parameter_index(policy, policy->size)].least;
  int used = snprintf(sized, sizeof sized, "%s%c%s=%d", text, strchr(text, ':') != NULL ? ',' : ':',
                      policy->size, least);
  if (used >= (int)sizeof sized)
    return NN_FAIL(NN_ERR_USAGE, "policy '%s': expected less than %d characters", text, COMPARE_CHOICE);
  return nats_policy_choose(sized, config, out);
}

const char *compare_choice_text(const nats_policy_choice *choice, char text[COMPARE_CHOICE]) {
  const nats_policy *policy = choice->policy;
  size_t at = (size_t)snprintf(text, COMPARE_CHOICE, "%s", policy->name);
  for (int32_t p = 0; p < NATS_POLICY_PARAMETERS && policy->parameters[p].name != NULL && at < COMPARE_CHOICE;
       p++)
    at += (size_t)snprintf(text + at, COMPARE_CHOICE - at, "%s%s=%d", p == 0 ? ":" : ",",
                           policy->parameters[p].name, choice->parameter[p]);
  return text;
}
