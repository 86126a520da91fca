// H2O: the last tokens, and of the others those that were attended to most so far. A token that has left
// never returns.
#include "nats/policy.h"

enum { SIZE, RECENT };

// After the step: makes room for the next token.
static int32_t after(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  int64_t recent = (int64_t)step->parameter[SIZE] * step->parameter[RECENT] / 100;
  int32_t least = -1;
  for (int32_t slot = 0; slot < list->length; slot++) {
    list->score[slot] += list->weight[slot];
    bool is_recent = (int64_t)step->position + 1 - list->position[slot] < recent; // at the next step
    if (!is_recent && (least < 0 || list->score[slot] < list->score[least]))
      least = slot;
  }
  drop[0] = least;
  return list->length >= step->parameter[SIZE] && least >= 0;
}

const nats_policy nats_policy_h2o = {
    .name = "h2o",
    .source = "Zhang et al. 2023 (H2O, arXiv 2306.14048)",
    .keeps = "`recent` percent of `size` for the last tokens, the rest for those with the largest sum of "
             "attention",
    .departs = "Attention is summed over the query heads of a group, whose keys are shared; the published "
               "simulation sums a softmax over all tokens, evicted ones included, this one over living ones.",
    .parameters =
        {{.name = "size", .help = "tokens of a list", .least = 1},
         {.name = "recent", .help = "percent of them that are the last", .standard = 50, .most = 100}},
    .size = "size",
    .uses_weights = true,
    .keeps_scores = true,
    .mask = NATS_NO_MASK,
    .after = after,
};
