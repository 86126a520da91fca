#include "nats/policy.h"

#include <errno.h>
#include <stdlib.h> // strtol
#include <string.h>

static const nats_policy *const policies[] = {
    &nats_policy_dense, &nats_policy_nats,   &nats_policy_window, &nats_policy_streaming, &nats_policy_h2o,
    &nats_policy_tova,  &nats_policy_snapkv, &nats_policy_cam,    &nats_policy_random,    &nats_policy_duo,
};

enum { POLICIES = sizeof policies / sizeof *policies };

const nats_policy *nats_policy_at(int32_t index) {
  return index >= 0 && index < POLICIES ? policies[index] : NULL;
}

// The row whose name is the first `length` characters of `name`.
static const nats_policy *find(const char *name, size_t length) {
  for (int32_t i = 0; i < POLICIES; i++)
    if (strlen(policies[i]->name) == length && memcmp(policies[i]->name, name, length) == 0)
      return policies[i];
  return NULL;
}

static nn_status fail_unknown(const char *name, size_t length) {
  char known[256] = "";
  for (int32_t i = 0; i < POLICIES; i++) {
    strncat(known, i > 0 ? ", " : "", sizeof known - strlen(known) - 1);
    strncat(known, policies[i]->name, sizeof known - strlen(known) - 1);
  }
  return NN_FAIL(NN_ERR_USAGE, "policy '%.*s': expected one of %s", (int)length, name, known);
}

// Index of the parameter called by the first `length` characters of `key`, -1 where there is none.
static int32_t find_parameter(const nats_policy *policy, const char *key, size_t length) {
  for (int32_t p = 0; p < NATS_POLICY_PARAMETERS && policy->parameters[p].name; p++)
    if (strlen(policy->parameters[p].name) == length && memcmp(policy->parameters[p].name, key, length) == 0)
      return p;
  return -1;
}

// One "key=value", which ends at `end`.
static nn_status parse_one(const nats_policy *policy, const char *text, const char *end,
                           nats_policy_choice *out) {
  const char *equals = memchr(text, '=', (size_t)(end - text));
  int32_t p = equals ? find_parameter(policy, text, (size_t)(equals - text)) : -1;
  if (p < 0)
    return NN_FAIL(NN_ERR_USAGE, "policy '%s': '%.*s' is no parameter of it%s%s", policy->name,
                   (int)(end - text), text, policy->parameters[0].name ? "; the first is " : "",
                   policy->parameters[0].name ? policy->parameters[0].name : "");
  char *after;
  errno = 0;
  long value = strtol(equals + 1, &after, 10);
  bool is_number = equals[1] >= '0' && equals[1] <= '9' && after == end && errno == 0;
  const nats_policy_parameter *parameter = &policy->parameters[p];
  int32_t most = parameter->most > 0 ? parameter->most : INT32_MAX;
  if (!is_number || value > most || value < parameter->least)
    return NN_FAIL(NN_ERR_USAGE, "policy '%s': %s: expected a whole number from %d to %d, found '%.*s'",
                   policy->name, parameter->name, (int)parameter->least, (int)most, (int)(end - equals - 1),
                   equals + 1);
  out->parameter[p] = (int32_t)value;
  return NN_OK;
}

static nn_status use_standards(const nats_policy *policy, const nats_model_config *config,
                               nats_policy_choice *out) {
  for (int32_t p = 0; p < NATS_POLICY_PARAMETERS && policy->parameters[p].name; p++) {
    const nats_policy_parameter *parameter = &policy->parameters[p];
    if (out->parameter[p] >= 0)
      continue;
    out->parameter[p] = parameter->standard > 0 ? parameter->standard : config->window;
    if (out->parameter[p] < parameter->least)
      return NN_FAIL(NN_ERR_USAGE,
                     "policy '%s': %s: expected a number, as this model has no window to take for it: "
                     "%s:%s=NUMBER",
                     policy->name, parameter->name, policy->name, parameter->name);
  }
  return NN_OK;
}

nn_status nats_policy_configure(const nats_policy *policy, const char *parameters,
                                const nats_model_config *config, nats_policy_choice *out) {
  if (policy->needs_scorer && config->attention != NATS_ATTENTION_NATS)
    return NN_FAIL(NN_ERR_USAGE, "policy '%s': needs a model with token types (attention: nats)",
                   policy->name);
  *out = (nats_policy_choice){.policy = policy, .parameter = {-1, -1, -1, -1}};
  while (parameters) {
    const char *comma = strchr(parameters, ',');
    NN_TRY(parse_one(policy, parameters, comma ? comma : parameters + strlen(parameters), out));
    parameters = comma ? comma + 1 : NULL;
  }
  return use_standards(policy, config, out);
}

static const char *trained_with(const nats_model_config *config) {
  switch (config->attention) {
  case NATS_ATTENTION_NATS:
    return nats_policy_nats.name;
  case NATS_ATTENTION_WINDOW:
    return nats_policy_window.name;
  default:
    return nats_policy_dense.name;
  }
}

nn_status nats_policy_choose(const char *text, const nats_model_config *config, nats_policy_choice *out) {
  if (!text)
    text = trained_with(config);
  const char *colon = strchr(text, ':');
  size_t length = colon ? (size_t)(colon - text) : strlen(text);
  const nats_policy *policy = find(text, length);
  if (!policy)
    return fail_unknown(text, length);
  return nats_policy_configure(policy, colon ? colon + 1 : NULL, config, out);
}
