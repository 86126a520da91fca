// Private to launch/compare*.c: a comparison on its way from the plan to the results.
//
// A row is one measurement: a task (text, a labelled task, needles of one length), a model, and the policy
// that the model decodes under. Rank 0 knows the models, prepares rows (sizes, keys, what is done already)
// and deals them; every rank measures whole rows alone and leaves each in a file of its own; rank 0 reads
// them back. Rows that look at other rows (a policy matched to the bytes of a model) come second.
#pragma once

#include <jansson.h>

#include "data/dataset.h"
#include "dist/group.h"
#include "launch/compare/plan.h"
#include "launch/eval/run_folder.h"
#include "nats/policy.h"

// What must be known of a model without opening it.
typedef struct {
  char checkpoint[COMPARE_PATH]; // the folder that was found
  int64_t step, tokens, seed, parameters;
  uint64_t hash; // XXH3-64 of its manifest, which has those of all files
  double lambda, kv_target;
  int32_t length; // that it was trained with
  nats_model_config config;
} compare_model_info;

typedef enum { COMPARE_TEXT, COMPARE_TASK, COMPARE_NEEDLE } compare_measure;

// How a row is measured.
typedef struct {
  int32_t length, prompt, batch;
  int64_t samples, available; // of those that the split has
} compare_shape;

enum { COMPARE_ROW_NAME = 224, COMPARE_CHOICE = 160, COMPARE_NOTE = 160, COMPARE_KEY = 17 };

typedef struct {
  compare_measure measure;
  int32_t task;   // of plan.tasks or of needle.lengths
  int32_t model;  // of plan.models
  int32_t policy; // of plan.policies; -1: the model's own
  int32_t budget; // of plan.budgets, and behind them plan.match; -1: none
  char name[COMPARE_ROW_NAME];
  // found by rank 0 when the row is prepared
  char choice[COMPARE_CHOICE]; // with all parameters
  char key[COMPARE_KEY];
  char note[COMPARE_NOTE];
  compare_shape shape;
  int64_t bytes_wanted; // 0: none
  bool draws;           // every seed is measured
  bool possible;        // else `note` says why not
  bool done;            // there is a file with this key
  double cost;          // of measuring, in any unit
  int32_t rank;         // that measures it
} compare_row;

typedef struct {
  dist_group *world, *alone;
  const char *folder;
  compare_plan plan;
  compare_model_info models[COMPARE_MODELS];
  char device[8]; // cpu, cuda: the same on all ranks
  char device_text[160], precision[8];
  int32_t threads;
  compare_row *rows;
  int32_t row_count;
  launch_run run; // the model that is open on this rank
  int32_t open;   // which; -1: none
  double started;
} comparison;

// ---- compare_rows.c: which rows there are

// Fills rows: names, in the order of the plan. The same on all ranks. Errors: NN_ERR_MEMORY, NN_ERR_USAGE
// (rows that would have one name).
nn_status compare_rows_list(comparison *c);
// The policy of a row as the plan spells it; NULL: the model's own.
const char *compare_row_policy(const comparison *c, const compare_row *row);
// "dense", "learned", "co-trained", "post hoc"
const char *compare_row_role(const comparison *c, const compare_row *row);
const char *compare_row_task(const comparison *c, const compare_row *row, char text[COMPARE_NAME]);
// "share 0.125", "as nats-0.05", "" where a row has no budget
const char *compare_row_budget(const comparison *c, const compare_row *row, char text[96]);
// The row of the model under its own policy, on the same task.
const compare_row *compare_row_own(const comparison *c, const compare_row *row, int32_t model);
// DIR/rows/NAME.json
nn_status compare_row_path(const comparison *c, const compare_row *row, char path[COMPARE_PATH + 300]);
// Whether it is there, and not left over from before the row was prepared.
bool compare_row_measured(const comparison *c, const compare_row *row);
// What is in that file; NULL where there is none. Free with json_decref.
json_t *compare_row_read(const comparison *c, const compare_row *row);

// ---- compare_prepare.c: how large, and whether there is anything to do

// Opens a model on this rank, unless it is open already.
nn_status compare_open_model(comparison *c, int32_t model);
// On rank 0: finds out about all models and the data.
nn_status compare_look(comparison *c);
// On rank 0: everything of the rows of a phase (0: under the models' own policies, 1: the others).
nn_status compare_prepare(comparison *c, int32_t phase);
static inline int32_t compare_row_phase(const compare_row *row) {
  return row->policy < 0 ? 0 : 1;
}

// ---- compare_size.c

// Finds the value of the policy's size with which a cache comes closest, as a ratio, to row->bytes_wanted a
// sequence; of those that take the same the largest, of two equally close the larger. `choice` comes with all
// other parameters. row->possible is false, and row->note says why, where even the least size takes more than
// the plan's tolerance above. The model must be open.
nn_status compare_find_size(comparison *c, compare_row *row, nats_policy_choice *choice);
// Bytes of a sequence that the dense policy allocates.
int64_t compare_dense_bytes(const comparison *c, int32_t length);

// ---- compare_data.c

// Opens the samples of a row; for needles those of one depth and seed.
typedef struct {
  data_set *set;
  data_loader *loader;
} compare_samples;
nn_status compare_samples_open(const comparison *c, const compare_row *row, int32_t depth, int64_t seed,
                               compare_samples *out);
void compare_samples_close(compare_samples *samples);
const char *compare_samples_kind(const comparison *c, const compare_row *row); // "stream", "document"
// A hash of all that the samples of a row are made of.
nn_status compare_samples_hash(const comparison *c, const compare_row *row, uint64_t *hash);
// Writes the needles' data sets that are not there yet, each rank some. Collective.
nn_status compare_make_needles(comparison *c);

// ---- compare_measure.c

// Measures one row on this rank and writes its file.
nn_status compare_measure_row(comparison *c, const compare_row *row,
                              void (*progress)(void *context, double share), void *context);
enum { COMPARE_WARM_UP = 16 }; // steps that are not timed

// ---- compare_report.c: on rank 0

// Reads all rows back and writes results.json, results.csv and results.md. `stopped`: those that there are;
// else the table goes to standard output too, with `json` as results.json.
nn_status compare_report(const comparison *c, bool stopped, bool json);
// The lines that say what the numbers mean.
extern const char *const compare_protocol[];
