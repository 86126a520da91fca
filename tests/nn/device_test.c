#include <criterion/criterion.h>
#include <stdint.h>
#include <string.h>

#include "nn/device.h"

// The address sanitizer ends the program on huge requests unless it is told to refuse them as malloc does.
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
  return "allocator_may_return_null=1";
}

// The names of the configuration: an unknown one is the user's mistake, and the message lists what exists.
Test(device, names) {
  nn_device *device = NULL;
  cr_expect_eq(nn_device_open("gpu", "auto", 0, &device), NN_ERR_USAGE);
  cr_expect_null(device);
  cr_expect(strstr(nn_error_text(), "cpu, cuda or auto") != NULL, "%s", nn_error_text());
  nn_error_clear();
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_expect_eq(nn_device_get_kind(device), NN_DEVICE_CPU);
  cr_expect_eq(nn_device_compute_type(device), NN_F32);
  cr_expect_eq(nn_device_act_size(device), 4);
  cr_expect(strstr(nn_device_describe(device), "thread") != NULL, "%s", nn_device_describe(device));
  nn_device_close(device);
  cr_assert_eq(nn_device_open("auto", "auto", 0, &device), NN_OK, "%s", nn_error_text());
  cr_expect_str_eq(nn_error_text(), "", "auto leaves no failure behind");
  nn_device_close(device);
  nn_device_close(NULL);
}

// Without CUDA in the build, asking for it says so in one line instead of training on the CPU unasked.
Test(device, cuda_where_there_is_none) {
  nn_device *device = NULL;
  nn_status status = nn_device_open("cuda", "auto", 0, &device);
  if (status == NN_OK)
    nn_device_close(device);
  else
    cr_expect(status == NN_ERR_UNSUPPORTED && nn_error_text()[0] != '\0', "%s", nn_status_name(status));
}

// Fresh memory is zero and aligned, whether the block is small or large enough for huge pages.
Test(device, memory_is_zero_and_aligned) {
  static const size_t sizes[] = {0, 1, 63, 4096, (size_t)4 << 20, ((size_t)4 << 20) + 1};
  nn_device *device;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  for (int round = 0; round < 2; round++) // the second round gets memory that was used
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
      void *memory = NULL;
      cr_assert_eq(nn_device_alloc(device, sizes[i], "a test", &memory), NN_OK);
      cr_assert_eq((uintptr_t)memory % 64, 0);
      for (size_t byte = 0; byte < sizes[i]; byte++)
        cr_assert_eq(((unsigned char *)memory)[byte], 0);
      memset(memory, 0xff, sizes[i]);
      nn_device_free(device, memory);
    }
  nn_device_free(device, NULL);
  nn_device_close(device);
}

// A model that does not fit ends with a line that names what was too large.
Test(device, out_of_memory_is_reported) {
  nn_device *device;
  void *memory = &device;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_expect_eq(nn_device_alloc(device, SIZE_MAX / 4, "activations", &memory), NN_ERR_MEMORY);
  cr_expect_null(memory);
  cr_expect(strstr(nn_error_text(), "activations") != NULL, "%s", nn_error_text());
  cr_expect_eq(nn_device_workspace(device, SIZE_MAX / 4, &memory), NN_ERR_MEMORY);
  cr_expect_eq(nn_device_workspace_bytes(device), 0);
  cr_expect_eq(nn_device_workspace(device, 100, &memory), NN_OK, "a smaller request still works");
  nn_device_close(device);
}

// The workspace grows to the largest request and then stays where it is: a step allocates nothing.
Test(device, workspace_grows_once) {
  nn_device *device;
  void *small, *large, *again;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_expect_eq(nn_device_workspace(device, 1000, &small), NN_OK);
  cr_expect_eq(nn_device_workspace(device, 100000, &large), NN_OK);
  cr_expect_eq(nn_device_workspace(device, 500, &again), NN_OK);
  cr_expect_eq(again, large);
  cr_expect_geq(nn_device_workspace_bytes(device), 100000);
  memset(large, 1, 100000);
  nn_device_close(device);
}

// Copies between host and device, overlapping ones included, and marks in the stream.
Test(device, copies_and_events) {
  nn_device *device;
  nn_event *event;
  void *memory;
  char text[16] = "abcdefgh", back[16] = "";
  bool done = false;
  cr_assert_eq(nn_device_open("cpu", "auto", 0, &device), NN_OK);
  cr_assert_eq(nn_device_alloc(device, 16, "a test", &memory), NN_OK);
  cr_assert_eq(nn_event_create(device, &event), NN_OK);
  cr_expect_eq(nn_device_upload(device, memory, text, 8), NN_OK);
  cr_expect_eq(nn_device_copy(device, nn_act_at(device, memory, 1), memory, 4), NN_OK);
  cr_expect_eq(nn_device_zero(device, memory, 1), NN_OK);
  cr_expect_eq(nn_event_record(event), NN_OK);
  cr_expect_eq(nn_device_download(device, back, memory, 8), NN_OK);
  cr_expect_eq(nn_device_sync(device), NN_OK);
  cr_expect_eq(nn_event_done(event, &done), NN_OK);
  cr_expect(done);
  cr_expect(memcmp(back, "\0bcdabcd", 8) == 0, "found '%.8s'", back);
  nn_event_destroy(event);
  nn_event_destroy(NULL);
  nn_device_free(device, memory);
  nn_device_close(device);
}
