// SnapKV, for prompts only: the last queries of a prompt vote for the tokens before them by their attention;
// votes are smoothed over neighbours, and at the end of the prompt the tokens with the most votes stay.
#include <string.h> // memcpy, memmove

#include "nats/policy.h"

enum { KEEP, OBSERVE };
enum { POOL = 5, REACH = POOL / 2 };

static bool is_due(const nats_policy_step *step) {
  int64_t size = (int64_t)step->parameter[KEEP] + step->parameter[OBSERVE];
  return step->prompt > size && step->position >= step->prompt - step->parameter[OBSERVE];
}

// Means of POOL neighbours in place, zeros beyond the ends.
static void smooth(float *votes, int32_t count) {
  float earlier[REACH] = {0}; // what stood in the places just overwritten, the nearest last
  for (int32_t i = 0; i < count; i++) {
    float sum = votes[i];
    for (int32_t n = 0; n < REACH; n++)
      sum += earlier[n] + (i + 1 + n < count ? votes[i + 1 + n] : 0.0f);
    memmove(earlier, earlier + 1, (REACH - 1) * sizeof *earlier);
    earlier[REACH - 1] = votes[i];
    votes[i] = sum / POOL;
  }
}

// Numbers that are not negative are ordered as their bits are.
static uint32_t bits_of(float number) {
  uint32_t bits;
  memcpy(&bits, &number, sizeof bits);
  return bits;
}

static int32_t count_from(const float *votes, int32_t count, uint32_t least) {
  int32_t found = 0;
  for (int32_t i = 0; i < count; i++)
    found += bits_of(votes[i]) >= least;
  return found;
}

// The largest bound that at least `keep` votes reach, found bit by bit.
static uint32_t find_bound(const float *votes, int32_t count, int32_t keep) {
  uint32_t bound = 0;
  for (uint32_t bit = UINT32_C(1) << 30; bit > 0; bit >>= 1)
    if (count_from(votes, count, bound | bit) >= keep)
      bound |= bit;
  return bound;
}

// Nothing has left before the end of the prompt, so slot n holds position n.
static int32_t after(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  int32_t voters = step->prompt - step->parameter[OBSERVE]; // position of the first
  for (int32_t slot = 0; slot < voters; slot++)
    list->score[slot] += list->weight[slot];
  if (step->position + 1 < step->prompt)
    return 0;
  smooth(list->score, voters);
  uint32_t bound = find_bound(list->score, voters, step->parameter[KEEP]);
  int32_t ties = step->parameter[KEEP] - count_from(list->score, voters, bound + 1), count = 0;
  for (int32_t slot = 0; slot < voters; slot++) {
    uint32_t votes = bits_of(list->score[slot]);
    if (votes < bound || (votes == bound && --ties < 0)) // of equal ones the first stay
      drop[count++] = slot;
  }
  return count;
}

const nats_policy nats_policy_snapkv = {
    .name = "snapkv",
    .source = "Li et al. 2024 (SnapKV, arXiv 2404.14469)",
    .keeps = "prompt only: its last `observe` tokens and the `keep` before them that these attend to most, "
             "smoothed over 5; later tokens all stay",
    .departs = "Votes are summed over the query heads of a group, whose keys are shared; the published code "
               "keeps a set for every query head.",
    .parameters =
        {{.name = "keep", .help = "tokens kept of those before the voters", .least = 1},
         {.name = "observe", .help = "voters: the last tokens of the prompt", .standard = 32, .least = 1}},
    .size = "keep",
    .prompt_only = true,
    .uses_weights = true,
    .keeps_scores = true,
    .mask = NATS_NO_MASK,
    .after = after,
    .is_due = is_due,
};
