// TOVA: the tokens to which the last query attends most. Weights are averaged over all heads of the layer, so
// its kv heads keep the same tokens, in the same slots.
#include "nats/policy.h"

enum { SIZE };

// After the step: makes room for the next token. The newest token may be the one that goes.
static int32_t after(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  if (list->length < step->parameter[SIZE])
    return 0;
  drop[0] = 0;
  for (int32_t slot = 1; slot < list->length; slot++)
    if (list->weight[slot] < list->weight[drop[0]])
      drop[0] = slot;
  return 1;
}

const nats_policy nats_policy_tova = {
    .name = "tova",
    .source = "Oren et al. 2024 (TOVA, arXiv 2401.06104)",
    .keeps = "the `size` tokens with the largest weights of the last query, averaged over a layer's heads",
    .departs =
        "The published code evicts once after a prompt, by its last query; here every token of a prompt "
        "evicts.",
    .parameters = {{.name = "size", .help = "tokens of a list", .least = 1}},
    .size = "size",
    .uses_weights = true,
    .averages_heads = true,
    .mask = NATS_NO_MASK,
    .after = after,
};
