#include "data/build.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h> // llround
#include <stdlib.h>
#include <string.h>

#include "data/build_plan.h"
#include "data/output.h"
#include "data/progress.h"
#include "data/text_source.h"
#include "data/utf8.h"
#include "nn/random.h"

// Text that is tokenised at once; a longer document is cut where that changes no token.
enum { SEGMENT = 1 << 20 };

typedef struct {
  const data_build *build;
  data_output *output;
  data_tokenizer *tokenizer;
  data_format format;
  data_progress progress;
  int64_t done; // bytes of text tokenised by this rank
  // Of the inputs being read:
  const char *const *inputs;
  data_text_source *source;
  int64_t source_input; // which one is open
  char *segment;        // [SEGMENT]
  data_tokens tokens;
  // Which documents are for validation: those whose place in a random order is below `held_out`.
  nn_random_key key;
  int64_t documents, held_out;
  data_shard_writer *writers[DATA_SPLITS]; // of the shard under way; NULL: no document yet
} work;

// ---- one document

// Tokenises what `count` bytes of the segment allow; the rest moves to its front.
static nn_status encode_segment(work *job, size_t *count, bool last) {
  size_t cut = last ? *count : data_tokenizer_cut(job->tokenizer, job->segment, *count);
  if (cut == 0)
    cut = data_utf8_whole(job->segment, *count);
  job->tokens.count = 0;
  NN_TRY(data_tokenizer_encode(job->tokenizer, job->segment, cut, &job->tokens));
  memmove(job->segment, job->segment + cut, *count - cut);
  *count -= cut;
  return NN_OK;
}

static nn_status write_document(work *job, data_shard_writer *writer, int64_t *bytes) {
  size_t held = 0;
  bool end = false;
  *bytes = 0;
  while (!end) {
    size_t count = 0;
    NN_TRY(data_text_source_read(job->source, job->segment + held, SEGMENT - held, &count, &end));
    if (count == 0 && !end)
      return NN_FAIL(NN_ERR_INPUT, "%s: changed while it was read", job->inputs[job->source_input]);
    held += count;
    *bytes += (int64_t)count;
    job->done += (int64_t)count;
    NN_TRY(encode_segment(job, &held, end));
    NN_TRY(data_shard_append(writer, job->tokens.items, NULL, job->tokens.count));
    data_progress_show(&job->progress, job->done);
  }
  NN_TRY(data_shard_append(writer, &job->format.end_of_text, NULL, 1));
  return data_shard_end_document(writer, *bytes);
}

// ---- one shard

static int split_of(const work *job, int64_t document) {
  if (job->held_out == 0)
    return DATA_TRAIN;
  uint64_t place = nn_random_permute(job->key, (uint64_t)job->documents, (uint64_t)document);
  return (int64_t)place < job->held_out ? DATA_VAL : DATA_TRAIN;
}

// The writer of a split, whose file is created with its first document.
static nn_status writer_of(work *job, int split, int64_t shard, data_shard_writer **out) {
  if (job->writers[split] == NULL) {
    char path[PATH_MAX];
    NN_TRY(data_output_path(job->output, split, shard, path));
    NN_TRY(data_shard_create(path, &job->format, job->tokenizer, &job->writers[split]));
  }
  *out = job->writers[split];
  return NN_OK;
}

static nn_status go_to(work *job, const data_block *block) {
  int64_t offset = 0, line = 0;
  if (job->source != NULL && job->source_input == block->input) {
    data_text_source_tell(job->source, &offset, &line);
    if (offset == block->offset)
      return NN_OK;
  }
  data_text_source_close(job->source);
  job->source = NULL;
  NN_TRY(data_text_source_open(job->inputs[block->input], job->build->field, &job->source));
  job->source_input = block->input;
  return block->offset > 0 ? data_text_source_seek(job->source, block->offset, block->line) : NN_OK;
}

static nn_status write_block(work *job, const data_block *block, int64_t shard, int fixed_split) {
  int64_t total = 0;
  NN_TRY(go_to(job, block));
  for (int64_t i = 0; i < block->documents; i++) {
    int split = fixed_split >= 0 ? fixed_split : split_of(job, block->first_document + i);
    data_shard_writer *writer = NULL;
    int64_t bytes = 0;
    NN_TRY(writer_of(job, split, shard, &writer));
    NN_TRY(write_document(job, writer, &bytes));
    total += bytes;
  }
  if (total != block->bytes)
    return NN_FAIL(NN_ERR_INPUT, "%s: changed while it was read", job->inputs[block->input]);
  return NN_OK;
}

static nn_status finish_writers(work *job, int64_t shard) {
  for (int split = 0; split < DATA_SPLITS; split++) {
    data_counts counts;
    if (job->writers[split] == NULL)
      continue;
    NN_TRY(data_shard_finish(job->writers[split], &counts));
    data_shard_writer_free(job->writers[split]);
    job->writers[split] = NULL;
    NN_TRY(data_output_add(job->output, split, shard, &counts));
  }
  return NN_OK;
}

// This rank's shards of a plan: neighbours, so that a compressed file is decompressed once.
static void own_shards(dist_group *world, const data_plan *plan, int64_t *first, int64_t *end) {
  int64_t rank = dist_rank(world), ranks = dist_size(world);
  *first = plan->shards * rank / ranks;
  *end = plan->shards * (rank + 1) / ranks;
}

static int64_t own_bytes(dist_group *world, const data_plan *plan) {
  int64_t first = 0, end = 0, bytes = 0;
  if (plan->shards == 0)
    return 0;
  own_shards(world, plan, &first, &end);
  for (int64_t b = plan->shard_blocks[first]; b < plan->shard_blocks[end]; b++)
    bytes += plan->blocks[b].bytes;
  return bytes;
}

// `fixed_split`: of all documents of the plan, or -1 where each is drawn.
static nn_status write_plan(dist_group *world, work *job, const char *const *inputs, const data_plan *plan,
                            int fixed_split) {
  int64_t first = 0, end = 0;
  own_shards(world, plan, &first, &end);
  data_text_source_close(job->source);
  job->source = NULL;
  job->inputs = inputs;
  for (int64_t shard = first; shard < end; shard++) {
    for (int64_t b = plan->shard_blocks[shard]; b < plan->shard_blocks[shard + 1]; b++)
      NN_TRY(write_block(job, &plan->blocks[b], shard, fixed_split));
    NN_TRY(finish_writers(job, shard));
  }
  return NN_OK;
}

// ---- the whole

static nn_status check(const data_build *build) {
  if (build->input_count < 1)
    return NN_FAIL(NN_ERR_USAGE, "data build: no input files");
  if (!(build->val >= 0 && build->val < 1))
    return NN_FAIL(NN_ERR_USAGE, "data build: --val is a share of the documents, from 0 to below 1, not %g",
                   build->val);
  if (build->val > 0 && build->val_input_count > 0)
    return NN_FAIL(NN_ERR_USAGE, "data build: --val and --val-input cannot both name validation documents");
  return NN_OK;
}

static nn_status hold_out(work *job, const data_plan *plan) {
  job->documents = plan->documents;
  if (job->build->val == 0)
    return NN_OK;
  if (plan->documents < 2)
    return NN_FAIL(NN_ERR_INPUT,
                   "%s: one document cannot be split; name a file for validation with --val-input, or cut "
                   "the text into files of its lines: split -n l/20 --additional-suffix=.txt",
                   job->build->inputs[0]);
  int64_t share = llround(job->build->val * (double)plan->documents);
  job->held_out = share < 1 ? 1 : share < plan->documents ? share : plan->documents - 1;
  job->key = nn_random_key_make(job->build->seed, NN_RANDOM_SPLIT, 0, 0);
  return NN_OK;
}

static nn_status prepare(work *job) {
  job->segment = malloc(SEGMENT);
  if (job->segment == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a segment of text");
  NN_TRY(data_tokenizer_open(job->build->tokenizer, &job->tokenizer));
  data_format_of(&job->format, job->tokenizer);
  return NN_OK;
}

// How the data set was made, for its manifest; NULL when there is no memory for it.
static char *describe(const data_build *build, const data_plan *train, const data_plan *val) {
  json_t *object =
      json_pack("{s:s, s:I, s:I, s:f, s:I, s:I}", "task", "text", "inputs", (json_int_t)build->input_count,
                "val_inputs", (json_int_t)build->val_input_count, "val", build->val, "seed",
                (json_int_t)build->seed, "documents", (json_int_t)(train->documents + val->documents));
  char *text = object != NULL ? json_dumps(object, JSON_COMPACT) : NULL;
  json_decref(object);
  return text;
}

static nn_status run(dist_group *world, work *job, data_plan *train, data_plan *val,
                     data_manifest *manifest) {
  const data_build *build = job->build;
  NN_TRY(dist_agree(world, prepare(job)));
  // First of all: a data set that may not be replaced is found before hours of reading.
  NN_TRY(data_output_begin(world, build->folder, build->force, &job->output));
  nn_status mine =
      data_plan_make(world, build->inputs, build->input_count, build->field, build->shard_bytes, train);
  if (mine == NN_OK && build->val_input_count > 0)
    mine = data_plan_make(world, build->val_inputs, build->val_input_count, build->field, build->shard_bytes,
                          val);
  if (mine == NN_OK)
    mine = hold_out(job, train);
  if (mine == NN_OK) {
    data_progress_begin(&job->progress, dist_rank(world), "tokenising",
                        own_bytes(world, train) + own_bytes(world, val));
    mine = write_plan(world, job, build->inputs, train, build->val > 0 ? -1 : DATA_TRAIN);
    if (mine == NN_OK && val->shards > 0)
      mine = write_plan(world, job, build->val_inputs, val, DATA_VAL);
    if (mine == NN_OK)
      data_progress_end(&job->progress, job->done);
  }
  char *source = describe(build, train, val);
  nn_status status = data_output_commit(job->output, mine, &job->format, source, manifest);
  free(source);
  return status;
}

nn_status data_build_run(dist_group *world, const data_build *build, data_manifest *manifest) {
  work job = {.build = build};
  data_plan train = {0}, val = {0};
  NN_TRY(check(build));
  nn_status status = run(world, &job, &train, &val, manifest);
  for (int split = 0; split < DATA_SPLITS; split++)
    data_shard_writer_free(job.writers[split]);
  data_text_source_close(job.source);
  data_output_free(job.output);
  data_tokenizer_free(job.tokenizer);
  data_plan_free(&train);
  data_plan_free(&val);
  free(job.tokens.items);
  free(job.segment);
  return status;
}
