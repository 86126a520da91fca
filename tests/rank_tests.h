// Tests between ranks. A process starts MPI once, which takes longer than most tests, and Criterion gives
// each of its tests a process: so those of a file are functions, which one Criterion test runs one after the
// other.
#pragma once

#include <stddef.h> // size_t
#include <stdio.h>  // fprintf

typedef struct {
  const char *name;
  void (*run)(void);
} rank_test;

#define RANK_TEST(function)                                                                                  \
  { #function, function }

// `before` and `after` each of them; NULL is allowed. The last name that was printed is that of the test that
// failed.
static inline void run_rank_tests(const rank_test *tests, size_t count, void (*before)(void),
                                  void (*after)(void)) {
  for (size_t i = 0; i < count; i++) {
    fprintf(stderr, "%s\n", tests[i].name);
    if (before != NULL)
      before();
    tests[i].run();
    if (after != NULL)
      after();
  }
}
