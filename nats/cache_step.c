// What a token does to the cache: evict, append, attend, evict; and what a prompt leaves behind.
#include <stdlib.h> // realloc
#include <string.h> // memcpy

#include "nats/cache_internal.h"

// ---- scratch

// Room for `count` items, with some to spare; what was there is kept.
static nn_status reserve(void **items, int64_t *capacity, int64_t count, size_t size) {
  if (count <= *capacity)
    return NN_OK;
  int64_t room = count + count / 2;
  void *moved = realloc(*items, (size_t)room * size);
  if (!moved)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld cache operations", (long long)room);
  *items = moved;
  *capacity = room;
  return NN_OK;
}

static nn_status reserve_slots(nats_cache *cache, int32_t length) {
  int64_t capacity = cache->slot_capacity;
  NN_TRY(reserve((void **)&cache->drop, &capacity, length, sizeof *cache->drop));
  return reserve((void **)&cache->slot_moves, &cache->slot_capacity, length, sizeof *cache->slot_moves);
}

// The scorer's logits on the host, [rows, Hk, 3], or NULL.
static nn_status fetch_logits(nats_cache *cache, const nats_cache_tokens *tokens, int64_t rows,
                              const float **out) {
  *out = NULL;
  if (!tokens->logits)
    return NN_OK;
  int64_t count = rows * cache->shape.kv_heads * NATS_TYPES;
  NN_TRY(reserve((void **)&cache->logits, &cache->logit_capacity, count, sizeof *cache->logits));
  NN_TRY(nn_device_download(cache->device, cache->logits, tokens->logits,
                            (size_t)count * sizeof *cache->logits));
  NN_TRY(nn_device_sync(cache->device));
  *out = cache->logits;
  return NN_OK;
}

static nn_status reserve_weights(nats_cache *cache, int64_t count) {
  if (count <= cache->weight_capacity)
    return NN_OK;
  nn_device_free(cache->device, cache->device_weights);
  cache->device_weights = NULL;
  int64_t room = cache->weight_capacity;
  NN_TRY(reserve((void **)&cache->weights, &room, count, sizeof *cache->weights));
  cache->weight_capacity = 0;
  void *memory;
  NN_TRY(nn_device_alloc(cache->device, (size_t)room * sizeof *cache->weights, "attention weights", &memory));
  cache->device_weights = memory;
  cache->weight_capacity = room;
  return NN_OK;
}

// ---- lists, with their pages and counts

static nn_status fit(nats_cache *cache, nats_cache_list *list, int32_t length) {
  int32_t before = list->capacity;
  NN_TRY(nats_list_fit(list, length, cache->shape.page_tokens, nats_cache_has_scores(cache)));
  int64_t page = nats_list_table_bytes(cache->shape.page_tokens, nats_cache_has_scores(cache));
  cache->table_bytes += (list->capacity - before) * page;
  return NN_OK;
}

static void note_peaks(nats_cache *cache) {
  int64_t bytes = nats_cache_bytes(cache);
  if (bytes > cache->peak_bytes)
    cache->peak_bytes = bytes;
  if (cache->live_tokens > cache->peak_live_tokens)
    cache->peak_live_tokens = cache->live_tokens;
}

typedef int32_t (*policy_hook)(const nats_policy_step *step, nats_policy_list *list, int32_t *drop);

static nats_policy_step step_of(const nats_cache *cache, int32_t position, int32_t prompt) {
  nats_policy_step step = {.position = position, .prompt = prompt, .chunk = cache->shape.chunk};
  memcpy(step.parameter, cache->choice.parameter, sizeof step.parameter);
  return step;
}

// Asks a hook about one list and takes the dropped tokens off its tables; `moved` counts cache->slot_moves.
static nn_status ask(nats_cache *cache, policy_hook hook, const nats_policy_step *step,
                     nats_policy_list *tokens, int32_t *moved) {
  *moved = 0;
  if (!hook)
    return NN_OK;
  NN_TRY(reserve_slots(cache, tokens->length + 1));
  int32_t dropped = hook(step, tokens, cache->drop);
  if (dropped > 0)
    *moved = nats_list_drop(tokens, cache->drop, dropped, cache->slot_moves);
  return NN_OK;
}

static nn_status remember_moves(nats_cache *cache, const nats_cache_list *list, int32_t moved,
                                int64_t *count) {
  int32_t page = cache->shape.page_tokens;
  NN_TRY(reserve((void **)&cache->moves, &cache->move_capacity, *count + moved, sizeof *cache->moves));
  for (int32_t m = 0; m < moved; m++)
    cache->moves[(*count)++] = (nats_cache_move){
        .from = nats_list_slot(list, cache->slot_moves[m].from, page),
        .to = nats_list_slot(list, cache->slot_moves[m].to, page),
    };
  return NN_OK;
}

// Asks one hook about every list of a layer, fills the holes, and returns pages. `logits`: [S, Hk, 3] or
// NULL; `weights`: [S, Hk, longest] or NULL.
static nn_status evict(nats_cache *cache, int32_t layer, policy_hook hook, nats_policy_step step,
                       const float *logits, const float *weights, int32_t longest) {
  nats_cache_list *lists = nats_cache_layer(cache, layer);
  int64_t moves = 0;
  for (int32_t l = 0; hook && l < nats_cache_layer_size(cache); l++) {
    int32_t before = lists[l].tokens.length, moved;
    step.logits = logits ? logits + (int64_t)l * NATS_TYPES : NULL;
    lists[l].tokens.weight = weights ? weights + (int64_t)l * longest : NULL;
    NN_TRY(ask(cache, hook, &step, &lists[l].tokens, &moved));
    NN_TRY(remember_moves(cache, &lists[l], moved, &moves));
    cache->live_tokens -= before - lists[l].tokens.length;
  }
  nats_cache_compact op = {nats_page_pool_view(&cache->pool), cache->moves, moves};
  NN_TRY(nats_cache_compact_run(cache->device, &op));
  for (int32_t l = 0; hook && l < nats_cache_layer_size(cache);
       l++) { // after the moves: they read these pages
    NN_TRY(nats_list_fit_pages(&lists[l], &cache->pool));
    NN_TRY(fit(cache, &lists[l], lists[l].tokens.length));
  }
  return NN_OK;
}

// ---- a step

static nn_status append(nats_cache *cache, int32_t layer, int32_t position, const nats_cache_tokens *tokens) {
  nats_cache_list *lists = nats_cache_layer(cache, layer);
  int32_t count = nats_cache_layer_size(cache);
  NN_TRY(reserve((void **)&cache->writes, &cache->write_capacity, count, sizeof *cache->writes));
  for (int32_t l = 0; l < count; l++) {
    nats_cache_list *list = &lists[l];
    NN_TRY(fit(cache, list, list->tokens.length + 1));
    nats_list_push(&list->tokens, position);
    cache->live_tokens++;
    NN_TRY(nats_list_fit_pages(list, &cache->pool));
    cache->writes[l] = (nats_cache_write){
        .slot = nats_list_slot(list, list->tokens.length - 1, cache->shape.page_tokens),
        .row = l / cache->shape.kv_heads,
        .head = l % cache->shape.kv_heads,
    };
  }
  note_peaks(cache);
  return nats_cache_append_run(cache->device, &(nats_cache_append){
                                                  .pages = nats_page_pool_view(&cache->pool),
                                                  .writes = cache->writes,
                                                  .count = count,
                                                  .token_stride = tokens->token_stride,
                                                  .k = tokens->k,
                                                  .v = tokens->v,
                                              });
}

static void count_pairs(nats_cache *cache, int32_t layer, int32_t list, int32_t position, int32_t live) {
  double *pairs = cache->pairs + 2 * ((int64_t)layer * cache->shape.kv_heads + list % cache->shape.kv_heads);
  pairs[0] += live;
  pairs[1] += position + 1;
  cache->stepmean += live / (position + 1.0);
}

// Weights of every slot come back in cache->weights where the policy wants them.
static nn_status attend(nats_cache *cache, int32_t layer, int32_t position, const nats_cache_tokens *tokens,
                        int32_t *longest) {
  const nats_cache_shape *shape = &cache->shape;
  const nats_cache_list *lists = nats_cache_layer(cache, layer);
  int32_t count = nats_cache_layer_size(cache);
  *longest = 0;
  for (int32_t l = 0; l < count; l++) {
    int32_t length = lists[l].tokens.length;
    cache->rows[l] = (nats_cache_row){lists[l].pages, length};
    *longest = length > *longest ? length : *longest;
    count_pairs(cache, layer, l, position, length);
  }
  int64_t weights = nats_cache_has_scores(cache) ? (int64_t)count * *longest : 0;
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
                                                     .weights = weights > 0 ? cache->device_weights : NULL,
                                                 }));
  if (weights == 0)
    return NN_OK;
  NN_TRY(nn_device_download(cache->device, cache->weights, cache->device_weights,
                            (size_t)weights * sizeof *cache->weights));
  return nn_device_sync(cache->device);
}

nn_status nats_cache_step(nats_cache *cache, int32_t layer, int32_t position, int32_t prompt,
                          const nats_cache_tokens *tokens) {
  const nats_policy *policy = cache->choice.policy;
  nats_policy_step step = step_of(cache, position, prompt);
  NN_TRY(evict(cache, layer, policy->before, step, NULL, NULL, 0));
  NN_TRY(append(cache, layer, position, tokens));
  int32_t longest;
  NN_TRY(attend(cache, layer, position, tokens, &longest));
  if (!policy->after)
    return NN_OK;
  const float *logits;
  NN_TRY(fetch_logits(cache, tokens, cache->shape.sequences, &logits));
  return evict(cache, layer, policy->after, step, logits,
               nats_cache_has_scores(cache) ? cache->weights : NULL, longest);
}

// ---- a prompt

// What steps 0 to length - 1 would have done to the tables of a list. logits: [length, Hk, 3] from this
// list's head on, or NULL.
static nn_status replay(nats_cache *cache, int32_t layer, int32_t l, int32_t length, const float *logits) {
  const nats_policy *policy = cache->choice.policy;
  nats_policy_list *tokens = &nats_cache_layer(cache, layer)[l].tokens;
  int32_t moved;
  for (int32_t i = 0; i < length; i++) {
    nats_policy_step step = step_of(cache, i, length);
    NN_TRY(ask(cache, policy->before, &step, tokens, &moved));
    nats_list_push(tokens, i);
    count_pairs(cache, layer, l, i, tokens->length);
    step.logits = logits ? logits + (int64_t)i * cache->shape.kv_heads * NATS_TYPES : NULL;
    NN_TRY(ask(cache, policy->after, &step, tokens, &moved));
  }
  return NN_OK;
}

// Writes of a list whose tables are final: every slot takes the row of its position.
static nn_status store(nats_cache *cache, int32_t layer, int32_t l, int32_t length, int64_t *count) {
  nats_cache_list *list = &nats_cache_layer(cache, layer)[l];
  int32_t live = list->tokens.length, kv_heads = cache->shape.kv_heads;
  NN_TRY(fit(cache, list, live));
  NN_TRY(nats_list_fit_pages(list, &cache->pool));
  NN_TRY(reserve((void **)&cache->writes, &cache->write_capacity, *count + live, sizeof *cache->writes));
  for (int32_t slot = 0; slot < live; slot++)
    cache->writes[(*count)++] = (nats_cache_write){
        .slot = nats_list_slot(list, slot, cache->shape.page_tokens),
        .row = (int64_t)(l / kv_heads) * length + list->tokens.position[slot],
        .head = l % kv_heads,
    };
  cache->live_tokens += live;
  note_peaks(cache);
  return NN_OK;
}

nn_status nats_cache_fill(nats_cache *cache, int32_t layer, int32_t length, const nats_cache_tokens *tokens) {
  if (cache->choice.policy->uses_weights)
    return NN_FAIL(NN_ERR_INTERNAL, "policy '%s': needs attention weights, so its prompts are stepped",
                   cache->choice.policy->name);
  int32_t kv_heads = cache->shape.kv_heads;
  int64_t count = 0;
  const float *logits;
  NN_TRY(fetch_logits(cache, tokens, (int64_t)cache->shape.sequences * length, &logits));
  for (int32_t l = 0; l < nats_cache_layer_size(cache); l++) {
    int64_t at = ((int64_t)(l / kv_heads) * length * kv_heads + l % kv_heads) * NATS_TYPES;
    NN_TRY(fit(cache, &nats_cache_layer(cache, layer)[l], length));
    NN_TRY(replay(cache, layer, l, length, logits ? logits + at : NULL));
    NN_TRY(store(cache, layer, l, length, &count));
  }
  return nats_cache_append_run(cache->device, &(nats_cache_append){
                                                  .pages = nats_page_pool_view(&cache->pool),
                                                  .writes = cache->writes,
                                                  .count = count,
                                                  .token_stride = tokens->token_stride,
                                                  .k = tokens->k,
                                                  .v = tokens->v,
                                              });
}
