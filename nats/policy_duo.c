// Static heads after DuoAttention: some kv heads keep everything, the others sinks and last tokens. Which
// ones is read off a trained model with token types: the heads that use the cache most keep everything.
#include "nats/policy_recent.h"

enum { DENSE, RECENT, SINKS };

static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  bool is_dense = (int64_t)step->head_rank * 100 < (int64_t)step->parameter[DENSE] * step->head_count;
  return is_dense ? 0 : nats_drop_expired(step, list, step->parameter[SINKS], step->parameter[RECENT], drop);
}

const nats_policy nats_policy_duo = {
    .name = "duo",
    .source = "after Xiao et al. 2024 (DuoAttention, arXiv 2410.10819)",
    .keeps =
        "everything in `dense` percent of all kv heads, in the others the first `sinks` tokens and the last "
        "`recent`",
    .departs =
        "The published gates are trained; here heads are ranked by the KV fraction that the model's own "
        "token types give them.",
    .parameters = {{.name = "dense",
                    .help = "percent of the kv heads of all layers that keep everything, rounded up",
                    .standard = 50,
                    .most = 100},
                   {.name = "recent", .help = "last tokens of the others, the newest included", .least = 1},
                   {.name = "sinks", .help = "first tokens of the others", .standard = 4}},
    .size = "dense",
    .size_is_percent = true,
    .needs_head_use = true,
    .mask = NATS_NO_MASK,
    .before = before,
};
