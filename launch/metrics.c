#include "launch/metrics.h"

#include <errno.h>
#include <fcntl.h> // open
#include <math.h>  // isfinite
#include <stdio.h>
#include <stdlib.h> // free
#include <string.h>
#include <unistd.h> // write, ftruncate

#include "nn/log.h"

// Bytes of the whole lines whose step is at most `last`. Steps only grow, so what goes is the file's end.
static int64_t bytes_until(FILE *file, int64_t last) {
  char *line = NULL;
  size_t capacity = 0;
  ssize_t length = 0;
  int64_t bytes = 0;
  long long step = 0;
  while ((length = getline(&line, &capacity, file)) > 0) {
    bool whole = length >= 2 && line[length - 1] == '\n' && line[length - 2] == '}';
    if (!whole || sscanf(line, "{\"step\": %lld,", &step) != 1 || step > last)
      break;
    bytes += length;
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
  metrics->bytes = bytes_until(reader, step);
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
  const struct {
    const char *name;
    double value;
    bool present;
  } numbers[] = {
      {"loss", line->loss, true},
      {"kv_fraction", line->kv_fraction, true},
      {"lambda", line->lambda, true},
      {"lr", line->lr, true},
      {"grad_norm", line->grad_norm, true},
      {"accuracy", line->accuracy, line->labelled},
      {"val_loss", line->val_loss, line->evaluated},
      {"val_kv_fraction", line->val_kv_fraction, line->evaluated},
      {"val_accuracy", line->val_accuracy, line->evaluated && line->labelled},
      {"tokens_per_s", line->tokens_per_s, true},
      {"seconds", line->seconds, true},
      {"comm_exposed_s", line->comm_exposed_s, true},
  };
  int used = snprintf(text, LAUNCH_METRICS_LINE, "{\"step\": %lld, \"tokens\": %lld", (long long)line->step,
                      (long long)line->tokens);
  for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
    if (numbers[i].present)
      used +=
          print_number(text + used, LAUNCH_METRICS_LINE - (size_t)used, numbers[i].name, numbers[i].value);
  used += snprintf(text + used, LAUNCH_METRICS_LINE - (size_t)used, ", \"skipped\": %lld}\n",
                   (long long)line->skipped);
  return used;
}

void launch_metrics_write(launch_metrics *metrics, const launch_metrics_line *line) {
  char text[LAUNCH_METRICS_LINE];
  int length = launch_metrics_format(line, text);
  ssize_t written = pwrite(metrics->file, text, (size_t)length, metrics->bytes);
  if (written == length) {
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
