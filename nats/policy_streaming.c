// StreamingLLM: the first tokens, on which attention rests ("sinks"), and the last ones. The model sees them
// as a text without a gap.
#include "nats/policy_recent.h"

enum { RECENT, SINKS, REASSIGN };

static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  return nats_drop_expired(step, list, step->parameter[SINKS], step->parameter[RECENT], drop);
}

static bool reassigns(const int32_t *parameter) {
  return parameter[REASSIGN] != 0;
}

const nats_policy nats_policy_streaming = {
    .name = "streaming",
    .source = "Xiao et al. 2023 (StreamingLLM, arXiv 2309.17453)",
    .keeps = "the first `sinks` tokens and the last `recent`",
    .departs = "The published code attends to a prompt as a whole and evicts after it; here every token of a "
               "prompt evicts.",
    .parameters = {{.name = "recent", .help = "last tokens, the newest included", .least = 1},
                   {.name = "sinks", .help = "first tokens", .standard = 4},
                   {.name = "reassign",
                    .help = "1: positions inside the cache, as published; 0: original positions",
                    .standard = 1,
                    .most = 1}},
    .size = "recent",
    .mask = NATS_NO_MASK,
    .before = before,
    .reassigns = reassigns,
};
