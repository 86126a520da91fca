// Keeps every token: full attention, and the yardstick of all other policies.
#include "nats/policy.h"

static nats_policy_pairs after_prompt(const nats_policy_prompt *prompt, nats_policy_list *list) {
  list->length = prompt->length;
  for (int32_t j = 0; j < prompt->length; j++) {
    list->position[j] = j;
    list->type[j] = NATS_UNTYPED;
  }
  return (nats_policy_pairs){.live = 0.5 * prompt->length * (prompt->length + 1.0), .shares = prompt->length};
}

const nats_policy nats_policy_dense = {
    .name = "dense",
    .source = "Vaswani et al. 2017 (arXiv 1706.03762)",
    .keeps = "every token",
    .departs = "In nothing.",
    .mask = NATS_ATTENTION_DENSE,
    .after_prompt = after_prompt,
};
