// Keeps token 0 and those of the last W positions, as a model with attention: window was trained: token j is
// visible to i <= j + W.
#include "nats/policy_recent.h"

enum { WINDOW };

static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  int32_t window = step->parameter[WINDOW];
  return window < INT32_MAX ? nats_drop_expired(step, list, 1, window + 1, drop) : 0;
}

const nats_policy nats_policy_window = {
    .name = "window",
    .source = "Beltagy et al. 2020 (Longformer, arXiv 2004.05150)",
    .keeps = "token 0, the newest token and those of the `window` positions before it",
    .departs = "Token 0 is kept, as in a model with attention: window.",
    .parameters = {{.name = "window", .help = "W: positions that a token stays visible", .least = 1}},
    .size = "window",
    .mask = NATS_ATTENTION_WINDOW,
    .before = before,
};
