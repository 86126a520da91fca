// The configuration of a run: one struct, filled from YAML through one table of keys
// (launch/config/config.c).
//
// Every key has one row in that table: path, type, default, range, whether it may change on resume, and a
// line of help. One strict converter stands behind both the file and `key.path=value`: the whole text is
// consumed, decimal, finite, in range; booleans are true or false only. Unknown keys, keys given twice and
// wrong types are errors that name the key's path.
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h> // FILE

#include "dist/group.h"
#include "nats/model.h"
#include "nn/schedule.h"
#include "nn/status.h"

typedef struct {
  char run[1024]; // run folder
  int64_t seed;
  char device[8];    // auto, cpu, cuda
  char precision[8]; // auto, float32, bf16
  int32_t threads; // OpenMP threads per rank; 0: what the launcher allows, shared by the ranks of the machine

  struct {
    char path[1024];
    char sample[16]; // stream, document
  } data;

  struct {
    int32_t layers, width, heads;
    int32_t kv_heads;  // 0: heads
    int32_t head_size; // 0: width / heads
    int32_t mlp_size;  // 0: swiglu 8/3 width rounded up to a multiple of 64, gelu 4 width
    int32_t vocab;     // 0: the data's, rounded up to a multiple of 64
    char norm[16];     // rmsnorm, layernorm
    char mlp[16];      // swiglu, gelu
    bool bias, tied;
    double rope_theta, norm_eps;
    double init_std; // 0: sqrt(0.3 / width), GPT-2's 0.02 at its width of 768, and larger in narrower models
    char attention[16]; // dense, nats, window
    int32_t window;     // W, of nats and window attention
  } model;

  struct {
    int32_t type_chunk;
    double tau, type_grad_clip, type_grad_rows;
    double scorer_bias, scorer_lr; // initial bias for global; learning-rate factor
    bool scorer_detach;
    double type_warmup; // share of steps in which every token is global and the scorer does not learn
    double lambda;      // price of the whole cache, nats
    double lambda_ramp; // share of steps over which lambda rises from 0 after the warm-up
    double
        kv_target; // 0: none; else lambda follows lambda += kv_eta (KV fraction - kv_target), never below 0
    double kv_eta;
  } nats;

  struct {
    char from[1024]; // run folder whose weights this run begins with; empty: random ones
    int64_t steps;
    int32_t batch;       // sequences a step, over all ranks
    int32_t micro_batch; // sequences of one pass on one rank, at most
    int32_t length;      // T, tokens of a sequence
    char recompute[12];  // none, attention, block
    double skip_spikes;  // losses above this times the running median are left out; 0: none
    int32_t max_skipped; // steps in a row with a non-finite gradient before the run fails
    double time_limit;   // minutes after which a start saves and stops; 0: none
    double stop_before;  // minutes before the end of the Slurm job to do so; 0: not
  } train;

  struct {
    double lr, lr_min;
    char schedule[16]; // cosine, wsd, constant
    int64_t warmup, decay;
    double beta1, beta2, eps, weight_decay, clip;
  } optimizer;

  struct {
    int64_t every;   // steps; 0: only at the end
    int64_t samples; // of the validation split; 0: all
  } eval;

  struct {
    int64_t every; // steps; 0: only at the end
    int32_t keep, writers;
    bool keep_best;
  } checkpoint;

  struct {
    double bucket_mib; // gradient buckets; 0: by device
    char gradients[8]; // what they travel as: float32, bf16 (GPUs only)
    char shard[12];    // what ranks share instead of each having all: none, optimizer, gradients
    double deadline;   // seconds a collective may take in a step; in other phases:
    double deadline_setup, deadline_evaluation, deadline_checkpoint;
  } dist;

  struct {
    int64_t every; // steps between progress lines where standard error is no terminal
  } log;
} launch_config;

void launch_config_defaults(launch_config *config);

// Reads a file over `config` / one "key.path=value". Errors: NN_ERR_USAGE with file, line and key path.
nn_status launch_config_read(launch_config *config, const char *path);
nn_status launch_config_parse(launch_config *config, const char *yaml, const char *name);
nn_status launch_config_override(launch_config *config, const char *assignment);

// The configuration of a command, on all ranks: rank 0 reads `path` (NULL: defaults alone) and applies
// `count` overrides. Collective.
nn_status launch_config_load(dist_group *world, const char *path, const char *const *overrides, int count,
                             launch_config *config);

// What cannot be, across keys (width not divisible by heads, batch smaller than the ranks, ...).
nn_status launch_config_check(const launch_config *config, int32_t ranks);

// The effective configuration as YAML that reads back to the same struct. print: to a stream; text:
// malloc'ed.
void launch_config_print(const launch_config *config, FILE *stream);
char *launch_config_text(const launch_config *config);

// The lines of the effective configuration that must not differ on resume (a run folder belongs to one of
// these).
char *launch_config_fixed_text(const launch_config *config);

// Every key with its default, range and help, for `natsformer train --help-config` and docs.
void launch_config_help(FILE *stream);

// The model's configuration; `data_vocab` fills model.vocab where that is 0, and must not exceed it
// otherwise.
nn_status launch_config_model(const launch_config *config, int32_t data_vocab, nats_model_config *out);
