// What a token does to the cache: evict, append, attend, evict.
#include "nats/cache_internal.h"
#include "nn/cpu/parallel.h"

nn_status nats_cache_fetch_logits(nats_cache *cache, const nats_cache_tokens *tokens, int64_t rows,
                                  const float **out) {
  *out = NULL;
  if (!tokens->logits)
    return NN_OK;
  int64_t count = rows * cache->shape.kv_heads * NATS_TYPES;
  NN_TRY(nats_cache_reserve((void **)&cache->logits, &cache->logit_capacity, count, sizeof *cache->logits));
  NN_TRY(nn_device_download(cache->device, cache->logits, tokens->logits,
                            (size_t)count * sizeof *cache->logits));
  NN_TRY(nn_device_sync(cache->device));
  *out = cache->logits;
  return NN_OK;
}

void nats_cache_count_pairs(nats_cache *cache, int32_t layer, int32_t l, nats_policy_pairs pairs,
                            double causal) {
  double *counts = cache->pairs + 2 * ((int64_t)layer * cache->shape.kv_heads + l % cache->shape.kv_heads);
  counts[0] += pairs.live;
  counts[1] += causal;
  cache->stepmean += pairs.shares;
}

// ---- a new token

static nn_status append(nats_cache *cache, int32_t layer, int32_t position, const nats_cache_tokens *tokens) {
  nats_cache_list *lists = nats_cache_layer(cache, layer);
  int32_t count = nats_cache_layer_size(cache);
  NN_TRY(nats_cache_reserve((void **)&cache->writes, &cache->write_capacity, count, sizeof *cache->writes));
  for (int32_t l = 0; l < count; l++) {
    nats_cache_list *list = &lists[l];
    NN_TRY(nats_cache_fit(cache, list, list->tokens.length + 1));
    nats_list_push(&list->tokens, position);
    cache->live_tokens++;
    NN_TRY(nats_list_fit_pages(list, &cache->pool));
    cache->writes[l] = (nats_cache_write){
        .slot = nats_list_slot(list, list->tokens.length - 1, cache->shape.page_tokens),
        .row = l / cache->shape.kv_heads,
        .head = l % cache->shape.kv_heads,
    };
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

// ---- attention

// The lists of a layer as the operator reads them; returns the longest.
static int32_t lay_out_rows(nats_cache *cache, int32_t layer, int32_t position) {
  const nats_cache_list *lists = nats_cache_layer(cache, layer);
  int32_t longest = 0;
  for (int32_t l = 0; l < nats_cache_layer_size(cache); l++) {
    int32_t length = lists[l].tokens.length;
    cache->rows[l] = (nats_cache_row){.pages = lists[l].pages, .length = length};
    longest = length > longest ? length : longest;
    nats_policy_pairs pairs = {length, length / (position + 1.0)};
    nats_cache_count_pairs(cache, layer, l, pairs, position + 1.0);
  }
  return longest;
}

// Where the policy numbers tokens anew: how far each key is to be turned.
static nn_status turn_rows(nats_cache *cache, int32_t layer, int32_t position, int32_t longest) {
  const nats_policy_choice *choice = &cache->choice;
  if (!choice->policy->reassigns || !choice->policy->reassigns(choice->parameter))
    return NN_OK;
  const nats_cache_list *lists = nats_cache_layer(cache, layer);
  int32_t count = nats_cache_layer_size(cache);
  int64_t slots = (int64_t)count * longest, capacity = cache->turn_capacity;
  NN_TRY(nats_cache_reserve((void **)&cache->turns, &capacity, slots, sizeof *cache->turns));
  NN_TRY(
      nats_cache_reserve((void **)&cache->turn_room, &cache->turn_capacity, slots, sizeof *cache->turn_room));
#pragma omp parallel for schedule(static) if (nn_range_is_large(slots))
  for (int32_t l = 0; l < count; l++) {
    int64_t at = (int64_t)l * longest;
    if (nats_list_turns(&lists[l].tokens, position, cache->turns + at, cache->turn_room + at))
      cache->rows[l].turn = cache->turns + at;
  }
  return NN_OK;
}

static nn_status reserve_weights(nats_cache *cache, int64_t count) {
  if (count <= cache->weight_capacity)
    return NN_OK;
  nn_device_free(cache->device, cache->device_weights);
  cache->device_weights = NULL;
  int64_t room = cache->weight_capacity;
  cache->weight_capacity = 0;
  NN_TRY(nats_cache_reserve((void **)&cache->weights, &room, count, sizeof *cache->weights));
  void *memory;
  NN_TRY(nn_device_alloc(cache->device, (size_t)room * sizeof *cache->weights, "attention weights", &memory));
  cache->device_weights = memory;
  cache->weight_capacity = room;
  return NN_OK;
}

// Means over all query heads of the layer. The lists of a sequence keep the same tokens in the same slots.
static void average_heads(nats_cache *cache, int32_t longest) {
  const nats_cache_shape *shape = &cache->shape;
#pragma omp parallel for schedule(                                                                           \
    static) if (nn_range_is_large((int64_t)nats_cache_layer_size(cache) * longest))
  for (int32_t s = 0; s < shape->sequences; s++) {
    float *weights = cache->weights + (int64_t)s * shape->kv_heads * longest;
    for (int32_t slot = 0; slot < longest; slot++) {
      float sum = 0.0f;
      for (int32_t head = 0; head < shape->kv_heads; head++)
        sum += weights[(int64_t)head * longest + slot];
      for (int32_t head = 0; head < shape->kv_heads; head++)
        weights[(int64_t)head * longest + slot] = sum / (float)shape->heads;
    }
  }
}

// With `weighs`, the weights of every slot come back in cache->weights, [S, Hk, *longest].
static nn_status attend(nats_cache *cache, int32_t layer, int32_t position, const nats_cache_tokens *tokens,
                        bool weighs, int32_t *longest) {
  const nats_cache_shape *shape = &cache->shape;
  *longest = lay_out_rows(cache, layer, position);
  NN_TRY(turn_rows(cache, layer, position, *longest));
  int64_t weights = weighs ? (int64_t)nats_cache_layer_size(cache) * *longest : 0;
  NN_TRY(reserve_weights(cache, weights));
  NN_TRY(nats_cache_attention_run(cache->device, &(nats_cache_attention){
                                                     .pages = nats_page_pool_view(&cache->pool),
                                                     .lists = cache->rows,
                                                     .sequences = shape->sequences,
                                                     .heads = shape->heads,
                                                     .kv_heads = shape->kv_heads,
                                                     .longest = *longest,
                                                     .scale = shape->scale,
                                                     .token_stride = tokens->token_stride,
                                                     .q = tokens->q,
                                                     .o = tokens->o,
                                                     .rope = tokens->rope,
                                                     .positions = tokens->positions,
                                                     .weights = weighs ? cache->device_weights : NULL,
                                                 }));
  if (!weighs)
    return NN_OK;
  NN_TRY(nn_device_download(cache->device, cache->weights, cache->device_weights,
                            (size_t)weights * sizeof *cache->weights));
  NN_TRY(nn_device_sync(cache->device));
  if (cache->choice.policy->averages_heads)
    average_heads(cache, *longest);
  return NN_OK;
}

// ---- a step

nn_status nats_cache_step(nats_cache *cache, int32_t layer, int32_t position, int32_t prompt,
                          const nats_cache_tokens *tokens) {
  const nats_policy *policy = cache->choice.policy;
  nats_policy_step step = nats_cache_step_of(cache, layer, 0, position, prompt);
  bool is_due = policy->after && (!policy->is_due || policy->is_due(&step));
  bool weighs = is_due && policy->uses_weights;
  nats_cache_moment moment = {.layer = layer, .position = position, .prompt = prompt};
  NN_TRY(nats_cache_evict(cache, policy->before, &moment));
  NN_TRY(append(cache, layer, position, tokens));
  NN_TRY(attend(cache, layer, position, tokens, weighs, &moment.longest));
  if (!is_due)
    return NN_OK;
  NN_TRY(nats_cache_fetch_logits(cache, tokens, cache->shape.sequences, &moment.logits));
  moment.weights = weighs ? cache->weights : NULL;
  return nats_cache_evict(cache, policy->after, &moment);
}
