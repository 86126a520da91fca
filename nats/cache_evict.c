// Asking the policy, and doing what it says: threads share the lists, each with its own scratch; what all
// lists have in common, pages and counts, is brought up to date afterwards.
#include <stdlib.h> // realloc
#include <string.h> // memcpy, memset

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

void nats_cache_count_pairs(nats_cache *cache, int32_t layer, int32_t head, nats_policy_pairs pairs,
                            double causal) {
  double *counts = cache->pairs + 2 * ((int64_t)layer * cache->shape.kv_heads + head);
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

static nats_list_change ask(const nats_policy *policy, nats_policy_hook hook, const nats_policy_step *step,
                            nats_policy_list *tokens, nats_cache_worker *w) {
  nats_list_change change = {.dropped = hook(step, tokens, w->drop)};
  if (change.dropped == 0)
    return change;
  if (policy->merge && change.dropped == 1) {
    change.merge_from = w->drop[0];
    change.merged = policy->merge(step, tokens, w->drop[0], w->merge_to, &change.merge_factor);
  }
  change.moved = nats_list_drop(tokens, w->drop, change.dropped, w->slot_moves);
  return change;
}

// What a hook did to a list, as the device is to do it.
static nn_status note_change(const nats_page_pool *pool, const nats_cache_list *list,
                             const nats_list_change *change, nats_cache_worker *w) {
  NN_TRY(nats_cache_reserve((void **)&w->moves, &w->move_capacity, w->move_count + change->moved,
                            sizeof *w->moves));
  NN_TRY(nats_cache_reserve((void **)&w->additions, &w->addition_capacity, w->addition_count + change->merged,
                            sizeof *w->additions));
  for (int32_t m = 0; m < change->merged; m++)
    w->additions[w->addition_count++] = (nats_cache_addition){
        .from = nats_list_slot(list, pool, change->merge_from),
        .to = nats_list_slot(list, pool, w->merge_to[m]),
        .factor = change->merge_factor,
    };
  for (int32_t m = 0; m < change->moved; m++)
    w->moves[w->move_count++] = (nats_cache_move){
        .from = nats_list_slot(list, pool, w->slot_moves[m].from),
        .to = nats_list_slot(list, pool, w->slot_moves[m].to),
    };
  w->dropped += change->dropped;
  return NN_OK;
}

// ---- all lists

// A guess, in slots, at what a hook looks at in a list where it does not read the weights of all of them.
enum { HOOK_SLOTS = 64 };

static nn_status reserve_slots(nats_cache_worker *w, int32_t slots) {
  int64_t drop = w->slots, merge_to = w->slots;
  NN_TRY(nats_cache_reserve((void **)&w->drop, &drop, slots, sizeof *w->drop));
  NN_TRY(nats_cache_reserve((void **)&w->merge_to, &merge_to, slots, sizeof *w->merge_to));
  return nats_cache_reserve((void **)&w->slot_moves, &w->slots, slots, sizeof *w->slot_moves);
}

static nn_status add_workers(nats_cache *cache, int32_t count) {
  int64_t capacity = cache->worker_count;
  if (count <= cache->worker_count)
    return NN_OK;
  NN_TRY(nats_cache_reserve((void **)&cache->workers, &capacity, count, sizeof *cache->workers));
  memset(cache->workers + cache->worker_count, 0,
         (size_t)(count - cache->worker_count) * sizeof *cache->workers);
  cache->worker_count = count;
  return NN_OK;
}

void nats_cache_free_workers(nats_cache *cache) {
  for (int32_t n = 0; n < cache->worker_count; n++) {
    nats_cache_worker *w = &cache->workers[n];
    free(w->drop);
    free(w->merge_to);
    free(w->slot_moves);
    free(w->moves);
    free(w->additions);
  }
  free(cache->workers);
}

// `longest`: list that is asked about.
static nn_status ready_workers(nats_cache *cache, int32_t threads, int32_t longest) {
  NN_TRY(add_workers(cache, threads));
  for (int32_t n = 0; n < threads; n++) {
    nats_cache_worker *w = &cache->workers[n];
    w->move_count = w->addition_count = w->dropped = w->new_capacity = 0;
    w->longest = 0;
    w->status = NN_OK;
    NN_TRY(reserve_slots(w, longest));
  }
  return NN_OK;
}

// The token of this step. Tables grow here, and shrink only when pages that are left over have been returned.
static nn_status append(const nats_cache *cache, nats_cache_list *list, nats_cache_worker *w) {
  int32_t length = list->tokens.length, capacity = list->capacity, page = cache->shape.page_tokens;
  if (length >= capacity * (int64_t)page) {
    NN_TRY(nats_list_fit(list, length + 1, page, nats_cache_has_scores(cache)));
    w->new_capacity += list->capacity - capacity;
  }
  nats_list_push(&list->tokens, cache->position);
  return NN_OK;
}

static nn_status change_list(nats_cache *cache, const nats_cache_asked *asked, int64_t i,
                             nats_cache_worker *w) {
  nats_cache_list *list = &cache->lists[i];
  if (asked->hook) {
    nats_policy_step step = nats_cache_step_of(cache, i);
    step.logits = asked->logits ? asked->logits + i * NATS_TYPES : NULL;
    list->tokens.weight = asked->weights ? asked->weights + i * cache->longest : NULL;
    nats_list_change change = ask(cache->choice.policy, asked->hook, &step, &list->tokens, w);
    if (change.dropped > 0)
      NN_TRY(note_change(&cache->pool, list, &change, w));
  }
  if (asked->append)
    NN_TRY(append(cache, list, w));
  w->longest = list->tokens.length > w->longest ? list->tokens.length : w->longest;
  return NN_OK;
}

static void change_lists(nats_cache *cache, const nats_cache_asked *asked, int32_t threads) {
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    nats_cache_worker w = cache->workers[omp_get_thread_num()]; // a copy: neighbours share cache lines
    nn_range mine = nn_range_mine(cache->list_count, 1);
    for (int64_t i = mine.begin; i < mine.end && w.status == NN_OK; i++)
      w.status = change_list(cache, asked, i, &w);
    cache->workers[omp_get_thread_num()] = w;
  }
}

// ---- what the threads did, together

static nn_status gather(nats_cache *cache, int32_t threads) {
  int64_t moves = cache->move_count, additions = cache->addition_count;
  int64_t page = nats_list_table_bytes(cache->shape.page_tokens, nats_cache_has_scores(cache));
  for (int32_t n = 0; n < threads; n++) {
    if (cache->workers[n].status != NN_OK)
      return NN_FAIL(NN_ERR_MEMORY, "out of memory for the lists of a cache");
    moves += cache->workers[n].move_count;
    additions += cache->workers[n].addition_count;
  }
  NN_TRY(nats_cache_reserve((void **)&cache->made.moves, &cache->move_capacity, moves,
                            sizeof *cache->made.moves));
  NN_TRY(nats_cache_reserve((void **)&cache->made.additions, &cache->addition_capacity, additions,
                            sizeof *cache->made.additions));
  for (int32_t n = 0; n < threads; n++) {
    const nats_cache_worker *w = &cache->workers[n];
    for (int64_t m = 0; m < w->move_count; m++)
      cache->made.moves[cache->move_count++] = w->moves[m];
    for (int64_t m = 0; m < w->addition_count; m++)
      cache->made.additions[cache->addition_count++] = w->additions[m];
    cache->live_tokens -= w->dropped;
    cache->table_bytes += w->new_capacity * page;
  }
  return NN_OK;
}

// Just enough pages for every list.
static nn_status fit_pages(nats_cache *cache) {
  for (int64_t i = 0; i < cache->list_count; i++) {
    nats_cache_list *list = &cache->lists[i];
    int32_t pages = list->page_count;
    if (pages == nats_list_pages(list->tokens.length, cache->shape.page_tokens))
      continue;
    NN_TRY(nats_list_fit_pages(list, &cache->pool));
    NN_TRY(nats_cache_fit(cache, list, list->tokens.length));
    if (list->page_count > pages)
      cache->made.entries[cache->entry_count++] = (nats_cache_entry){
          .at = i * cache->page_stride + pages,
          .page = nats_page_at(&cache->pool, list->pages[pages]),
      };
  }
  return NN_OK;
}

nn_status nats_cache_change(nats_cache *cache, const nats_cache_asked *asked) {
  int64_t slots = asked->weights ? cache->longest : HOOK_SLOTS;
  int32_t threads = nn_range_is_large(cache->list_count * slots) ? omp_get_max_threads() : 1;
  int32_t longest = 0;
  if (!asked->hook && !asked->append)
    return NN_OK;
  NN_TRY(ready_workers(cache, threads, cache->longest + 1));
  change_lists(cache, asked, threads);
  NN_TRY(gather(cache, threads));
  if (asked->append) {
    for (int32_t n = 0; n < threads; n++)
      longest = cache->workers[n].longest > longest ? cache->workers[n].longest : longest;
    cache->longest = longest;
    cache->live_tokens += cache->list_count;
    NN_TRY(nats_cache_widen(cache, longest));
  }
  return fit_pages(cache);
}
