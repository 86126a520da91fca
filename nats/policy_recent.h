// Private to policies that keep the first tokens of a text and its last ones: every position is asked once,
// in order, so one token at most goes at a time.
#pragma once

#include "nats/policy.h"

// The slot of a token that lives. Guesses: positions go up by one around the ring of slots [sinks, sinks +
// ring).
static inline int32_t nats_find_slot(const nats_policy_list *list, int32_t position, int32_t sinks,
                                     int32_t ring) {
  if (ring > 0 && (int64_t)sinks + ring <= list->length) {
    int64_t ahead = ((int64_t)position - list->position[sinks]) % ring;
    int64_t guess = sinks + (ahead < 0 ? ahead + ring : ahead);
    if (list->position[guess] == position)
      return (int32_t)guess;
  }
  for (int32_t slot = 0; slot < list->length; slot++)
    if (list->position[slot] == position)
      return slot;
  return -1;
}

// For `before`: of the tokens after the first `sinks`, keeps those that are among the last `recent`, of which
// the coming token is one. While nothing else drops tokens, the last ones but the newest go around in a ring
// of slots, because the newest fills the hole: no list has to be searched.
static inline int32_t nats_drop_expired(const nats_policy_step *step, const nats_policy_list *list,
                                        int32_t sinks, int32_t recent, int32_t *drop) {
  int32_t expired = step->position - recent, ring = recent - 1;
  if (expired < sinks)
    return 0;
  drop[0] = nats_find_slot(list, expired, sinks, ring);
  return drop[0] >= 0;
}
