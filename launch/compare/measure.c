// One row: decoding its samples token by token, once for every seed and depth, and writing its file.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"
#include "launch/compare/compare.h"
#include "launch/eval/report.h"
#include "launch/records/statistics.h"

// What all passes over samples add up to.
typedef struct {
  comparison *c;
  const compare_row *row;
  nats_policy_choice choice;
  double *head_use;            // [layers, Hk], NULL where the policy needs none
  launch_eval_result sum;      // of all passes; per_head and sums alone
  launch_eval_sample *samples; // [samples], summed over passes
  launch_eval_trace trace;
  double *accuracy, *exact; // [passes]: of needles [depths, seeds]
  int32_t passes, pass_count;
  void (*progress)(void *context, double share);
  void *context;
} measuring;

static size_t head_count(const measuring *m) {
  const nats_model_config *model = &m->c->run.model;
  return (size_t)model->layers * (size_t)model->kv_heads;
}

static void free_measuring(measuring *m) {
  free(m->head_use);
  free(m->sum.per_head);
  free(m->samples);
  free(m->accuracy);
  free(m->exact);
  launch_eval_trace_free(&m->trace);
}

// ---- before

// The KV fraction per head that the model's own policy has on this task.
static nn_status read_head_use(measuring *m) {
  if (!m->choice.policy->needs_head_use)
    return NN_OK;
  const compare_row *own = compare_row_own(m->c, m->row, m->row->model);
  json_t *object = own != NULL ? compare_row_read(m->c, own) : NULL;
  const json_t *layers = json_object_get(object, "per_head"), *layer, *head;
  size_t l, h, count = 0, wanted = head_count(m);
  m->head_use = calloc(wanted, sizeof *m->head_use);
  json_array_foreach(layers, l, layer)
      json_array_foreach(layer, h, head) if (m->head_use != NULL && count < wanted)
          m->head_use[count++] = json_number_value(head);
  json_decref(object);
  if (count == wanted)
    return NN_OK;
  return NN_FAIL(NN_ERR_INTERNAL, "%s: expected the use of %zu heads, found %zu", m->row->name, wanted,
                 count);
}

static nn_status begin(measuring *m) {
  const compare_row *row = m->row;
  const compare_plan *plan = &m->c->plan;
  int32_t cells = plan->needle.depths_count * plan->seeds_count;
  bool needle = row->measure == COMPARE_NEEDLE;
  m->pass_count = needle ? cells : row->draws ? plan->seeds_count : 1;
  NN_TRY(nats_policy_choose(row->choice, &m->c->run.model, &m->choice));
  NN_TRY(read_head_use(m));
  m->sum.per_head = calloc(head_count(m) * 2, sizeof *m->sum.per_head);
  m->samples = calloc((size_t)row->shape.samples, sizeof *m->samples);
  m->accuracy = calloc((size_t)m->pass_count, sizeof *m->accuracy);
  m->exact = calloc((size_t)m->pass_count, sizeof *m->exact);
  if (m->sum.per_head == NULL || m->samples == NULL || m->accuracy == NULL || m->exact == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the scores of %lld samples",
                   (long long)row->shape.samples);
  int64_t decoded = row->shape.samples * m->pass_count;
  return launch_eval_trace_create(row->shape.length, decoded + m->pass_count * (int64_t)row->shape.batch,
                                  row->shape.batch, COMPARE_WARM_UP, &m->trace);
}

// ---- passes

static void show_progress(void *context, int64_t samples) {
  measuring *m = context;
  double pass = (double)samples / (double)m->row->shape.samples;
  m->progress(m->context, (m->passes + pass) / m->pass_count);
}

static void add_result(measuring *m, const launch_eval_result *result) {
  double *to = (double *)&m->sum.sums;
  const double *from = (const double *)&result->sums;
  for (size_t i = 0; i < sizeof result->sums / sizeof(double); i++)
    to[i] += from[i];
  m->sum.seconds += result->seconds;
  for (size_t i = 0; i < 2 * head_count(m); i++)
    m->sum.per_head[i] += result->per_head[i];
  for (int64_t s = 0; s < m->row->shape.samples; s++) {
    m->samples[s].nll += result->sample[s].nll;
    m->samples[s].scored += result->sample[s].scored;
    m->samples[s].correct += result->sample[s].correct;
  }
}

static double share_of_exact(const launch_eval_sample *samples, int64_t count) {
  int64_t exact = 0;
  for (int64_t s = 0; s < count; s++)
    exact += samples[s].scored > 0 && !(samples[s].correct < samples[s].scored);
  return (double)exact / (double)count;
}

// All samples once, with one seed and, of needles, one depth.
static nn_status pass_over(measuring *m, int32_t depth, int32_t seed) {
  const compare_row *row = m->row;
  compare_samples samples;
  launch_eval_result result = {0};
  nn_status status;
  NN_GOTO(status, done, compare_samples_open(m->c, row, depth, m->c->plan.seeds[seed], &samples));
  launch_eval_task task = {.world = m->c->alone,
                           .run = &m->c->run,
                           .loader = samples.loader,
                           .samples = row->shape.samples,
                           .length = row->shape.length,
                           .batch = row->shape.batch,
                           .labelled = data_set_labelled(samples.set),
                           .decode = true,
                           .wants_samples = true,
                           .stops = true,
                           .prompt = row->shape.prompt,
                           .page_tokens = m->c->plan.page_tokens,
                           .seed = (uint64_t)m->c->plan.seeds[seed],
                           .head_use = m->head_use,
                           .trace = &m->trace,
                           .progress = show_progress,
                           .context = m};
  NN_GOTO(status, done, launch_eval_score(&task, &m->choice, row->choice, &result));
  add_result(m, &result);
  m->accuracy[m->passes] = result.sums.tokens.correct / result.sums.tokens.scored;
  m->exact[m->passes] = share_of_exact(result.sample, row->shape.samples);
  m->passes++;
done:
  launch_eval_result_free(&result);
  compare_samples_close(&samples);
  return status;
}

static nn_status pass_all(measuring *m) {
  const compare_plan *plan = &m->c->plan;
  bool needle = m->row->measure == COMPARE_NEEDLE;
  for (int32_t depth = 0; depth < (needle ? plan->needle.depths_count : 1); depth++)
    for (int32_t seed = 0; seed < (needle || m->row->draws ? plan->seeds_count : 1); seed++)
      NN_TRY(pass_over(m, depth, seed));
  return NN_OK;
}

// ---- the file

static void set_number(json_t *object, const char *name, double value) {
  if (!isnan(value))
    json_object_set_new(object, name, isfinite(value) ? json_real(value) : json_null());
}

static json_t *row_description(const comparison *c, const compare_row *row) {
  static const char *const measures[] = {"text", "task", "needle"};
  char task[COMPARE_NAME];
  const compare_shape *shape = &row->shape;
  const nats_model_config *model = &c->models[row->model].config;
  json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "name", row->name, "key", row->key,
                             "measure", measures[row->measure], "task", compare_row_task(c, row, task),
                             "model", c->plan.models[row->model].name, "trained",
                             model->attention == NATS_ATTENTION_NATS     ? "nats"
                             : model->attention == NATS_ATTENTION_WINDOW ? "window"
                                                                         : "dense",
                             "role", compare_row_role(c, row), "choice", row->choice);
  json_object_set_new(object, "policy", json_stringn(row->choice, strcspn(row->choice, ":")));
  if (row->budget >= 0) {
    int32_t match = row->budget - c->plan.budgets_count;
    json_t *budget = json_pack("{s:I}", "bytes_wanted", (json_int_t)row->bytes_wanted);
    json_object_set_new(budget, match < 0 ? "share" : "match",
                        match < 0 ? json_real(c->plan.budgets[row->budget])
                                  : json_string(c->plan.match.name[match]));
    json_object_set_new(object, "budget", budget);
  }
  if (row->note[0] != '\0')
    json_object_set_new(object, "note", json_string(row->note));
  json_object_update_new(object,
                         json_pack("{s:i, s:i, s:I, s:I, s:s, s:i, s:i}", "length", shape->length, "prompt",
                                   shape->prompt, "samples", (json_int_t)shape->samples, "samples_available",
                                   (json_int_t)shape->available, "sample", compare_samples_kind(c, row),
                                   "batch", shape->batch, "page_tokens", c->plan.page_tokens));
  json_object_set_new(object, "measured_by",
                      json_pack("{s:s, s:s, s:i, s:i}", "program", NATSFORMER_VERSION, "device",
                                c->device_text, "ranks", dist_size(c->world), "threads", c->threads));
  return object;
}

static json_t *seeds_json(const measuring *m) {
  const compare_plan *plan = &m->c->plan;
  json_t *seeds = json_array();
  bool all = m->row->draws || m->row->measure == COMPARE_NEEDLE;
  for (int32_t s = 0; s < (all ? plan->seeds_count : 1); s++)
    json_array_append_new(seeds, json_integer(plan->seeds[s]));
  return seeds;
}

static json_t *per_head_json(const measuring *m) {
  const nats_model_config *model = &m->c->run.model;
  json_t *layers = json_array();
  for (int32_t l = 0; l < model->layers; l++) {
    json_t *layer = json_array();
    for (int32_t h = 0; h < model->kv_heads; h++) {
      const double *pairs = m->sum.per_head + 2 * ((size_t)l * (size_t)model->kv_heads + (size_t)h);
      json_array_append_new(layer, json_real(pairs[0] / pairs[1]));
    }
    json_array_append_new(layers, layer);
  }
  return layers;
}

// The times of the positions around `t`, from after the point before it.
static double median_near(const measuring *m, int32_t t, float *room) {
  const launch_eval_trace *trace = &m->trace;
  int64_t count = 0;
  double p50, p95;
  for (int64_t batch = 0; batch < trace->batches; batch++)
    for (int32_t at = t; at >= 0 && at > t - trace->stride; at--)
      room[count++] = trace->step_ms[batch * trace->length + at];
  launch_eval_percentiles(room, count, &p50, &p95);
  return p50;
}

static json_t *curve_json(const measuring *m) {
  const launch_eval_trace *trace = &m->trace;
  json_t *positions = json_array(), *live = json_array(), *bytes = json_array(), *times = json_array();
  float *room = malloc((size_t)trace->batches * (size_t)trace->stride * sizeof *room);
  for (int32_t t = 0; t < trace->length && room != NULL; t++) {
    if (!(trace->seen[t] > 0))
      continue;
    double step = median_near(m, t, room);
    json_array_append_new(positions, json_integer(t));
    json_array_append_new(live, json_real(trace->live[t] / trace->seen[t] / (double)head_count(m)));
    json_array_append_new(bytes, json_real(trace->bytes[t] / trace->seen[t]));
    json_array_append_new(times, isnan(step) ? json_null() : json_real(step));
  }
  free(room);
  return json_pack("{s:o, s:o, s:o, s:o}", "position", positions, "live", live, "kv_bytes", bytes, "step_ms",
                   times);
}

static void set_times(json_t *object, measuring *m) {
  launch_eval_trace *trace = &m->trace;
  double p50, p95, prefill, unused;
  int64_t steps = launch_eval_percentiles(trace->step_ms, trace->batches * trace->length, &p50, &p95);
  set_number(object, "step_ms_p50", p50);
  set_number(object, "step_ms_p95", p95);
  json_object_set_new(object, "steps_timed", json_integer((json_int_t)steps));
  json_object_set_new(object, "warm_up", json_integer(COMPARE_WARM_UP));
  launch_eval_percentiles(trace->prefill_ms, trace->batches, &prefill, &unused);
  set_number(object, "prefill_ms", prefill);
}

// Accuracies of one depth over the seeds.
static json_t *cell_json(const measuring *m, int32_t depth) {
  const compare_plan *plan = &m->c->plan;
  int64_t at = (int64_t)depth * plan->seeds_count;
  launch_mean accuracy = launch_mean_of(m->accuracy + at, NULL, 1, plan->seeds_count);
  launch_mean exact = launch_mean_of(m->exact + at, NULL, 1, plan->seeds_count);
  json_t *cell = json_object(), *by_seed = json_array();
  set_number(cell, "depth", plan->needle.depths[depth]);
  set_number(cell, "accuracy", accuracy.mean);
  set_number(cell, "accuracy_ci95", launch_mean_ci95(&accuracy));
  set_number(cell, "exact", exact.mean);
  set_number(cell, "exact_ci95", launch_mean_ci95(&exact));
  for (int32_t s = 0; s < plan->seeds_count; s++)
    json_array_append_new(by_seed, json_real(m->accuracy[at + s]));
  json_object_set_new(cell, "by_seed", by_seed);
  return cell;
}

// The mean over depths of every seed: those are what the interval is over.
static double needle_ci95(const measuring *m) {
  const compare_plan *plan = &m->c->plan;
  double seeds[COMPARE_SEEDS] = {0};
  for (int32_t s = 0; s < plan->seeds_count; s++)
    for (int32_t d = 0; d < plan->needle.depths_count; d++)
      seeds[s] += m->accuracy[d * plan->seeds_count + s] / plan->needle.depths_count;
  launch_mean mean = launch_mean_of(seeds, NULL, 1, plan->seeds_count);
  return launch_mean_ci95(&mean);
}

static void set_uncertainty(json_t *object, const measuring *m, bool labelled) {
  const int64_t stride = sizeof *m->samples / sizeof(double), count = m->row->shape.samples;
  const launch_eval_sample *s = m->samples;
  launch_mean loss = launch_mean_of(&s->nll, &s->scored, stride, count);
  set_number(object, "loss_se", loss.se);
  if (m->row->measure == COMPARE_NEEDLE) {
    json_t *cells = json_array();
    for (int32_t d = 0; d < m->c->plan.needle.depths_count; d++)
      json_array_append_new(cells, cell_json(m, d));
    json_object_set_new(object, "cells", cells);
    set_number(object, "accuracy_ci95", needle_ci95(m));
  } else if (labelled) {
    launch_mean accuracy = launch_mean_of(&s->correct, &s->scored, stride, count);
    set_number(object, "accuracy_ci95", launch_mean_ci95(&accuracy));
  }
}

static void set_samples(json_t *object, const measuring *m) {
  json_t *nll = json_array(), *scored = json_array();
  for (int64_t s = 0; s < m->row->shape.samples; s++) {
    json_array_append_new(nll, json_real(m->samples[s].nll));
    json_array_append_new(scored, json_real(m->samples[s].scored));
  }
  json_object_set_new(object, "sample_nll", nll);
  json_object_set_new(object, "sample_scored", scored);
}

static json_t *row_json(measuring *m) {
  const compare_row *row = m->row;
  const launch_eval_sums *sums = &m->sum.sums;
  const nats_model_config *model = &m->c->run.model;
  bool labelled = row->measure != COMPARE_TEXT;
  launch_eval_scope scope = {.run = &m->c->run, .labelled = labelled, .decode = true};
  json_t *object = row_description(m->c, row);
  json_object_set_new(object, "seeds", seeds_json(m));
  launch_eval_set_numbers(object, &scope, &m->sum);
  set_uncertainty(object, m, labelled);
  set_number(object, "kv_share", sums->bytes_peak / sums->bytes_dense);
  double steps = sums->inputs, pair = 2 * model->head_size * (double)nn_device_act_size(m->c->run.device);
  set_number(object, "bytes_read", sums->tokens.visible * pair / steps);
  json_object_set_new(object, "per_head", per_head_json(m));
  json_object_set_new(object, "curve", curve_json(m));
  set_times(object, m);
  set_samples(object, m);
  return object;
}

static nn_status write_row(const comparison *c, const compare_row *row, json_t *object) {
  char path[COMPARE_PATH + 300];
  char *text = object != NULL ? json_dumps(object, JSON_INDENT(1) | JSON_REAL_PRECISION(9)) : NULL;
  nn_status status = compare_row_path(c, row, path);
  if (status == NN_OK && text == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "%s: out of memory for its results", row->name);
  if (status == NN_OK)
    status = data_file_replace(path, text, strlen(text));
  free(text);
  return status;
}

nn_status compare_measure_row(comparison *c, const compare_row *row,
                              void (*progress)(void *context, double share), void *context) {
  measuring m = {.c = c, .row = row, .progress = progress, .context = context};
  nn_status status = NN_OK;
  json_t *object = NULL;
  if (row->possible) {
    NN_GOTO(status, done, compare_open_model(c, row->model));
    NN_GOTO(status, done, begin(&m));
    NN_GOTO(status, done, pass_all(&m));
    object = row_json(&m);
  } else {
    object = row_description(c, row);
  }
  status = write_row(c, row, object);
done:
  json_decref(object);
  free_measuring(&m);
  return status;
}
