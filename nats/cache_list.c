#include "nats/cache_list.h"

#include <stdlib.h> // realloc, free, qsort
#include <string.h> // memset

int32_t nats_list_pages(int32_t length, int32_t page_tokens) {
  return (int32_t)(((int64_t)length + page_tokens - 1) / page_tokens);
}

int32_t nats_list_capacity(int32_t length, int32_t page_tokens) {
  int32_t pages = nats_list_pages(length, page_tokens), capacity = pages > 0 ? 1 : 0;
  while (capacity < pages)
    capacity *= 2;
  return capacity;
}

int64_t nats_list_table_bytes(int32_t page_tokens, bool scores) {
  const nats_cache_list *list = NULL; // for the sizes alone
  size_t token = sizeof *list->tokens.position + sizeof *list->tokens.type;
  if (scores)
    token += sizeof *list->tokens.score;
  return (int64_t)(sizeof *list->pages + (size_t)page_tokens * token);
}

static nn_status resize(void **table, int64_t count, size_t size) {
  void *moved = realloc(*table, (size_t)count * size);
  if (!moved)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the tables of a cache list of %lld", (long long)count);
  *table = moved;
  return NN_OK;
}

nn_status nats_list_fit(nats_cache_list *list, int32_t length, int32_t page_tokens, bool scores) {
  int32_t capacity = nats_list_capacity(length, page_tokens);
  if (capacity == list->capacity)
    return NN_OK;
  if (capacity == 0) {
    nats_list_free(list);
    return NN_OK;
  }
  int64_t slots = (int64_t)capacity * page_tokens;
  NN_TRY(resize((void **)&list->pages, capacity, sizeof *list->pages));
  NN_TRY(resize((void **)&list->tokens.position, slots, sizeof *list->tokens.position));
  NN_TRY(resize((void **)&list->tokens.type, slots, sizeof *list->tokens.type));
  if (scores)
    NN_TRY(resize((void **)&list->tokens.score, slots, sizeof *list->tokens.score));
  list->capacity = capacity;
  return NN_OK;
}

void nats_list_free(nats_cache_list *list) {
  free(list->pages);
  free(list->tokens.position);
  free(list->tokens.type);
  free(list->tokens.score);
  list->pages = NULL;
  list->tokens.position = NULL;
  list->tokens.type = NULL;
  list->tokens.score = NULL;
  list->capacity = 0;
}

nn_status nats_list_fit_pages(nats_cache_list *list, nats_page_pool *pool) {
  int32_t wanted = nats_list_pages(list->tokens.length, pool->page_tokens);
  while (list->page_count < wanted) {
    NN_TRY(nats_page_take(pool, &list->pages[list->page_count]));
    list->page_count++;
  }
  while (list->page_count > wanted)
    nats_page_return(pool, list->pages[--list->page_count]);
  return NN_OK;
}

nn_act *nats_list_slot(const nats_cache_list *list, const nats_page_pool *pool, int32_t slot) {
  nn_act *page = nats_page_at(pool, list->pages[slot / pool->page_tokens]);
  return nn_act_at(pool->device, page, (int64_t)(slot % pool->page_tokens) * pool->head_size);
}

void nats_list_push(nats_policy_list *tokens, int32_t position) {
  int32_t slot = tokens->length++;
  tokens->position[slot] = position;
  tokens->type[slot] = NATS_UNTYPED;
  if (tokens->score)
    tokens->score[slot] = 0.0f;
}

static void move_slot(nats_policy_list *tokens, int32_t from, int32_t to) {
  tokens->position[to] = tokens->position[from];
  tokens->type[to] = tokens->type[from];
  if (tokens->score)
    tokens->score[to] = tokens->score[from];
}

// Survivors past the new length go, from the end, into the holes before it, from the start.
int32_t nats_list_drop(nats_policy_list *tokens, const int32_t *drop, int32_t count, nats_slot_move *moves) {
  int32_t length = tokens->length - count, moved = 0;
  int32_t survivor = tokens->length - 1, last = count - 1; // last: the highest dropped slot not yet passed
  for (int32_t hole = 0; hole < count && drop[hole] < length; hole++) {
    for (; last >= 0 && drop[last] == survivor; last--)
      survivor--;
    move_slot(tokens, survivor, drop[hole]);
    moves[moved++] = (nats_slot_move){survivor--, drop[hole]};
  }
  tokens->length = length;
  return moved;
}

// ---- numbering anew

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

// Tokens that live without a gap up to `position`: they stay where they are. `seen`: [length] scratch.
static int32_t count_gapless(const nats_policy_list *tokens, int32_t position, int32_t *seen) {
  memset(seen, 0, (size_t)tokens->length * sizeof *seen);
  for (int32_t slot = 0; slot < tokens->length; slot++) {
    int32_t distance = position - tokens->position[slot];
    if (distance < tokens->length)
      seen[distance] = 1;
  }
  int32_t count = 0;
  while (count < tokens->length && seen[count])
    count++;
  return count;
}

bool nats_list_turns(const nats_policy_list *tokens, int32_t position, int32_t *turn, int64_t *room) {
  int32_t gapless = count_gapless(tokens, position, turn), older = 0;
  if (gapless == tokens->length)
    return false;
  for (int32_t slot = 0; slot < tokens->length; slot++) {
    int64_t distance = position - tokens->position[slot];
    turn[slot] = 0;
    if (distance >= gapless)
      room[older++] = distance << 32 | slot;
  }
  qsort(room, (size_t)older, sizeof *room, ascending);
  for (int32_t i = 0; i < older; i++)
    turn[room[i] & INT32_MAX] = (int32_t)(room[i] >> 32) - (gapless + i);
  return true;
}
