// Files as a whole. When these fail, a full disk costs what was there before, or fills up further.
#include <signal.h> // signal
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h> // setrlimit: a file size limit stands for a full disk
#include <sys/stat.h>
#include <unistd.h>

#include "data/files.h"
#include "tests/data/data_fixture.h"

TestSuite(files, .init = scratch_open, .fini = scratch_close);

// What is there stays as it was, and a half-written file does not take up the space that is missing.
Test(files, a_full_disk_leaves_the_old_file_alone) {
  static const char old[] = "old";
  static char large[100000];
  size_t count = 0;
  struct rlimit limit;
  write_file(scratch("a"), old, sizeof old);
  signal(SIGXFSZ, SIG_IGN); // EFBIG instead
  cr_assert_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
  limit.rlim_cur = 5000 + random_below(50000);
  cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
  cr_fails(data_file_replace(scratch("a"), large, sizeof large), NN_ERR_IO, "a.tmp: cannot write: ");
  char *now = read_file(scratch("a"), &count);
  cr_assert(count == sizeof old && memcmp(now, old, count) == 0);
  free(now);
  cr_assert_eq(count_files(scratch("")), 1);
}

// A name that is a folder's cannot be replaced; the error is the one of the rename.
Test(files, a_failed_rename_leaves_no_other_file) {
  cr_assert_eq(mkdir(scratch("a"), 0777), 0);
  cr_fails(data_file_replace(scratch("a"), "new", 3), NN_ERR_IO, "a: cannot rename to its final name: ");
  cr_assert_eq(count_files(scratch("")), 1);
}
