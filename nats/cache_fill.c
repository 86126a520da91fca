// What a prompt that was computed in parallel leaves behind: the policy's decisions are replayed, and what
// lives after them is stored.
#include <omp.h>

#include "nats/cache_internal.h"
#include "nn/cpu/parallel.h"

// What steps 0 to length - 1 would have done to the tables of a list. logits: [length, Hk, 3] from this
// list's head on, or NULL.
static nats_list_pairs replay(nats_cache *cache, int32_t layer, int32_t l, int32_t length,
                              const float *logits) {
  const nats_policy *policy = cache->choice.policy;
  nats_policy_list *tokens = &nats_cache_layer(cache, layer)[l].tokens;
  nats_list_pairs pairs = {0, 0};
  int32_t part = omp_get_thread_num();
  for (int32_t i = 0; i < length; i++) {
    nats_policy_step step = nats_cache_step_of(cache, layer, l, i, length);
    nats_cache_ask(cache, policy->before, &step, tokens, part);
    nats_list_push(tokens, i);
    pairs.live += tokens->length;
    pairs.shares += tokens->length / (i + 1.0);
    step.logits = logits ? logits + (int64_t)i * cache->shape.kv_heads * NATS_TYPES : NULL;
    nats_cache_ask(cache, policy->after, &step, tokens, part);
  }
  return pairs;
}

static void replay_all(nats_cache *cache, int32_t layer, int32_t length, const float *logits) {
  int32_t count = nats_cache_layer_size(cache), kv_heads = cache->shape.kv_heads;
#pragma omp parallel for schedule(dynamic) if (nn_range_is_large((int64_t)count * length))
  for (int32_t l = 0; l < count; l++) {
    int64_t at = ((int64_t)(l / kv_heads) * length * kv_heads + l % kv_heads) * NATS_TYPES;
    cache->replayed[l] = replay(cache, layer, l, length, logits ? logits + at : NULL);
  }
}

// Writes of a list whose tables are final: every slot takes the row of its position.
static nn_status store(nats_cache *cache, int32_t layer, int32_t l, int32_t length, int64_t *count) {
  nats_cache_list *list = &nats_cache_layer(cache, layer)[l];
  int32_t live = list->tokens.length, kv_heads = cache->shape.kv_heads;
  NN_TRY(nats_cache_fit(cache, list, live));
  NN_TRY(nats_list_fit_pages(list, &cache->pool));
  NN_TRY(nats_cache_reserve((void **)&cache->writes, &cache->write_capacity, *count + live,
                            sizeof *cache->writes));
  for (int32_t slot = 0; slot < live; slot++)
    cache->writes[(*count)++] = (nats_cache_write){
        .slot = nats_list_slot(list, slot, cache->shape.page_tokens),
        .row = (int64_t)(l / kv_heads) * length + list->tokens.position[slot],
        .head = l % kv_heads,
    };
  cache->live_tokens += live;
  return NN_OK;
}

nn_status nats_cache_fill(nats_cache *cache, int32_t layer, int32_t length, const nats_cache_tokens *tokens) {
  const nats_policy *policy = cache->choice.policy;
  if (policy->uses_weights || policy->merge || policy->reassigns)
    return NN_FAIL(NN_ERR_INTERNAL, "policy '%s': looks at the cache, so its prompts are stepped",
                   policy->name);
  int32_t lists = nats_cache_layer_size(cache);
  int64_t count = 0;
  const float *logits;
  NN_TRY(nats_cache_fetch_logits(cache, tokens, (int64_t)cache->shape.sequences * length, &logits));
  for (int32_t l = 0; l < lists; l++)
    NN_TRY(nats_cache_fit(cache, &nats_cache_layer(cache, layer)[l], length));
  NN_TRY(nats_cache_reserve_slots(cache, omp_get_max_threads(), length + 1));
  replay_all(cache, layer, length, logits);
  for (int32_t l = 0; l < lists; l++) {
    nats_cache_count_pairs(cache, layer, l, cache->replayed[l], 0.5 * length * (length + 1.0));
    NN_TRY(store(cache, layer, l, length, &count));
  }
  nats_cache_note_peaks(cache);
  return nats_cache_append_run(cache->device, &(nats_cache_append){
                                                  .pages = nats_page_pool_view(&cache->pool),
                                                  .writes = cache->writes,
                                                  .count = count,
                                                  .token_stride = tokens->token_stride,
                                                  .k = tokens->k,
                                                  .v = tokens->v,
                                              });
}
