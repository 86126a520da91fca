#include "launch/records/memory_table.h"

#include <stdio.h>
#include <string.h>

#include "launch/records/progress.h" // launch_bytes
#include "nn/log.h"

void launch_memory_add(launch_memory_table *table, const char *what, int64_t bytes) {
  if (table->count == LAUNCH_MEMORY_ROWS || bytes == 0)
    return;
  table->rows[table->count].what = what;
  table->rows[table->count++].bytes = bytes;
}

int64_t launch_memory_total(const launch_memory_table *table) {
  int64_t total = 0;
  for (int32_t i = 0; i < table->count; i++)
    total += table->rows[i].bytes;
  return total;
}

void launch_memory_print(const launch_memory_table *table, const char *title) {
  char text[LAUNCH_DURATION];
  nn_info("%s", title);
  for (int32_t i = 0; i < table->count; i++)
    nn_info("  %-28s %12s", table->rows[i].what, launch_bytes(table->rows[i].bytes, text));
  nn_info("  %-28s %12s", "total", launch_bytes(launch_memory_total(table), text));
}

static int64_t status_line(const char *name) {
  FILE *file = fopen("/proc/self/status", "re");
  if (file == NULL)
    return 0;
  char line[256];
  long long kib = 0;
  size_t length = strlen(name);
  while (fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, name, length) == 0 && sscanf(line + length, ": %lld", &kib) == 1)
      break;
  fclose(file);
  return (int64_t)kib * 1024;
}

int64_t launch_memory_resident(void) {
  return status_line("VmRSS");
}

int64_t launch_memory_peak(void) {
  return status_line("VmHWM");
}
