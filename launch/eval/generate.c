// natsformer generate
#include <jansson.h> // --json
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h> // a seed where none is given

#include "launch/command.h"
#include "launch/config/options.h"
#include "launch/eval/run_folder.h"
#include "launch/eval/text_tokens.h"
#include "launch/eval/utf8_stream.h"
#include "launch/records/output_file.h"
#include "launch/records/progress.h"
#include "nats/decoder.h"
#include "nats/sampler.h"
#include "nn/log.h"

typedef struct {
  const char *run, *prompt, *prompt_file, *device, *precision, *checkpoint, *policy;
  int32_t tokens, top_k;
  double temperature, top_p;
  int64_t seed; // -1: none was given
  bool json;
} generate_options;

static nn_status read_table(int argc, char **argv, generate_options *o, launch_list *operands) {
  const launch_option table[] = {
      {"--prompt", LAUNCH_OPTION_TEXT, &o->prompt, 0, 0},
      {"--prompt-file", LAUNCH_OPTION_TEXT, &o->prompt_file, 0, 0},
      {"--tokens", LAUNCH_OPTION_INT32, &o->tokens, 1, 1 << 24},
      {"--temperature", LAUNCH_OPTION_REAL, &o->temperature, 0, 1000},
      {"--top-k", LAUNCH_OPTION_INT32, &o->top_k, 0, 1 << 24},
      {"--top-p", LAUNCH_OPTION_REAL, &o->top_p, 1e-6, 1},
      {"--seed", LAUNCH_OPTION_INT64, &o->seed, 0, 9e15},
      {"--policy", LAUNCH_OPTION_TEXT, &o->policy, 0, 0},
      {"--checkpoint", LAUNCH_OPTION_TEXT, &o->checkpoint, 0, 0},
      {"--device", LAUNCH_OPTION_TEXT, &o->device, 0, 0},
      {"--precision", LAUNCH_OPTION_TEXT, &o->precision, 0, 0},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  return launch_options_read("generate", table, sizeof table / sizeof *table, argc, argv, operands);
}

static nn_status read_options(int argc, char **argv, generate_options *o) {
  *o = (generate_options){
      .device = "auto", .precision = "auto", .tokens = 256, .temperature = 0.8, .top_p = 1, .seed = -1};
  launch_list operands = {.items = calloc((size_t)argc, sizeof *operands.items)};
  if (operands.items == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the command line");
  nn_status status = read_table(argc, argv, o, &operands);
  if (status == NN_OK && operands.count != 1)
    status = NN_FAIL(
        NN_ERR_USAGE,
        "generate: expected one run folder, as in `natsformer generate runs/quickstart --prompt Once`, "
        "found %lld",
        (long long)operands.count);
  o->run = operands.count > 0 ? operands.items[0] : NULL;
  free(operands.items);
  NN_TRY(status);
  if (o->prompt != NULL && o->prompt_file != NULL)
    return NN_FAIL(NN_ERR_USAGE, "generate: --prompt and --prompt-file: expected one of them");
  if (o->seed < 0)
    o->seed = (int64_t)time(NULL);
  return NN_OK;
}

// ---- a text under way

typedef struct {
  const generate_options *options;
  launch_run run;
  data_tokens prompt;
  nats_decoder *decoder;
  nats_sampler *sampler;
  float *logits; // [V]
  int32_t vocab; // tokens that the tokenizer knows
  launch_utf8_stream text;
  char *whole; // the text, with --json
  size_t whole_bytes;
  int64_t written; // tokens
  double seconds;  // of decoding, without the prompt
  nats_cache_stats cache;
} generation;

// Nothing to begin with: the token after which every document begins.
static nn_status begin_document(generation *g) {
  free(g->prompt.items);
  g->prompt.items = malloc(sizeof *g->prompt.items);
  if (g->prompt.items == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for a prompt");
  g->prompt.items[0] = data_tokenizer_end_of_text(g->run.tokenizer);
  g->prompt.count = g->prompt.capacity = 1;
  return NN_OK;
}

static nn_status read_prompt(generation *g) {
  const generate_options *o = g->options;
  if (g->run.tokenizer == NULL)
    return NN_FAIL(NN_ERR_INPUT, "%s: was trained on synthetic tokens, which are no text", o->run);
  if (o->prompt_file != NULL)
    NN_TRY(launch_text_read(g->run.tokenizer, o->prompt_file, &g->prompt));
  else if (o->prompt != NULL)
    NN_TRY(launch_text_encode(g->run.tokenizer, "--prompt", o->prompt, strlen(o->prompt), &g->prompt));
  return g->prompt.count > 0 ? NN_OK : begin_document(g);
}

static nn_status prepare(generation *g) {
  const generate_options *o = g->options;
  NN_TRY(read_prompt(g));
  if (g->prompt.count > INT32_MAX - o->tokens)
    return NN_FAIL(NN_ERR_INPUT, "generate: a prompt of %lld tokens is too long", (long long)g->prompt.count);
  nats_decoder_config decoder = {.sequences = 1,
                                 .max_length = (int32_t)g->prompt.count + o->tokens,
                                 .seed = (uint64_t)o->seed,
                                 .policy = o->policy};
  nats_sampler_config sampler = {.temperature = (float)o->temperature,
                                 .top_k = o->top_k,
                                 .top_p = (float)o->top_p,
                                 .seed = (uint64_t)o->seed};
  NN_TRY(nats_decoder_create(&g->run.model, &g->run.params, &decoder, &g->decoder));
  g->vocab = data_tokenizer_vocab(g->run.tokenizer); // rows of the model past these are padding
  NN_TRY(nats_sampler_create(&sampler, g->vocab, &g->sampler));
  void *logits;
  NN_TRY(
      nn_device_host_alloc(g->run.device, (size_t)g->run.model.vocab * sizeof *g->logits, "logits", &logits));
  g->logits = logits;
  g->text.out = o->json ? open_memstream(&g->whole, &g->whole_bytes) : stdout;
  if (g->text.out == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for the text");
  return NN_OK;
}

static void write_token(generation *g, int32_t token) {
  size_t bytes;
  const char *piece = data_tokenizer_piece(g->run.tokenizer, token, &bytes);
  launch_utf8_put(&g->text, piece, bytes);
  fflush(g->text.out);
  g->written++;
}

static nn_status write_text(generation *g) {
  int32_t end = data_tokenizer_end_of_text(g->run.tokenizer), token;
  int64_t position = g->prompt.count;
  NN_TRY(nats_decoder_prefill(g->decoder, g->prompt.items, (int32_t)position, g->logits));
  double started = launch_seconds();
  for (;; position++) {
    NN_TRY(nats_sampler_draw(g->sampler, g->logits, 0, (uint64_t)position, &token));
    if (token == end)
      break;
    write_token(g, token);
    if (g->written == g->options->tokens)
      break;
    NN_TRY(nats_decoder_step(g->decoder, &token, g->logits));
  }
  launch_utf8_end(&g->text);
  g->seconds = launch_seconds() - started;
  return nats_decoder_stats(g->decoder, &g->cache);
}

// ---- what is said about it

static double fraction(const nats_cache_stats *cache) {
  return cache->causal_pairs > 0 ? (double)cache->live_pairs / (double)cache->causal_pairs : 1;
}

static void print_closing_line(const generation *g) {
  char bytes[LAUNCH_DURATION], dense[LAUNCH_DURATION];
  nn_info("%lld tokens, %.0f tokens/s, cache %s of %s that a dense one takes, KV fraction %.3f, seed %lld",
          (long long)g->written, g->seconds > 0 ? (double)g->written / g->seconds : 0.0,
          launch_bytes(g->cache.bytes, bytes), launch_bytes(g->cache.dense_bytes, dense), fraction(&g->cache),
          (long long)g->options->seed);
}

static nn_status print_json(generation *g) {
  fflush(g->text.out); // fills `whole`
  json_t *object = json_pack(
      "{s:s, s:I, s:s%, s:I, s:I, s:I, s:I, s:I, s:I, s:f, s:f, s:f}", "checkpoint", g->run.checkpoint.path,
      "step", (json_int_t)g->run.checkpoint.step, "text", g->whole, g->whole_bytes, "prompt_tokens",
      (json_int_t)g->prompt.count, "tokens", (json_int_t)g->written, "seed", (json_int_t)g->options->seed,
      "kv_bytes", (json_int_t)g->cache.bytes, "kv_bytes_peak", (json_int_t)g->cache.peak_bytes,
      "kv_bytes_dense", (json_int_t)g->cache.dense_bytes, "kv_fraction", fraction(&g->cache), "tokens_per_s",
      g->seconds > 0 ? (double)g->written / g->seconds : 0.0, "seconds", g->seconds);
  return launch_print_json(object);
}

// ---- the command

static nn_status generate(dist_group *world, generation *g) {
  const generate_options *o = g->options;
  NN_TRY(launch_run_open(world, o->run, o->checkpoint, o->device, o->precision, &g->run));
  NN_TRY(prepare(g));
  NN_TRY(write_text(g));
  if (o->json)
    return print_json(g);
  putchar('\n');
  print_closing_line(g);
  return NN_OK;
}

static nn_status run(dist_group *world, int argc, char **argv) {
  generate_options options;
  NN_TRY(read_options(argc, argv, &options));
  if (dist_size(world) > 1)
    return NN_FAIL(NN_ERR_USAGE, "generate: expected one rank, found %d: start it without mpirun",
                   dist_size(world));
  generation g = {.options = &options};
  nn_status status = generate(world, &g);
  if (options.json && g.text.out != NULL)
    fclose(g.text.out);
  free(g.whole);
  nn_device_host_free(g.run.device, g.logits);
  nats_sampler_free(g.sampler);
  nats_decoder_free(g.decoder);
  free(g.prompt.items);
  launch_run_close(&g.run);
  return status;
}

const launch_command launch_generate = {
    .name = "generate",
    .run = run,
    .summary = "write text with a trained model",
    .usage =
        "usage: natsformer generate RUN [--prompt TEXT | --prompt-file FILE] [options]\n"
        "\n"
        "RUN is a run folder (its newest checkpoint that verifies is taken) or the folder of one "
        "checkpoint.\n"
        "The text is written as it comes and ends at an end-of-text token; what it took is told at the end.\n"
        "\n"
        "  --prompt TEXT      what the text goes on from; default: a new document\n"
        "  --prompt-file F    the same, from a UTF-8 file\n"
        "  --tokens N         at most N tokens; default 256\n"
        "  --temperature X    0: always the most likely token; default 0.8\n"
        "  --top-k K          draw from the K most likely tokens; default 0: all\n"
        "  --top-p P          draw from the most likely tokens that hold a share P; default 1: all\n"
        "  --seed S           the same seed gives the same text; default: the time\n"
        "  --policy P         eviction policy; default: what the model was trained with\n"
        "  --checkpoint best  the checkpoint with the lowest validation loss instead of the last one\n"
        "  --device D         auto (default), cpu or cuda\n"
        "  --precision P      auto (default: bf16 on a GPU, float32 on the CPU), float32 or bf16\n"
        "  --json             print one JSON object on standard output, text included\n",
};
