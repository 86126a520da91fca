// Private to launch/compare*.c: policies with their numbers, as text.
#pragma once

#include "launch/compare/compare.h"

// Index of a parameter by name, -1 where there is none.
int32_t compare_parameter_index(const nats_policy *policy, const char *name);

// The policy that a text names; NULL: there is no such policy.
const nats_policy *compare_find_policy(const char *text);

// Whether a text gives the number that budgets would choose, or its policy has none.
bool compare_has_size(const nats_policy *policy, const char *text);

// Reads a text whose size may be open: it is the least then. Errors as nats_policy_choose.
nn_status compare_choose(const char *text, const nats_model_config *config, nats_policy_choice *out);

// "h2o:size=64,recent=50", which nats_policy_choose reads back.
const char *compare_choice_text(const nats_policy_choice *choice, char text[COMPARE_CHOICE]);
