// Token types decide (docs/method.md, "Decoding with an evicting cache"): a global token stays, a local one
// lives until a later chunk turns out global, a window token lives for W more positions after its chunk. A
// chunk gets its type from the mean of its logits when its last token has been seen; until then it is wholly
// visible and ends nothing. Chunk 0 is global.
#include <string.h> // memchr, memmove

#include "nats/policy.h"

enum { WINDOW };

// What a list remembers: sums of logits of the unfinished chunk, by type; how many slots at its start hold
// global tokens, which stay where they are, so that nobody has to look at them again; and where the window
// tokens were seen that expire soon.
enum { SETTLED = NATS_TYPES, HINTS, AHEAD = 16, STATE_SIZE = HINTS + AHEAD };

enum { MOST_SETTLED = 1 << 24 }; // a float counts so far

static int32_t settle(nats_policy_list *list) {
  int32_t settled = (int32_t)list->state[SETTLED];
  while (settled < list->length && settled < MOST_SETTLED && list->type[settled] == NATS_GLOBAL)
    settled++;
  list->state[SETTLED] = (float)settled;
  return settled;
}

// ---- what expires

// Hints are slots: of a token, 0 where nobody has looked (token 0 never expires), or NOBODY. Tokens may have
// moved since, but none comes back.
enum { NOBODY = -1 };

// Which hint is that of the step's position. They are used one after the other, and written anew when it is
// the first one's turn: in each list at another position, so that steps take equally long.
static int32_t hint_of(const nats_policy_step *step) {
  return (int32_t)(((int64_t)step->position + step->head + 5 * (int64_t)step->layer) % AHEAD);
}

// Of chunks of one token: where the tokens are that expire from now on, until hints are written anew. Returns
// the slot of the one at `first`, which expires now.
static int32_t look_ahead(const nats_policy_step *step, nats_policy_list *list, int32_t first) {
  int32_t now = hint_of(step), count = AHEAD - now, slot_now = NOBODY;
  float *hint = list->state + HINTS + now;
  for (int32_t ahead = 0; ahead < count; ahead++) // others may still get a type
    hint[ahead] = ahead <= step->parameter[WINDOW] ? NOBODY : 0;
  for (int32_t slot = settle(list); slot < list->length; slot++) {
    int64_t ahead = (int64_t)list->position[slot] - first;
    if (ahead < 0 || ahead >= count || list->type[slot] != NATS_WINDOW)
      continue;
    hint[ahead] = (float)slot;
    slot_now = ahead == 0 ? slot : slot_now;
  }
  return slot_now;
}

static int32_t find_expired(const nats_policy_step *step, nats_policy_list *list, int32_t first) {
  int32_t now = hint_of(step), slot = (int32_t)list->state[HINTS + now];
  if (now > 0 && slot == NOBODY)
    return NOBODY;
  if (now > 0 && slot > 0 && slot < list->length && list->position[slot] == first)
    return slot;
  return look_ahead(step, list, first);
}

// Asked at every position, so what expires now is one chunk, if it is of window tokens: that whose last row
// was the one before. Runs before anything is appended, so every typed chunk is complete.
static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  int64_t first = (int64_t)step->position - step->parameter[WINDOW] - step->chunk;
  int32_t count = 0;
  if (first < 0 || first % step->chunk != 0)
    return 0;
  if (step->chunk == 1) {
    drop[0] = find_expired(step, list, (int32_t)first);
    return drop[0] != NOBODY;
  }
  for (int32_t slot = settle(list); slot < list->length; slot++) {
    int64_t ahead = list->position[slot] - first; // asked first: it is hardly ever so
    if (ahead >= 0 && ahead < step->chunk && list->type[slot] == NATS_WINDOW)
      drop[count++] = slot;
  }
  return count;
}

// ---- types

// The sum of logits orders the types as their mean does. The lowest type wins a tie.
static uint8_t choose(int32_t chunk, const float sum[NATS_TYPES]) {
  if (chunk == 0)
    return NATS_GLOBAL;
  uint8_t best = NATS_GLOBAL;
  for (uint8_t type = 1; type < NATS_TYPES; type++)
    if (sum[type] > sum[best])
      best = type;
  return best;
}

static int32_t find_locals(nats_policy_list *list, int32_t *drop) {
  int32_t count = 0, slot = settle(list);
  for (const uint8_t *found; slot < list->length; slot++) {
    found = memchr(list->type + slot, NATS_LOCAL, (size_t)(list->length - slot));
    if (!found)
      break;
    slot = (int32_t)(found - list->type);
    drop[count++] = slot;
  }
  return count;
}

static int32_t after(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  float *sum = list->state;
  for (int32_t type = 0; type < NATS_TYPES; type++)
    sum[type] += step->logits[type];
  if ((step->position + 1) % step->chunk != 0)
    return 0;
  int32_t chunk = step->position / step->chunk;
  uint8_t type = choose(chunk, sum);
  for (int32_t t = 0; t < NATS_TYPES; t++)
    sum[t] = 0.0f;
  if (step->chunk == 1) {
    list->type[list->length - 1] = type;
    return type == NATS_GLOBAL ? find_locals(list, drop) : 0;
  }
  int32_t count = 0;
  for (int32_t slot = settle(list); slot < list->length; slot++) {
    if (list->type[slot] == NATS_UNTYPED)
      list->type[slot] = type;
    else if (type == NATS_GLOBAL && list->type[slot] == NATS_LOCAL)
      drop[count++] = slot;
  }
  return count;
}

// ---- a prompt at once

// What becomes of the tokens of a chunk.
typedef struct {
  int32_t last; // row that sees them
  bool stays;   // in the cache after the prompt: a window token at its last row goes before the next one
} fate;

// `end`: the first row after the chunk; `next`: the same of the next global chunk, 0 where there is none.
static fate find_fate(const nats_policy_prompt *prompt, uint8_t type, int32_t end, int32_t next) {
  const int32_t length = prompt->length;
  if (type == NATS_LOCAL && next > 0)
    return (fate){next - 1, false};
  int64_t leaves = (int64_t)end - 1 + prompt->parameter[WINDOW];
  if (type == NATS_WINDOW && leaves < length - 1)
    return (fate){(int32_t)leaves, false};
  return (fate){length - 1, true};
}

static void sum_unfinished(const nats_policy_prompt *prompt, float sum[NATS_TYPES]) {
  for (int32_t type = 0; type < NATS_TYPES; type++)
    sum[type] = 0.0f;
  for (int32_t t = 0; t < prompt->length % prompt->chunk; t++)
    for (int32_t type = 0; type < NATS_TYPES; type++)
      sum[type] += prompt->logits[t * prompt->logit_stride + type];
}

// Backwards, so that the next global chunk is known; the list grows from the end of its tables.
static nats_policy_pairs after_prompt(const nats_policy_prompt *prompt, nats_policy_list *list) {
  const int32_t length = prompt->length, chunk = prompt->chunk;
  int32_t next = 0, slot = length;
  nats_policy_pairs pairs = {0.0, 0.0};
  for (int32_t a = (length - 1) / chunk; a >= 0; a--) {
    const int32_t end = length - a * chunk < chunk ? length : (a + 1) * chunk;
    const uint8_t type = a < length / chunk ? prompt->type[a] : NATS_UNTYPED;
    const fate found = find_fate(prompt, type, end, next);
    for (int32_t j = end - 1; j >= a * chunk; j--) {
      pairs.live += found.last - j + 1;
      pairs.shares += prompt->harmonic[found.last + 1] - prompt->harmonic[j];
      if (!found.stays)
        continue;
      list->position[--slot] = j;
      list->type[slot] = type;
    }
    if (type == NATS_GLOBAL)
      next = end;
  }
  list->length = length - slot;
  memmove(list->position, list->position + slot, (size_t)list->length * sizeof *list->position);
  memmove(list->type, list->type + slot, (size_t)list->length * sizeof *list->type);
  sum_unfinished(prompt, list->state);
  return pairs;
}

const nats_policy nats_policy_nats = {
    .name = "nats",
    .source = "Deng and Lindauer 2025 (NAtS, arXiv 2502.13251)",
    .keeps = "what the learned types keep: global tokens, local ones until the next global, window ones for "
             "`window` positions",
    .departs = "The types were trained with the exact gradient of the mask (docs/method.md).",
    .parameters = {{.name = "window",
                    .help = "W: positions that a window token stays visible after its chunk",
                    .least = 1}},
    .needs_scorer = true,
    .state_size = STATE_SIZE,
    .mask = NATS_ATTENTION_NATS,
    .before = before,
    .after = after,
    .after_prompt = after_prompt,
};
