// Keeps token 0 and those of the last W positions, as a model with attention: window was trained: token j is
// visible to i <= j + W.
#include "nats/policy.h"

enum { WINDOW };

static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  int32_t count = 0;
  for (int32_t slot = 0; slot < list->length; slot++) {
    int32_t position = list->position[slot];
    if (position > 0 && step->position - position > step->parameter[WINDOW])
      drop[count++] = slot;
  }
  return count;
}

const nats_policy nats_policy_window = {
    .name = "window",
    .source = "Beltagy et al. 2020 (arXiv 2004.05150), with token 0 kept",
    .parameters = {{"window", "W: positions that a token stays visible", 0, 1}},
    .mask = NATS_ATTENTION_WINDOW,
    .before = before,
};
