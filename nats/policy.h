// Eviction policies: which tokens a decoding cache gives up, and when.
//
// A policy is one file (nats/policy_NAME.c) and one row in nats/policy.c. It never sees keys, values or
// pages: it looks at the living tokens of one list, that is of one (sequence, layer, kv head), and names the
// slots to drop. At position i the cache asks `before`, appends token i, attends to all that is left, and
// asks `after`. Lists are asked in any order and at the same time: a hook touches its list alone.
//
// A parameter "size" is how many tokens a list attends to at most, "recent" how many of them are the last;
// both count the newest. A window does not.
#pragma once

#include "nats/model.h"

enum {
  NATS_UNTYPED = 255,         // a token whose chunk is not complete
  NATS_POLICY_PARAMETERS = 4, // at most, of one policy
  NATS_NO_MASK = -1,          // no parallel pass shows the same pairs: prompts are fed token by token
};

// The living tokens of one list. Slots have no order: a hole is filled with a token from the end.
typedef struct {
  int32_t length;
  int32_t *position; // [length] where the token was written
  uint8_t *type;     // [length] nats_type or NATS_UNTYPED; a policy with types sets it
  float *score;      // [length] the policy's own number of a token, 0 at first; only with `keeps_scores`
  // [length] attention of this step, summed over the query heads of the group, or with `averages_heads` its
  // mean over all heads of the layer; in `after`, only with `uses_weights`
  const float *weight;
  float *state; // [state_size] the policy's own numbers of a list, 0 at first
} nats_policy_list;

// What a policy knows beside the list.
typedef struct {
  int32_t position;    // i
  int32_t prompt;      // tokens of the prompt that is being fed; 0 outside of a prompt
  const float *logits; // [3] of the scorer for token i; NULL before the append and in models without scorers
  int32_t chunk;       // C, tokens that share a type
  int32_t parameter[NATS_POLICY_PARAMETERS];
  // which list, and the key of random numbers
  int64_t sample; // that the sequence comes from: draws do not depend on what is decoded beside it
  int32_t layer, head;
  uint64_t seed;
  // place of the head among all heads of all layers, by falling use of the cache: only with `needs_head_use`
  int32_t head_rank, head_count;
} nats_policy_step;

// A prompt that was computed in parallel, as one list saw it.
typedef struct {
  int32_t length, chunk;
  int32_t parameter[NATS_POLICY_PARAMETERS];
  const uint8_t *type;  // [length / chunk] of complete chunks; NULL in models without scorers
  const float *logits;  // [length % chunk] rows of 3 of the scorer, `logit_stride` apart: an unfinished chunk
  int64_t logit_stride; // floats
  const double *harmonic; // [length + 1] 1 + 1/2 + ... + 1/n
} nats_policy_prompt;

// How many tokens a list attended to, over positions: their sum, and the sum of their shares of those seen.
typedef struct {
  double live, shares;
} nats_policy_pairs;

typedef struct {
  const char *name;
  const char *help;
  int32_t standard; // value where none is given; 0: the model's window
  int32_t least;
  int32_t most; // 0: no limit
} nats_policy_parameter;

typedef struct {
  const char *name;
  const char *source;                                       // who described it
  const char *keeps;                                        // what stays in the cache, in a line
  const char *departs;                                      // where it differs from the published code
  nats_policy_parameter parameters[NATS_POLICY_PARAMETERS]; // up to the first without a name
  // The parameter that a search for a wanted number of bytes turns, and whether it is a share of the heads in
  // percent rather than tokens of a list. NULL: the policy has no such number.
  const char *size;
  bool size_is_percent;
  bool prompt_only;    // drops tokens at the end of a prompt and never later
  bool needs_scorer;   // only for models with attention: nats
  bool needs_head_use; // reads the use of the cache per head that the decoder was given
  bool uses_weights;   // `after` reads attention weights
  bool keeps_scores;   // tokens have scores
  bool averages_heads; // weights are averaged over all query heads of the layer, so that its lists agree
  bool draws;          // depends on the seed
  int32_t state_size;  // floats
  // nats_attention_kind whose parallel pass shows the same pairs, or NATS_NO_MASK. With a mask that has a
  // window, that is the first parameter.
  int32_t mask;
  // Each writes the slots to drop in ascending order ([length] fit) and returns how many. NULL: none.
  int32_t (*before)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);
  int32_t (*after)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);
  // Whether `after` has anything to do at this step. NULL: at every step.
  bool (*is_due)(const nats_policy_step *step);
  // The state that the steps of a prompt would have left, from all of it at once: fills an empty list with
  // the positions that live, ascending, and their types ([length] of the prompt fit), and returns what the
  // steps attended to. Of policies with a mask, and only of those.
  nats_policy_pairs (*after_prompt)(const nats_policy_prompt *prompt, nats_policy_list *list);
  // `slot`, the only one that a hook named, is about to go: writes the slots whose values get `factor` times
  // its value ([length] fit) and returns how many. NULL: none.
  int32_t (*merge)(const nats_policy_step *step, const nats_policy_list *list, int32_t slot, int32_t *to,
                   float *factor);
  // Whether the tokens of a list are numbered anew, without gaps, before every step: a key is turned forward
  // to the position that its place in the cache gives it. NULL: no.
  bool (*reassigns)(const int32_t *parameter);
} nats_policy;

extern const nats_policy nats_policy_dense, nats_policy_nats, nats_policy_window, nats_policy_streaming,
    nats_policy_h2o, nats_policy_tova, nats_policy_snapkv, nats_policy_cam, nats_policy_random,
    nats_policy_duo;

// A policy with the numbers that it runs with.
typedef struct {
  const nats_policy *policy;
  int32_t parameter[NATS_POLICY_PARAMETERS];
} nats_policy_choice;

// Reads "NAME" or "NAME:KEY=VALUE,KEY=VALUE"; NULL is the policy that the model was trained with. Errors:
// NN_ERR_USAGE (unknown name or key, a bad value, a policy that needs scorers).
nn_status nats_policy_choose(const char *text, const nats_model_config *config, nats_policy_choice *out);

// The same for a policy that is in no table, with `parameters` the text after the colon or NULL.
nn_status nats_policy_configure(const nats_policy *policy, const char *parameters,
                                const nats_model_config *config, nats_policy_choice *out);

// Row `index` of the table, NULL past its end: for usage texts and loops over all policies.
const nats_policy *nats_policy_at(int32_t index);

// A model for evaluation whose mask shows the pairs that the policy keeps: nats_model_create under that mask.
// Errors: NN_ERR_USAGE (the policy has no mask), NN_ERR_MEMORY.
nn_status nats_policy_model(const nats_policy_choice *choice, const nats_model_config *config,
                            const nn_params *params, int32_t batch, int32_t length, nats_model **out);
