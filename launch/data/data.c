// natsformer data: text and synthetic tasks to data sets, and what stands in them.
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "data/build.h"
#include "data/synth.h"
#include "data/train_tokenizer.h"
#include "data/verify.h"
#include "launch/command.h"
#include "launch/config/options.h"
#include "launch/data/report.h"

enum { MIB = 1 << 20 };
static const double MOST = 9e15; // whole numbers that a double holds exactly

// What is typed behind the name of a subcommand.
typedef struct {
  int argc;
  char **argv;
  launch_list operands, list; // list: of the option that may be given several times
} arguments;

static nn_status read_options(arguments *typed, const char *where, const launch_option *options, int count) {
  return launch_options_read(where, options, count, typed->argc, typed->argv, &typed->operands);
}

static nn_status need(const char *where, const char *option, const char *value) {
  return value != NULL ? NN_OK : NN_FAIL(NN_ERR_USAGE, "%s: %s is missing", where, option);
}

static nn_status no_operands(const char *where, const arguments *typed) {
  if (typed->operands.count == 0)
    return NN_OK;
  return NN_FAIL(NN_ERR_USAGE, "%s: what is '%.80s'?", where, typed->operands.items[0]);
}

// The one folder that verify and inspect are about.
static nn_status one_folder(const char *where, const arguments *typed, const char **folder) {
  if (typed->operands.count != 1)
    return NN_FAIL(NN_ERR_USAGE, "%s: expected one data set's folder, found %lld", where,
                   (long long)typed->operands.count);
  *folder = typed->operands.items[0];
  return NN_OK;
}

// Rank 0 prints what was made.
static nn_status print_made(dist_group *world, const char *folder, data_manifest *made, bool json) {
  nn_status status = NN_OK;
  if (dist_rank(world) == 0)
    status = launch_data_print_set(folder, made, json);
  data_manifest_free(made);
  return dist_agree(world, status);
}

// ---- build, train-tokenizer

static nn_status run_build(dist_group *world, arguments *typed) {
  static const char where[] = "data build";
  double shard_mib = 0;
  int64_t seed = 1;
  bool json = false;
  data_build build = {.field = "text"};
  const launch_option options[] = {
      {"--tokenizer", LAUNCH_OPTION_TEXT, &build.tokenizer, 0, 0},
      {"--out", LAUNCH_OPTION_TEXT, &build.folder, 0, 0},
      {"--val", LAUNCH_OPTION_REAL, &build.val, 0, 0.999999},
      {"--val-input", LAUNCH_OPTION_LIST, &typed->list, 0, 0},
      {"--seed", LAUNCH_OPTION_INT64, &seed, 0, MOST},
      {"--field", LAUNCH_OPTION_TEXT, &build.field, 0, 0},
      {"--shard-mib", LAUNCH_OPTION_REAL, &shard_mib, 0.001, 1 << 20},
      {"--force", LAUNCH_OPTION_FLAG, &build.force, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, &json, 0, 0},
  };
  data_manifest made = {0};
  NN_TRY(read_options(typed, where, options, sizeof options / sizeof *options));
  NN_TRY(need(where, "--tokenizer", build.tokenizer));
  NN_TRY(need(where, "--out", build.folder));
  build.inputs = typed->operands.items;
  build.input_count = typed->operands.count;
  build.val_inputs = typed->list.items;
  build.val_input_count = typed->list.count;
  build.seed = (uint64_t)seed;
  build.shard_bytes = (int64_t)(shard_mib * MIB);
  NN_TRY(data_build_run(world, &build, &made));
  return print_made(world, build.folder, &made, json);
}

static nn_status run_train_tokenizer(dist_group *world, arguments *typed) {
  static const char where[] = "data train-tokenizer";
  double sample_mib = 10;
  int64_t seed = 1;
  data_tokenizer_training training = {.field = "text", .type = "bpe", .coverage = 0.9995};
  const launch_option options[] = {
      {"--vocab", LAUNCH_OPTION_INT32, &training.vocab, 260, 1 << 20},
      {"--out", LAUNCH_OPTION_TEXT, &training.out, 0, 0},
      {"--type", LAUNCH_OPTION_TEXT, &training.type, 0, 0},
      {"--coverage", LAUNCH_OPTION_REAL, &training.coverage, 0.98, 1},
      {"--sample-mib", LAUNCH_OPTION_REAL, &sample_mib, 0.001, 1 << 20},
      {"--seed", LAUNCH_OPTION_INT64, &seed, 0, MOST},
      {"--field", LAUNCH_OPTION_TEXT, &training.field, 0, 0},
      {"--force", LAUNCH_OPTION_FLAG, &training.force, 0, 0},
  };
  NN_TRY(read_options(typed, where, options, sizeof options / sizeof *options));
  NN_TRY(need(where, "--out", training.out));
  if (training.vocab == 0)
    return NN_FAIL(NN_ERR_USAGE, "%s: --vocab is missing", where);
  training.inputs = typed->operands.items;
  training.input_count = typed->operands.count;
  training.seed = (uint64_t)seed;
  training.sample_bytes = (int64_t)(sample_mib * MIB);
  return data_train_tokenizer(world, &training);
}

// ---- synth

enum { SYNTH_OPTIONS = 9 };

// The options that all tasks have, at the front of `options`.
static void common_options(launch_option options[SYNTH_OPTIONS], data_synth *synth, int64_t *seed,
                           bool *json) {
  const launch_option common[SYNTH_OPTIONS] = {
      {"--out", LAUNCH_OPTION_TEXT, &synth->folder, 0, 0},
      {"--samples", LAUNCH_OPTION_INT64, &synth->samples, 1, MOST},
      {"--val-samples", LAUNCH_OPTION_INT64, &synth->val_samples, 0, MOST},
      {"--length", LAUNCH_OPTION_INT32, &synth->length, 1, 1 << 28},
      {"--vocab", LAUNCH_OPTION_INT32, &synth->vocab, 1, 1 << 28},
      {"--window", LAUNCH_OPTION_INT32, &synth->window, 0, 1 << 28},
      {"--seed", LAUNCH_OPTION_INT64, seed, 0, MOST},
      {"--force", LAUNCH_OPTION_FLAG, &synth->force, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, json, 0, 0},
  };
  memcpy(options, common, sizeof common);
}

static nn_status run_mqar(dist_group *world, arguments *typed) {
  static const char where[] = "data synth mqar";
  int64_t seed = 1;
  bool json = false;
  data_synth synth = {.samples = 20000, .val_samples = 1000, .length = 256, .vocab = 128, .window = 16};
  data_synth_mqar mqar = {.pairs = 16};
  launch_option options[SYNTH_OPTIONS + 2] = {
      [SYNTH_OPTIONS] = {"--pairs", LAUNCH_OPTION_INT32, &mqar.pairs, 1, 1 << 27},
      [SYNTH_OPTIONS + 1] = {"--queries", LAUNCH_OPTION_INT32, &mqar.queries, 1, 1 << 27},
  };
  data_manifest made = {0};
  common_options(options, &synth, &seed, &json);
  NN_TRY(read_options(typed, where, options, SYNTH_OPTIONS + 2));
  NN_TRY(need(where, "--out", synth.folder));
  NN_TRY(no_operands(where, typed));
  synth.seed = (uint64_t)seed;
  mqar.queries = mqar.queries > 0 ? mqar.queries : mqar.pairs;
  NN_TRY(data_synth_write_mqar(world, &synth, &mqar, &made));
  return print_made(world, synth.folder, &made, json);
}

static nn_status run_passkey(dist_group *world, arguments *typed) {
  static const char where[] = "data synth passkey";
  int64_t seed = 1;
  bool json = false;
  data_synth synth = {.samples = 20000, .val_samples = 1000, .length = 512, .vocab = 128, .window = 16};
  data_synth_passkey passkey = {.digits = 5, .depth = -1};
  launch_option options[SYNTH_OPTIONS + 2] = {
      [SYNTH_OPTIONS] = {"--digits", LAUNCH_OPTION_INT32, &passkey.digits, 1, 1 << 27},
      [SYNTH_OPTIONS + 1] = {"--depth", LAUNCH_OPTION_REAL, &passkey.depth, 0, 1},
  };
  data_manifest made = {0};
  common_options(options, &synth, &seed, &json);
  NN_TRY(read_options(typed, where, options, SYNTH_OPTIONS + 2));
  NN_TRY(need(where, "--out", synth.folder));
  NN_TRY(no_operands(where, typed));
  synth.seed = (uint64_t)seed;
  NN_TRY(data_synth_write_passkey(world, &synth, &passkey, &made));
  return print_made(world, synth.folder, &made, json);
}

// ---- verify, inspect

static nn_status run_verify(dist_group *world, arguments *typed) {
  static const char where[] = "data verify";
  const char *folder = NULL;
  bool json = false;
  const launch_option options[] = {{"--json", LAUNCH_OPTION_FLAG, &json, 0, 0}};
  data_verification found;
  nn_status status = NN_OK;
  NN_TRY(read_options(typed, where, options, 1));
  NN_TRY(one_folder(where, typed, &folder));
  NN_TRY(data_verify(world, folder, &found));
  if (dist_rank(world) == 0)
    status = launch_data_print_verification(folder, &found, json);
  for (int64_t i = 0; i < found.count && status == NN_OK; i++)
    if (found.files[i].problem[0] != '\0')
      status = NN_FAIL(NN_ERR_INPUT, "%lld of %lld files are damaged; the first: %s",
                       (long long)found.damaged, (long long)found.count, found.files[i].problem);
  data_verification_free(&found);
  return dist_agree(world, status);
}

static nn_status inspect(const char *folder, const char *split, int64_t tokens, bool json) {
  data_manifest manifest;
  NN_TRY(data_manifest_read(folder, &manifest));
  nn_status status = launch_data_print_sample(folder, &manifest,
                                              split != NULL ? split : manifest.split[0].name, tokens, json);
  data_manifest_free(&manifest);
  return status;
}

static nn_status run_inspect(dist_group *world, arguments *typed) {
  static const char where[] = "data inspect";
  const char *folder = NULL, *split = NULL;
  bool json = false;
  int64_t tokens = 256;
  const launch_option options[] = {
      {"--split", LAUNCH_OPTION_TEXT, &split, 0, 0},
      {"--tokens", LAUNCH_OPTION_INT64, &tokens, 1, 1 << 20},
      {"--json", LAUNCH_OPTION_FLAG, &json, 0, 0},
  };
  NN_TRY(read_options(typed, where, options, sizeof options / sizeof *options));
  NN_TRY(one_folder(where, typed, &folder));
  return dist_agree(world, dist_rank(world) == 0 ? inspect(folder, split, tokens, json) : NN_OK);
}

// ---- the command

typedef struct {
  const char *name;
  nn_status (*run)(dist_group *world, arguments *typed);
} subcommand;

static nn_status dispatch(const char *where, const subcommand *table, int count, dist_group *world,
                          arguments *typed) {
  if (typed->argc < 2)
    return NN_FAIL(NN_ERR_USAGE, "%s: which of its subcommands? `natsformer data --help` lists them", where);
  for (int i = 0; i < count; i++)
    if (strcmp(typed->argv[1], table[i].name) == 0) {
      typed->argc--;
      typed->argv++;
      return table[i].run(world, typed);
    }
  return NN_FAIL(NN_ERR_USAGE, "%s: unknown subcommand '%.40s'; `natsformer data --help` lists them", where,
                 typed->argv[1]);
}

static nn_status run_synth(dist_group *world, arguments *typed) {
  static const subcommand tasks[] = {{"mqar", run_mqar}, {"passkey", run_passkey}};
  return dispatch("data synth", tasks, sizeof tasks / sizeof *tasks, world, typed);
}

static nn_status run(dist_group *world, int argc, char **argv) {
  static const subcommand subcommands[] = {
      {"build", run_build},   {"train-tokenizer", run_train_tokenizer},
      {"verify", run_verify}, {"inspect", run_inspect},
      {"synth", run_synth},
  };
  arguments typed = {.argc = argc, .argv = argv};
  nn_status status = NN_OK;
  typed.operands.items = calloc((size_t)argc + 1, sizeof *typed.operands.items);
  typed.list.items = calloc((size_t)argc + 1, sizeof *typed.list.items);
  if (typed.operands.items == NULL || typed.list.items == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "no memory for %d arguments", argc);
  NN_GOTO(status, done, dist_agree(world, status));
  dist_set_deadline(world, 0); // one rank may read for hours while the others wait
  NN_GOTO(status, done,
          dispatch("data", subcommands, sizeof subcommands / sizeof *subcommands, world, &typed));
done:
  free(typed.list.items);
  free(typed.operands.items);
  return status;
}

const launch_command launch_data = {
    .name = "data",
    .run = run,
    .summary = "make, check and show data sets: build, train-tokenizer, verify, inspect, synth",
    .usage =
        "usage: natsformer data build --tokenizer byte|gpt2:VOCAB.json,MERGES.txt|sp:MODEL --out DIR "
        "INPUT...\n"
        "           [--val SHARE | --val-input FILE ...] [--seed N] [--field NAME] [--shard-mib N] "
        "[--force]\n"
        "       natsformer data train-tokenizer --vocab N --out MODEL INPUT...\n"
        "           [--type bpe|unigram] [--sample-mib N] [--coverage SHARE] [--seed N] [--field NAME] "
        "[--force]\n"
        "       natsformer data verify DIR [--json]\n"
        "       natsformer data inspect DIR [--split train|val] [--tokens N] [--json]\n"
        "       natsformer data synth mqar --out DIR [--pairs N] [--queries N]\n"
        "       natsformer data synth passkey --out DIR [--digits N] [--depth 0..1]\n"
        "           both: [--samples N] [--val-samples N] [--length N] [--vocab N] [--window N] [--seed N]\n"
        "                 [--force]\n"
        "\n"
        "INPUT is a .txt file (one document), a .jsonl file (a document a line, in the field `text` or\n"
        "--field), or either behind .zst. Text is UTF-8. All commands share their work over the ranks of\n"
        "mpirun; the files do not depend on their number.\n"
        "\n"
        "  --val SHARE        documents held out for validation, drawn by --seed (default 1); 0: none\n"
        "  --val-input FILE   documents for validation instead; may be given several times\n"
        "  --shard-mib N      text of a shard, about; default: a 64th of all text, 4 to 256 MiB\n"
        "  --force            replace a data set, or a model, that is there\n"
        "  --sample-mib N     text that a tokenizer learns from (default 10), drawn evenly\n"
        "  --coverage SHARE   characters that get a piece of their own (default 0.9995); others are bytes\n"
        "  --window N         recall tasks: a question comes more than N tokens behind its answer\n"
        "  --json             one JSON object on standard output (build, synth, verify, inspect)\n",
};
