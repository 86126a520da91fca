// The functions of nn/cuda/copy.h on the CPU, which includes this file and says what they do. A copy is made
// when it is waited for; until then its target holds NaN.
#pragma once

#include "tests/emulator/emulator.h"

static inline void nn_copy16(void *shared, const void *global, bool valid, EMULATOR_HERE) {
  emulator_copy16(here, shared, global, valid);
}
static inline void nn_copy_commit() { emulator_copy_commit(); }
template <int N> static inline void nn_copy_wait() { emulator_copy_wait(N); }
