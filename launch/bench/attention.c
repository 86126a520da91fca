// natsformer bench attention: the time of attention alone, dense and under the mask of random token types.
// The same shapes and shares as benchmarks/peers/torch_attention.py.
#include <jansson.h> // --json
#include <math.h>    // sqrtf
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "launch/bench/bench.h"
#include "launch/bench/machine.h"
#include "launch/config/options.h"
#include "launch/machine/blas_core.h" // launch_set_threads
#include "launch/records/output_file.h"
#include "nats/attention.h"
#include "nn/log.h"
#include "nn/random.h"

typedef struct {
  const char *device, *precision;
  int32_t batch, heads, kv_heads, length, head_size; // B, H, Hk (0: H), T, D
  double globals, locals;                            // shares of tokens; the others are of type window
  int32_t window, rounds;
  int64_t seed;
  double tflops, gb_per_s; // ceilings of the device, 0: measure them
  bool json;
} bench_options;

// Times of one mask.
typedef struct {
  double visible; // pairs of query head, query and key
  double causal;
  double forward_ms;
  double backward_ms;       // no gradient of types
  double backward_types_ms; // with it; 0: the mask has no types
} measurement;

// ---- device memory ----

// All tensors of a run. [B, T, (H + 2 Hk) D] rows hold q, k and v.
typedef struct {
  nn_device *device;
  nn_act *qkv, *dqkv, *o, *d_o;
  float *lse;           // [B, H, T]
  float *logits;        // [B, T, Hk, 3]: 1 at the type that was drawn
  uint8_t *types;       // [B, Hk, T]
  int32_t *expiry;      // [B, Hk, T]
  float *dtypes;        // [B, Hk, T, 3]
  nn_sums *sums;        // pairs
  nats_attention op;    // over these
  nats_types choice;    // of types and expiry
  nats_kv_cost counter; // of pairs
} workbench;

static void close_bench(workbench *b) {
  void *const all[] = {b->qkv,    b->dqkv,  b->o,      b->d_o,    b->lse,
                       b->logits, b->types, b->expiry, b->dtypes, b->sums};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    nn_device_free(b->device, all[i]);
}

static nn_status draw_types(const workbench *b, const bench_options *o) {
  int64_t keys = (int64_t)o->batch * o->kv_heads * o->length;
  float *logits = calloc((size_t)keys, NATS_TYPES * sizeof *logits);
  if (logits == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for %lld types", (long long)keys);
  nn_random_key key = nn_random_key_make((uint64_t)o->seed, NN_RANDOM_TEST, 0, 0);
  for (int64_t i = 0; i < keys; i++) {
    uint32_t bits[4];
    nn_random_u32x4(key, 0, (uint64_t)i, bits);
    double u = (double)nn_random_uniform(bits[0]);
    nats_type type = u < o->globals ? NATS_GLOBAL : u < o->globals + o->locals ? NATS_LOCAL : NATS_WINDOW;
    logits[i * NATS_TYPES + type] = 1;
  }
  nn_status status =
      nn_device_upload(b->device, b->logits, logits, (size_t)keys * NATS_TYPES * sizeof *logits);
  free(logits);
  return status;
}

static nn_status take_memory(workbench *b, const bench_options *o) {
  nn_device *device = b->device;
  int64_t tokens = (int64_t)o->batch * o->length, keys = tokens * o->kv_heads;
  int64_t queries = tokens * o->heads * o->head_size;
  int64_t packed = tokens * (o->heads + 2 * o->kv_heads) * o->head_size;
  uint64_t seed = (uint64_t)o->seed;
  NN_TRY(launch_bench_normal(device, packed, 1.0f, seed, &b->qkv));
  NN_TRY(launch_bench_normal(device, queries, 1.0f, seed + 1, &b->d_o));
  size_t act = nn_device_act_size(device), one = sizeof(float);
  const struct {
    void **memory;
    size_t bytes;
    const char *what;
  } others[] = {
      {&b->dqkv, (size_t)packed * act, "gradients of q, k and v"},
      {&b->o, (size_t)queries * act, "outputs"},
      {(void **)&b->lse, (size_t)(tokens * o->heads) * one, "sums of exponentials"},
      {(void **)&b->logits, (size_t)keys * NATS_TYPES * one, "logits"},
      {(void **)&b->types, (size_t)keys, "types"},
      {(void **)&b->expiry, (size_t)keys * sizeof *b->expiry, "expiries"},
      {(void **)&b->dtypes, (size_t)keys * NATS_TYPES * one, "gradients of types"},
      {(void **)&b->sums, sizeof *b->sums, "sums"},
  };
  for (size_t i = 0; i < sizeof others / sizeof *others; i++)
    NN_TRY(nn_device_alloc(device, others[i].bytes, others[i].what, others[i].memory));
  return draw_types(b, o);
}

static void fill_operators(workbench *b, const bench_options *o) {
  int64_t k_at = (int64_t)o->heads * o->head_size, v_at = k_at + (int64_t)o->kv_heads * o->head_size;
  b->op = (nats_attention){.batch = o->batch,
                           .length = o->length,
                           .heads = o->heads,
                           .kv_heads = o->kv_heads,
                           .head_size = o->head_size,
                           .scale = 1.0f / sqrtf((float)o->head_size),
                           .q = b->qkv,
                           .k = nn_act_at(b->device, b->qkv, k_at),
                           .v = nn_act_at(b->device, b->qkv, v_at),
                           .token_stride = v_at + (int64_t)o->kv_heads * o->head_size,
                           .expiry = b->expiry,
                           .o = b->o,
                           .lse = b->lse,
                           .d_o = b->d_o,
                           .dq = b->dqkv,
                           .dk = nn_act_at(b->device, b->dqkv, k_at),
                           .dv = nn_act_at(b->device, b->dqkv, v_at),
                           .chunk = 1,
                           .window = o->window,
                           .types = b->types,
                           .type_grad_rows = 1.0f};
  b->choice = (nats_types){.batch = o->batch,
                           .length = o->length,
                           .kv_heads = o->kv_heads,
                           .chunk = 1,
                           .window = o->window,
                           .tau = 1.0f,
                           .types = b->types,
                           .expiry = b->expiry};
  b->counter = (nats_kv_cost){.batch = o->batch,
                              .length = o->length,
                              .kv_heads = o->kv_heads,
                              .chunk = 1,
                              .window = o->window,
                              .types = b->types,
                              .expiry = b->expiry,
                              .sums = b->sums};
}

// ---- one mask ----

static nn_status forward(nn_device *device, const void *op) {
  return nats_attention_forward(device, op);
}

static nn_status backward(nn_device *device, const void *op) {
  return nats_attention_backward(device, op);
}

static nn_status choose_mask(workbench *b, bool dense, const bench_options *o, measurement *out) {
  nn_sums sums = {0};
  b->choice.kind = dense ? NATS_ATTENTION_DENSE : NATS_ATTENTION_NATS;
  b->choice.mode = dense ? NATS_TYPES_FIXED : NATS_TYPES_ARGMAX;
  b->choice.logits = dense ? NULL : b->logits;
  NN_TRY(nats_types_forward(b->device, &b->choice));
  NN_TRY(nn_device_zero(b->device, b->sums, sizeof *b->sums));
  NN_TRY(nats_kv_cost_forward(b->device, &b->counter));
  NN_TRY(nn_device_download(b->device, &sums, b->sums, sizeof sums));
  NN_TRY(nn_device_sync(b->device));
  double group = (double)o->heads / o->kv_heads;
  out->visible = group * sums.visible;
  out->causal = group * sums.causal;
  return NN_OK;
}

static nn_status measure(workbench *b, bool dense, const bench_options *o, measurement *out) {
  NN_TRY(choose_mask(b, dense, o, out));
  b->op.dtypes = NULL;
  NN_TRY(launch_bench_time(b->device, forward, &b->op, o->rounds, &out->forward_ms));
  NN_TRY(launch_bench_time(b->device, backward, &b->op, o->rounds, &out->backward_ms));
  b->op.dtypes = b->dtypes;
  if (!dense)
    NN_TRY(launch_bench_time(b->device, backward, &b->op, o->rounds, &out->backward_types_ms));
  return NN_OK;
}

// ---- the report ----

// A time beside its floors: operations of the pairs it has to visit, and every tensor moved once.
static void report_time(const char *mask, const char *what, double ms, double operations, double bytes,
                        const launch_ceilings *c, json_t *row) {
  double arithmetic = 1000 * operations / c->operations, memory = 1000 * bytes / c->bytes;
  json_object_set_new(row, what,
                      json_pack("{s:f, s:f, s:f, s:f}", "ms", ms, "tflops_per_s", 1e-9 * operations / ms,
                                "arithmetic_floor_ms", arithmetic, "bytes_floor_ms", memory));
  nn_info("%-6s %-20s %10.3f ms %9.4g TFLOP/s   floors: arithmetic %9.3f ms, bytes %9.3f ms", mask, what, ms,
          1e-9 * operations / ms, arithmetic, memory);
}

// Of a visible pair: two products of 2 D operations forward, five backward. Of a hidden one that types learn
// from: two.
static void report(const char *mask, const measurement *m, const bench_options *o, size_t act,
                   const launch_ceilings *c, json_t *rows) {
  double d = o->head_size, tokens = (double)o->batch * o->length;
  double q = tokens * o->heads * d * (double)act, k = tokens * o->kv_heads * d * (double)act;
  double expiry = 4 * tokens * o->kv_heads, lse = 4 * tokens * o->heads;
  double forward_bytes = 2 * q + 2 * k + expiry + lse, backward_bytes = 4 * q + 4 * k + expiry + lse;
  json_t *row = json_pack("{s:f}", "kv_fraction", m->visible / m->causal);
  report_time(mask, "forward", m->forward_ms, 4 * d * m->visible, forward_bytes, c, row);
  report_time(mask, "backward", m->backward_ms, 10 * d * m->visible, backward_bytes, c, row);
  if (m->backward_types_ms > 0)
    report_time(mask, "backward_with_types", m->backward_types_ms,
                10 * d * m->visible + 4 * d * (m->causal - m->visible), backward_bytes + 4 * expiry, c, row);
  json_object_set_new(rows, mask, row);
}

// ---- the command ----

static nn_status read_options(int argc, char **argv, bench_options *o) {
  const launch_option options[] = {
      {"--device", LAUNCH_OPTION_TEXT, &o->device, 0, 0},
      {"--precision", LAUNCH_OPTION_TEXT, &o->precision, 0, 0},
      {"--batch", LAUNCH_OPTION_INT32, &o->batch, 1, 1 << 16},
      {"--heads", LAUNCH_OPTION_INT32, &o->heads, 1, 1 << 12},
      {"--kv-heads", LAUNCH_OPTION_INT32, &o->kv_heads, 1, 1 << 12},
      {"--length", LAUNCH_OPTION_INT32, &o->length, 1, 1 << 24},
      {"--head-size", LAUNCH_OPTION_INT32, &o->head_size, 1, 1 << 12},
      {"--globals", LAUNCH_OPTION_REAL, &o->globals, 0, 1},
      {"--locals", LAUNCH_OPTION_REAL, &o->locals, 0, 1},
      {"--window", LAUNCH_OPTION_INT32, &o->window, 0, 1 << 24},
      {"--rounds", LAUNCH_OPTION_INT32, &o->rounds, 1, 100},
      {"--seed", LAUNCH_OPTION_INT64, &o->seed, 0, 1e15},
      {"--tflops", LAUNCH_OPTION_REAL, &o->tflops, 1e-3, 1e6},
      {"--gb-per-s", LAUNCH_OPTION_REAL, &o->gb_per_s, 1e-3, 1e6},
      {"--json", LAUNCH_OPTION_FLAG, &o->json, 0, 0},
  };
  launch_list operands = {.items = (const char **)argv};
  *o = (bench_options){.device = "auto",
                       .precision = "auto",
                       .batch = 2,
                       .heads = 12,
                       .length = 16384,
                       .head_size = 64,
                       .globals = 0.05,
                       .locals = 0.15,
                       .window = 256,
                       .rounds = 10,
                       .seed = 1};
  NN_TRY(launch_options_read("bench attention", options, sizeof options / sizeof *options, argc, argv,
                             &operands));
  if (operands.count > 0)
    return NN_FAIL(NN_ERR_USAGE, "bench attention: expected options, found '%s'", operands.items[0]);
  o->kv_heads = o->kv_heads > 0 ? o->kv_heads : o->heads;
  if (o->heads % o->kv_heads != 0)
    return NN_FAIL(NN_ERR_USAGE, "bench attention: --kv-heads: expected a divisor of %d heads, found %d",
                   o->heads, o->kv_heads);
  return NN_OK;
}

static nn_status measure_both(nn_device *device, const bench_options *o, json_t *rows) {
  static const char *const masks[] = {"dense", "nats"};
  workbench b = {.device = device};
  launch_ceilings ceilings;
  nn_status status;
  NN_GOTO(status, done, launch_bench_ceilings(device, o->tflops, o->gb_per_s, &ceilings));
  NN_GOTO(status, done, take_memory(&b, o));
  fill_operators(&b, o);
  json_object_set_new(rows, "machine",
                      json_pack("{s:s, s:f, s:f}", "device", nn_device_describe(device),
                                "product_tflops_per_s", 1e-12 * ceilings.operations, "copy_gb_per_s",
                                1e-9 * ceilings.bytes));
  json_object_set_new(rows, "shape",
                      json_pack("{s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:i}", "batch", o->batch, "heads",
                                o->heads, "kv_heads", o->kv_heads, "length", o->length, "head_size",
                                o->head_size, "globals", o->globals, "locals", o->locals, "window",
                                o->window));
  nn_info("%s; a product reaches %.4g TFLOP/s, a copy %.1f GB/s", nn_device_describe(device),
          1e-12 * ceilings.operations, 1e-9 * ceilings.bytes);
  for (int i = 0; i < 2; i++) {
    measurement m = {0};
    NN_GOTO(status, done, measure(&b, i == 0, o, &m));
    report(masks[i], &m, o, nn_device_act_size(device), &ceilings, rows);
    if (i == 1)
      nn_info("KV fraction %.4f: %.3g of %.3g causal pairs are visible", m.visible / m.causal, m.visible,
              m.causal);
  }
done:
  close_bench(&b);
  return status;
}

// One device is measured: the other ranks only hear how it went.
static nn_status run(dist_group *world, int argc, char **argv) {
  bench_options o;
  nn_status status = NN_OK;
  NN_TRY(read_options(argc, argv, &o));
  NN_TRY(launch_set_threads(world, 0));
  if (dist_rank(world) == 0) {
    nn_device *device = NULL;
    json_t *rows = json_object();
    status = nn_device_open(o.device, o.precision, dist_local_rank(world), &device);
    if (status == NN_OK)
      status = measure_both(device, &o, rows);
    if (status == NN_OK && o.json)
      status = launch_print_json(json_incref(rows));
    json_decref(rows);
    nn_device_close(device);
  }
  return dist_agree(world, status);
}

const launch_bench_row launch_bench_attention = {
    .name = "attention", .run = run, .summary = "time of attention, dense and under types"};
