// natsformer eval
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/command.h"
#include "launch/config/options.h"
#include "launch/eval/heads.h"
#include "launch/eval/report.h"
#include "launch/eval/types.h"
#include "launch/records/output_file.h"

enum { MOST_POLICIES = 16 };

typedef struct {
  const char *run, *data, *split, *mode, *device, *precision, *checkpoint;
  const char *per_head, *nll, *types, *text; // files
  const char **words;                        // [2 argc] room for the lists
  launch_list policies;                      // one NULL where none is given: what the model was trained with
  int64_t samples, sample, seed;
  int32_t length, batch, prompt;
  bool json;
} eval_options;

// A page is about one text, under the model's own types.
static nn_status check_page_options(const eval_options *o) {
  if (o->types == NULL && (o->text != NULL || o->sample >= 0))
    return NN_FAIL(NN_ERR_USAGE, "eval: %s: expected --types beside it",
                   o->text != NULL ? "--text" : "--sample");
  if (o->text != NULL && (o->sample >= 0 || o->data != NULL))
    return NN_FAIL(NN_ERR_USAGE, "eval: --text: expected no %s beside it",
                   o->data != NULL ? "--data" : "--sample");
  bool scores = o->policies.count > 0 || o->per_head != NULL || o->nll != NULL || o->samples > 0 ||
                o->batch > 0 || o->prompt > 0 || strcmp(o->mode, "parallel") != 0;
  if (o->types != NULL && scores)
    return NN_FAIL(NN_ERR_USAGE,
                   "eval: --types: expected no --policy, --per-head, --nll, --samples, --batch, "
                   "--prompt and --mode beside it");
  if (o->types != NULL && o->length > LAUNCH_TYPES_LENGTH)
    return NN_FAIL(NN_ERR_USAGE, "eval: --length: a page has at most %d tokens, found %d",
                   LAUNCH_TYPES_LENGTH, o->length);
  return NN_OK;
}

static nn_status check_options(const eval_options *o, const launch_list *operands) {
  if (operands->count != 1)
    return NN_FAIL(NN_ERR_USAGE,
                   "eval: expected one run folder, as in `natsformer eval runs/quickstart`, found %lld",
                   (long long)operands->count);
  if (strcmp(o->mode, "parallel") != 0 && strcmp(o->mode, "decode") != 0)
    return NN_FAIL(NN_ERR_USAGE, "eval: --mode: expected parallel or decode, found '%.40s'", o->mode);
  if (o->policies.count > MOST_POLICIES)
    return NN_FAIL(NN_ERR_USAGE, "eval: --policy: expected at most %d of them", MOST_POLICIES);
  if (o->nll != NULL && o->policies.count > 1)
    return NN_FAIL(NN_ERR_USAGE, "eval: --nll: expected one --policy, found %lld",
                   (long long)o->policies.count);
  return check_page_options(o);
}

static nn_status read_options(int argc, char **argv, eval_options *o) {
  *o =
      (eval_options){.split = "val", .mode = "parallel", .device = "auto", .precision = "auto", .sample = -1};
  o->words = calloc(2 * (size_t)argc, sizeof *o->words);
  if (o->words == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the command line");
  launch_list operands = {.items = o->words};
  o->policies.items = o->words + argc;
  const launch_option table[] = {
      {"--data", LAUNCH_OPTION_TEXT, &o->data, 0, 0},
      {"--split", LAUNCH_OPTION_TEXT, &o->split, 0, 0},
      {"--mode", LAUNCH_OPTION_TEXT, &o->mode, 0, 0},
      {"--samples", LAUNCH_OPTION_INT64, &o->samples, 1, 1e15},
      {"--length", LAUNCH_OPTION_INT32, &o->length, 1, 1 << 24},
      {"--batch", LAUNCH_OPTION_INT32, &o->batch, 1, 1 << 20},
      {"--prompt", LAUNCH_OPTION_INT32, &o->prompt, 1, 1 << 24},
      {"--seed", LAUNCH_OPTION_INT64, &o->seed, 0, 9e15},
      {"--policy", LAUNCH_OPTION_LIST, &o->policies, 0, 0},
      {"--per-head", LAUNCH_OPTION_TEXT, &o->per_head, 0, 0},
      {"--nll", LAUNCH_OPTION_TEXT, &o->nll, 0, 0},
      {"--types", LAUNCH_OPTION_TEXT, &o->types, 0, 0},
      {"--text", LAUNCH_OPTION_TEXT, &o->text, 0, 0},
      {"--sample", LAUNCH_OPTION_INT64, &o->sample, 0, 1e15},
      {"--checkpoint", LAUNCH_OPTION_TEXT, &o->checkpoint, 0, 0},
      {"--device", LAUNCH_OPTION_TEXT, &o->device, 0, 0},
      {"--precision", LAUNCH_OPTION_TEXT, &o->precision, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  NN_TRY(launch_options_read("eval", table, sizeof table / sizeof *table, argc, argv, &operands));
  NN_TRY(check_options(o, &operands));
  o->run = operands.items[0];
  if (o->policies.count == 0)
    o->policies.count = 1;
  return NN_OK;
}

// ---- what is scored

typedef struct {
  const eval_options *options;
  launch_run run;
  data_set *data;
  data_loader *loader;
  launch_eval_task task;
  nats_policy_choice choices[MOST_POLICIES];
  char names[MOST_POLICIES][64];
  launch_eval_row rows[MOST_POLICIES];
  double *head_use;            // [layers, Hk] where a policy needs it
  launch_output per_head, nll; // rank 0
} evaluation;

static nn_status choose_policies(evaluation *e) {
  const eval_options *o = e->options;
  for (int i = 0; i < o->policies.count; i++) {
    NN_TRY(nats_policy_choose(o->policies.items[i], &e->run.model, &e->choices[i]));
    const char *name = o->policies.items[i] != NULL ? o->policies.items[i] : e->choices[i].policy->name;
    snprintf(e->names[i], sizeof e->names[i], "%s", name);
    e->rows[i].policy = e->names[i];
    e->rows[i].keeps_all = e->choices[i].policy->prompt_only && o->prompt == 0;
  }
  return NN_OK;
}

static int32_t sample_length(const evaluation *e) {
  int32_t length = e->options->length > 0 ? e->options->length : e->run.config.train.length;
  return e->options->types != NULL && length > LAUNCH_TYPES_LENGTH ? LAUNCH_TYPES_LENGTH : length;
}

static nn_status open_data(evaluation *e) {
  const eval_options *o = e->options;
  const launch_config *config = &e->run.config;
  const char *folder = o->data != NULL ? o->data : config->data.path;
  bool documents = strcmp(config->data.sample, "document") == 0;
  NN_TRY(choose_policies(e));
  NN_TRY(data_set_open(folder, o->split, &e->data));
  NN_TRY(launch_run_check_data(&e->run, e->data, folder));
  e->task.length = sample_length(e);
  NN_TRY(data_loader_create(e->data, documents ? DATA_SAMPLE_DOCUMENT : DATA_SAMPLE_STREAM, e->task.length, 0,
                            false, &e->loader));
  int64_t all = data_loader_samples(e->loader);
  e->task.samples = o->samples > 0 && o->samples < all ? o->samples : all;
  e->task.batch = o->batch > 0 ? o->batch : config->train.micro_batch;
  e->task.run = &e->run;
  e->task.loader = e->loader;
  e->task.labelled = data_set_labelled(e->data);
  e->task.decode = strcmp(o->mode, "decode") == 0;
  e->task.wants_nll = o->nll != NULL;
  e->task.prompt = o->prompt;
  e->task.seed = (uint64_t)o->seed;
  if (o->prompt >= e->task.length)
    return NN_FAIL(NN_ERR_USAGE, "eval: --prompt: expected fewer than the %d tokens of a sample, found %d",
                   e->task.length, o->prompt);
  return NN_OK;
}

// Agreed.
static nn_status find_head_use(evaluation *e) {
  bool is_needed = false;
  for (int i = 0; i < e->options->policies.count; i++)
    is_needed = is_needed || e->choices[i].policy->needs_head_use;
  if (!is_needed)
    return NN_OK;
  e->head_use = calloc((size_t)e->run.model.layers * (size_t)e->run.model.kv_heads, sizeof *e->head_use);
  nn_status status =
      e->head_use != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "out of memory for the use of heads");
  NN_TRY(dist_agree(e->task.world, status));
  e->task.head_use = e->head_use;
  return launch_eval_head_use(&e->task, e->head_use);
}

// ---- files, opened before the work and not after it

static nn_status open_files(evaluation *e) {
  const eval_options *o = e->options;
  if (dist_rank(e->task.world) != 0)
    return NN_OK;
  if (o->per_head != NULL)
    NN_TRY(launch_output_open(o->per_head, &e->per_head));
  return o->nll != NULL ? launch_output_open(o->nll, &e->nll) : NN_OK;
}

static nn_status report(evaluation *e) {
  const eval_options *o = e->options;
  if (dist_rank(e->task.world) != 0)
    return NN_OK;
  launch_eval_scope scope = {.run = &e->run,
                             .data = o->data != NULL ? o->data : e->run.config.data.path,
                             .split = o->split,
                             .mode = o->mode,
                             .samples = e->task.samples,
                             .length = e->task.length,
                             .prompt = o->prompt,
                             .seed = o->seed,
                             .ranks = dist_size(e->task.world),
                             .labelled = e->task.labelled,
                             .decode = e->task.decode};
  if (o->json)
    NN_TRY(launch_eval_print_json(&scope, e->rows, (int)o->policies.count));
  else
    launch_eval_print(&scope, e->rows, (int)o->policies.count);
  if (e->per_head.file != NULL)
    launch_eval_write_heads(e->per_head.file, &scope, e->rows, (int)o->policies.count);
  if (e->nll.file != NULL)
    launch_eval_write_nll(e->nll.file, &scope, &e->rows[0]);
  NN_TRY(launch_output_keep(&e->per_head));
  return launch_output_keep(&e->nll);
}

// ---- the page of types

static nn_status write_types(evaluation *e) {
  const eval_options *o = e->options;
  if (o->text == NULL)
    NN_TRY(open_data(e));
  launch_types_request request = {.run = &e->run,
                                  .name = o->run,
                                  .file = o->types,
                                  .length = sample_length(e),
                                  .json = o->json,
                                  .text = o->text,
                                  .loader = e->loader,
                                  .data = o->data != NULL ? o->data : e->run.config.data.path,
                                  .split = o->split,
                                  .sample = o->sample > 0 ? o->sample : 0};
  return launch_eval_types(&request);
}

// ---- the command

static nn_status evaluate(evaluation *e) {
  dist_group *world = e->task.world;
  const eval_options *o = e->options;
  if (o->types != NULL && dist_size(world) > 1)
    return NN_FAIL(NN_ERR_USAGE, "eval: --types: expected one rank, found %d: start it without mpirun",
                   dist_size(world));
  NN_TRY(launch_run_open(world, o->run, o->checkpoint, o->device, o->precision, &e->run));
  if (o->types != NULL)
    return write_types(e);
  NN_TRY(dist_agree(world, open_data(e)));
  NN_TRY(dist_agree(world, open_files(e)));
  NN_TRY(find_head_use(e));
  for (int i = 0; i < o->policies.count; i++)
    NN_TRY(launch_eval_score(&e->task, &e->choices[i], o->policies.items[i], &e->rows[i].result));
  return dist_agree(world, report(e));
}

static nn_status run_evaluation(dist_group *world, const eval_options *options) {
  static evaluation e; // too large for some stacks
  e = (evaluation){.options = options, .task = {.world = world}};
  nn_status status = evaluate(&e);
  for (int i = 0; i < MOST_POLICIES; i++)
    launch_eval_result_free(&e.rows[i].result);
  launch_output_discard(&e.per_head);
  launch_output_discard(&e.nll);
  free(e.head_use);
  data_loader_free(e.loader);
  data_set_close(e.data);
  launch_run_close(&e.run);
  return status;
}

static nn_status run(dist_group *world, int argc, char **argv) {
  eval_options options;
  nn_status status = read_options(argc, argv, &options);
  if (status == NN_OK)
    status = run_evaluation(world, &options);
  free(options.words);
  return status;
}

const launch_command launch_eval = {
    .name = "eval",
    .run = run,
    .summary = "score a data set with a trained model: loss, KV fraction, cache bytes",
    .usage =
        "usage: natsformer eval RUN [--data DIR] [options]\n"
        "\n"
        "RUN is a run folder (its newest checkpoint that verifies is taken) or the folder of one "
        "checkpoint.\n"
        "Works on any number of ranks (mpirun -np N natsformer eval ...).\n"
        "\n"
        "  --data DIR         data set; default: the one that the model was trained on\n"
        "  --split NAME       train or val (default)\n"
        "  --mode parallel    whole sequences under the mask (default)\n"
        "  --mode decode      token by token, with a cache that really evicts: also counts its bytes\n"
        "  --samples N        the first N samples; default: all\n"
        "  --length T         tokens of a sample; default: as in training\n"
        "  --batch B          samples at once on a rank; default: train.micro_batch\n"
        "  --policy P         eviction policy, as in window or window:window=64; may be given several "
        "times;\n"
        "                     default: what the model was trained with. dense, nats and window work in both "
        "modes,\n"
        "                     streaming, h2o, tova, snapkv (prompt only), cam, random and duo in decode;\n"
        "                     docs/benchmarks.md says what they keep and which numbers they take\n"
        "  --prompt N         the first N tokens of a sample are its prompt: fed at once, and not scored\n"
        "  --seed S           of policies that draw; default 0\n"
        "  --per-head FILE    CSV of the KV fraction per layer and kv head\n"
        "  --nll FILE         CSV of the negative log-likelihood of every scored token\n"
        "  --types FILE.html  instead of scores, a page that shows the type of every token of one text\n"
        "                     and what the cache of a head holds at any position; one rank\n"
        "  --text FILE        the text of that page: UTF-8, its first T tokens\n"
        "  --sample N         or sample N of the data, from 0; default: sample 0\n"
        "  --checkpoint best  the checkpoint with the lowest validation loss instead of the last one\n"
        "  --device D         auto (default), cpu or cuda\n"
        "  --precision P      auto (default: bf16 on a GPU, float32 on the CPU), float32 or bf16\n"
        "  --json             print one JSON object on standard output\n",
};
