// Private to the cache: the tables of one list, in host memory.
#pragma once

#include "nats/cache_pool.h"
#include "nats/policy.h"

typedef struct {
  nats_policy_list tokens;
  int32_t *pages; // [page_count]
  int32_t page_count;
  int32_t capacity; // pages that the tables have room for: a power of two, or 0
} nats_cache_list;

// Slots of one list.
typedef struct {
  int32_t from, to;
} nats_slot_move;

// Pages that `length` tokens fill, and those that the tables of such a list have room for.
int32_t nats_list_pages(int32_t length, int32_t page_tokens);
int32_t nats_list_capacity(int32_t length, int32_t page_tokens);

// Bytes of tables per page of capacity.
int64_t nats_list_table_bytes(int32_t page_tokens, bool scores);

// Makes the tables fit `length` tokens; those that live are kept. Errors: NN_ERR_MEMORY.
nn_status nats_list_fit(nats_cache_list *list, int32_t length, int32_t page_tokens, bool scores);
void nats_list_free(nats_cache_list *list);

// Takes or returns pages until the list has just enough for its tokens. Errors: NN_ERR_MEMORY.
nn_status nats_list_fit_pages(nats_cache_list *list, nats_page_pool *pool);

// Appends a token (the tables have room) / removes `count` slots, given in ascending order. Holes are filled
// from the end; writes those moves, [count] fit, and returns their number.
void nats_list_push(nats_policy_list *tokens, int32_t position);
int32_t nats_list_drop(nats_policy_list *tokens, const int32_t *drop, int32_t count, nats_slot_move *moves);

// How far each key is to be turned forward so that its token, seen from `position`, is as far away as there
// are living tokens after it: turn [length], room [length] scratch. Returns whether any is turned at all.
bool nats_list_turns(const nats_policy_list *tokens, int32_t position, int32_t *turn, int64_t *room);

// Where the key of a slot lies.
nn_act *nats_list_slot(const nats_cache_list *list, const nats_page_pool *pool, int32_t slot);
