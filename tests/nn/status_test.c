#include <criterion/criterion.h>
#include <string.h>

#include "nn/status.h"

static nn_status fail_with(nn_status status, const char *text) {
  return status == NN_OK ? NN_OK : NN_FAIL(status, "%s", text);
}

static nn_status try_both(nn_status first, nn_status second) {
  NN_TRY(fail_with(first, "first"));
  NN_TRY(fail_with(second, "second"));
  return NN_OK;
}

static nn_status with_cleanup(nn_status work, nn_status cleanup, int *cleaned) {
  nn_status status;
  NN_GOTO(status, done, fail_with(work, "work"));
  *cleaned += 10;
done:
  NN_KEEP(status, fail_with(cleanup, "cleanup"));
  *cleaned += 1;
  return status;
}

// What the user reads is the first thing that went wrong, not what went wrong while cleaning up after it.
Test(status, first_text_is_kept) {
  cr_expect_eq(try_both(NN_ERR_INPUT, NN_ERR_IO), NN_ERR_INPUT);
  cr_expect_str_eq(nn_error_text(), "first");
  cr_expect(strncmp(nn_error_place(), "status_test.c:", 14) == 0, "place is '%s'", nn_error_place());
  cr_expect_eq(fail_with(NN_ERR_IO, "later"), NN_ERR_IO);
  cr_expect_str_eq(nn_error_text(), "first");
  nn_error_clear();
  cr_expect_str_eq(nn_error_text(), "");
  cr_expect_eq(try_both(NN_OK, NN_ERR_IO), NN_ERR_IO);
  cr_expect_str_eq(nn_error_text(), "second");
  nn_error_set("other.c:7", "passed on from rank 1");
  cr_expect_str_eq(nn_error_text(), "passed on from rank 1");
  cr_expect_str_eq(nn_error_place(), "other.c:7");
}

// Clean-up runs whether or not the work failed, and its own failure counts only when the work succeeded.
Test(status, cleanup_keeps_the_first_failure) {
  int cleaned = 0;
  cr_expect_eq(with_cleanup(NN_ERR_MEMORY, NN_ERR_IO, &cleaned), NN_ERR_MEMORY);
  cr_expect_str_eq(nn_error_text(), "work");
  cr_expect_eq(cleaned, 1);
  nn_error_clear();
  cleaned = 0;
  cr_expect_eq(with_cleanup(NN_OK, NN_ERR_IO, &cleaned), NN_ERR_IO);
  cr_expect_eq(cleaned, 11);
  cr_expect_eq(with_cleanup(NN_OK, NN_OK, &cleaned), NN_OK);
}

// A text longer than its buffer is cut, not written beyond it.
Test(status, long_texts_are_cut) {
  char text[5000];
  memset(text, 'x', sizeof text - 1);
  text[sizeof text - 1] = '\0';
  fail_with(NN_ERR_INPUT, text);
  cr_expect_gt(strlen(nn_error_text()), 200);
  cr_expect_lt(strlen(nn_error_text()), sizeof text - 1);
}

// Batch scripts requeue on 75 and must not do so on a failure; 2 says that the configuration is to be
// corrected.
Test(status, exit_codes) {
  cr_expect_eq(nn_exit_code(NN_OK), 0);
  cr_expect_eq(nn_exit_code(NN_ERR_USAGE), 2);
  cr_expect_eq(nn_exit_code(NN_STOPPED), 75);
  for (int status = NN_ERR_INPUT; status < NN_STOPPED; status++) {
    cr_expect_eq(nn_exit_code((nn_status)status), 1);
    cr_expect_str_neq(nn_status_name((nn_status)status), "unknown");
  }
  cr_expect_str_eq(nn_status_name((nn_status)999), "unknown");
}
