// A new seed for every run of a test; NN_TEST_SEED=N repeats one that a failure has printed.
#pragma once

#include <stdint.h>
#include <stdlib.h> // getenv, strtoull
#include <time.h>   // clock_gettime

static inline uint64_t fresh_seed(void) {
  const char *given = getenv("NN_TEST_SEED");
  if (given != NULL)
    return strtoull(given, NULL, 10);
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec;
}
