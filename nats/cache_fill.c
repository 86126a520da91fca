// What a prompt that was computed in parallel leaves behind: the policy says which tokens live after it, and
// only those are stored.
#include <string.h> // memcpy

#include "nats/cache_internal.h"
#include "nn/cpu/parallel.h"

static nn_status find_harmonic(nats_cache *cache, int32_t length) {
  if (length < cache->harmonic_capacity)
    return NN_OK;
  NN_TRY(nats_cache_reserve((void **)&cache->harmonic, &cache->harmonic_capacity, length + 1,
                            sizeof *cache->harmonic));
  cache->harmonic[0] = 0.0;
  for (int64_t n = 1; n < cache->harmonic_capacity; n++)
    cache->harmonic[n] = cache->harmonic[n - 1] + 1.0 / (double)n;
  return NN_OK;
}

// Types of chunks, and the scorer's logits of an unfinished one, [count, length % chunk, Hk, 3], come to the
// host.
static nn_status fetch_types(nats_cache *cache, const nats_cache_prompt *prompt,
                             const nats_cache_tokens *tokens) {
  if (!tokens->types)
    return NN_OK;
  int32_t chunk = cache->shape.chunk, heads = cache->shape.kv_heads;
  int64_t count = (int64_t)prompt->count * heads * nats_chunks(prompt->length, chunk);
  int64_t row = (int64_t)heads * NATS_TYPES, left = prompt->length % chunk * row;
  NN_TRY(nats_cache_reserve((void **)&cache->types, &cache->type_capacity, count, sizeof *cache->types));
  NN_TRY(nats_cache_reserve((void **)&cache->prompt_logits, &cache->prompt_logit_capacity,
                            prompt->count * left, sizeof *cache->prompt_logits));
  NN_TRY(nn_device_download(cache->device, cache->types, tokens->types, (size_t)count));
  for (int32_t s = 0; left > 0 && s < prompt->count; s++)
    NN_TRY(nn_device_download(cache->device, cache->prompt_logits + s * left,
                              tokens->logits + (s + INT64_C(1)) * prompt->length * row - left,
                              (size_t)left * sizeof *cache->prompt_logits));
  return nn_device_sync(cache->device);
}

// `l`: list of those that are filled.
static nats_policy_prompt prompt_of(const nats_cache *cache, const nats_cache_prompt *prompt,
                                    const nats_cache_tokens *tokens, int32_t l) {
  int32_t chunk = cache->shape.chunk, heads = cache->shape.kv_heads;
  nats_policy_prompt p = {.length = prompt->length, .chunk = chunk, .harmonic = cache->harmonic};
  memcpy(p.parameter, cache->choice.parameter, sizeof p.parameter);
  if (!tokens->types)
    return p;
  p.logit_stride = (int64_t)heads * NATS_TYPES;
  p.type = cache->types + (int64_t)l * nats_chunks(prompt->length, chunk);
  if (prompt->length % chunk > 0)
    p.logits =
        cache->prompt_logits + l / heads * (prompt->length % chunk) * p.logit_stride + l % heads * NATS_TYPES;
  return p;
}

static void ask_policy(nats_cache *cache, nats_cache_list *lists, const nats_cache_prompt *prompt,
                       const nats_cache_tokens *tokens) {
  int32_t count = prompt->count * cache->shape.kv_heads;
#pragma omp parallel for schedule(dynamic) if (nn_range_is_large((int64_t)count * prompt->length))
  for (int32_t l = 0; l < count; l++) {
    nats_policy_prompt seen = prompt_of(cache, prompt, tokens, l);
    cache->prompt_pairs[l] = cache->choice.policy->after_prompt(&seen, &lists[l].tokens);
  }
}

// Pages for a list whose tables are final.
static nn_status take_pages(nats_cache *cache, nats_cache_list *list, int32_t rows, nats_cache_stored *out) {
  int32_t live = list->tokens.length;
  NN_TRY(nats_cache_fit(cache, list, live));
  NN_TRY(nats_list_fit_pages(list, &cache->pool));
  cache->live_tokens += live;
  *out = (nats_cache_stored){
      .position = live < rows ? list->tokens.position : NULL, // they ascend: all are there, in order
      .length = live,
  };
  return NN_OK;
}

nn_status nats_cache_fill(nats_cache *cache, int32_t layer, const nats_cache_prompt *prompt,
                          const nats_cache_tokens *tokens) {
  const nats_policy *policy = cache->choice.policy;
  int32_t heads = cache->shape.kv_heads, first = prompt->first * heads, count = prompt->count * heads;
  int32_t longest = 0;
  int64_t at = (int64_t)layer * nats_cache_layer_size(cache) + first;
  nats_cache_list *lists = cache->lists + at;
  if (!policy->after_prompt)
    return NN_FAIL(NN_ERR_INTERNAL, "policy '%s': its prompts are stepped", policy->name);
  NN_TRY(fetch_types(cache, prompt, tokens));
  NN_TRY(find_harmonic(cache, prompt->length));
  for (int32_t l = 0; l < count; l++)
    NN_TRY(nats_cache_fit(cache, &lists[l], prompt->length));
  ask_policy(cache, lists, prompt, tokens);
  for (int32_t l = 0; l < count; l++) {
    nats_cache_count_pairs(cache, layer, l % heads, cache->prompt_pairs[l],
                           0.5 * prompt->length * (prompt->length + 1.0));
    NN_TRY(take_pages(cache, &lists[l], prompt->length, &cache->stored[l]));
    longest = cache->stored[l].length > longest ? cache->stored[l].length : longest;
  }
  cache->longest = longest > cache->longest ? longest : cache->longest;
  nats_cache_note_peaks(cache);
  NN_TRY(nats_cache_widen(cache, longest));
  NN_TRY(nats_cache_send_pages(cache, at, count));
  return nats_cache_store_run(cache->device, &(nats_cache_store){
                                                 .pages = nats_cache_pages_of(cache, at),
                                                 .lists = cache->stored,
                                                 .sequences = prompt->count,
                                                 .kv_heads = heads,
                                                 .rows = prompt->length,
                                                 .token_stride = tokens->token_stride,
                                                 .k = tokens->k,
                                                 .v = tokens->v,
                                             });
}
