// Private to launch/compare*.c: policies with their numbers, as text.
#pragma once

#include "launch/compare.h"

// Index of a parameter by name, -1 where there is none.
int32_t compare_parameter_index(const nats_policy *policy, const char *name);

// "h2o:size=64,recent=50", which nats_policy_choose reads back.
const char *compare_choice_text(const nats_policy_choice *choice, char text[COMPARE_CHOICE]);
