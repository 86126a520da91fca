#include "launch/data/report.h"

#include <inttypes.h>
#include <jansson.h> // --json
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "data/dataset.h"
#include "data/files.h" // data_hash_format
#include "data/utf8.h"
#include "launch/records/output_file.h"
#include "launch/records/progress.h" // launch_bytes

// ---- a data set

static int64_t file_bytes(const data_manifest_split *split) {
  int64_t bytes = split->view.bytes;
  for (int32_t i = 0; i < split->shards; i++)
    bytes += split->shard[i].bytes;
  return bytes;
}

static json_t *set_object(const char *folder, const data_manifest *manifest) {
  char hash[DATA_HASH_DIGITS + 1];
  const data_format *format = &manifest->format;
  json_t *splits = json_array();
  data_hash_format(format->tokenizer_hash, hash);
  for (int32_t i = 0; i < manifest->splits; i++) {
    const data_manifest_split *split = &manifest->split[i];
    json_array_append_new(splits, json_pack("{s:s, s:I, s:I, s:I, s:i, s:I}", "name", split->name, "tokens",
                                            (json_int_t)split->counts.tokens, "documents",
                                            (json_int_t)split->counts.documents, "source_bytes",
                                            (json_int_t)split->counts.source_bytes, "shards",
                                            (int)split->shards, "bytes", (json_int_t)file_bytes(split)));
  }
  json_t *source = manifest->source != NULL ? json_loads(manifest->source, 0, NULL) : json_object();
  return json_pack("{s:s, s:{s:s, s:s}, s:i, s:i, s:b, s:o, s:o}", "data", folder, "tokenizer", "kind",
                   format->tokenizer_kind, "hash", hash, "vocab", (int)format->vocab, "end_of_text",
                   (int)format->end_of_text, "labelled", (int)format->labelled, "splits", splits, "source",
                   source);
}

static void print_set(const char *folder, const data_manifest *manifest) {
  const data_format *format = &manifest->format;
  char size[LAUNCH_DURATION];
  printf("%s: tokenizer %s, vocabulary %" PRId32 "%s\n\n", folder, format->tokenizer_kind, format->vocab,
         format->labelled ? ", with labels" : "");
  printf("%-6s %14s %12s %14s %12s %7s %12s\n", "split", "tokens", "documents", "source bytes", "bytes/token",
         "shards", "on disk");
  for (int32_t i = 0; i < manifest->splits; i++) {
    const data_manifest_split *split = &manifest->split[i];
    const data_counts *counts = &split->counts;
    printf("%-6s %14" PRId64 " %12" PRId64 " %14" PRId64 " %12.2f %7" PRId32 " %12s\n", split->name,
           counts->tokens, counts->documents, counts->source_bytes,
           counts->tokens > 0 ? (double)counts->source_bytes / (double)counts->tokens : 0, split->shards,
           launch_bytes(file_bytes(split), size));
  }
}

nn_status launch_data_print_set(const char *folder, const data_manifest *manifest, bool json) {
  if (json)
    return launch_print_json(set_object(folder, manifest));
  print_set(folder, manifest);
  return NN_OK;
}

// ---- a verification

static json_t *verification_object(const char *folder, const data_verification *found) {
  json_t *files = json_array();
  for (int64_t i = 0; i < found->count; i++) {
    const data_verified_file *file = &found->files[i];
    json_array_append_new(files, json_pack("{s:s, s:I, s:b, s:s}", "file", file->name, "bytes",
                                           (json_int_t)file->bytes, "ok", file->problem[0] == '\0', "problem",
                                           file->problem));
  }
  return json_pack("{s:s, s:b, s:I, s:I, s:o}", "data", folder, "ok", found->damaged == 0, "files",
                   (json_int_t)found->count, "damaged", (json_int_t)found->damaged, "list", files);
}

nn_status launch_data_print_verification(const char *folder, const data_verification *found, bool json) {
  if (json)
    return launch_print_json(verification_object(folder, found));
  printf("%-18s %14s %14s %12s  %s\n", "file", "bytes", "tokens", "documents", "verdict");
  for (int64_t i = 0; i < found->count; i++) {
    const data_verified_file *file = &found->files[i];
    printf("%-18s %14" PRId64 " %14" PRId64 " %12" PRId64 "  %s\n", file->name, file->bytes, file->tokens,
           file->documents, file->problem[0] == '\0' ? "ok" : "DAMAGED");
  }
  if (found->damaged == 0)
    printf("all %" PRId64 " files are whole\n", found->count);
  return NN_OK;
}

// ---- a sample of a split

typedef struct {
  int32_t *tokens, *targets; // [length]
  int32_t length;
  char *text; // of the tokens; NULL where there is no tokenizer
} sample;

static void free_sample(sample *read) {
  free(read->tokens);
  free(read->targets);
  free(read->text);
}

static nn_status decode(data_set *set, sample *read) {
  data_tokenizer *tokenizer = NULL;
  size_t bytes = 0, used = 0;
  const void *blob = data_set_tokenizer_blob(set, &bytes);
  if (strcmp(data_set_tokenizer_kind(set), "none") == 0)
    return NN_OK;
  NN_TRY(data_tokenizer_restore(data_set_tokenizer_kind(set), blob, bytes, &tokenizer));
  for (int32_t t = 0; t < read->length; t++) {
    data_tokenizer_piece(tokenizer, read->tokens[t], &bytes);
    used += bytes;
  }
  read->text = malloc(used + 1);
  used = 0;
  for (int32_t t = 0; t < read->length && read->text != NULL; t++) {
    const char *piece = data_tokenizer_piece(tokenizer, read->tokens[t], &bytes);
    memcpy(read->text + used, piece, bytes);
    used += bytes;
  }
  data_tokenizer_free(tokenizer);
  if (read->text == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a sample");
  read->text[data_utf8_whole(read->text, used)] = '\0'; // tokens may end within a character
  return NN_OK;
}

static nn_status read_sample(data_set *set, int64_t tokens, sample *read) {
  data_loader *loader = NULL;
  nn_status status = NN_OK;
  int32_t length = (int32_t)tokens;
  read->tokens = calloc((size_t)length, sizeof *read->tokens);
  read->targets = calloc((size_t)length, sizeof *read->targets);
  if (read->tokens == NULL || read->targets == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a sample of %" PRId32 " tokens", length);
  NN_TRY(data_loader_create(set, DATA_SAMPLE_DOCUMENT, length, 0, false, &loader));
  NN_GOTO(status, done,
          data_loader_read(loader, 0, 1, read->tokens, read->targets, &read->length, NULL, NULL));
  status = decode(set, read);
done:
  data_loader_free(loader);
  return status;
}

static json_t *numbers(const int32_t *values, int32_t count) {
  json_t *list = json_array();
  for (int32_t i = 0; i < count; i++)
    json_array_append_new(list, json_integer(values[i]));
  return list;
}

static nn_status print_sample_json(const char *folder, const data_manifest *manifest, const sample *read) {
  json_t *object = set_object(folder, manifest);
  json_object_set_new(object, "tokens", numbers(read->tokens, read->length));
  json_object_set_new(object, "targets", numbers(read->targets, read->length));
  json_object_set_new(object, "text", read->text != NULL ? json_string(read->text) : json_null());
  return launch_print_json(object);
}

static void print_sample(const char *split, const sample *read) {
  printf("\nThe first document of '%s' begins:\n", split);
  if (read->text != NULL) {
    printf("%s\n", read->text);
    return;
  }
  for (int32_t t = 0; t < read->length; t++)
    if (read->targets[t] >= 0)
      printf("%" PRId32 "[%" PRId32 "] ", read->tokens[t], read->targets[t]);
    else
      printf("%" PRId32 " ", read->tokens[t]);
  printf("\n(a number in brackets is what the model must say there)\n");
}

nn_status launch_data_print_sample(const char *folder, const data_manifest *manifest, const char *split,
                                   int64_t tokens, bool json) {
  data_set *set = NULL;
  sample read = {0};
  nn_status status = NN_OK;
  NN_TRY(data_set_open(folder, split, &set));
  NN_GOTO(status, done, read_sample(set, tokens, &read));
  if (json) {
    status = print_sample_json(folder, manifest, &read);
  } else {
    print_set(folder, manifest);
    print_sample(split, &read);
  }
done:
  free_sample(&read);
  data_set_close(set);
  return status;
}
