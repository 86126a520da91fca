#include "data/checkpoint_folder.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h> // AT_FDCWD
#include <math.h>  // NAN
#include <stdio.h> // snprintf, renameat2
#include <stdlib.h>
#include <string.h>
#include <unistd.h> // access

#include "data/checkpoint_manifest.h"
#include "data/files.h"

#define PARTIAL ".partial"
#define ASIDE   ".aside" // complete; another of the same step is about to take its name

static nn_status join(const char *folder, int64_t step, const char *suffix, char path[DATA_CHECKPOINT_PATH]) {
  int length = snprintf(path, DATA_CHECKPOINT_PATH, "%s/step-%09lld%s", folder, (long long)step, suffix);
  // A file's name has to fit behind it too.
  return length < DATA_CHECKPOINT_PATH - 64 ? NN_OK : NN_FAIL(NN_ERR_IO, "%s: the path is too long", folder);
}

nn_status data_checkpoint_path(const char *folder, int64_t step, char path[DATA_CHECKPOINT_PATH]) {
  return join(folder, step, "", path);
}

nn_status data_checkpoint_partial_path(const char *folder, int64_t step, char path[DATA_CHECKPOINT_PATH]) {
  return join(folder, step, PARTIAL, path);
}

// The step of a complete checkpoint's name, -1 for any other name.
static int64_t step_of_name(const char *name) {
  char exact[32];
  if (strncmp(name, "step-", 5) != 0)
    return -1;
  long long step = strtoll(name + 5, NULL, 10);
  snprintf(exact, sizeof exact, "step-%09lld", step);
  return strcmp(name, exact) == 0 ? step : -1;
}

static bool has_suffix(const char *name, const char *suffix) {
  size_t length = strlen(name), ends = strlen(suffix);
  return strncmp(name, "step-", 5) == 0 && length > ends && strcmp(name + length - ends, suffix) == 0;
}

static int newest_first(const void *a, const void *b) {
  int64_t x = ((const data_checkpoint_entry *)a)->step, y = ((const data_checkpoint_entry *)b)->step;
  return (x < y) - (x > y);
}

static nn_status read_names(const char *folder, data_checkpoint_entry **entries, int32_t *count) {
  DIR *directory = opendir(folder);
  if (directory == NULL)
    return errno == ENOENT ? NN_OK : NN_FAIL(NN_ERR_IO, "%s: cannot list: %s", folder, strerror(errno));
  nn_status status = NN_OK;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    int64_t step = step_of_name(item->d_name);
    if (step < 0)
      continue;
    data_checkpoint_entry *grown = realloc(*entries, (size_t)(*count + 1) * sizeof **entries);
    if (grown == NULL)
      NN_GOTO(status, done, NN_FAIL(NN_ERR_MEMORY, "%s: no memory to list it", folder));
    *entries = grown;
    grown[(*count)++] = (data_checkpoint_entry){.step = step, .loss = (double)NAN};
  }
done:
  closedir(directory);
  return status;
}

// A damaged manifest has no loss; that is no error here, only a fact about that checkpoint.
static double read_loss(const char *folder, int64_t step) {
  char path[DATA_CHECKPOINT_PATH];
  data_checkpoint_manifest manifest = {0};
  double loss = (double)NAN;
  if (data_checkpoint_path(folder, step, path) == NN_OK &&
      data_checkpoint_manifest_read(path, &manifest) == NN_OK)
    loss = manifest.loss;
  else
    nn_error_clear();
  data_checkpoint_manifest_free(&manifest);
  return loss;
}

nn_status data_checkpoint_list(const char *folder, bool losses, data_checkpoint_entry **entries,
                               int32_t *count) {
  *entries = NULL;
  *count = 0;
  nn_status status = read_names(folder, entries, count);
  if (status != NN_OK) {
    free(*entries);
    *entries = NULL;
    *count = 0;
    return status;
  }
  if (*count > 0)
    qsort(*entries, (size_t)*count, sizeof **entries, newest_first);
  for (int32_t i = 0; losses && i < *count; i++)
    (*entries)[i].loss = read_loss(folder, (*entries)[i].step);
  return NN_OK;
}

int32_t data_checkpoint_best(const data_checkpoint_entry *entries, int32_t count) {
  int32_t best = -1;
  for (int32_t i = 0; i < count; i++)
    if (!isnan(entries[i].loss) && (best < 0 || entries[i].loss < entries[best].loss))
      best = i;
  return best;
}

// The run died while it replaced a checkpoint: the old one gets its name back, unless the new one has it.
static nn_status take_back(const char *aside) {
  char final[PATH_MAX];
  snprintf(final, sizeof final, "%.*s", (int)(strlen(aside) - strlen(ASIDE)), aside);
  if (access(final, F_OK) == 0)
    return data_folder_remove(aside);
  return rename(aside, final) == 0 ? NN_OK
                                   : NN_FAIL(NN_ERR_IO, "%s: cannot rename: %s", aside, strerror(errno));
}

nn_status data_checkpoint_sweep(const char *folder) {
  DIR *directory = opendir(folder);
  if (directory == NULL)
    return errno == ENOENT ? NN_OK : NN_FAIL(NN_ERR_IO, "%s: cannot list: %s", folder, strerror(errno));
  nn_status status = NN_OK;
  for (struct dirent *item; (item = readdir(directory)) != NULL;) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, item->d_name);
    if (has_suffix(item->d_name, PARTIAL))
      NN_KEEP(status, data_folder_remove(path));
    else if (has_suffix(item->d_name, ASIDE))
      NN_KEEP(status, take_back(path));
  }
  closedir(directory);
  return status;
}

// A checkpoint loses its name before it loses its first file: one that is half removed is nobody's.
static nn_status discard(const char *folder, int64_t step) {
  char partial[DATA_CHECKPOINT_PATH], final[DATA_CHECKPOINT_PATH];
  NN_TRY(data_checkpoint_path(folder, step, final));
  NN_TRY(data_checkpoint_partial_path(folder, step, partial));
  if (rename(final, partial) != 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot rename: %s", final, strerror(errno));
  return data_folder_remove(partial);
}

// Where names cannot be exchanged: at every moment there is a complete one, which data_checkpoint_sweep
// finds.
nn_status data_checkpoint_replace(const char *folder, int64_t step) {
  char partial[DATA_CHECKPOINT_PATH], final[DATA_CHECKPOINT_PATH], aside[DATA_CHECKPOINT_PATH];
  NN_TRY(data_checkpoint_partial_path(folder, step, partial));
  NN_TRY(data_checkpoint_path(folder, step, final));
  NN_TRY(join(folder, step, ASIDE, aside));
  NN_TRY(data_folder_remove(aside));
  if (rename(final, aside) != 0)
    return NN_FAIL(NN_ERR_IO, "%s: cannot rename: %s", final, strerror(errno));
  if (rename(partial, final) != 0) {
    nn_status status = NN_FAIL(NN_ERR_IO, "%s: cannot rename: %s", partial, strerror(errno));
    (void)!rename(aside, final);
    return status;
  }
  NN_TRY(data_folder_sync(folder));
  return data_folder_remove(aside);
}

nn_status data_checkpoint_publish(const char *folder, int64_t step) {
  char partial[DATA_CHECKPOINT_PATH], final[DATA_CHECKPOINT_PATH];
  NN_TRY(data_checkpoint_partial_path(folder, step, partial));
  NN_TRY(data_checkpoint_path(folder, step, final));
  NN_TRY(data_folder_sync(partial));
  if (rename(partial, final) == 0)
    return data_folder_sync(folder);
  if (errno != ENOTEMPTY && errno != EEXIST)
    return NN_FAIL(NN_ERR_IO, "%s: cannot rename: %s", partial, strerror(errno));
  // There is one of this step. Exchanging the names leaves no moment without either.
  if (renameat2(AT_FDCWD, partial, AT_FDCWD, final, RENAME_EXCHANGE) == 0) {
    NN_TRY(data_folder_sync(folder));
    return data_folder_remove(partial);
  }
  return data_checkpoint_replace(folder, step);
}

nn_status data_checkpoint_retain(const char *folder, int64_t step, int32_t keep, bool keep_best) {
  data_checkpoint_entry *entries;
  int32_t count, first = 0; // the newest one that counts
  NN_TRY(data_checkpoint_list(folder, keep_best, &entries, &count));
  while (first < count && entries[first].step > step)
    first++;
  int32_t best = count > first ? data_checkpoint_best(entries + first, count - first) : -1;
  nn_status status = NN_OK;
  for (int32_t i = keep; i < count - first; i++)
    if (!keep_best || i != best)
      NN_KEEP(status, discard(folder, entries[first + i].step));
  free(entries);
  return status;
}
