// A control: what a list of tokens picked without looking is worth.
#include "nats/policy_draw.h"

enum { SIZE };

// The coming token is the one that cannot be drawn.
static int32_t before(const nats_policy_step *step, nats_policy_list *list, int32_t *drop) {
  if (list->length < step->parameter[SIZE])
    return 0;
  drop[0] = (int32_t)((uint64_t)nats_policy_draw(step) * (uint64_t)list->length >> 32);
  return 1;
}

const nats_policy nats_policy_random = {
    .name = "random",
    .source = "a control, of nobody",
    .keeps = "the newest token and `size` - 1 others; a random one of these makes room for the next",
    .departs = "Nothing was published.",
    .parameters = {{.name = "size", .help = "tokens of a list", .least = 1}},
    .size = "size",
    .draws = true,
    .mask = NATS_NO_MASK,
    .before = before,
};
