#include "launch/eval/report.h"
#include "launch/records/output_file.h"

#include <math.h>   // exp, M_LN2
#include <string.h> // strlen

#include "launch/records/progress.h"
#include "launch/train/learner.h" // launch_kv_fraction

// The numbers of a row, by the names that metrics.jsonl uses. Those that were not measured are NaN.
typedef struct {
  double loss, perplexity, bits_per_byte, accuracy;
  double kv_fraction, kv_fraction_stepmean;
  double kv_bytes, kv_bytes_end, kv_bytes_dense; // of a sequence
  double live_tokens, live_tokens_peak;          // of a sequence, layer and kv head
  double tokens_per_s;
} numbers;

static double ratio(double a, double b) {
  return b > 0 ? a / b : (double)NAN;
}

static numbers numbers_of(const launch_eval_scope *scope, const launch_eval_result *result) {
  const launch_eval_sums *sums = &result->sums;
  const nn_sums *tokens = &sums->tokens;
  double lists = sums->sequences * scope->run->model.layers * scope->run->model.kv_heads;
  double loss = ratio(tokens->nll, tokens->scored);
  return (numbers){
      .loss = loss,
      .perplexity = exp(loss),
      .bits_per_byte = ratio(tokens->nll / M_LN2, sums->bytes),
      .accuracy = scope->labelled ? ratio(tokens->correct, tokens->scored) : (double)NAN,
      .kv_fraction = launch_kv_fraction(tokens),
      .kv_fraction_stepmean = ratio(sums->stepmean, sums->sequences),
      .kv_bytes = ratio(sums->bytes_peak, sums->sequences),
      .kv_bytes_end = ratio(sums->bytes_end, sums->sequences),
      .kv_bytes_dense = ratio(sums->bytes_dense, sums->sequences),
      .live_tokens = ratio(sums->live_end, lists),
      .live_tokens_peak = ratio(sums->live_peak, lists),
      .tokens_per_s = ratio(sums->inputs, result->seconds),
  };
}

// ---- for people

enum { COLUMN = 12 };

// A number in a column of its own, "-" where it was not measured.
static void print_cell(double value, const char *format) {
  char text[32];
  snprintf(text, sizeof text, isnan(value) ? "-" : format, value);
  printf("%*s", COLUMN, text);
}

static void print_bytes_cell(double bytes) {
  char text[LAUNCH_DURATION];
  printf("%*s", COLUMN, isnan(bytes) ? "-" : launch_bytes((int64_t)bytes, text));
}

static void print_row(const launch_eval_scope *scope, const launch_eval_row *row, int column) {
  numbers n = numbers_of(scope, &row->result);
  printf("%-*s", column, row->policy);
  print_cell(n.loss, "%.4f");
  print_cell(n.perplexity, "%.3f");
  print_cell(n.bits_per_byte, "%.4f");
  if (scope->labelled)
    print_cell(n.accuracy, "%.4f");
  print_cell(n.kv_fraction, "%.4f");
  if (scope->decode) {
    print_cell(n.kv_fraction_stepmean, "%.4f");
    print_cell(n.live_tokens_peak, "%.1f");
    print_bytes_cell(n.kv_bytes);
    print_bytes_cell(n.kv_bytes_dense);
  }
  print_cell(n.tokens_per_s, "%.0f");
  putchar('\n');
}

static void print_heading(const launch_eval_scope *scope, int column) {
  printf("%-*s%*s%*s%*s", column, "policy", COLUMN, "loss", COLUMN, "perplexity", COLUMN, "bits/byte");
  if (scope->labelled)
    printf("%*s", COLUMN, "accuracy");
  printf("%*s", COLUMN, "kv_fraction");
  if (scope->decode)
    printf("%*s%*s%*s%*s", COLUMN, "stepmean", COLUMN, "peak live", COLUMN, "kv bytes", COLUMN, "dense");
  printf("%*s\n", COLUMN, "tokens/s");
}

// Width of the column of policies.
static int name_column(const launch_eval_row *rows, int count) {
  int widest = 20;
  for (int i = 0; i < count; i++) {
    int width = (int)strlen(rows[i].policy) + 1;
    widest = width > widest ? width : widest;
  }
  return widest;
}

void launch_eval_print(const launch_eval_scope *scope, const launch_eval_row *rows, int count) {
  int column = name_column(rows, count);
  printf("%s, step %lld, on %s (%s): %lld samples of %d tokens, %s\n", scope->run->checkpoint.path,
         (long long)scope->run->checkpoint.step, scope->data, scope->split, (long long)scope->samples,
         scope->length, scope->decode ? "token by token" : "masked parallel pass");
  if (scope->prompt > 0)
    printf("prompt: the first %d tokens of a sample, not scored\n", scope->prompt);
  print_heading(scope, column);
  for (int i = 0; i < count; i++)
    print_row(scope, &rows[i], column);
  if (scope->decode)
    printf("peak live: tokens of a layer and kv head; kv bytes: of a sequence, at its peak\n");
  for (int i = 0; i < count; i++)
    if (rows[i].keeps_all)
      printf("%s: drops tokens of prompts alone, and there is none (--prompt N)\n", rows[i].policy);
}

// ---- for programs

static void set_number(json_t *object, const char *name, double value) {
  if (!isnan(value))
    json_object_set_new(object, name, isfinite(value) ? json_real(value) : json_null());
}

// A count that was summed as a double.
static void set_count(json_t *object, const char *name, double value) {
  json_object_set_new(object, name, json_integer((json_int_t)value));
}

void launch_eval_set_numbers(json_t *object, const launch_eval_scope *scope,
                             const launch_eval_result *result) {
  numbers n = numbers_of(scope, result);
  set_number(object, "loss", n.loss);
  set_number(object, "perplexity", n.perplexity);
  set_number(object, "bits_per_byte", n.bits_per_byte);
  set_number(object, "accuracy", n.accuracy);
  set_number(object, "kv_fraction", n.kv_fraction);
  set_number(object, "kv_fraction_stepmean", n.kv_fraction_stepmean);
  set_number(object, "kv_bytes", n.kv_bytes);
  set_number(object, "kv_bytes_end", n.kv_bytes_end);
  set_number(object, "kv_bytes_dense", n.kv_bytes_dense);
  set_number(object, "live_tokens", n.live_tokens);
  set_number(object, "live_tokens_peak", n.live_tokens_peak);
  set_count(object, "visible_pairs", result->sums.tokens.visible);
  set_count(object, "causal_pairs", result->sums.tokens.causal);
  set_count(object, "scored", result->sums.tokens.scored);
  set_count(object, "tokens", result->sums.inputs);
  set_number(object, "tokens_per_s", n.tokens_per_s);
  set_number(object, "seconds", result->seconds);
}

static void set_row(json_t *object, const launch_eval_scope *scope, const launch_eval_row *row) {
  json_object_set_new(object, "policy", json_string(row->policy));
  launch_eval_set_numbers(object, scope, &row->result);
}

nn_status launch_eval_print_json(const launch_eval_scope *scope, const launch_eval_row *rows, int count) {
  json_t *object = json_pack("{s:s, s:I, s:s, s:s, s:s, s:I, s:i, s:i, s:I, s:i}", "checkpoint",
                             scope->run->checkpoint.path, "step", (json_int_t)scope->run->checkpoint.step,
                             "data", scope->data, "split", scope->split, "mode", scope->mode, "samples",
                             (json_int_t)scope->samples, "length", scope->length, "prompt", scope->prompt,
                             "seed", (json_int_t)scope->seed, "ranks", scope->ranks);
  if (count == 1)
    set_row(object, scope, &rows[0]);
  json_t *policies = count > 1 ? json_array() : NULL;
  for (int i = 0; i < count && count > 1; i++) {
    json_t *item = json_object();
    set_row(item, scope, &rows[i]);
    json_array_append_new(policies, item);
  }
  if (policies != NULL)
    json_object_set_new(object, "policies", policies);
  return launch_print_json(object);
}

// ---- files

void launch_eval_write_heads(FILE *file, const launch_eval_scope *scope, const launch_eval_row *rows,
                             int count) {
  const nats_model_config *model = &scope->run->model;
  fprintf(file, "policy,layer,kv_head,visible,causal,kv_fraction\n");
  for (int i = 0; i < count; i++)
    for (int32_t layer = 0; layer < model->layers; layer++)
      for (int32_t head = 0; head < model->kv_heads; head++) {
        const double *pairs = rows[i].result.per_head + 2 * (layer * model->kv_heads + head);
        fprintf(file, "\"%s\",%d,%d,%.0f,%.0f,%.6f\n", rows[i].policy, layer, head, pairs[0], pairs[1],
                ratio(pairs[0], pairs[1])); // a policy has commas
      }
}

void launch_eval_write_nll(FILE *file, const launch_eval_scope *scope, const launch_eval_row *row) {
  fprintf(file, "sample,position,nll\n");
  for (int64_t sample = 0; sample < scope->samples; sample++)
    for (int32_t t = 0; t < scope->length; t++) {
      double nll = (double)row->result.nll[sample * scope->length + t];
      if (nll >= 0)
        fprintf(file, "%lld,%d,%.9g\n", (long long)sample, t, nll);
    }
}
