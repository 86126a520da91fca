// CaM: sinks and last tokens as StreamingLLM keeps them, but the value of a token that leaves may be shared
// out to the tokens after it: with a probability that is its sum of attention over the largest such sum in
// the cache.
#include "nats/policy_draw.h"
#include "nats/policy_recent.h"

enum { RECENT, SINKS, MERGE };

static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  return nats_drop_expired(step, list, step->parameter[SINKS], step->parameter[RECENT], drop);
}

static int32_t after(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  (void)step;
  (void)drop;
  for (int32_t slot = 0; slot < list->length; slot++)
    list->score[slot] += list->weight[slot];
  return 0;
}

static int32_t merge(const nats_policy_step *step, const nats_policy_list *list, int32_t slot, int32_t *to,
                     float *factor) {
  float most = 0.0f;
  for (int32_t s = 0; s < list->length; s++)
    most = list->score[s] > most ? list->score[s] : most;
  *factor = 1.0f / (float)step->parameter[MERGE];
  if (!(nn_random_uniform(nats_policy_draw(step)) * most < list->score[slot]))
    return 0;
  int32_t count = 0;
  for (int32_t s = 0; s < list->length; s++) {
    int32_t distance = list->position[s] - list->position[slot];
    if (distance > 0 && distance <= step->parameter[MERGE])
      to[count++] = s;
  }
  return count;
}

const nats_policy nats_policy_cam = {
    .name = "cam",
    .source = "Zhang et al. 2024 (CaM: Cache Merging, ICML 2024)",
    .keeps =
        "the first `sinks` tokens and the last `recent`; values of tokens that leave are merged into the "
        "next ones",
    .departs =
        "The published files differ among themselves: the bound is the largest sum of attention, as for "
        "language models, and 32 tokens take the value, as for summaries. For language models they let "
        "nothing leave and change values that earlier queries read too; here tokens leave, and later "
        "queries alone see merged values. Attention is summed over the query heads of a group.",
    .parameters = {{.name = "recent", .help = "last tokens, the newest included", .least = 1},
                   {.name = "sinks", .help = "first tokens", .standard = 4},
                   {.name = "merge",
                    .help = "tokens that take a share 1 / merge of a value, as far as they live",
                    .standard = 32,
                    .least = 1}},
    .size = "recent",
    .uses_weights = true,
    .keeps_scores = true,
    .draws = true,
    .mask = NATS_NO_MASK,
    .before = before,
    .after = after,
    .merge = merge,
};
