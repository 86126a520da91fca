// The rows: odd sizes first (one row, widths that no vector divides), then one that is large enough for
// threads.
#include "tests/nn/operator_table.h"

const operator_row OPERATOR_ROWS[] = {
    {"embedding 1x5", &EMBEDDING, .rows = 1, .width = 5, .more = 3},
    {"embedding 17x33", &EMBEDDING, .rows = 17, .width = 33, .more = 7},
    {"embedding 300x67, threads", &EMBEDDING, .rows = 300, .width = 67, .more = 11},

    {"linear 1x1->1", &LINEAR, .rows = 1, .width = 1, .more = 1},
    {"linear 3x7->5, bias", &LINEAR, .rows = 3, .width = 7, .more = 5, .bias = true},
    {"linear 17x33->19, bias, dx added", &LINEAR, .rows = 17, .width = 33, .more = 19, .bias = true,
     .accumulate = true},
    {"linear 300x67->150, bias, threads", &LINEAR, .rows = 300, .width = 67, .more = 150, .bias = true},
    {"linear 16x67->1100, bias, threads over columns", &LINEAR, .rows = 16, .width = 67, .more = 1100,
     .bias = true},
    {"linear 64x48->16", &LINEAR, .rows = 64, .width = 48, .more = 16},

    {"rmsnorm 1x5", &NORM, .rows = 1, .width = 5},
    {"rmsnorm 3x16, residual", &NORM, .rows = 3, .width = 16, .residual = true},
    {"rmsnorm 17x33, residual, in place", &NORM, .rows = 17, .width = 33, .residual = true, .in_place = true},
    {"rmsnorm 300x67, residual, threads", &NORM, .rows = 300, .width = 67, .residual = true},
    {"layernorm 1x5, bias", &NORM, .rows = 1, .width = 5, .kind = NN_NORM_LAYER, .bias = true},
    {"layernorm 3x16", &NORM, .rows = 3, .width = 16, .kind = NN_NORM_LAYER},
    {"layernorm 17x33, bias, residual, in place", &NORM, .rows = 17, .width = 33, .kind = NN_NORM_LAYER,
     .bias = true, .residual = true, .in_place = true},
    {"layernorm 300x67, bias, residual, threads", &NORM, .rows = 300, .width = 67, .kind = NN_NORM_LAYER,
     .bias = true, .residual = true},

    {"rope 1 row, 1 head of 2", &ROPE, .rows = 1, .width = 1, .more = 2},
    {"rope 17 rows, 3 heads of 10", &ROPE, .rows = 17, .width = 3, .more = 10},
    {"rope 17 rows, 2 heads of 34, positions given", &ROPE, .rows = 17, .width = 2, .more = 34,
     .positions = true},
    {"rope 300 rows, 1 head of 300, threads", &ROPE, .rows = 300, .width = 1, .more = 300},

    {"swiglu 1x1", &ACTIVATION, .rows = 1, .width = 1, .kind = NN_MLP_SWIGLU},
    {"swiglu 3x21, in place", &ACTIVATION, .rows = 3, .width = 21, .kind = NN_MLP_SWIGLU, .in_place = true},
    {"swiglu 300x67, threads", &ACTIVATION, .rows = 300, .width = 67, .kind = NN_MLP_SWIGLU},
    {"gelu 1x1", &ACTIVATION, .rows = 1, .width = 1, .kind = NN_MLP_GELU},
    {"gelu 3x21, in place", &ACTIVATION, .rows = 3, .width = 21, .kind = NN_MLP_GELU, .in_place = true},
    {"gelu 300x67, threads", &ACTIVATION, .rows = 300, .width = 67, .kind = NN_MLP_GELU},

    {"classifier 1x5, 3 words", &CLASSIFIER, .rows = 1, .width = 5, .more = 3},
    {"classifier 3x16, 1 word", &CLASSIFIER, .rows = 3, .width = 16, .more = 1},
    {"classifier 17x33, 19 words", &CLASSIFIER, .rows = 17, .width = 33, .more = 19},
    {"classifier 17x33, 50 words, some unscored", &CLASSIFIER, .rows = 17, .width = 33, .more = 50,
     .unscored = true},
    {"classifier 300x20, 67 words, threads", &CLASSIFIER, .rows = 300, .width = 20, .more = 67},
    {"classifier 2100x4, 7 words, two pieces", &CLASSIFIER, .rows = 2100, .width = 4, .more = 7},
    {"classifier 6500x4, 7 words, two pieces, some unscored", &CLASSIFIER, .rows = 6500, .width = 4,
     .more = 7, .unscored = true},

    {"logits 3x7, 5 words", &LOGITS, .rows = 3, .width = 7, .more = 5},
};

const int OPERATOR_ROW_COUNT = sizeof OPERATOR_ROWS / sizeof *OPERATOR_ROWS;
