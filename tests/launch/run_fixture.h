// What tests of `eval` and `generate` share: a data set of random words, a run whose model was never trained
// but chooses all types of tokens, and the program itself.
#pragma once

#include <criterion/criterion.h>
#include <jansson.h>

#include "data/build.h"
#include "data/synth.h"
#include "launch/eval/run_folder.h"

#define cr_ok(expression) cr_assert_eq((expression), NN_OK, "%s (%s)", nn_error_text(), nn_error_place())

extern char run_folder[256]; // of the test; all below it goes with it
extern uint64_t run_seed;
extern dist_group *run_world; // this process alone

void run_fixture_open(void);
void run_fixture_close(void);

// FOLDER/name
const char *run_path(const char *name);

// Byte tokens of documents of random words, with a validation split, in FOLDER/name.
void run_make_text(const char *name);
void run_make_mqar(const char *name); // documents of 64 tokens, 256 of them known

// A small configuration for the data in FOLDER/data.
launch_config run_config(const char *data, const char *attention, int32_t type_chunk);

// A run in FOLDER/name with a checkpoint of `step`, drawn from `step` and the seed.
void run_make(const char *name, const launch_config *config, int64_t step, double loss);

// Runs `natsformer ARGUMENTS` on `ranks` ranks (0: without mpirun); FOLDER stands for the folder. Returns its
// exit code; *out is what it wrote to standard output, *err to standard error (free both; NULL: not wanted).
int run_program(int ranks, const char *arguments, char **out, char **err);
// The same with success and one JSON object expected; free with json_decref.
json_t *run_json(int ranks, const char *arguments);
double run_number(const json_t *object, const char *name); // must be there
