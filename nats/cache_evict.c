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

// For hooks of `parts` lists at a time, `length` slots each.
static nn_status reserve_slots(nats_cache *cache, int64_t parts, int32_t length) {
  int64_t count = parts * length, drop = cache->slot_capacity, merge_to = cache->slot_capacity;
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

void nats_cache_count_pairs(nats_cache *cache, int64_t i, nats_policy_pairs pairs, double causal) {
  int64_t heads = cache->shape.kv_heads, layer = i / nats_cache_layer_size(cache);
  double *counts = cache->pairs + 2 * (layer * heads + i % heads);
  counts[0] += pairs.live;
  counts[1] += causal;
  cache->stepmean += pairs.shares;
}

// ---- one list

nats_policy_step nats_cache_step_of(const nats_cache *cache, int64_t i) {
  const nats_cache_shape *shape = &cache->shape;
  int32_t layer = (int32_t)(i / nats_cache_layer_size(cache)),
          l = (int32_t)(i % nats_cache_layer_size(cache));
  int32_t head = l % shape->kv_heads;
  nats_policy_step step = {
      .position = cache->position,
      .prompt = cache->prompt,
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

// `at`: a stretch of the scratch.
static nats_list_change ask(nats_cache *cache, nats_policy_hook hook, const nats_policy_step *step,
                            nats_policy_list *tokens, int64_t at) {
  const nats_policy *policy = cache->choice.policy;
  int32_t *drop = cache->drop + at;
  nats_list_change change = {.dropped = hook(step, tokens, drop)};
  if (change.dropped == 0)
    return change;
  if (policy->merge && change.dropped == 1) {
    change.merge_from = drop[0];
    change.merged = policy->merge(step, tokens, drop[0], cache->merge_to + at, &change.merge_factor);
  }
  change.moved = nats_list_drop(tokens, drop, change.dropped, cache->slot_moves + at);
  return change;
}

// ---- all lists

// A guess, in slots, at what a hook looks at in a list where it does not read the weights of all of them.
enum { HOOK_SLOTS = 64 };

// Lists [first, first + count), at the same time.
static void ask_some(nats_cache *cache, nats_policy_hook hook, nats_cache_seen seen, int64_t first,
                     int64_t count) {
  int64_t work = count * (seen.weights ? cache->longest : HOOK_SLOTS);
#pragma omp parallel for schedule(static) if (nn_range_is_large(work))
  for (int64_t n = 0; n < count; n++) {
    int64_t i = first + n;
    nats_policy_list *tokens = &cache->lists[i].tokens;
    nats_policy_step step = nats_cache_step_of(cache, i);
    step.logits = seen.logits ? seen.logits + i * NATS_TYPES : NULL;
    tokens->weight = seen.weights ? seen.weights + i * cache->longest : NULL;
    cache->changes[i] = ask(cache, hook, &step, tokens, n * cache->slot_stride);
  }
}

// What a hook did to list `i`, as the device is to do it; `at`: the stretch of the scratch that says so.
static nn_status note_change(nats_cache *cache, int64_t i, int64_t at) {
  nats_cache_list *list = &cache->lists[i];
  const nats_list_change *change = &cache->changes[i];
  const nats_page_pool *pool = &cache->pool;
  if (change->dropped == 0)
    return NN_OK;
  NN_TRY(nats_cache_reserve((void **)&cache->made.moves, &cache->move_capacity,
                            cache->move_count + change->moved, sizeof *cache->made.moves));
  NN_TRY(nats_cache_reserve((void **)&cache->made.additions, &cache->addition_capacity,
                            cache->addition_count + change->merged, sizeof *cache->made.additions));
  for (int32_t m = 0; m < change->merged; m++)
    cache->made.additions[cache->addition_count++] = (nats_cache_addition){
        .from = nats_list_slot(list, pool, change->merge_from),
        .to = nats_list_slot(list, pool, cache->merge_to[at + m]),
        .factor = change->merge_factor,
    };
  for (int32_t m = 0; m < change->moved; m++)
    cache->made.moves[cache->move_count++] = (nats_cache_move){
        .from = nats_list_slot(list, pool, cache->slot_moves[at + m].from),
        .to = nats_list_slot(list, pool, cache->slot_moves[at + m].to),
    };
  cache->live_tokens -= change->dropped;
  NN_TRY(nats_list_fit_pages(list, &cache->pool));
  return nats_cache_fit(cache, list, list->tokens.length);
}

enum { SLOTS_AT_ONCE = 1 << 22 }; // of scratch

nn_status nats_cache_evict(nats_cache *cache, nats_policy_hook hook, nats_cache_seen seen) {
  int32_t longest = 1;
  if (!hook)
    return NN_OK;
  for (int64_t i = 0; i < cache->list_count; i++)
    longest = cache->lists[i].tokens.length > longest ? cache->lists[i].tokens.length : longest;
  int64_t at_once = longest < SLOTS_AT_ONCE ? SLOTS_AT_ONCE / longest : 1;
  at_once = at_once < cache->list_count ? at_once : cache->list_count;
  NN_TRY(reserve_slots(cache, at_once, longest));
  for (int64_t first = 0; first < cache->list_count; first += at_once) {
    int64_t left = cache->list_count - first, count = left < at_once ? left : at_once;
    ask_some(cache, hook, seen, first, count);
    for (int64_t n = 0; n < count; n++)
      NN_TRY(note_change(cache, first + n, n * cache->slot_stride));
  }
  return NN_OK;
}
