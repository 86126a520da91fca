// Where the memory of a rank goes, line by line, before it is taken; and what was really taken.
#pragma once

#include <stdint.h>

enum { LAUNCH_MEMORY_ROWS = 12 };

typedef struct {
  struct {
    const char *what;
    int64_t bytes;
  } rows[LAUNCH_MEMORY_ROWS];
  int32_t count;
} launch_memory_table;

void launch_memory_add(launch_memory_table *table, const char *what, int64_t bytes);
int64_t launch_memory_total(const launch_memory_table *table);
void launch_memory_print(const launch_memory_table *table, const char *title); // rank 0, standard error

// Resident memory of this process: now, and at its highest (VmRSS and VmHWM of /proc/self/status). 0 where
// the system does not tell.
int64_t launch_memory_resident(void);
int64_t launch_memory_peak(void);
