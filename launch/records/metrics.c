#include "launch/records/metrics.h"

#include <errno.h>
#include <fcntl.h>   // open
#include <jansson.h> // reading a line
#include <math.h>    // isfinite, NAN
#include <stddef.h>  // offsetof
#include <stdio.h>
#include <stdlib.h> // free
#include <string.h>
#include <unistd.h> // write, ftruncate

#include "nn/log.h"

// The numbers of a line. Those of labels and of the validation split are there only where they were measured.
static const struct {
  const char *name;
  size_t at; // in launch_metrics_line
  bool labelled, evaluated;
} FIELDS[] = {
    {"loss", offsetof(launch_metrics_line, loss), false, false},
    {"kv_fraction", offsetof(launch_metrics_line, kv_fraction), false, false},
    {"lambda", offsetof(launch_metrics_line, lambda), false, false},
    {"lr", offsetof(launch_metrics_line, lr), false, false},
    {"grad_norm", offsetof(launch_metrics_line, grad_norm), false, false},
    {"accuracy", offsetof(launch_metrics_line, accuracy), true, false},
    {"val_loss", offsetof(launch_metrics_line, val_loss), false, true},
    {"val_kv_fraction", offsetof(launch_metrics_line, val_kv_fraction), false, true},
    {"val_accuracy", offsetof(launch_metrics_line, val_accuracy), true, true},
    {"tokens_per_s", offsetof(launch_metrics_line, tokens_per_s), false, false},
    {"seconds", offsetof(launch_metrics_line, seconds), false, false},
    {"comm_exposed_s", offsetof(launch_metrics_line, comm_exposed_s), false, false},
    {"slowest_rank", offsetof(launch_metrics_line, slowest_rank), false, false},
    {"imbalance", offsetof(launch_metrics_line, imbalance), false, false},
};
enum { FIELD_COUNT = sizeof FIELDS / sizeof *FIELDS };

// Bytes of the whole lines whose step is at most `last`. Steps only grow, so what goes is the file's end.
// `text` becomes the last of these lines, "" without any.
static int64_t bytes_until(FILE *file, int64_t last, char text[LAUNCH_METRICS_LINE]) {
  char *line = NULL;
  size_t capacity = 0;
  ssize_t length = 0;
  int64_t bytes = 0;
  long long step = 0;
  text[0] = '\0';
  while ((length = getline(&line, &capacity, file)) > 0) {
    bool whole = length >= 2 && line[length - 1] == '\n' && line[length - 2] == '}';
    if (!whole || sscanf(line, "{\"step\": %lld,", &step) != 1 || step > last)
      break;
    bytes += length;
    snprintf(text, LAUNCH_METRICS_LINE, "%s", line);
  }
  free(line);
  return bytes;
}

nn_status launch_metrics_open(launch_metrics *metrics, const char *run, int64_t step) {
  *metrics = (launch_metrics){.file = -1};
  snprintf(metrics->path, sizeof metrics->path, "%s/metrics.jsonl", run);
  int file = open(metrics->path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  FILE *reader = file >= 0 ? fopen(metrics->path, "re") : NULL;
  if (reader == NULL) {
    nn_status status = NN_FAIL(NN_ERR_IO, "%s: cannot open: %s", metrics->path, strerror(errno));
    if (file >= 0)
      close(file);
    return status;
  }
  char text[LAUNCH_METRICS_LINE];
  metrics->bytes = bytes_until(reader, step, text);
  metrics->last = metrics->bytes - (int64_t)strlen(text);
  fclose(reader);
  if (ftruncate(file, metrics->bytes) != 0 || lseek(file, metrics->bytes, SEEK_SET) < 0) {
    nn_status status = NN_FAIL(NN_ERR_IO, "%s: cannot drop lines after step %lld: %s", metrics->path,
                               (long long)step, strerror(errno));
    close(file);
    return status;
  }
  metrics->file = file;
  return NN_OK;
}

void launch_metrics_close(launch_metrics *metrics) {
  if (metrics->file >= 0)
    close(metrics->file);
  metrics->file = -1;
}

static int print_number(char *at, size_t space, const char *name, double value) {
  return isfinite(value) ? snprintf(at, space, ", \"%s\": %.9g", name, value)
                         : snprintf(at, space, ", \"%s\": null", name);
}

int launch_metrics_format(const launch_metrics_line *line, char text[LAUNCH_METRICS_LINE]) {
  int used = snprintf(text, LAUNCH_METRICS_LINE, "{\"step\": %lld, \"tokens\": %lld", (long long)line->step,
                      (long long)line->tokens);
  for (int i = 0; i < FIELD_COUNT; i++)
    if ((line->labelled || !FIELDS[i].labelled) && (line->evaluated || !FIELDS[i].evaluated))
      used += print_number(text + used, LAUNCH_METRICS_LINE - (size_t)used, FIELDS[i].name,
                           *(const double *)((const char *)line + FIELDS[i].at));
  used += snprintf(text + used, LAUNCH_METRICS_LINE - (size_t)used, ", \"skipped\": %lld}\n",
                   (long long)line->skipped);
  return used;
}

static bool parse(json_t *object, launch_metrics_line *line) {
  json_int_t step = 0, tokens = 0, skipped = 0;
  if (json_unpack(object, "{s:I, s:I, s:I}", "step", &step, "tokens", &tokens, "skipped", &skipped))
    return false;
  *line = (launch_metrics_line){.step = step,
                                .tokens = tokens,
                                .skipped = skipped,
                                .labelled = json_object_get(object, "accuracy") != NULL,
                                .evaluated = json_object_get(object, "val_loss") != NULL};
  for (int i = 0; i < FIELD_COUNT; i++) {
    const json_t *value = json_object_get(object, FIELDS[i].name);
    *(double *)((char *)line + FIELDS[i].at) = json_is_number(value) ? json_number_value(value) : (double)NAN;
  }
  return true;
}

bool launch_metrics_read(const char *run, int64_t step, launch_metrics_line *line) {
  char path[1100], text[LAUNCH_METRICS_LINE];
  launch_metrics_line found;
  snprintf(path, sizeof path, "%s/metrics.jsonl", run);
  FILE *file = fopen(path, "re");
  if (file == NULL)
    return false;
  bytes_until(file, step, text);
  fclose(file);
  json_t *object = json_loads(text, 0, NULL);
  bool there = object != NULL && parse(object, &found) && found.step == step;
  json_decref(object);
  if (there)
    *line = found;
  return there;
}

void launch_metrics_write(launch_metrics *metrics, const launch_metrics_line *line) {
  char text[LAUNCH_METRICS_LINE];
  int length = launch_metrics_format(line, text);
  ssize_t written = pwrite(metrics->file, text, (size_t)length, metrics->bytes);
  if (written == length) {
    metrics->last = metrics->bytes;
    metrics->bytes += length;
    metrics->failing = false;
    return;
  }
  if (!metrics->failing)
    nn_warn("%s: cannot write the line of step %lld: %s", metrics->path, (long long)line->step,
            written < 0 ? strerror(errno) : "the disk is full");
  metrics->failing = true;
  if (ftruncate(metrics->file, metrics->bytes) != 0) // half a line must not stay before the next one
    return;
}

// One short write over what is there: whoever is killed here leaves the old line or the new one.
void launch_metrics_replace(launch_metrics *metrics, const launch_metrics_line *line) {
  metrics->bytes = metrics->last;
  launch_metrics_write(metrics, line);
}
