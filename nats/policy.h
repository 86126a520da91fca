// Eviction policies: which tokens a decoding cache gives up, and when.
//
// A policy is one file (nats/policy_NAME.c) and one row in nats/policy.c. It never sees keys, values or
// pages: it looks at the living tokens of one list, that is of one (sequence, layer, kv head), and names the
// slots to drop. At position i the cache asks `before`, appends token i, attends to all that is left, and
// asks `after`.
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
  int32_t *position;   // [length] where the token was written
  uint8_t *type;       // [length] nats_type or NATS_UNTYPED; a policy with types sets it
  float *score;        // [length] the policy's own number of a token, 0 at first; only with `uses_weights`
  const float *weight; // [length] attention of this step, summed over the query heads of the group; in
                       // `after`, only with `uses_weights`
  float *state;        // [state_size] the policy's own numbers of a list, 0 at first
} nats_policy_list;

// What a policy knows beside the list.
typedef struct {
  int32_t position;    // i
  int32_t prompt;      // tokens of the prompt that is being fed; 0 outside of a prompt
  const float *logits; // [3] of the scorer for token i; NULL before the append and in models without scorers
  int32_t chunk;       // C, tokens that share a type
  int32_t parameter[NATS_POLICY_PARAMETERS];
} nats_policy_step;

typedef struct {
  const char *name;
  const char *help;
  int32_t standard; // value where none is given; 0: the model's window
  int32_t least;
} nats_policy_parameter;

typedef struct {
  const char *name;
  const char *source;                                       // who described it
  nats_policy_parameter parameters[NATS_POLICY_PARAMETERS]; // up to the first without a name
  bool needs_scorer;                                        // only for models with attention: nats
  bool uses_weights;                                        // `after` reads attention weights
  int32_t state_size;                                       // floats
  // nats_attention_kind whose parallel pass shows the same pairs, or NATS_NO_MASK. With a mask that has a
  // window, that is the first parameter.
  int32_t mask;
  // Each writes the slots to drop in ascending order ([length] fit) and returns how many. NULL: none.
  int32_t (*before)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);
  int32_t (*after)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);
} nats_policy;

extern const nats_policy nats_policy_dense, nats_policy_window, nats_policy_nats;

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
