// Synthetic recall tasks: documents of a fixed length with labels only where the model must remember. A data
// set like any other (kind of tokenizer "none", no end-of-text), made for `sample: document`. Sample s of a
// split is a pure function of (seed, split, s), whatever the number of ranks.
//
// labels[t] is the target of position t: what the model must predict from tokens[0..t]. -1 is not scored.
//
// Multi-query associative recall, `mqar` (Arora et al., "Zoology", 2023): P different keys with a value each,
//     k1 v1 k2 v2 ... kP vP  filler ... k ... filler ... k ... filler
// and later each of Q queries shows a key again; labels[t] there is the key's value. What follows a query is
// filler, never the answer. A key is asked a second time only after all have been asked once. The query of
// pair i stands at a position drawn uniformly from those more than `window` tokens after its value.
//     keys [0, K), values [K, 2K), filler [2K, vocab), all drawn uniformly; K = vocab / 4
//
// Passkey (Mohtashami and Jaggi, "Landmark attention", 2023), `passkey`: a needle of D digits in filler,
// asked for at the end,
//     filler ... mark d1 ... dD ... filler ask d1 ... d(D-1)
// where the last D positions are labelled d1 ... dD. The needle starts at `depth` (0: first position, 1: the
// last one that leaves more than `window` tokens between dD and ask), or uniformly when depth is negative.
//     digits [0, 10), mark 10, ask 11, filler [12, vocab)
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "data/manifest.h"
#include "dist/group.h"

typedef struct {
  const char *folder;
  bool force; // replace a data set that is there
  uint64_t seed;
  int64_t samples, val_samples; // val_samples may be 0: no such split
  int32_t length, vocab, window;
} data_synth;

typedef struct {
  int32_t pairs, queries;
} data_synth_mqar;

typedef struct {
  int32_t digits;
  double depth; // negative: uniform
} data_synth_passkey;

// Collective. NN_ERR_USAGE names what cannot be. `manifest`: see data_output_commit.
nn_status data_synth_write_mqar(dist_group *world, const data_synth *synth, const data_synth_mqar *mqar,
                                data_manifest *manifest);
nn_status data_synth_write_passkey(dist_group *world, const data_synth *synth,
                                   const data_synth_passkey *passkey, data_manifest *manifest);
