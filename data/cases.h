// Recorded cases of masked attention: inputs and float64 results of one sequence each, in one HDF5 file with
// a group per case (docs/formats.md). Errors name the file, the case and the data set.
#pragma once

#include <stdint.h>

#include "nn/status.h"

typedef struct {
  char name[64];
  int32_t heads, kv_heads; // H, Hk
  int32_t length;          // T
  int32_t head_size;       // D
  int32_t window, chunk;   // W, C; n = T / C rounded up
  float *q, *d_o;          // [H, T, D]
  float *k, *v;            // [Hk, T, D]
  uint8_t *types;          // [Hk, n] 0 global, 1 local, 2 window
  // expected
  double *o, *dq;                // [H, T, D]
  double *lse;                   // [H, T]
  double *dk, *dv;               // [Hk, T, D]
  double *dtypes, *dtypes_clip1; // [Hk, n, 3] without and with a cap of 1 on e^{s - lse}
  int64_t *live;                 // [Hk, T] keys that query i sees, itself included
  double kv_fraction;
} data_case;

typedef struct data_cases data_cases;

// NN_ERR_INPUT for a file without a case.
nn_status data_cases_open(const char *path, data_cases **out);
void data_cases_close(data_cases *cases); // NULL is allowed
int32_t data_cases_count(const data_cases *cases);

// Reads case `index`, in the order of names. Free it, also after a failure.
nn_status data_cases_read(data_cases *cases, int32_t index, data_case *out);
void data_case_free(data_case *one);
