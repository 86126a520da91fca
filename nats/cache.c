#include "nats/cache.h"

#include <stdlib.h> // calloc, free, qsort
#include <string.h> // memset, memcpy

#include "nats/cache_internal.h"

// ---- life

static nn_status allocate_device(nats_cache *cache) {
  NN_TRY(nn_event_create(cache->device, &cache->fetched));
  if (!cache->choice.policy->needs_scorer)
    return NN_OK;
  void *memory;
  size_t logits = (size_t)cache->list_count * NATS_TYPES;
  NN_TRY(nn_device_alloc(cache->device, logits * sizeof *cache->device_logits, "logits of types", &memory));
  cache->device_logits = memory;
  NN_TRY(nn_device_host_alloc(cache->device, logits * sizeof *cache->logits, "logits of types", &memory));
  cache->logits = memory;
  return NN_OK;
}

static nn_status allocate(nats_cache *cache) {
  const nats_cache_shape *shape = &cache->shape;
  size_t lists = (size_t)cache->list_count, state = (size_t)cache->choice.policy->state_size;
  size_t layer = (size_t)nats_cache_layer_size(cache),
         heads = (size_t)shape->layers * (size_t)shape->kv_heads;
  cache->lists = calloc(lists, sizeof *cache->lists);
  cache->state = calloc(lists * state + 1, sizeof *cache->state);
  cache->pairs = calloc(heads * 2, sizeof *cache->pairs);
  cache->made.rows = calloc(lists, sizeof *cache->made.rows);
  cache->made.entries = calloc(lists, sizeof *cache->made.entries);
  cache->prompt_pairs = calloc(layer, sizeof *cache->prompt_pairs);
  cache->stored = calloc(layer, sizeof *cache->stored);
  cache->head_rank = calloc(heads, sizeof *cache->head_rank);
  cache->sample = calloc((size_t)shape->sequences, sizeof *cache->sample);
  if (!cache->lists || !cache->state || !cache->pairs || !cache->made.rows || !cache->made.entries ||
      !cache->prompt_pairs || !cache->stored || !cache->head_rank || !cache->sample)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld cache lists", (long long)cache->list_count);
  for (size_t i = 0; i < lists; i++)
    cache->lists[i].tokens.state = cache->state + i * state;
  return allocate_device(cache);
}

// Of equal heads the first ranks higher.
static nn_status rank_heads(nats_cache *cache) {
  const double *use = cache->shape.head_use;
  int32_t heads = cache->shape.layers * cache->shape.kv_heads;
  if (!cache->choice.policy->needs_head_use)
    return NN_OK;
  if (!use)
    return NN_FAIL(
        NN_ERR_USAGE,
        "policy '%s': needs the KV use of every head of a trained model (head_use), which was not given",
        cache->choice.policy->name);
  for (int32_t h = 0; h < heads; h++)
    for (int32_t other = 0; other < heads; other++)
      cache->head_rank[h] += use[other] > use[h] || (!(use[other] < use[h]) && other < h);
  return NN_OK;
}

nn_status nats_cache_create(nn_device *device, const nats_cache_shape *shape,
                            const nats_policy_choice *choice, nats_cache **out) {
  *out = NULL;
  if (shape->sequences < 1 || shape->page_tokens < 1 || shape->chunk < 1)
    return NN_FAIL(NN_ERR_USAGE, "cache: %d sequences, pages of %d tokens: expected at least 1",
                   (int)shape->sequences, (int)shape->page_tokens);
  nats_cache *cache = calloc(1, sizeof *cache);
  if (!cache)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a cache");
  cache->device = device;
  cache->shape = *shape;
  cache->choice = *choice;
  cache->list_count = (int64_t)shape->layers * nats_cache_layer_size(cache);
  int64_t most_pages = cache->list_count * nats_list_pages(shape->positions, shape->page_tokens);
  nats_page_pool_init(&cache->pool, device, shape->page_tokens, shape->head_size, most_pages);
  nn_status status = allocate(cache);
  if (status == NN_OK)
    status = rank_heads(cache);
  for (int32_t s = 0; status == NN_OK && s < shape->sequences; s++)
    cache->sample[s] = s;
  cache->shape.head_use = NULL; // the caller's
  if (status != NN_OK)
    nats_cache_free(cache);
  else
    *out = cache;
  return status;
}

void nats_cache_reset(nats_cache *cache) {
  const nats_cache_shape *shape = &cache->shape;
  size_t state = (size_t)cache->list_count * (size_t)cache->choice.policy->state_size;
  for (int64_t i = 0; i < cache->list_count; i++) {
    nats_cache_list *list = &cache->lists[i];
    while (list->page_count > 0)
      nats_page_return(&cache->pool, list->pages[--list->page_count]);
    list->tokens.length = 0;
    nats_list_free(list);
  }
  nats_page_pool_trim(&cache->pool);
  cache->entry_count = cache->addition_count = cache->move_count = 0;
  cache->left = (nats_cache_changes){0};
  memset(cache->state, 0, state * sizeof *cache->state);
  memset(cache->pairs, 0, (size_t)shape->layers * (size_t)shape->kv_heads * 2 * sizeof *cache->pairs);
  cache->longest = 0;
  cache->positions = 0;
  cache->stepmean = 0.0;
  cache->live_tokens = cache->peak_live_tokens = 0;
  cache->table_bytes = cache->peak_bytes = 0;
}

void nats_cache_set_samples(nats_cache *cache, const int64_t *sample) {
  memcpy(cache->sample, sample, (size_t)cache->shape.sequences * sizeof *sample);
}

void nats_cache_free(nats_cache *cache) {
  if (!cache)
    return;
  for (int64_t i = 0; cache->lists && i < cache->list_count; i++)
    nats_list_free(&cache->lists[i]);
  nats_cache_free_workers(cache);
  nats_page_pool_free(&cache->pool);
  nn_device_free(cache->device, cache->page_table);
  nn_device_free(cache->device, cache->device_packed);
  nn_device_free(cache->device, cache->items);
  nn_event_destroy(cache->fetched);
  nn_device_free(cache->device, cache->device_logits);
  nn_device_host_free(cache->device, cache->logits);
  nn_device_host_free(cache->device, cache->weights);
  nn_device_free(cache->device, cache->device_weights);
  void *const of_host[] = {
      cache->made.rows,  cache->made.turns, cache->made.entries,  cache->made.additions,
      cache->made.moves, cache->packed,     cache->prompt_logits, cache->turn_room,
      cache->stored,     cache->types,      cache->prompt_pairs,  cache->harmonic,
      cache->sample,     cache->head_rank,  cache->pairs,         cache->state,
      cache->lists,
  };
  for (size_t i = 0; i < sizeof of_host / sizeof *of_host; i++)
    free(of_host[i]);
  free(cache);
}

// ---- what it holds

int64_t nats_cache_list_bytes(const nats_policy *policy, int32_t page_tokens, int64_t page_bytes,
                              int32_t tokens) {
  return (int64_t)sizeof(nats_cache_list) + policy->state_size * (int64_t)sizeof(float) +
         nats_list_pages(tokens, page_tokens) * page_bytes +
         nats_list_capacity(tokens, page_tokens) * nats_list_table_bytes(page_tokens, policy->keeps_scores);
}

static int64_t fixed_bytes(const nats_cache *cache) {
  return cache->list_count * nats_cache_list_bytes(cache->choice.policy, cache->shape.page_tokens, 0, 0);
}

int64_t nats_cache_bytes(const nats_cache *cache) {
  return fixed_bytes(cache) + cache->table_bytes + cache->pool.pages_in_use * (int64_t)cache->pool.page_bytes;
}

void nats_cache_advance(nats_cache *cache, int32_t positions) {
  cache->positions += positions;
}

// Every list with as many tokens as positions were seen.
static int64_t dense_bytes(const nats_cache *cache) {
  return cache->list_count * nats_cache_list_bytes(&nats_policy_dense, cache->shape.page_tokens,
                                                   (int64_t)cache->pool.page_bytes,
                                                   (int32_t)cache->positions);
}

void nats_cache_stats_read(const nats_cache *cache, nats_cache_stats *stats) {
  int32_t heads = cache->shape.layers * cache->shape.kv_heads;
  double live = 0.0, causal = 0.0;
  for (int32_t h = 0; h < heads; h++) {
    live += cache->pairs[2 * h];
    causal += cache->pairs[2 * h + 1];
  }
  double observations = (double)cache->positions * (double)cache->list_count;
  *stats = (nats_cache_stats){
      .steps = cache->positions,
      .live_pairs = (int64_t)live,
      .causal_pairs = (int64_t)causal,
      .stepmean = observations > 0 ? cache->stepmean / observations : 0.0,
      .live_tokens = cache->live_tokens,
      .peak_live_tokens = cache->peak_live_tokens,
      .bytes = nats_cache_bytes(cache),
      .peak_bytes = cache->peak_bytes,
      .pool_bytes = nats_page_pool_bytes(&cache->pool),
      .dense_bytes = dense_bytes(cache),
  };
}

void nats_cache_per_head(const nats_cache *cache, double *per_head) {
  memcpy(per_head, cache->pairs,
         (size_t)cache->shape.layers * (size_t)cache->shape.kv_heads * 2 * sizeof *per_head);
}

static int ascending(const void *a, const void *b) {
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
  return (x > y) - (x < y);
}

int32_t nats_cache_positions(const nats_cache *cache, int32_t sequence, int32_t layer, int32_t head,
                             int32_t *positions) {
  const nats_policy_list *tokens =
      &cache->lists[((int64_t)layer * cache->shape.sequences + sequence) * cache->shape.kv_heads + head]
           .tokens;
  if (positions && tokens->length > 0) {
    memcpy(positions, tokens->position, (size_t)tokens->length * sizeof *positions);
    qsort(positions, (size_t)tokens->length, sizeof *positions, ascending);
  }
  return tokens->length;
}
