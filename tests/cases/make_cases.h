// Writes a file of recorded cases (docs/formats.md) with results of the float64 reference.
#pragma once

#include <stdint.h>

void make_cases(const char *path, uint64_t seed);
