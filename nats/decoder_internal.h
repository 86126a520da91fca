// Private: a decoder with a policy of its own, and its cache to look into.
#pragma once

#include "nats/cache.h"
#include "nats/decoder.h"

nn_status nats_decoder_create_with(const nats_model_config *config, const nn_params *params,
                                   const nats_decoder_config *decoder, const nats_policy_choice *choice,
                                   nats_decoder **out);
const nats_cache *nats_decoder_cache(const nats_decoder *decoder);
