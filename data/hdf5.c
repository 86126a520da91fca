#include "data/hdf5.h"

#include <string.h> // strstr

void data_hdf5_quiet(void) {
  H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

// Copies the description of the record where the walk starts, the innermost one, and ends the walk.
static herr_t innermost(unsigned n, const H5E_error2_t *record, void *text) {
  (void)n;
  snprintf(text, 512, "%s", record->desc != NULL ? record->desc : "no description");
  return 1;
}

nn_status data_hdf5_fail_at(const char *file, int line, const char *path, const char *what) {
  char text[512] = "HDF5 gave no reason";
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, innermost, text);
  H5Eclear2(H5E_DEFAULT);
  nn_status code = strstr(text, "errno =") != NULL ? NN_ERR_IO : NN_ERR_INPUT;
  return nn_fail(code, file, line, "%s: %s: %s", path, what, text);
}
