// Getting the speed of the machine: the kernels of a BLAS that one did not build oneself, and threads.
#pragma once

#include <stddef.h> // size_t
#include <stdint.h>

#include "dist/group.h"

// Debian's OpenBLAS takes some CPUs with AVX-512 for older ones (63 instead of 280 GFLOP/s were measured).
// Where OPENBLAS_CORETYPE is not set and OpenBLAS chose kernels below what the CPU can do, sets it and starts
// this program anew, once. Called before anything else; with another BLAS it does nothing.
void launch_blas_choose_core(char **argv);

// "OpenBLAS 0.3.21, SkylakeX kernels"; "a BLAS" where it is another one.
void launch_blas_describe(char *text, size_t size);

// Threads of OpenMP in this rank: `wanted`, or where that is 0 what OMP_NUM_THREADS says, or the cores that
// this rank may use, shared equally with the ranks of this machine that may use the same ones. Collective.
nn_status launch_set_threads(dist_group *world, int32_t wanted);
