#include "data/build_plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "data/gather.h"
#include "data/progress.h"
#include "data/text_source.h"

enum { READ_PIECE = 1 << 20 };
// A block is small beside a shard, and blocks stay few: memory does not grow with the corpus.
enum { BLOCKS_WANTED = 4096, BLOCK_LEAST = 64 << 10, BLOCK_MOST = 16 << 20, BLOCKS_OF_SHARD = 4 };
enum { SHARDS_WANTED = 64, SHARD_LEAST = 4 << 20, SHARD_MOST = 256 << 20 };

typedef struct {
  const char *const *inputs;
  const char *field;
  int64_t count;
  int64_t *sizes;  // [count] bytes on disk
  int32_t *owners; // [count] the rank that reads it
  int64_t block_bytes;
  data_block *blocks;
  int64_t block_count, block_room;
  int64_t done, total; // this rank's bytes on disk
  data_progress progress;
  char *text; // [READ_PIECE]
} scan;

static int64_t clamp(int64_t value, int64_t least, int64_t most) {
  return value < least ? least : value > most ? most : value;
}

// ---- who reads what

static nn_status measure(const scan *job) {
  for (int64_t i = 0; i < job->count; i++) {
    struct stat info;
    if (stat(job->inputs[i], &info) != 0)
      return NN_FAIL(NN_ERR_INPUT, "%s: cannot be read: %s", job->inputs[i], strerror(errno));
    job->sizes[i] = info.st_size;
  }
  return NN_OK;
}

typedef struct {
  int64_t size, input;
} sized;

static int larger_first(const void *a, const void *b) {
  const sized *x = a, *y = b;
  if (x->size != y->size)
    return x->size > y->size ? -1 : 1;
  return (x->input > y->input) - (x->input < y->input);
}

// The largest files first, each to the rank that has least to read.
static nn_status share(dist_group *world, scan *job) {
  int32_t ranks = dist_size(world);
  sized *order = malloc((size_t)job->count * sizeof *order);
  int64_t *loads = calloc((size_t)ranks, sizeof *loads);
  nn_status status = NN_OK;
  if (order == NULL || loads == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "no memory for %lld inputs", (long long)job->count));
  for (int64_t i = 0; i < job->count; i++)
    order[i] = (sized){.size = job->sizes[i], .input = i};
  qsort(order, (size_t)job->count, sizeof *order, larger_first);
  for (int64_t i = 0; i < job->count; i++) {
    int32_t least = 0;
    for (int32_t r = 1; r < ranks; r++)
      least = loads[r] < loads[least] ? r : least;
    loads[least] += order[i].size + 1;
    job->owners[order[i].input] = least;
    job->total += least == dist_rank(world) ? order[i].size : 0;
  }
done:
  free(loads);
  free(order);
  return status;
}

// ---- reading

static nn_status add_block(scan *job, const data_block *block) {
  if (job->block_count == job->block_room) {
    int64_t room = job->block_room * 2 + 64;
    data_block *grown = realloc(job->blocks, (size_t)room * sizeof *grown);
    if (grown == NULL)
      return NN_FAIL(NN_ERR_MEMORY, "no memory for a list of %lld blocks", (long long)room);
    job->blocks = grown;
    job->block_room = room;
  }
  job->blocks[job->block_count++] = *block;
  return NN_OK;
}

static void show_progress(scan *job, const data_text_source *source) {
  int64_t size = 0, read = 0;
  data_text_source_progress(source, &size, &read);
  data_progress_show(&job->progress, job->done + read);
}

// Reads one file to its end and notes its blocks.
static nn_status scan_file(scan *job, data_text_source *source, int64_t input) {
  data_block block = {.input = input, .line = 1};
  int64_t documents = 0;
  for (;;) {
    size_t count = 0;
    bool end = false;
    NN_TRY(data_text_source_read(source, job->text, READ_PIECE, &count, &end));
    block.bytes += (int64_t)count;
    show_progress(job, source);
    if (count == 0 && !end)
      break;
    block.documents += end;
    documents += end;
    if (end && block.bytes >= job->block_bytes) {
      NN_TRY(add_block(job, &block));
      block = (data_block){.input = input};
      data_text_source_tell(source, &block.offset, &block.line);
    }
  }
  if (documents == 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: holds no text", job->inputs[input]);
  return block.documents > 0 ? add_block(job, &block) : NN_OK;
}

static nn_status scan_own_files(dist_group *world, scan *job) {
  for (int64_t i = 0; i < job->count; i++) {
    if (job->owners[i] != dist_rank(world))
      continue;
    data_text_source *source = NULL;
    NN_TRY(data_text_source_open(job->inputs[i], job->field, &source));
    nn_status status = scan_file(job, source, i);
    data_text_source_close(source);
    NN_TRY(status);
    job->done += job->sizes[i];
  }
  return NN_OK;
}

// ---- the plan

static int by_place(const void *a, const void *b) {
  const data_block *x = a, *y = b;
  if (x->input != y->input)
    return x->input < y->input ? -1 : 1;
  return (x->offset > y->offset) - (x->offset < y->offset);
}

static nn_status cut_into_shards(data_plan *plan, int64_t shard_bytes) {
  for (int64_t i = 0; i < plan->count; i++) {
    plan->blocks[i].first_document = plan->documents;
    plan->documents += plan->blocks[i].documents;
    plan->bytes += plan->blocks[i].bytes;
  }
  if (shard_bytes == 0)
    shard_bytes = clamp(plan->bytes / SHARDS_WANTED, SHARD_LEAST, SHARD_MOST);
  plan->shard_blocks = malloc(((size_t)plan->count + 1) * sizeof *plan->shard_blocks);
  if (plan->shard_blocks == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a list of %lld blocks", (long long)plan->count);
  int64_t bytes = shard_bytes;
  for (int64_t i = 0; i < plan->count; i++) {
    if (bytes >= shard_bytes) {
      plan->shard_blocks[plan->shards++] = i;
      bytes = 0;
    }
    bytes += plan->blocks[i].bytes;
  }
  plan->shard_blocks[plan->shards] = plan->count;
  return NN_OK;
}

static void set_block_bytes(scan *job, int64_t shard_bytes) {
  int64_t disk = 0;
  for (int64_t i = 0; i < job->count; i++)
    disk += job->sizes[i];
  job->block_bytes = clamp(disk / BLOCKS_WANTED, BLOCK_LEAST, BLOCK_MOST);
  if (shard_bytes > 0 && job->block_bytes > shard_bytes / BLOCKS_OF_SHARD)
    job->block_bytes = shard_bytes / BLOCKS_OF_SHARD;
}

static nn_status scan_inputs(dist_group *world, scan *job, int64_t shard_bytes, data_plan *out) {
  nn_status status = dist_rank(world) == 0 ? measure(job) : NN_OK;
  NN_TRY(dist_agree(world, status));
  NN_TRY(dist_broadcast(world, job->sizes, job->count * (int64_t)sizeof *job->sizes, 0));
  NN_TRY(dist_agree(world, share(world, job)));
  set_block_bytes(job, shard_bytes);
  data_progress_begin(&job->progress, dist_rank(world), "reading", job->total);
  NN_TRY(dist_agree(world, scan_own_files(world, job)));
  data_progress_end(&job->progress, job->done);
  void *blocks = job->blocks;
  status = data_gather(world, &blocks, &job->block_count, sizeof *job->blocks);
  job->blocks = NULL;
  out->blocks = blocks;
  out->count = job->block_count;
  NN_TRY(status);
  qsort(out->blocks, (size_t)out->count, sizeof *out->blocks, by_place);
  return dist_agree(world, cut_into_shards(out, shard_bytes));
}

nn_status data_plan_make(dist_group *world, const char *const *inputs, int64_t count, const char *field,
                         int64_t shard_bytes, data_plan *out) {
  scan job = {.inputs = inputs, .field = field, .count = count};
  memset(out, 0, sizeof *out);
  nn_status status = NN_OK;
  job.sizes = calloc((size_t)count + 1, sizeof *job.sizes);
  job.owners = calloc((size_t)count + 1, sizeof *job.owners);
  job.text = malloc(READ_PIECE);
  if (job.sizes == NULL || job.owners == NULL || job.text == NULL)
    status = NN_FAIL(NN_ERR_MEMORY, "no memory for %lld inputs", (long long)count);
  NN_GOTO(status, done, dist_agree(world, status));
  NN_GOTO(status, done, scan_inputs(world, &job, shard_bytes, out));
done:
  free(job.blocks);
  free(job.text);
  free(job.owners);
  free(job.sizes);
  if (status != NN_OK)
    data_plan_free(out);
  return status;
}

void data_plan_free(data_plan *plan) {
  free(plan->shard_blocks);
  free(plan->blocks);
  memset(plan, 0, sizeof *plan);
}
