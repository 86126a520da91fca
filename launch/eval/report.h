// What `natsformer eval` says: a table for people, one JSON object for programs, and files per head and per
// token.
#pragma once

#include <jansson.h>
#include <stdio.h>

#include "launch/eval/score.h"

// What was scored.
typedef struct {
  const launch_run *run;
  const char *data, *split, *mode;
  int64_t samples;
  int32_t length;
  int32_t prompt; // tokens that are not scored
  int64_t seed;   // of policies that draw
  int32_t ranks;
  bool labelled, decode;
} launch_eval_scope;

// One row of the report.
typedef struct {
  const char *policy;
  bool keeps_all; // it drops tokens of prompts alone, and there is none
  launch_eval_result result;
} launch_eval_row;

void launch_eval_print(const launch_eval_scope *scope, const launch_eval_row *rows, int count);
// Errors: NN_ERR_MEMORY.
nn_status launch_eval_print_json(const launch_eval_scope *scope, const launch_eval_row *rows, int count);

// The numbers of a result by the names that `eval --json` gives them; what was not measured is left out. Of
// the scope: run, labelled.
void launch_eval_set_numbers(json_t *object, const launch_eval_scope *scope,
                             const launch_eval_result *result);

// policy,layer,kv_head,visible,causal,kv_fraction
void launch_eval_write_heads(FILE *file, const launch_eval_scope *scope, const launch_eval_row *rows,
                             int count);
// sample,position,nll: a line per scored token, %.9g
void launch_eval_write_nll(FILE *file, const launch_eval_scope *scope, const launch_eval_row *row);
