#include "data/hdf5.h"

#include <string.h> // strstr

void data_hdf5_quiet(void) {
  // A file that could not be closed, on a full disk, crashes the library's own clean-up at exit. Every file is
  // closed by us, so nothing is left for it to do. Must come before the library starts; later it does nothing.
  H5dont_atexit();
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

// Copies the description of the record where the walk starts, the innermost one, and ends the walk.
static herr_t innermost(unsigned n, const H5E_error2_t *record, void *text) {
  (void)n;
  snprintf(text, 512, "%s", record->desc != NULL ? record->desc : "no description");
  return 1;
}

// What the operating system said stands within HDF5's line as: error message = 'No space left on device'.
static void keep_system_message(char *text) {
  static const char mark[] = "error message = '";
  char *begin = strstr(text, mark);
  if (begin == NULL)
    return;
  begin += sizeof mark - 1;
  size_t length = strcspn(begin, "'");
  memmove(text, begin, length);
  text[length] = '\0';
}

nn_status data_hdf5_fail_at(const char *file, int line, const char *path, const char *what) {
  char text[512] = "HDF5 gave no reason";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, text);
  H5Eclear2(H5E_DEFAULT);
  nn_status code = strstr(text, "errno =") != NULL ? NN_ERR_IO : NN_ERR_INPUT;
  keep_system_message(text);
  return nn_fail(code, file, line, "%s: %s: %s", path, what, text);
}
