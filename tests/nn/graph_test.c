// Work that is recorded once and launched again, on every device.
#include <criterion/criterion.h>

#include "nn/graph.h"
#include "tests/device.h"

enum { COUNT = 1000 };

typedef struct {
  nn_device *device;
  float *from, *to;
  int32_t calls;
} task;

static nn_status copy_all(void *context) {
  task *t = context;
  t->calls++;
  return nn_device_copy(t->device, t->to, t->from, COUNT * sizeof *t->to);
}

static nn_status fail(void *context) {
  (void)context;
  return NN_FAIL(NN_ERR_INPUT, "it cannot be done");
}

static void expect_copied(const task *t, float value) {
  const float *found = test_read_floats(t->device, t->to, COUNT);
  for (int i = 0; i < COUNT; i++)
    cr_assert_eq(found[i], value + (float)i, "number %d is %g", i, (double)found[i]);
}

static void fill(const task *t, float value) {
  float *numbers = test_host(COUNT * sizeof *numbers);
  for (int i = 0; i < COUNT; i++)
    numbers[i] = value + (float)i;
  cr_assert_eq(nn_device_upload(t->device, t->from, numbers, COUNT * sizeof *numbers), NN_OK);
}

// What breaks: a step of decoding is computed twice, not at all, or from what lay there when it was recorded.
DEVICE_TEST(graph, runs_when_recorded_and_when_launched) {
  task t = {device, test_floats(device, NULL, COUNT), test_floats(device, NULL, COUNT), 0};
  nn_graph *graph;
  fill(&t, 1);
  cr_assert_eq(nn_graph_record(device, copy_all, &t, &graph), NN_OK, "%s", nn_error_text());
  expect_copied(&t, 1);
  for (int round = 2; round < 5; round++) {
    fill(&t, (float)round);
    cr_assert_eq(graph ? nn_graph_launch(graph) : copy_all(&t), NN_OK, "%s", nn_error_text());
    expect_copied(&t, (float)round);
  }
  cr_expect(!graph || t.calls == 1, "a recorded task was called %d times", (int)t.calls);
  nn_graph_free(graph);
}

// What breaks: a failure inside of recorded work is lost, or the device cannot be used after it.
DEVICE_TEST(graph, hands_on_failures) {
  task t = {device, test_floats(device, NULL, COUNT), test_floats(device, NULL, COUNT), 0};
  nn_graph *graph;
  cr_expect_eq(nn_graph_record(device, fail, NULL, &graph), NN_ERR_INPUT);
  cr_expect_null(graph);
  nn_error_clear();
  fill(&t, 7);
  cr_expect_eq(copy_all(&t), NN_OK);
  expect_copied(&t, 7);
}
