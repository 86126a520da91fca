// One recorded case on a device: its tensors there, the operators, and how far the results are off.
#include <float.h> // DBL_MIN
#include <math.h>  // fabs, sqrt
#include <stdlib.h>
#include <string.h>

#include "launch/verify/case.h"
#include "nats/attention.h"

// Device memory of one case.
typedef struct {
  nn_device *device;
  const data_case *one;
  int64_t stride; // of a token in qkv: (H + 2 Hk) D
  int32_t chunks;
  nn_act *qkv, *d_qkv, *o, *d_o;
  float *lse, *logits, *dtypes;
  uint8_t *types;
  int32_t *expiry;
  nn_sums *sums;
} device_case;

// ---- host memory to and from the device's compute type ----

static uint16_t to_bf16(float value) { // to nearest even
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t value) {
  const uint32_t bits = (uint32_t)value << 16;
  float out;
  memcpy(&out, &bits, sizeof out);
  return out;
}

static nn_status upload_act(nn_device *device, nn_act *to, float *from, int64_t count) {
  if (nn_device_compute_type(device) == NN_BF16)
    for (int64_t i = 0; i < count; i++) {
      const uint16_t half = to_bf16(from[i]);
      memcpy((char *)from + 2 * i, &half, sizeof half); // never ahead of what is still to be read
    }
  NN_TRY(nn_device_upload(device, to, from, (size_t)count * nn_device_act_size(device)));
  return nn_device_sync(device); // `from` is the caller's again
}

static nn_status download_act(nn_device *device, float *to, const nn_act *from, int64_t count) {
  NN_TRY(nn_device_download(device, to, from, (size_t)count * nn_device_act_size(device)));
  NN_TRY(nn_device_sync(device));
  for (int64_t i = count - 1; i >= 0 && nn_device_compute_type(device) == NN_BF16; i--) {
    uint16_t half;
    memcpy(&half, (const char *)to + 2 * i, sizeof half);
    to[i] = from_bf16(half);
  }
  return NN_OK;
}

static nn_status host_memory(int64_t count, float **out) {
  *out = calloc((size_t)count, sizeof **out);
  return *out != NULL ? NN_OK : NN_FAIL(NN_ERR_MEMORY, "no memory for a case");
}

// ---- one case on the device ----

static void free_tensors(device_case *b) {
  void *all[] = {b->qkv, b->d_qkv, b->o, b->d_o, b->lse, b->logits, b->dtypes, b->types, b->expiry, b->sums};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    nn_device_free(b->device, all[i]);
}

static nn_status allocate_tensors(device_case *b) {
  const data_case *one = b->one;
  const int64_t tokens = one->length, queries = tokens * one->heads, keys = tokens * one->kv_heads;
  const size_t act = nn_device_act_size(b->device);
  const struct {
    void *place;
    int64_t count;
    size_t size;
  } wanted[] = {
      {&b->qkv, tokens * b->stride, act},     {&b->d_qkv, tokens * b->stride, act},
      {&b->o, queries * one->head_size, act}, {&b->d_o, queries * one->head_size, act},
      {&b->lse, queries, sizeof(float)},      {&b->logits, keys * 3, sizeof(float)},
      {&b->dtypes, keys * 3, sizeof(float)},  {&b->types, keys, sizeof(uint8_t)},
      {&b->expiry, keys, sizeof(int32_t)},    {&b->sums, 1, sizeof(nn_sums)},
  };
  for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
    void *memory;
    NN_TRY(nn_device_alloc(b->device, (size_t)wanted[i].count * wanted[i].size, "a case", &memory));
    memcpy(wanted[i].place, &memory, sizeof memory);
  }
  return NN_OK;
}

// to[t, first + h, d] = from[h, t, d]
static void interleave(float *to, int64_t stride, int32_t first, const float *from, int32_t heads,
                       const data_case *one) {
  const int64_t size = one->head_size;
  for (int64_t h = 0; h < heads; h++)
    for (int64_t t = 0; t < one->length; t++)
      memcpy(to + t * stride + (first + h) * size, from + (h * one->length + t) * size,
             (size_t)size * sizeof(float));
}

static nn_status load_inputs(const device_case *b) {
  const data_case *one = b->one;
  const int64_t dense = (int64_t)one->heads * one->head_size;
  float *rows;
  NN_TRY(host_memory(one->length * b->stride, &rows));
  interleave(rows, b->stride, 0, one->q, one->heads, one);
  interleave(rows, b->stride, one->heads, one->k, one->kv_heads, one);
  interleave(rows, b->stride, one->heads + one->kv_heads, one->v, one->kv_heads, one);
  nn_status status = upload_act(b->device, b->qkv, rows, one->length * b->stride);
  if (status == NN_OK) {
    interleave(rows, dense, 0, one->d_o, one->heads, one);
    status = upload_act(b->device, b->d_o, rows, one->length * dense);
  }
  free(rows);
  return status;
}

// The types of the case by way of logits, so that the operator which turns types into a mask is checked too.
static nn_status choose_types(const device_case *b, const char *path) {
  const data_case *one = b->one;
  const int64_t keys = (int64_t)one->length * one->kv_heads, chunks = (int64_t)b->chunks * one->kv_heads;
  float *logits;
  NN_TRY(host_memory(keys * 3, &logits));
  for (int64_t h = 0; h < one->kv_heads; h++)
    for (int64_t t = 0; t < one->length; t++)
      logits[(t * one->kv_heads + h) * 3 + one->types[h * b->chunks + t / one->chunk]] = 1;
  nn_status status = nn_device_upload(b->device, b->logits, logits, (size_t)keys * 3 * sizeof(float));
  uint8_t *chosen = (uint8_t *)logits;
  if (status == NN_OK)
    status = nats_types_forward(b->device, &(nats_types){.batch = 1,
                                                         .length = one->length,
                                                         .kv_heads = one->kv_heads,
                                                         .chunk = one->chunk,
                                                         .window = one->window,
                                                         .kind = NATS_ATTENTION_NATS,
                                                         .mode = NATS_TYPES_ARGMAX,
                                                         .logits = b->logits,
                                                         .types = b->types,
                                                         .expiry = b->expiry});
  NN_KEEP(status, nn_device_sync(b->device)); // before logits are overwritten
  NN_KEEP(status, nn_device_download(b->device, chosen, b->types, (size_t)chunks));
  NN_KEEP(status, nn_device_sync(b->device));
  for (int64_t h = 0; h < one->kv_heads && status == NN_OK; h++)
    if (chosen[h * b->chunks] != one->types[h * b->chunks])
      status =
          NN_FAIL(NN_ERR_INPUT, "%s: case '%s': types[%d, 0] is %d, expected 0: the first is always global",
                  path, one->name, (int)h, one->types[h * b->chunks]);
  free(logits);
  return status;
}

static nats_attention attention_of(const device_case *b, float clip) {
  const data_case *one = b->one;
  const int64_t k = (int64_t)one->heads * one->head_size;
  const int64_t v = k + (int64_t)one->kv_heads * one->head_size;
  return (nats_attention){.batch = 1,
                          .length = one->length,
                          .heads = one->heads,
                          .kv_heads = one->kv_heads,
                          .head_size = one->head_size,
                          .scale = (float)(1 / sqrt(one->head_size)),
                          .q = b->qkv,
                          .k = nn_act_at(b->device, b->qkv, k),
                          .v = nn_act_at(b->device, b->qkv, v),
                          .token_stride = b->stride,
                          .expiry = b->expiry,
                          .o = b->o,
                          .lse = b->lse,
                          .d_o = b->d_o,
                          .dq = b->d_qkv,
                          .dk = nn_act_at(b->device, b->d_qkv, k),
                          .dv = nn_act_at(b->device, b->d_qkv, v),
                          .chunk = one->chunk,
                          .window = one->window,
                          .types = b->types,
                          .dtypes = b->dtypes,
                          .type_grad_clip = clip,
                          .type_grad_rows = 1};
}

// ---- comparing ----

// The largest difference over the largest expected entry. found[h, t, d] lies at h * head + t * token + d.
static double difference(const float *found, int64_t head, int64_t token, const double *expected,
                         int32_t heads, int32_t tokens, int32_t size) {
  double largest = 0, most = 0;
  for (int64_t h = 0; h < heads; h++)
    for (int64_t t = 0; t < tokens; t++)
      for (int64_t d = 0; d < size; d++) {
        const double want = expected[(h * tokens + t) * size + d];
        const double off = fabs((double)found[h * head + t * token + d] - want);
        largest = fmax(largest, fabs(want));
        most = off <= most ? most : isnan(off) ? INFINITY : off;
      }
  return most == 0 ? 0 : most / fmax(largest, DBL_MIN);
}

static nn_status compare_outputs(const device_case *b, double *errors) {
  const data_case *one = b->one;
  const int32_t length = one->length, size = one->head_size;
  const int64_t dense = (int64_t)one->heads * size;
  float *found;
  NN_TRY(host_memory(length * b->stride, &found)); // the largest of all tensors
  nn_status status = download_act(b->device, found, b->o, length * dense);
  errors[LAUNCH_VERIFY_O] = difference(found, size, dense, one->o, one->heads, length, size);
  NN_KEEP(status,
          nn_device_download(b->device, found, b->lse, (size_t)length * (size_t)one->heads * sizeof *found));
  NN_KEEP(status, nn_device_sync(b->device));
  errors[LAUNCH_VERIFY_LSE] = difference(found, length, 1, one->lse, one->heads, length, 1);
  NN_KEEP(status, download_act(b->device, found, b->d_qkv, length * b->stride));
  const float *dk = found + dense, *dv = dk + (int64_t)one->kv_heads * size;
  errors[LAUNCH_VERIFY_DQ] = difference(found, size, b->stride, one->dq, one->heads, length, size);
  errors[LAUNCH_VERIFY_DK] = difference(dk, size, b->stride, one->dk, one->kv_heads, length, size);
  errors[LAUNCH_VERIFY_DV] = difference(dv, size, b->stride, one->dv, one->kv_heads, length, size);
  free(found);
  return status;
}

static nn_status compare_types(const device_case *b, const double *expected, double *error) {
  const data_case *one = b->one;
  const int64_t count = (int64_t)one->kv_heads * b->chunks * 3;
  float *found;
  NN_TRY(host_memory(count, &found));
  nn_status status = nn_device_download(b->device, found, b->dtypes, (size_t)count * sizeof *found);
  NN_KEEP(status, nn_device_sync(b->device));
  *error = difference(found, (int64_t)b->chunks * 3, 3, expected, one->kv_heads, b->chunks, 3);
  free(found);
  return status;
}

static nn_status compare_mask(const device_case *b, double *errors) {
  const data_case *one = b->one;
  const int64_t keys = (int64_t)one->kv_heads * one->length;
  nn_sums sums = {0};
  int32_t *expiry = calloc((size_t)keys, sizeof *expiry);
  if (expiry == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "no memory for a case");
  nn_status status = nn_device_upload(b->device, b->sums, &sums, sizeof sums);
  NN_KEEP(status, nats_kv_cost_forward(b->device, &(nats_kv_cost){.batch = 1,
                                                                  .length = one->length,
                                                                  .kv_heads = one->kv_heads,
                                                                  .chunk = one->chunk,
                                                                  .window = one->window,
                                                                  .types = b->types,
                                                                  .expiry = b->expiry,
                                                                  .sums = b->sums}));
  NN_KEEP(status, nn_device_download(b->device, &sums, b->sums, sizeof sums));
  NN_KEEP(status, nn_device_download(b->device, expiry, b->expiry, (size_t)keys * sizeof *expiry));
  NN_KEEP(status, nn_device_sync(b->device));
  errors[LAUNCH_VERIFY_KV_FRACTION] = fabs(sums.visible / sums.causal - one->kv_fraction) / one->kv_fraction;
  errors[LAUNCH_VERIFY_LIVE] = 0;
  for (int64_t h = 0; h < one->kv_heads; h++)
    for (int64_t i = 0; i < one->length; i++) {
      int64_t live = 0;
      for (int64_t j = 0; j <= i; j++)
        live += expiry[h * one->length + j] >= i;
      const int64_t expected = one->live[h * one->length + i];
      errors[LAUNCH_VERIFY_LIVE] =
          fmax(errors[LAUNCH_VERIFY_LIVE], fabs((double)(live - expected)) / fmax(1, (double)expected));
    }
  free(expiry);
  return status;
}

nn_status launch_verify_case(nn_device *device, const char *path, const data_case *one, double *errors) {
  device_case b = {.device = device,
                   .one = one,
                   .stride = ((int64_t)one->heads + 2 * one->kv_heads) * one->head_size,
                   .chunks = nats_chunks(one->length, one->chunk)};
  nn_status status;
  NN_GOTO(status, done, allocate_tensors(&b));
  NN_GOTO(status, done, load_inputs(&b));
  NN_GOTO(status, done, choose_types(&b, path));
  NN_GOTO(status, done, compare_mask(&b, errors));
  nats_attention op = attention_of(&b, 0);
  NN_GOTO(status, done, nats_attention_forward(device, &op));
  NN_GOTO(status, done, nats_attention_backward(device, &op));
  NN_GOTO(status, done, compare_outputs(&b, errors));
  NN_GOTO(status, done, compare_types(&b, one->dtypes, &errors[LAUNCH_VERIFY_DTYPES]));
  op = attention_of(&b, 1);
  NN_GOTO(status, done, nats_attention_backward(device, &op));
  NN_GOTO(status, done, compare_types(&b, one->dtypes_clip1, &errors[LAUNCH_VERIFY_DTYPES_CLIP1]));
done:
  free_tensors(&b);
  return status;
}
