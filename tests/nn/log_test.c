#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <stdio.h>
#include <string.h>

#include "nn/log.h"
#include "nn/status.h"

// Messages of many ranks end up in one file: each is one line that says who speaks, and chatter comes from
// rank 0 alone.
Test(log, ranks_are_named) {
  cr_redirect_stderr();
  nn_warn("before the group is known, %d", 1);
  nn_log_identify(2, 3);
  nn_info("only rank 0 says this");
  nn_warn("%s", "on one rank");
  NN_FAIL(NN_ERR_INPUT, "shard-3.h5: tokens: expected %d, found %d", 5, 4);
  nn_error_report();
  nn_log_identify(0, 3);
  nn_info("done");
  fflush(stderr);
  char text[1000] = "";
  FILE *printed = cr_get_redirected_stderr();
  size_t length = fread(text, 1, sizeof text - 1, printed);
  text[length] = '\0';
  char expected[1000];
  snprintf(expected, sizeof expected,
           "natsformer: warning: before the group is known, 1\n"
           "natsformer[2]: warning: on one rank\n"
           "natsformer[2]: error: shard-3.h5: tokens: expected 5, found 4 (%s)\n"
           "natsformer: done\n",
           nn_error_place());
  cr_expect_str_eq(text, expected, "printed:\n%s", text);
}

// A message must not be glued to a progress line that is being redrawn, and a long one stays one line.
Test(log, progress_line_is_ended_first) {
  cr_redirect_stderr();
  nn_log_line_open();
  nn_warn("%s", "first");
  nn_warn("%02000d", 7);
  fflush(stderr);
  char text[4000] = "";
  FILE *printed = cr_get_redirected_stderr();
  size_t length = fread(text, 1, sizeof text - 1, printed);
  text[length] = '\0';
  const char *start = "\nnatsformer: warning: first\nnatsformer: warning: 000";
  cr_expect(strncmp(text, start, strlen(start)) == 0, "printed:\n%s", text);
  cr_expect_eq(text[length - 1], '\n');
  int lines = 0;
  for (size_t i = 0; i < length; i++)
    lines += text[i] == '\n';
  cr_expect_eq(lines, 3);
}
