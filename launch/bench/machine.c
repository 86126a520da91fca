#include "launch/bench/machine.h"

#include <stdlib.h> // qsort
#include <string.h>

#include "launch/records/progress.h" // launch_seconds
#include "nn/ops.h"

// ---- times ----

static int by_size(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

double launch_median(double *values, int count) {
  qsort(values, (size_t)count, sizeof *values, by_size);
  return 0.5 * (values[count / 2] + values[(count - 1) / 2]);
}

static nn_status time_calls(nn_device *device, launch_bench_work work, const void *op, int calls,
                            double *seconds) {
  NN_TRY(nn_device_sync(device));
  double started = launch_seconds();
  for (int call = 0; call < calls; call++)
    NN_TRY(work(device, op));
  NN_TRY(nn_device_sync(device));
  *seconds = (launch_seconds() - started) / calls;
  return NN_OK;
}

nn_status launch_bench_time(nn_device *device, launch_bench_work work, const void *op, int rounds,
                            double *milliseconds) {
  enum { MOST_ROUNDS = 100, MOST_CALLS = 100 };
  static const double enough = 0.03; // seconds of a round
  double seconds[MOST_ROUNDS], once;
  rounds = rounds < MOST_ROUNDS ? rounds : MOST_ROUNDS;
  for (int warm_up = 0; warm_up < 2; warm_up++) // the first takes workspace and loads kernels
    NN_TRY(time_calls(device, work, op, 1, &once));
  double wanted = enough / (once > 0 ? once : 1e-9) + 1;
  int calls = wanted < MOST_CALLS ? (int)wanted : MOST_CALLS;
  for (int round = 0; round < rounds; round++)
    NN_TRY(time_calls(device, work, op, calls, &seconds[round]));
  *milliseconds = 1000 * launch_median(seconds, rounds);
  return NN_OK;
}

// ---- tensors ----

// Float32 numbers to bfloat16 in place, to nearest, ties to even.
static void round_to_bf16(float *values, int64_t count) {
  uint16_t *out = (uint16_t *)(void *)values;
  for (int64_t i = 0; i < count; i++) {
    uint32_t bits;
    memcpy(&bits, (char *)values + 4 * i, sizeof bits); // behind what has been written
    bits += 0x7fff + (bits >> 16 & 1);
    uint16_t high = (uint16_t)(bits >> 16);
    memcpy(out + i, &high, sizeof high);
  }
}

nn_status launch_bench_normal(nn_device *device, int64_t count, float deviation, uint64_t seed,
                              nn_act **out) {
  enum { PIECE = 1 << 22 };
  nn_param as = {.name = "benchmark", .rank = 2, .init = NN_INIT_NORMAL, .init_value = deviation};
  nn_status status = NN_OK;
  size_t size = nn_device_act_size(device);
  float *values = malloc(PIECE * sizeof *values);
  if (values == NULL)
    return NN_FAIL(NN_ERR_MEMORY, "out of memory for random numbers");
  NN_GOTO(status, done, nn_device_alloc(device, (size_t)count * size, "random numbers", out));
  for (int64_t begin = 0; begin < count && status == NN_OK; begin += PIECE) {
    int64_t end = begin + PIECE < count ? begin + PIECE : count;
    nn_param_initial(&as, seed, begin, end, values);
    if (nn_device_compute_type(device) == NN_BF16)
      round_to_bf16(values, end - begin);
    status = nn_device_upload(device, nn_act_at(device, *out, begin), values, (size_t)(end - begin) * size);
  }
done:
  free(values);
  return status;
}

// ---- ceilings ----

static nn_status multiply(nn_device *device, const void *op) {
  return nn_linear_forward(device, op);
}

static nn_status measure_product(nn_device *device, int rounds, double *operations) {
  bool gpu = nn_device_get_kind(device) == NN_DEVICE_CUDA;
  nn_linear op = {.rows = gpu ? 8192 : 2048, .in = gpu ? 8192 : 256, .out = gpu ? 8192 : 1024};
  nn_act *x = NULL, *weight = NULL;
  void *y = NULL;
  double milliseconds;
  nn_status status;
  NN_GOTO(status, done, launch_bench_normal(device, op.rows * op.in, 1.0f, 1, &x));
  NN_GOTO(status, done, launch_bench_normal(device, (int64_t)op.out * op.in, 0.02f, 2, &weight));
  NN_GOTO(status, done,
          nn_device_alloc(device, (size_t)(op.rows * op.out) * nn_device_act_size(device), "a product", &y));
  op.x = x;
  op.weight = weight;
  op.y = y;
  NN_GOTO(status, done, launch_bench_time(device, multiply, &op, rounds, &milliseconds));
  *operations = 2.0 * (double)op.rows * op.in * op.out / (milliseconds / 1000);
done:
  nn_device_free(device, y);
  nn_device_free(device, weight);
  nn_device_free(device, x);
  return status;
}

typedef struct {
  void *to, *from;
  size_t bytes;
} copy_op;

static nn_status copy(nn_device *device, const void *op) {
  const copy_op *c = op;
  return nn_device_copy(device, c->to, c->from, c->bytes);
}

static nn_status measure_copy(nn_device *device, int rounds, double *bytes) {
  copy_op op = {.bytes = (size_t)(nn_device_get_kind(device) == NN_DEVICE_CUDA ? 1024 : 64) << 20};
  double milliseconds;
  nn_status status;
  NN_GOTO(status, done, nn_device_alloc(device, op.bytes, "a copy", &op.to));
  NN_GOTO(status, done, nn_device_alloc(device, op.bytes, "what is copied", &op.from));
  NN_GOTO(status, done, launch_bench_time(device, copy, &op, rounds, &milliseconds));
  *bytes = 2.0 * (double)op.bytes / (milliseconds / 1000);
done:
  nn_device_free(device, op.from);
  nn_device_free(device, op.to);
  return status;
}

nn_status launch_bench_ceilings(nn_device *device, double tflops, double gb_per_s, launch_ceilings *out) {
  enum { ROUNDS = 5 };
  *out = (launch_ceilings){.operations = 1e12 * tflops, .bytes = 1e9 * gb_per_s};
  if (tflops == 0)
    NN_TRY(measure_product(device, ROUNDS, &out->operations));
  if (gb_per_s == 0)
    NN_TRY(measure_copy(device, ROUNDS, &out->bytes));
  return NN_OK;
}
