// Trains a SentencePiece model on text: lossless, with pieces for spaces, tabs as bytes and newlines of their
// own, byte fallback, and "<|endoftext|>" as its end-of-sentence symbol.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "dist/group.h"

typedef struct {
  const char *const *inputs; // as in data/text_source.h
  int64_t input_count;
  const char *field; // of .jsonl
  const char *out;   // the model file
  bool force;        // replace a file that is there
  int32_t vocab;
  const char *type; // "bpe", "unigram"
  double coverage;  // see data_sp_train
  // Text to learn from, about: stretches drawn evenly from all inputs. Training holds it in memory many times
  // over (unigram: about 25 times).
  int64_t sample_bytes;
  uint64_t seed;
} data_tokenizer_training;

// Collective: all ranks read, rank 0 trains. NN_ERR_UNSUPPORTED in a build without SentencePiece.
nn_status data_train_tokenizer(dist_group *world, const data_tokenizer_training *training);
