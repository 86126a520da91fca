// The scorer against plain loops in float64.
#include "attention_case.h"

#include "../nn/fresh_seed.h"

enum { ROWS = 70, WIDTH = 37, OUT = 9 };

// What breaks: types are chosen from wrong logits, or the scorer and what feeds it learn a wrong gradient.
Test(scorer, is_an_affine_map) {
  static float x[ROWS * WIDTH], weight[OUT * WIDTH], bias[OUT], logits[ROWS * OUT], dlogits[ROWS * OUT];
  static float dx[ROWS * WIDTH], dweight[OUT * WIDTH], dbias[OUT];
  const uint64_t seed = fresh_seed();
  float *const all[] = {x, weight, bias, dlogits};
  const int counts[] = {ROWS * WIDTH, OUT * WIDTH, OUT, ROWS * OUT};
  for (int tensor = 0; tensor < 4; tensor++)
    for (int i = 0; i < counts[tensor]; i++)
      all[tensor][i] = random_normal(seed + (uint64_t)tensor, (uint64_t)i);
  for (int i = 0; i < ROWS * WIDTH; i++)
    dx[i] = 1; // what was there is added to
  for (int i = 0; i < OUT * WIDTH; i++)
    dweight[i] = 2;
  for (int i = 0; i < OUT; i++)
    dbias[i] = 3;
  nn_device *device;
  MUST(nn_device_open("cpu", "auto", 0, &device));
  const nats_scorer op = {.rows = ROWS,
                          .width = WIDTH,
                          .out = OUT,
                          .x = x,
                          .weight = weight,
                          .bias = bias,
                          .logits = logits,
                          .dlogits = dlogits,
                          .dx = dx,
                          .dweight = dweight,
                          .dbias = dbias};
  MUST(nats_scorer_forward(device, &op));
  MUST(nats_scorer_backward(device, &op));
  for (int r = 0; r < ROWS; r++)
    for (int a = 0; a < OUT; a++) {
      double sum = (double)bias[a];
      for (int c = 0; c < WIDTH; c++)
        sum += (double)x[r * WIDTH + c] * (double)weight[a * WIDTH + c];
      cr_expect_float_eq((double)logits[r * OUT + a], sum, 1e-4);
    }
  for (int r = 0; r < ROWS; r++)
    for (int c = 0; c < WIDTH; c++) {
      double sum = 1;
      for (int a = 0; a < OUT; a++)
        sum += (double)dlogits[r * OUT + a] * (double)weight[a * WIDTH + c];
      cr_expect_float_eq((double)dx[r * WIDTH + c], sum, 1e-4);
    }
  for (int a = 0; a < OUT; a++) {
    double total = 3;
    for (int r = 0; r < ROWS; r++)
      total += (double)dlogits[r * OUT + a];
    cr_expect_float_eq((double)dbias[a], total, 1e-4);
    for (int c = 0; c < WIDTH; c++) {
      double sum = 2;
      for (int r = 0; r < ROWS; r++)
        sum += (double)dlogits[r * OUT + a] * (double)x[r * WIDTH + c];
      cr_expect_float_eq((double)dweight[a * WIDTH + c], sum, 1e-4);
    }
  }
  nn_device_close(device);
}

// What breaks: fine-tuning of scorers alone (scorer_detach) changes what it must leave alone.
Test(scorer, a_detached_input_gets_no_gradient) {
  float x[4] = {1, 2, 3, 4}, weight[6] = {1, 1, 1, 1, 1, 1}, dlogits[6] = {1, 2, 3, 4, 5, 6};
  float dweight[6] = {0}, dbias[3] = {0};
  nn_device *device;
  MUST(nn_device_open("cpu", "auto", 0, &device));
  const nats_scorer op = {.rows = 2,
                          .width = 2,
                          .out = 3,
                          .x = x,
                          .weight = weight,
                          .dlogits = dlogits,
                          .dweight = dweight,
                          .dbias = dbias};
  MUST(nats_scorer_backward(device, &op));
  cr_expect_float_eq(dweight[0], 1 * 1 + 4 * 3, 1e-6);
  cr_expect_float_eq(dbias[2], 3 + 6, 1e-6);
  nn_device_close(device);
}
