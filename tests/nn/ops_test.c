// What the operator table does not ask: refusals, and the sums of the classifier.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "nn/ops.h"

static nn_device *open_cpu(void) {
  nn_device *device = NULL;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  return device;
}

static void expect_refused(nn_status status, const char *what) {
  cr_expect_eq(status, NN_ERR_INTERNAL, "%s: %s", what, nn_status_name(status));
  cr_expect(strstr(nn_error_text(), "needs") != NULL, "%s: '%s'", what, nn_error_text());
  nn_error_clear();
}

// A caller's mistake ends as a status that names the condition, never as a crash inside a kernel.
Test(ops, impossible_calls_are_refused) {
  nn_device *device = open_cpu();
  float x[64] = {0};
  int32_t tokens[4] = {0};
  nn_sums sums = {0};
  nn_embedding embedding = {.rows = 4, .vocab = 2, .width = 2, .tokens = tokens, .table = x, .y = x};
  expect_refused(nn_embedding_backward(device, &embedding), "embedding without dy");
  embedding.rows = 0;
  expect_refused(nn_embedding_forward(device, &embedding), "embedding of no rows");
  nn_linear linear = {.rows = 2, .in = 2, .out = -1, .x = x, .weight = x, .y = x};
  expect_refused(nn_linear_forward(device, &linear), "linear with -1 outputs");
  linear.out = 2;
  linear.rows = 1ll << 31;
  expect_refused(nn_linear_forward(device, &linear), "linear with more rows than BLAS can count");
  linear.rows = 2;
  linear.dweight = x;
  expect_refused(nn_linear_backward(device, &linear), "linear without dy");
  linear.dy = linear.dbias = x;
  expect_refused(nn_linear_backward(device, &linear), "linear with dbias but no bias");
  nn_norm norm = {.kind = NN_NORM_LAYER, .rows = 2, .width = 2, .x = x, .weight = x, .y = x, .rstd = x};
  expect_refused(nn_norm_forward(device, &norm), "layer norm without mean");
  norm.kind = NN_NORM_RMS;
  norm.delta = x;
  expect_refused(nn_norm_forward(device, &norm), "norm with delta but no sum");
  expect_refused(nn_norm_backward(device, &norm), "norm without dy");
  nn_rope rope = {.rows = 2,
                  .heads = 1,
                  .head_size = 3,
                  .row_stride = 4,
                  .table = x,
                  .positions = 2,
                  .period = 2,
                  .x = x};
  expect_refused(nn_rope_forward(device, &rope), "rope of an odd head size");
  rope.head_size = 4;
  rope.period = 3;
  expect_refused(nn_rope_backward(device, &rope), "rope with a period beyond its table");
  expect_refused(nn_rope_table(device, 4, 4, -1.0, x), "rope with a negative base");
  nn_activation activation = {.kind = (nn_mlp_kind)7, .rows = 2, .width = 2, .x = x, .y = x};
  expect_refused(nn_activation_forward(device, &activation), "unknown activation");
  activation.kind = NN_MLP_GELU;
  expect_refused(nn_activation_backward(device, &activation), "activation without dy");
  nn_classifier classifier = {.rows = 2, .width = 2, .vocab = 2, .x = x, .weight = x, .targets = tokens};
  expect_refused(nn_classifier_run(device, &classifier), "classifier without sums");
  classifier.sums = &sums;
  classifier.dx = x;
  expect_refused(nn_classifier_run(device, &classifier), "classifier with dx but no dweight");
  nn_logits logits = {.rows = 2, .width = 2, .vocab = 2, .x = x, .weight = x};
  expect_refused(nn_logits_forward(device, &logits), "logits without y");
  nn_params evaluation = {.device = device, .master = x};
  nn_step step = {0};
  expect_refused(nn_grad_norm(device, &evaluation, &step), "norm of a model for evaluation");
  expect_refused(nn_adamw(device, &evaluation, &step), "update of a model for evaluation");
  nn_device_close(device);
}

// Tokens that the vocabulary does not have come from data: the message names the token and its row.
Test(ops, tokens_outside_the_vocabulary_are_refused) {
  nn_device *device = open_cpu();
  float x[8] = {0};
  nn_sums sums = {0};
  const int32_t tokens[3] = {1, 2, 0};
  const nn_embedding embedding = {.rows = 3, .vocab = 2, .width = 2, .tokens = tokens, .table = x, .y = x};
  cr_expect_eq(nn_embedding_forward(device, &embedding), NN_ERR_INPUT);
  cr_expect(strstr(nn_error_text(), "token 2 in row 1") != NULL, "%s", nn_error_text());
  nn_error_clear();
  const nn_classifier classifier = {
      .rows = 3, .width = 2, .vocab = 2, .x = x, .weight = x, .targets = tokens, .sums = &sums};
  cr_expect_eq(nn_classifier_run(device, &classifier), NN_ERR_INPUT);
  cr_expect(strstr(nn_error_text(), "target 2 in row 1") != NULL, "%s", nn_error_text());
  nn_error_clear();
  const int32_t positions[1] = {5};
  const nn_rope rope = {.rows = 1,
                        .heads = 1,
                        .head_size = 2,
                        .row_stride = 2,
                        .table = x,
                        .positions = 4,
                        .position = positions,
                        .x = x};
  cr_expect_eq(nn_rope_forward(device, &rope), NN_ERR_INTERNAL);
  nn_device_close(device);
}

// Accuracy and loss of recall tasks: only scored rows count, the lowest index wins a tie, sums are added to,
// and best is given for every row, and rows without a target pass no gradient.
Test(ops, classifier_counts_scored_rows) {
  nn_device *device = open_cpu();
  const float weight[4] = {1.0f, 2.0f, 2.0f, -1.0f}; // [4, 1]: logits of x are x times this
  const float x[5] = {1.0f, 1.0f, -1.0f, 0.0f, 1.0f};
  const int32_t targets[5] = {1, 2, 3, -1, -1};
  float nll[5] = {NAN, NAN, NAN, NAN, NAN};
  int32_t best[5];
  const float scale = 1.0f;
  float dx[5] = {NAN, NAN, NAN, NAN, NAN}, dweight[4] = {0};
  nn_sums sums = {.nll = 10.0, .scored = 20.0, .correct = 30.0, .visible = 40.0, .causal = 50.0};
  const nn_classifier op = {.rows = 5,
                            .width = 1,
                            .vocab = 4,
                            .x = x,
                            .weight = weight,
                            .targets = targets,
                            .nll = nll,
                            .best = best,
                            .sums = &sums,
                            .grad_scale = &scale,
                            .dx = dx,
                            .dweight = dweight};
  cr_assert_eq(nn_classifier_run(device, &op), NN_OK);
  const int32_t expected_best[5] = {1, 1, 3, 0, 1};
  const double lse = log(exp(1.0) + 2.0 * exp(2.0) + exp(-1.0));
  const double lse_negative = log(exp(-1.0) + 2.0 * exp(-2.0) + exp(1.0));
  const double expected[5] = {lse - 2.0, lse - 2.0, lse_negative - 1.0, 0.0, 0.0};
  for (int n = 0; n < 5; n++) {
    cr_expect_eq(best[n], expected_best[n], "row %d: %d", n, best[n]);
    cr_expect_float_eq(nll[n], expected[n], 1e-6, "row %d: %g", n, (double)nll[n]);
  }
  cr_expect_float_eq(sums.nll, 10.0 + expected[0] + expected[1] + expected[2], 1e-6);
  cr_expect_eq(sums.scored, 23.0);
  cr_expect_eq(sums.correct, 32.0);
  cr_expect_eq(sums.visible, 40.0);
  cr_expect_eq(sums.causal, 50.0);
  cr_expect(dx[0] != 0.0f && dx[3] == 0.0f && dx[4] == 0.0f, "rows that are not scored pass no gradient");
  nn_device_close(device);
}

// A batch in which nothing is scored gives a gradient of zero, not what was in memory before.
Test(ops, classifier_without_targets) {
  nn_device *device = open_cpu();
  const float x[2] = {1.0f, 2.0f}, weight[3] = {1.0f, 2.0f, 3.0f}, scale = 1.0f;
  const int32_t targets[2] = {-1, -1};
  float nll[2] = {NAN, NAN}, dx[2] = {NAN, NAN}, dweight[3] = {1.0f, 2.0f, 3.0f};
  nn_sums sums = {0};
  const nn_classifier op = {.rows = 2,
                            .width = 1,
                            .vocab = 3,
                            .x = x,
                            .weight = weight,
                            .targets = targets,
                            .nll = nll,
                            .sums = &sums,
                            .grad_scale = &scale,
                            .dx = dx,
                            .dweight = dweight};
  cr_assert_eq(nn_classifier_run(device, &op), NN_OK);
  for (int n = 0; n < 2; n++)
    cr_expect(nll[n] == 0.0f && dx[n] == 0.0f);
  cr_expect(dweight[0] == 1.0f && dweight[1] == 2.0f && dweight[2] == 3.0f);
  cr_expect_eq(sums.scored, 0.0);
  nn_device_close(device);
}

// Large logits must not overflow, and a NaN in the activations must reach the loss and the gradient, where it
// is looked for.
Test(ops, classifier_extremes) {
  nn_device *device = open_cpu();
  const float weight[3] = {1.0f, -1.0f, 0.5f}, scale = 1.0f;
  const float x[3] = {3e4f, NAN, -3e4f};
  const int32_t targets[3] = {0, 1, 0};
  float nll[3], dx[3], dweight[3] = {0};
  nn_sums sums = {0};
  nn_classifier op = {.rows = 3,
                      .width = 1,
                      .vocab = 3,
                      .x = x,
                      .weight = weight,
                      .targets = targets,
                      .nll = nll,
                      .sums = &sums,
                      .grad_scale = &scale,
                      .dx = dx,
                      .dweight = dweight};
  cr_assert_eq(nn_classifier_run(device, &op), NN_OK);
  cr_expect_eq(nll[0], 0.0f);
  cr_expect(isnan(nll[1]) && isnan(dx[1]) && isnan(dweight[0]) && isnan(sums.nll));
  cr_expect_eq(nll[2], 6e4f);
  nn_device_close(device);
}

// Frozen parts of a model want only one of the two gradients; the other pointer is NULL.
Test(ops, linear_gives_the_gradients_that_are_wanted) {
  nn_device *device = open_cpu();
  const float x[2] = {2.0f, 3.0f}, weight[2] = {5.0f, 7.0f}, dy[1] = {11.0f};
  float dx[2] = {NAN, NAN}, dweight[2] = {1.0f, 1.0f};
  nn_linear op = {.rows = 1, .in = 2, .out = 1, .x = x, .weight = weight, .dy = dy, .dx = dx};
  cr_expect_eq(nn_linear_backward(device, &op), NN_OK);
  cr_expect(dx[0] == 55.0f && dx[1] == 77.0f);
  op.dx = NULL;
  op.dweight = dweight;
  cr_expect_eq(nn_linear_backward(device, &op), NN_OK);
  cr_expect(dweight[0] == 23.0f && dweight[1] == 34.0f);
  nn_device_close(device);
}
