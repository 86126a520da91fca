// The parallel pass that shows the same pairs as a policy keeps.
#include "nats/model_internal.h"
#include "nats/policy.h"

nn_status nats_policy_model(const nats_policy_choice *choice, const nats_model_config *config,
                            const nn_params *params, int32_t batch, int32_t length, nats_model **out) {
  const nats_policy *policy = choice->policy;
  *out = NULL;
  if (policy->mask == NATS_NO_MASK)
    return NN_FAIL(NN_ERR_USAGE, "policy '%s': no parallel pass shows what it keeps; decode token by token",
                   policy->name);
  nats_model_config shown = *config;
  if (policy->mask != NATS_ATTENTION_DENSE)
    shown.window = choice->parameter[0];
  nats_model_size size = {batch, length, length, false};
  return nats_model_create_as(&shown, (nats_attention_kind)policy->mask, params, size, out);
}
