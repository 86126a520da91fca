#include "launch/compare_choice.h"

#include <stdio.h>
#include <string.h>

int32_t compare_parameter_index(const nats_policy *policy, const char *name) {
  for (int32_t p = 0; p < NATS_POLICY_PARAMETERS && policy->parameters[p].name != NULL; p++)
    if (strcmp(policy->parameters[p].name, name) == 0)
      return p;
  return -1;
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
