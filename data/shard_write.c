#include <stdlib.h>
#include <string.h>

#include "data/files.h" // data_hash_format
#include "data/shard.h"
#include "data/shard_format.h"

// Tokens of one HDF5 chunk: what one checksum covers and one random read costs.
enum { TOKEN_CHUNK = 1 << 12, DOCUMENT_CHUNK = 1 << 10, BLOB_CHUNK = 1 << 16 };
enum { TOKEN_BUFFER = 64 * TOKEN_CHUNK, DOCUMENT_BUFFER = 4 * DOCUMENT_CHUNK };

struct data_shard_writer {
  char *path;
  data_format format;
  hid_t file, tokens, labels, documents; // -1: not open
  data_counts counts;
  int64_t document_start;
  int32_t *token_buffer, *label_buffer; // [TOKEN_BUFFER]
  int64_t *document_buffer;             // [DOCUMENT_BUFFER, 2]
  int64_t buffered_tokens, buffered_documents;
};

void data_format_of(data_format *format, const data_tokenizer *tokenizer) {
  memset(format, 0, sizeof *format);
  format->vocab = data_tokenizer_vocab(tokenizer);
  format->end_of_text = data_tokenizer_end_of_text(tokenizer);
  format->tokenizer_hash = data_tokenizer_hash(tokenizer);
  strncpy(format->tokenizer_kind, data_tokenizer_kind(tokenizer), DATA_KIND_LENGTH - 1);
}

void data_counts_add(data_counts *sum, const data_counts *more) {
  sum->tokens += more->tokens;
  sum->documents += more->documents;
  sum->source_bytes += more->source_bytes;
}

// A data set [rows] or [rows, columns] in chunks of `chunk` rows with a checksum each; grows when `rows` is
// 0.
static nn_status create_dataset(const data_shard_writer *writer, const char *name, hid_t type, hsize_t rows,
                                hsize_t columns, hsize_t chunk, hid_t *out) {
  nn_status status = NN_OK;
  int dimensions = columns > 0 ? 2 : 1;
  hsize_t now[2] = {rows, columns}, most[2] = {rows > 0 ? rows : H5S_UNLIMITED, columns};
  hsize_t chunks[2] = {rows > 0 && rows < chunk ? rows : chunk, columns};
  hid_t space = H5Screate_simple(dimensions, now, most), creation = H5Pcreate(H5P_DATASET_CREATE);
  if (space < 0 || creation < 0 || H5Pset_obj_track_times(creation, false) < 0 ||
      H5Pset_chunk(creation, dimensions, chunks) < 0 || H5Pset_fletcher32(creation) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(writer->path, name));
  *out = H5Dcreate2(writer->file, name, type, space, H5P_DEFAULT, creation, H5P_DEFAULT);
  if (*out < 0)
    status = DATA_HDF5_FAIL(writer->path, name);
done:
  H5Pclose(creation);
  H5Sclose(space);
  return status;
}

// Appends `rows` rows behind the `before` rows that a growing data set has.
static nn_status append_rows(const data_shard_writer *writer, const char *name, hid_t dataset, hid_t type,
                             int64_t before, int64_t rows, hsize_t columns, const void *values) {
  nn_status status = NN_OK;
  int dimensions = columns > 0 ? 2 : 1;
  hsize_t total[2] = {(hsize_t)(before + rows), columns}, start[2] = {(hsize_t)before, 0};
  hsize_t count[2] = {(hsize_t)rows, columns};
  hid_t memory = H5Screate_simple(dimensions, count, NULL), target = -1;
  if (memory < 0 || H5Dset_extent(dataset, total) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(writer->path, name));
  target = H5Dget_space(dataset);
  if (target < 0 || H5Sselect_hyperslab(target, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
      H5Dwrite(dataset, type, memory, target, H5P_DEFAULT, values) < 0)
    status = DATA_HDF5_FAIL(writer->path, name);
done:
  H5Sclose(target);
  H5Sclose(memory);
  return status;
}

// A whole data set that does not grow.
static nn_status write_dataset(const data_shard_writer *writer, const char *name, hid_t file_type,
                               hid_t memory_type, const void *values, size_t count) {
  hid_t dataset = -1;
  NN_TRY(create_dataset(writer, name, file_type, count, 0, BLOB_CHUNK, &dataset));
  nn_status status = NN_OK;
  if (H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, values) < 0)
    status = DATA_HDF5_FAIL(writer->path, name);
  if (H5Dclose(dataset) < 0)
    NN_KEEP(status, DATA_HDF5_FAIL(writer->path, name));
  return status;
}

// What the tokens mean, so that a shard can be read without anything else.
static nn_status write_tokenizer(const data_shard_writer *writer, const data_tokenizer *tokenizer) {
  size_t bytes = 0;
  const void *blob = data_tokenizer_blob(tokenizer, &bytes);
  if (bytes > 0)
    NN_TRY(write_dataset(writer, "tokenizer", H5T_STD_U8LE, H5T_NATIVE_UINT8, blob, bytes));
  size_t vocab = (size_t)writer->format.vocab;
  uint16_t *lengths = malloc(vocab * sizeof *lengths);
  if (lengths == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for %zu piece lengths", writer->path, vocab);
  for (size_t i = 0; i < vocab; i++) {
    size_t piece = 0;
    data_tokenizer_piece(tokenizer, (int32_t)i, &piece);
    lengths[i] = (uint16_t)(piece < UINT16_MAX ? piece : UINT16_MAX);
  }
  nn_status status = write_dataset(writer, "piece_bytes", H5T_STD_U16LE, H5T_NATIVE_UINT16, lengths, vocab);
  free(lengths);
  return status;
}

nn_status data_format_write(const char *path, hid_t file, const char *what, const data_format *format) {
  char hash[DATA_HASH_DIGITS + 1];
  data_hash_format(format->tokenizer_hash, hash);
  NN_TRY(data_hdf5_put_text(path, file, "format", what));
  NN_TRY(data_hdf5_put_int(path, file, "format_version", DATA_SHARD_VERSION));
  NN_TRY(data_hdf5_put_int(path, file, "vocab", format->vocab));
  NN_TRY(data_hdf5_put_int(path, file, "end_of_text", format->end_of_text));
  NN_TRY(data_hdf5_put_int(path, file, "labelled", format->labelled));
  NN_TRY(data_hdf5_put_text(path, file, "tokenizer_kind", format->tokenizer_kind));
  return data_hdf5_put_text(path, file, "tokenizer_hash", hash);
}

nn_status data_counts_write(const char *path, hid_t file, const data_counts *counts) {
  NN_TRY(data_hdf5_put_int(path, file, "tokens", counts->tokens));
  NN_TRY(data_hdf5_put_int(path, file, "documents", counts->documents));
  return data_hdf5_put_int(path, file, "source_bytes", counts->source_bytes);
}

static nn_status allocate(const char *path, const data_format *format, data_shard_writer **out) {
  data_shard_writer *writer = calloc(1, sizeof *writer);
  if (writer == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to write it", path);
  writer->file = writer->tokens = writer->labels = writer->documents = -1;
  writer->format = *format;
  writer->path = strdup(path);
  writer->token_buffer = malloc(TOKEN_BUFFER * sizeof *writer->token_buffer);
  writer->label_buffer = malloc(TOKEN_BUFFER * sizeof *writer->label_buffer);
  writer->document_buffer = malloc(2 * DOCUMENT_BUFFER * sizeof *writer->document_buffer);
  if (!writer->path || !writer->token_buffer || !writer->label_buffer || !writer->document_buffer) {
    data_shard_writer_free(writer);
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its buffers", path);
  }
  *out = writer;
  return NN_OK;
}

nn_status data_shard_create(const char *path, const data_format *format, const data_tokenizer *tokenizer,
                            data_shard_writer **out) {
  data_shard_writer *writer = NULL;
  nn_status status = NN_OK;
  NN_TRY(allocate(path, format, &writer));
  NN_GOTO(status, fail, data_hdf5_create(path, &writer->file));
  hid_t type = data_token_type(format);
  NN_GOTO(status, fail, data_format_write(path, writer->file, DATA_SHARD_FORMAT, format));
  if (tokenizer != NULL)
    NN_GOTO(status, fail, write_tokenizer(writer, tokenizer));
  NN_GOTO(status, fail, create_dataset(writer, "tokens", type, 0, 0, TOKEN_CHUNK, &writer->tokens));
  NN_GOTO(status, fail,
          create_dataset(writer, "documents", H5T_STD_I64LE, 0, 2, DOCUMENT_CHUNK, &writer->documents));
  if (format->labelled)
    NN_GOTO(status, fail,
            create_dataset(writer, "labels", H5T_STD_I32LE, 0, 0, TOKEN_CHUNK, &writer->labels));
  *out = writer;
  return NN_OK;
fail:
  data_shard_writer_free(writer);
  return status;
}

static nn_status flush_tokens(data_shard_writer *writer) {
  int64_t rows = writer->buffered_tokens, before = writer->counts.tokens - rows;
  if (rows == 0)
    return NN_OK;
  NN_TRY(
      append_rows(writer, "tokens", writer->tokens, H5T_NATIVE_INT32, before, rows, 0, writer->token_buffer));
  if (writer->format.labelled)
    NN_TRY(append_rows(writer, "labels", writer->labels, H5T_NATIVE_INT32, before, rows, 0,
                       writer->label_buffer));
  writer->buffered_tokens = 0;
  return NN_OK;
}

static nn_status flush_documents(data_shard_writer *writer) {
  int64_t rows = writer->buffered_documents, before = writer->counts.documents - rows;
  if (rows == 0)
    return NN_OK;
  NN_TRY(append_rows(writer, "documents", writer->documents, H5T_NATIVE_INT64, before, rows, 2,
                     writer->document_buffer));
  writer->buffered_documents = 0;
  return NN_OK;
}

nn_status data_shard_append(data_shard_writer *writer, const int32_t *tokens, const int32_t *labels,
                            int64_t count) {
  while (count > 0) {
    int64_t room = TOKEN_BUFFER - writer->buffered_tokens, take = count < room ? count : room;
    memcpy(writer->token_buffer + writer->buffered_tokens, tokens, (size_t)take * sizeof *tokens);
    if (writer->format.labelled)
      memcpy(writer->label_buffer + writer->buffered_tokens, labels, (size_t)take * sizeof *labels);
    writer->buffered_tokens += take;
    writer->counts.tokens += take;
    tokens += take;
    labels = labels != NULL ? labels + take : NULL;
    count -= take;
    if (writer->buffered_tokens == TOKEN_BUFFER)
      NN_TRY(flush_tokens(writer));
  }
  return NN_OK;
}

nn_status data_shard_end_document(data_shard_writer *writer, int64_t source_bytes) {
  int64_t *row = writer->document_buffer + 2 * writer->buffered_documents++;
  row[0] = writer->document_start;
  row[1] = source_bytes;
  writer->document_start = writer->counts.tokens;
  writer->counts.documents++;
  writer->counts.source_bytes += source_bytes;
  return writer->buffered_documents == DOCUMENT_BUFFER ? flush_documents(writer) : NN_OK;
}

// Closes the data sets; fails when HDF5 could not write something that it still held.
static nn_status close_datasets(data_shard_writer *writer) {
  herr_t worst = 0;
  hid_t *const datasets[] = {&writer->tokens, &writer->labels, &writer->documents};
  for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++) {
    if (*datasets[i] >= 0 && H5Dclose(*datasets[i]) < 0)
      worst = -1;
    *datasets[i] = -1;
  }
  return worst < 0 ? DATA_HDF5_FAIL(writer->path, "cannot write the end of the data") : NN_OK;
}

nn_status data_shard_finish(data_shard_writer *writer, data_counts *counts) {
  NN_TRY(flush_tokens(writer));
  NN_TRY(flush_documents(writer));
  NN_TRY(data_counts_write(writer->path, writer->file, &writer->counts));
  NN_TRY(close_datasets(writer));
  hid_t file = writer->file;
  writer->file = -1;
  *counts = writer->counts;
  return data_hdf5_finish(writer->path, file);
}

void data_shard_writer_free(data_shard_writer *writer) {
  if (writer == NULL)
    return;
  (void)close_datasets(writer); // an unfinished file is of no use: what failed before is what counts
  if (writer->file >= 0)
    H5Fclose(writer->file);
  free(writer->document_buffer);
  free(writer->label_buffer);
  free(writer->token_buffer);
  free(writer->path);
  free(writer);
}
