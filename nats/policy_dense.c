// Keeps every token: full attention, and the yardstick of all other policies.
#include "nats/policy.h"

const nats_policy nats_policy_dense = {
    .name = "dense",
    .source = "Vaswani et al. 2017 (arXiv 1706.03762)",
    .keeps = "every token",
    .departs = "In nothing.",
    .mask = NATS_ATTENTION_DENSE,
};
