// What a token does to the cache: evict, append, attend, evict.

#include "nats/cache_internal.h"
#include "nn/cpu/parallel.h"

// ---- before the layers

// Counts, and lays out what operators read of the lists. Returns the tokens of the layer that has most.
static int64_t lay_out_rows(nats_cache *cache) {
  const nats_cache_shape *shape = &cache->shape;
  double seen = cache->position + 1.0;
  int64_t most = 0, i = 0;
  for (int32_t layer = 0; layer < shape->layers; layer++) {
    int64_t tokens = 0;
    for (int32_t s = 0; s < shape->sequences; s++)
      for (int32_t head = 0; head < shape->kv_heads; head++, i++) {
        int32_t length = cache->lists[i].tokens.length;
        cache->made.rows[i] = (nats_cache_row){.length = length, .turns = -1};
        nats_cache_count_pairs(cache, layer, head, (nats_policy_pairs){length, length / seen}, seen);
        tokens += length;
      }
    most = tokens > most ? tokens : most;
  }
  return most;
}

// Where the policy numbers tokens anew: how far each key is to be turned.
static nn_status turn_rows(nats_cache *cache) {
  const nats_policy_choice *choice = &cache->choice;
  if (!choice->policy->reassigns || !choice->policy->reassigns(choice->parameter))
    return NN_OK;
  int64_t longest = cache->longest;
  cache->turn_count = cache->list_count * longest;
  NN_TRY(nats_cache_reserve((void **)&cache->made.turns, &cache->turn_capacity, cache->turn_count,
                            sizeof *cache->made.turns));
  NN_TRY(nats_cache_reserve((void **)&cache->turn_room, &cache->turn_room_capacity, cache->turn_count,
                            sizeof *cache->turn_room));
#pragma omp parallel for schedule(static) if (nn_range_is_large(cache->turn_count))
  for (int64_t i = 0; i < cache->list_count; i++)
    if (nats_list_turns(&cache->lists[i].tokens, cache->position, cache->made.turns + i * longest,
                        cache->turn_room + i * longest))
      cache->made.rows[i].turns = i * longest;
  return NN_OK;
}

static nn_status reserve_weights(nats_cache *cache) {
  int64_t count = cache->weighs ? cache->list_count * cache->longest : 0;
  if (count <= cache->weight_capacity)
    return NN_OK;
  nn_device_free(cache->device, cache->device_weights);
  nn_device_host_free(cache->device, cache->weights);
  cache->device_weights = cache->weights = NULL;
  cache->weight_capacity = 0;
  int64_t room = count + count / 2;
  size_t bytes = (size_t)room * sizeof *cache->weights;
  void *memory;
  NN_TRY(nn_device_alloc(cache->device, bytes, "attention weights", &memory));
  cache->device_weights = memory;
  NN_TRY(nn_device_host_alloc(cache->device, bytes, "attention weights", &memory));
  cache->weights = memory;
  cache->weight_capacity = room;
  return NN_OK;
}

nn_status nats_cache_begin(nats_cache *cache, int32_t position, int32_t prompt) {
  const nats_policy *policy = cache->choice.policy;
  cache->position = position;
  cache->prompt = prompt;
  nats_policy_step step = nats_cache_step_of(cache, 0);
  cache->is_due = policy->after && (!policy->is_due || policy->is_due(&step));
  cache->weighs = cache->is_due && policy->uses_weights;
  NN_TRY(nats_cache_change(cache, &(nats_cache_asked){.hook = policy->before, .append = true}));
  nats_cache_note_peaks(cache);
  NN_TRY(nats_cache_reserve_items(cache, lay_out_rows(cache)));
  NN_TRY(turn_rows(cache));
  NN_TRY(reserve_weights(cache));
  NN_TRY(nats_cache_send(cache));
  nats_page_pool_trim(&cache->pool);
  return NN_OK;
}

// ---- a layer

float *nats_cache_logits(nats_cache *cache, int32_t layer) {
  int64_t at = (int64_t)layer * nats_cache_layer_size(cache) * NATS_TYPES;
  return cache->device_logits ? cache->device_logits + at : NULL;
}

nats_cache_launches nats_cache_get_launches(const nats_cache *cache) {
  return (nats_cache_launches){
      .pages = cache->page_table,
      .rows = cache->sent.rows,
      .items = cache->items,
      .turns = cache->turn_count > 0 ? cache->sent.turns : NULL,
      .weights = cache->weighs ? cache->device_weights : NULL,
      .stride = cache->page_stride,
      .longest = cache->weighs ? cache->longest : 0,
      .item_count = cache->item_count,
      .item_tokens = cache->item_tokens,
  };
}

nn_status nats_cache_layer(nats_cache *cache, int32_t layer, const nats_cache_tokens *tokens) {
  const nats_cache_shape *shape = &cache->shape;
  int64_t first = (int64_t)layer * nats_cache_layer_size(cache);
  nats_cache_pages pages = nats_cache_pages_of(cache, first);
  const nats_cache_row *lists = cache->sent.rows + first;
  NN_TRY(nats_cache_append_run(cache->device, &(nats_cache_append){
                                                  .pages = pages,
                                                  .lists = lists,
                                                  .sequences = shape->sequences,
                                                  .kv_heads = shape->kv_heads,
                                                  .token_stride = tokens->token_stride,
                                                  .k = tokens->k,
                                                  .v = tokens->v,
                                              }));
  return nats_cache_attention_run(
      cache->device, &(nats_cache_attention){
                         .pages = pages,
                         .lists = lists,
                         .sequences = shape->sequences,
                         .heads = shape->heads,
                         .kv_heads = shape->kv_heads,
                         .longest = cache->longest,
                         .items = cache->items + (int64_t)layer * cache->item_count,
                         .item_count = cache->item_count,
                         .item_tokens = cache->item_tokens,
                         .scale = shape->scale,
                         .token_stride = tokens->token_stride,
                         .q = tokens->q,
                         .o = tokens->o,
                         .turns = cache->turn_count > 0 ? cache->sent.turns : NULL,
                         .rope = tokens->rope,
                         .positions = tokens->positions,
                         .weights = cache->weighs ? cache->device_weights + first * cache->longest : NULL,
                     });
}

// ---- after the layers

// Means over all query heads of a layer. The lists of a sequence keep the same tokens in the same slots.
static void average_heads(nats_cache *cache) {
  const nats_cache_shape *shape = &cache->shape;
  int64_t longest = cache->longest;
#pragma omp parallel for schedule(static) if (nn_range_is_large(cache->list_count * longest))
  for (int64_t s = 0; s < (int64_t)shape->layers * shape->sequences; s++) {
    float *weights = cache->weights + s * shape->kv_heads * longest;
    for (int64_t slot = 0; slot < longest; slot++) {
      float sum = 0.0f;
      for (int32_t head = 0; head < shape->kv_heads; head++)
        sum += weights[head * longest + slot];
      for (int32_t head = 0; head < shape->kv_heads; head++)
        weights[head * longest + slot] = sum / (float)shape->heads;
    }
  }
}

nn_status nats_cache_fetch(nats_cache *cache) {
  int64_t weights = cache->weighs ? cache->list_count * cache->longest : 0;
  if (!cache->is_due)
    return NN_OK;
  if (cache->device_logits)
    NN_TRY(nn_device_download(cache->device, cache->logits, cache->device_logits,
                              (size_t)cache->list_count * NATS_TYPES * sizeof *cache->logits));
  if (weights > 0)
    NN_TRY(nn_device_download(cache->device, cache->weights, cache->device_weights,
                              (size_t)weights * sizeof *cache->weights));
  return nn_event_record(cache->fetched);
}

static nn_status await(nn_event *event) {
  bool done = false;
  while (!done)
    NN_TRY(nn_event_done(event, &done));
  return NN_OK;
}

// What the device is to change goes to it with the tables of the next step: pages that are given back here
// keep their tokens until then.
nn_status nats_cache_end(nats_cache *cache) {
  if (!cache->is_due)
    return NN_OK;
  NN_TRY(await(cache->fetched));
  if (cache->weighs && cache->choice.policy->averages_heads)
    average_heads(cache);
  NN_TRY(nats_cache_change(cache, &(nats_cache_asked){
                                      .hook = cache->choice.policy->after,
                                      .logits = cache->device_logits ? cache->logits : NULL,
                                      .weights = cache->weighs ? cache->weights : NULL,
                                  }));
  cache->left = (nats_cache_changes){cache->addition_count, cache->move_count};
  return NN_OK;
}
