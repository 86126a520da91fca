#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "data/files.h"
#include "data/hdf5.h"
#include "data/shard.h"
#include "data/shard_format.h" // DATA_SHARD_FORMAT

// Readers take whole chunks and keep what they want to see again (data/block_cache.h): none for HDF5 to keep.
enum { CACHE_BYTES = 0, CACHE_SLOTS = 1 };

struct data_shard {
  char *path;
  data_format format;
  data_counts counts;
  hid_t file, tokens, labels, documents; // -1: not open
};

nn_status data_format_same(const char *path, const data_format *found, const data_format *expected) {
  if (found->vocab != expected->vocab)
    return NN_FAIL(NN_ERR_INPUT, "%s: the vocabulary is %" PRId32 ", expected %" PRId32, path, found->vocab,
                   expected->vocab);
  if (found->end_of_text != expected->end_of_text)
    return NN_FAIL(NN_ERR_INPUT, "%s: end_of_text is %" PRId32 ", expected %" PRId32, path,
                   found->end_of_text, expected->end_of_text);
  if (found->labelled != expected->labelled)
    return NN_FAIL(NN_ERR_INPUT, "%s: %s labels, expected %s", path, found->labelled ? "has" : "has no",
                   expected->labelled ? "some" : "none");
  if (strcmp(found->tokenizer_kind, expected->tokenizer_kind) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: the tokenizer is '%s', expected '%s'", path, found->tokenizer_kind,
                   expected->tokenizer_kind);
  if (found->tokenizer_hash != expected->tokenizer_hash)
    return NN_FAIL(NN_ERR_INPUT, "%s: the tokenizer's hash is %016" PRIx64 ", expected %016" PRIx64, path,
                   found->tokenizer_hash, expected->tokenizer_hash);
  return NN_OK;
}

static nn_status read_int(const data_shard *shard, const char *name, int64_t least, int64_t most,
                          int64_t *out) {
  nn_status status = NN_OK;
  int64_t value = 0;
  hid_t attribute = H5Aopen(shard->file, name, H5P_DEFAULT);
  if (attribute < 0 || H5Aread(attribute, H5T_NATIVE_INT64, &value) < 0)
    status = DATA_HDF5_FAIL(shard->path, name);
  else if (value < least || value > most)
    status = NN_FAIL(NN_ERR_INPUT, "%s: the attribute '%s' is %" PRId64, shard->path, name, value);
  H5Aclose(attribute);
  *out = value;
  return status;
}

static nn_status read_text(const data_shard *shard, const char *name, char *out, size_t room) {
  nn_status status = NN_OK;
  hid_t attribute = H5Aopen(shard->file, name, H5P_DEFAULT), type = -1;
  memset(out, 0, room);
  if (attribute < 0 || (type = H5Aget_type(attribute)) < 0 || H5Tget_class(type) != H5T_STRING)
    NN_GOTO(status, done, DATA_HDF5_FAIL(shard->path, name));
  if (H5Tis_variable_str(type) > 0 || H5Tget_size(type) > room)
    NN_GOTO(status, done,
            NN_FAIL(NN_ERR_INPUT, "%s: the attribute '%s' is no short text", shard->path, name));
  if (H5Aread(attribute, type, out) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(shard->path, name));
  out[room - 1] = '\0';
done:
  H5Tclose(type);
  H5Aclose(attribute);
  return status;
}

static nn_status read_attributes(data_shard *shard) {
  char format[32], hash[32];
  int64_t version = 0, vocab = 0, end_of_text = 0, labelled = 0;
  NN_TRY(read_text(shard, "format", format, sizeof format));
  if (strcmp(format, DATA_SHARD_FORMAT) != 0)
    return NN_FAIL(NN_ERR_INPUT, "%s: the attribute 'format' is '%s', not '%s'", shard->path, format,
                   DATA_SHARD_FORMAT);
  NN_TRY(read_int(shard, "format_version", INT64_MIN, INT64_MAX, &version));
  if (version != DATA_SHARD_VERSION)
    return NN_FAIL(NN_ERR_INPUT, "%s: format version %" PRId64 "; this program reads version %d", shard->path,
                   version, DATA_SHARD_VERSION);
  NN_TRY(read_int(shard, "vocab", 1, INT32_MAX, &vocab));
  NN_TRY(read_int(shard, "end_of_text", -1, vocab - 1, &end_of_text));
  NN_TRY(read_int(shard, "labelled", 0, 1, &labelled));
  NN_TRY(read_text(shard, "tokenizer_kind", shard->format.tokenizer_kind, DATA_KIND_LENGTH));
  NN_TRY(read_text(shard, "tokenizer_hash", hash, sizeof hash));
  if (!data_hash_parse(hash, &shard->format.tokenizer_hash))
    return NN_FAIL(NN_ERR_INPUT, "%s: the attribute 'tokenizer_hash' is '%s', not 16 hexadecimal digits",
                   shard->path, hash);
  shard->format.vocab = (int32_t)vocab;
  shard->format.end_of_text = (int32_t)end_of_text;
  shard->format.labelled = labelled != 0;
  NN_TRY(read_int(shard, "tokens", 0, INT64_MAX, &shard->counts.tokens));
  NN_TRY(read_int(shard, "documents", 0, INT64_MAX, &shard->counts.documents));
  return read_int(shard, "source_bytes", 0, INT64_MAX, &shard->counts.source_bytes);
}

// Opens a data set and checks its shape: [rows], or [rows, columns] where columns is not 0.
static nn_status open_dataset(const data_shard *shard, const char *name, int64_t rows, hsize_t columns,
                              hid_t *out) {
  nn_status status = NN_OK;
  hsize_t shape[2] = {0, 0};
  hid_t space = -1, access = H5Pcreate(H5P_DATASET_ACCESS);
  if (access < 0 || H5Pset_chunk_cache(access, CACHE_SLOTS, CACHE_BYTES, H5D_CHUNK_CACHE_W0_DEFAULT) < 0 ||
      (*out = H5Dopen2(shard->file, name, access)) < 0 || (space = H5Dget_space(*out)) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(shard->path, name));
  int expected = columns > 0 ? 2 : 1;
  if (H5Sget_simple_extent_ndims(space) != expected ||
      H5Sget_simple_extent_dims(space, shape, NULL) != expected || shape[0] != (hsize_t)rows ||
      (columns > 0 && shape[1] != columns))
    status = NN_FAIL(NN_ERR_INPUT, "%s: '%s' does not have the shape that the attributes promise",
                     shard->path, name);
done:
  H5Sclose(space);
  H5Pclose(access);
  return status;
}

nn_status data_shard_open(const char *path, data_shard **out) {
  nn_status status = NN_OK;
  data_hdf5_quiet();
  data_shard *shard = calloc(1, sizeof *shard);
  if (shard == NULL || (shard->path = strdup(path)) == NULL) {
    free(shard);
    return NN_FAIL(NN_ERR_MEMORY, "%s: no memory to read it", path);
  }
  shard->file = shard->tokens = shard->labels = shard->documents = -1;
  shard->file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
  if (shard->file < 0)
    NN_GOTO(status, fail, DATA_HDF5_FAIL(path, "is no HDF5 file that can be opened"));
  NN_GOTO(status, fail, read_attributes(shard));
  NN_GOTO(status, fail, open_dataset(shard, "tokens", shard->counts.tokens, 0, &shard->tokens));
  NN_GOTO(status, fail, open_dataset(shard, "documents", shard->counts.documents, 2, &shard->documents));
  if (shard->format.labelled)
    NN_GOTO(status, fail, open_dataset(shard, "labels", shard->counts.tokens, 0, &shard->labels));
  *out = shard;
  return NN_OK;
fail:
  data_shard_close(shard);
  return status;
}

void data_shard_close(data_shard *shard) {
  if (shard == NULL)
    return;
  const hid_t datasets[] = {shard->tokens, shard->labels, shard->documents};
  for (size_t i = 0; i < sizeof datasets / sizeof *datasets; i++)
    if (datasets[i] >= 0)
      H5Dclose(datasets[i]);
  if (shard->file >= 0)
    H5Fclose(shard->file);
  free(shard->path);
  free(shard);
}

const data_format *data_shard_format(const data_shard *shard) {
  return &shard->format;
}

const data_counts *data_shard_counts(const data_shard *shard) {
  return &shard->counts;
}

static nn_status read_rows(const data_shard *shard, const char *name, hid_t dataset, hid_t type,
                           int64_t total, int64_t first, int64_t rows, hsize_t columns, void *out) {
  if (dataset < 0 || first < 0 || rows < 0 || first > total - rows)
    return NN_FAIL(NN_ERR_INTERNAL, "%s: '%s' has no rows %" PRId64 " to %" PRId64, shard->path, name, first,
                   first + rows);
  if (rows == 0)
    return NN_OK;
  nn_status status = NN_OK;
  hsize_t start[2] = {(hsize_t)first, 0}, count[2] = {(hsize_t)rows, columns};
  hid_t memory = H5Screate_simple(columns > 0 ? 2 : 1, count, NULL), source = H5Dget_space(dataset);
  if (memory < 0 || source < 0 || H5Sselect_hyperslab(source, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
      H5Dread(dataset, type, memory, source, H5P_DEFAULT, out) < 0)
    status = DATA_HDF5_FAIL(shard->path, name);
  H5Sclose(source);
  H5Sclose(memory);
  return status;
}

nn_status data_shard_tokens(data_shard *shard, int64_t first, int64_t count, int32_t *out) {
  return read_rows(shard, "tokens", shard->tokens, H5T_NATIVE_INT32, shard->counts.tokens, first, count, 0,
                   out);
}

nn_status data_shard_labels(data_shard *shard, int64_t first, int64_t count, int32_t *out) {
  return read_rows(shard, "labels", shard->labels, H5T_NATIVE_INT32, shard->counts.tokens, first, count, 0,
                   out);
}

nn_status data_shard_documents(data_shard *shard, int64_t first, int64_t count, int64_t *out) {
  return read_rows(shard, "documents", shard->documents, H5T_NATIVE_INT64, shard->counts.documents, first,
                   count, 2, out);
}

nn_status data_shard_piece_bytes(data_shard *shard, int32_t *out) {
  hid_t dataset = -1;
  memset(out, 0, (size_t)shard->format.vocab * sizeof *out);
  if (strcmp(shard->format.tokenizer_kind, "none") == 0)
    return NN_OK;
  nn_status status = open_dataset(shard, "piece_bytes", shard->format.vocab, 0, &dataset);
  if (status == NN_OK && H5Dread(dataset, H5T_NATIVE_INT32, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) < 0)
    status = DATA_HDF5_FAIL(shard->path, "piece_bytes");
  if (dataset >= 0)
    H5Dclose(dataset);
  return status;
}

nn_status data_shard_tokenizer(data_shard *shard, void **blob, size_t *bytes) {
  *blob = NULL;
  *bytes = 0;
  htri_t there = H5Lexists(shard->file, "tokenizer", H5P_DEFAULT);
  if (there == 0)
    return NN_OK;
  nn_status status = NN_OK;
  hid_t dataset = H5Dopen2(shard->file, "tokenizer", H5P_DEFAULT), space = -1;
  hssize_t count = -1;
  if (there < 0 || dataset < 0 || (space = H5Dget_space(dataset)) < 0 ||
      (count = H5Sget_simple_extent_npoints(space)) < 0)
    NN_GOTO(status, done, DATA_HDF5_FAIL(shard->path, "tokenizer"));
  *blob = malloc((size_t)count + 1);
  if (*blob == NULL)
    NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory for its tokenizer", shard->path));
  if (H5Dread(dataset, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, *blob) < 0) {
    status = DATA_HDF5_FAIL(shard->path, "tokenizer");
    free(*blob);
    *blob = NULL;
    goto done;
  }
  *bytes = (size_t)count;
done:
  H5Sclose(space);
  H5Dclose(dataset);
  return status;
}
