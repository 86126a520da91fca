// Keeps token 0 and those of the last W positions, as a model with attention: window was trained: token j is
// visible to i <= j + W.
#include "nats/policy_recent.h"

enum { WINDOW };

static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  int32_t window = step->parameter[WINDOW];
  return window < INT32_MAX ? nats_drop_expired(step, list, 1, window + 1, drop) : 0;
}

static nats_policy_pairs after_prompt(const nats_policy_prompt *prompt, nats_policy_list *list) {
  int64_t most = (int64_t)prompt->parameter[WINDOW] + 2, length = prompt->length; // token 0 and the newest
  int64_t full = length < most ? length : most;
  list->length = (int32_t)full;
  for (int64_t slot = 0; slot < full; slot++) {
    list->position[slot] = (int32_t)(slot == 0 ? 0 : length - full + slot);
    list->type[slot] = NATS_UNTYPED;
  }
  double later = prompt->harmonic[length] - prompt->harmonic[full]; // sum of 1 / seen tokens
  return (nats_policy_pairs){
      .live = 0.5 * (double)full * ((double)full + 1.0) + (double)(length - full) * (double)most,
      .shares = (double)full + later * (double)most,
  };
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
    .after_prompt = after_prompt,
};
