// A decoder of one sequence in float64, straight from the definitions: it keeps keys before RoPE, turns them
// for every query anew, and asks a rule that is written a second time here which tokens stay.
#pragma once

#include "model_fixture.h"
#include "nats/policy.h"

enum { REF_TOKENS = 64, REF_LAYERS = 2, REF_HEADS = 4, REF_SIZE = 16 /* of heads */ };

typedef struct {
  int32_t position;
  double k[REF_SIZE], v[REF_SIZE]; // k without RoPE
  double sum;                      // of attention: all of it, or that of the voters
  double weight;                   // of the last query, summed over the group
} ref_token;

// Slots as in the cache: the last token fills a hole.
typedef struct {
  ref_token slot[REF_TOKENS];
  int32_t length;
} ref_list;

typedef struct ref_decoder ref_decoder;

typedef struct {
  const char *policy; // as on the command line
  void (*before)(ref_decoder *r, int32_t layer);
  void (*after)(ref_decoder *r, int32_t layer);
  bool reassigns;
  int32_t size, recent, sinks; // what the rule above reads
} ref_rule;

struct ref_decoder {
  const fixture *model;
  const ref_rule *rule;
  ref_list lists[REF_LAYERS][REF_HEADS]; // by kv head
  int32_t position;                      // of the token that is fed
  int32_t prompt;
  int64_t sample;
  uint64_t seed;
  const double *head_use; // [layers, Hk]
  int32_t merges;         // values that were shared out so far
  double logits[REF_TOKENS];
};

// Feeds a token and computes the logits of the next.
void ref_step(ref_decoder *r, int32_t token);

// Living positions in ascending order; returns how many.
int32_t ref_positions(const ref_decoder *r, int32_t layer, int32_t head, int32_t *positions);

// The rules.
void ref_streaming(ref_decoder *r, int32_t layer);
void ref_heavy(ref_decoder *r, int32_t layer);
void ref_last_query(ref_decoder *r, int32_t layer);
void ref_votes(ref_decoder *r, int32_t layer);
void ref_merge(ref_decoder *r, int32_t layer);
void ref_sums(ref_decoder *r, int32_t layer);
void ref_random(ref_decoder *r, int32_t layer);
void ref_static_heads(ref_decoder *r, int32_t layer);
