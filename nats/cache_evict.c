// Asking the policy, and doing what it says.
#include <stdlib.h> // realloc
#include <string.h> // memcpy

#include "nats/cache_internal.h"
#include "nn/cpu/parallel.h"

// ---- scratch

nn_status nats_cache_reserve(void **items, int64_t *capacity, int64_t count, size_t size) {
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

nn_status nats_cache_reserve_slots(nats_cache *cache, int32_t parts, int32_t length) {
  int64_t count = (int64_t)parts * length, drop = cache->slot_capacity, merge_to = cache->slot_capacity;
  cache->slot_stride = length;
  NN_TRY(nats_cache_reserve((void **)&cache->drop, &drop, count, sizeof *cache->drop));
  NN_TRY(nats_cache_reserve((void **)&cache->merge_to, &merge_to, count, sizeof *cache->merge_to));
  return nats_cache_reserve((void **)&cache->slot_moves, &cache->slot_capacity, count,
                            sizeof *cache->slot_moves);
}

// ---- lists, with their pages and counts

nn_status nats_cache_fit(nats_cache *cache, nats_cache_list *list, int32_t length) {
  int32_t before = list->capacity;
  NN_TRY(nats_list_fit(list, length, cache->shape.page_tokens, nats_cache_has_scores(cache)));
  int64_t page = nats_list_table_bytes(cache->shape.page_tokens, nats_cache_has_scores(cache));
  cache->table_bytes += (list->capacity - before) * page;
  return NN_OK;
}

void nats_cache_note_peaks(nats_cache *cache) {
  int64_t bytes = nats_cache_bytes(cache);
  if (bytes > cache->peak_bytes)
    cache->peak_bytes = bytes;
  if (cache->live_tokens > cache->peak_live_tokens)
    cache->peak_live_tokens = cache->live_tokens;
}

// ---- one list

nats_policy_step nats_cache_step_of(const nats_cache *cache, int32_t layer, int32_t l, int32_t position,
                                    int32_t prompt) {
  const nats_cache_shape *shape = &cache->shape;
  int32_t head = l % shape->kv_heads;
  nats_policy_step step = {
      .position = position,
      .prompt = prompt,
      .chunk = shape->chunk,
      .sample = cache->sample[l / shape->kv_heads],
      .layer = layer,
      .head = head,
      .seed = shape->seed,
      .head_rank = cache->head_rank[layer * shape->kv_heads + head],
      .head_count = shape->layers * shape->kv_heads,
  };
  memcpy(step.parameter, cache->choice.parameter, sizeof step.parameter);
  return step;
}

nats_list_change nats_cache_ask(nats_cache *cache, nats_policy_hook hook, const nats_policy_step *step,
                                nats_policy_list *tokens, int64_t part) {
  const nats_policy *policy = cache->choice.policy;
  int64_t at = part * cache->slot_stride;
  int32_t *drop = cache->drop + at;
  nats_list_change change = {.dropped = hook ? hook(step, tokens, drop) : 0};
  if (change.dropped == 0)
    return change;
  if (policy->merge && change.dropped == 1) {
    change.merge_from = drop[0];
    change.merged = policy->merge(step, tokens, drop[0], cache->merge_to + at, &change.merge_factor);
  }
  change.moved = nats_list_drop(tokens, drop, change.dropped, cache->slot_moves + at);
  return change;
}

// ---- all lists of a layer

static int32_t longest_of(const nats_cache_list *lists, int32_t count) {
  int32_t longest = 0;
  for (int32_t l = 0; l < count; l++)
    longest = lists[l].tokens.length > longest ? lists[l].tokens.length : longest;
  return longest;
}

static nn_status ask_all(nats_cache *cache, nats_policy_hook hook, const nats_cache_moment *moment) {
  nats_cache_list *lists = nats_cache_layer(cache, moment->layer);
  int32_t count = nats_cache_layer_size(cache), longest = longest_of(lists, count);
  NN_TRY(nats_cache_reserve_slots(cache, count, longest + 1));
#pragma omp parallel for schedule(static) if (nn_range_is_large((int64_t)count * longest))
  for (int32_t l = 0; l < count; l++) {
    nats_policy_step step = nats_cache_step_of(cache, moment->layer, l, moment->position, moment->prompt);
    step.logits = moment->logits ? moment->logits + (int64_t)l * NATS_TYPES : NULL;
    lists[l].tokens.weight = moment->weights ? moment->weights + (int64_t)l * moment->longest : NULL;
    cache->changes[l] = nats_cache_ask(cache, hook, &step, &lists[l].tokens, l);
  }
  return NN_OK;
}

// The slots that list `l` names, over all pages, after those of the lists before it.
static nn_status remember(nats_cache *cache, int32_t layer, int32_t l, int64_t *moves, int64_t *additions) {
  const nats_cache_list *list = &nats_cache_layer(cache, layer)[l];
  const nats_list_change *change = &cache->changes[l];
  int64_t at = l * cache->slot_stride;
  int32_t page = cache->shape.page_tokens;
  NN_TRY(nats_cache_reserve((void **)&cache->moves, &cache->move_capacity, *moves + change->moved,
                            sizeof *cache->moves));
  NN_TRY(nats_cache_reserve((void **)&cache->additions, &cache->addition_capacity,
                            *additions + change->merged, sizeof *cache->additions));
  for (int32_t m = 0; m < change->merged; m++)
    cache->additions[(*additions)++] = (nats_cache_addition){
        .from = nats_list_slot(list, change->merge_from, page),
        .to = nats_list_slot(list, cache->merge_to[at + m], page),
        .factor = change->merge_factor,
    };
  for (int32_t m = 0; m < change->moved; m++)
    cache->moves[(*moves)++] = (nats_cache_move){
        .from = nats_list_slot(list, cache->slot_moves[at + m].from, page),
        .to = nats_list_slot(list, cache->slot_moves[at + m].to, page),
    };
  cache->live_tokens -= change->dropped;
  return NN_OK;
}

nn_status nats_cache_evict(nats_cache *cache, nats_policy_hook hook, const nats_cache_moment *moment) {
  if (!hook)
    return NN_OK;
  int32_t layer = moment->layer, count = nats_cache_layer_size(cache);
  nats_cache_list *lists = nats_cache_layer(cache, layer);
  int64_t moves = 0, additions = 0;
  NN_TRY(ask_all(cache, hook, moment));
  for (int32_t l = 0; l < count; l++)
    NN_TRY(remember(cache, layer, l, &moves, &additions));
  nats_cache_pages pages = nats_page_pool_view(&cache->pool);
  NN_TRY(nats_cache_merge_run(cache->device, &(nats_cache_merge){pages, cache->additions, additions}));
  NN_TRY(nats_cache_compact_run(cache->device, &(nats_cache_compact){pages, cache->moves, moves}));
  for (int32_t l = 0; l < count; l++) { // after the moves: they read these pages
    if (cache->changes[l].dropped == 0)
      continue;
    NN_TRY(nats_list_fit_pages(&lists[l], &cache->pool));
    NN_TRY(nats_cache_fit(cache, &lists[l], lists[l].tokens.length));
  }
  return NN_OK;
}
