// The operators of a transformer, each with its gradient. One struct per operator serves both directions;
// forward reads and writes the upper fields, backward also the lower ones. Call sites use designated
// initialisers, so a call reads like a table of its tensors.
//
// Common rules
//   - All pointers are device memory. nn_act is the device's compute type (nn/device.h); float is float32.
//   - `y`-like outputs and gradients of activations (dx, ...) are overwritten unless the field says
//   otherwise.
//   - Gradients of parameters (dweight, dbias, ...) are ADDED to: they are float32 and accumulate over
//     micro-batches.
//   - Rows are tokens: N = B * T.
//   - Errors: NN_ERR_INTERNAL for impossible dimensions or a missing pointer, NN_ERR_MEMORY for workspace.
//   - Results on one device with one thread count repeat bit for bit.
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "nn/device.h"
#include "nn/params.h"

// ---- embedding: y[n] = table[tokens[n]]
typedef struct {
  int64_t rows;          // N
  int32_t vocab, width;  // V, C
  const int32_t *tokens; // [N], each in [0, V)
  const nn_act *table;   // [V, C]
  nn_act *y;             // [N, C]
  const nn_act *dy;      // [N, C]
  float *dtable;         // [V, C] added to; summed in a fixed order
} nn_embedding;
nn_status nn_embedding_forward(nn_device *device, const nn_embedding *op);
nn_status nn_embedding_backward(nn_device *device, const nn_embedding *op);

// ---- linear: y = x weight^T + bias
//
// GELU before or after it may be computed on the way, where `gelu` or `gelu_of` is set.
typedef struct {
  int64_t rows;         // N
  int32_t in, out;      // I, O
  const nn_act *x;      // [N, I]
  const nn_act *weight; // [O, I]
  const nn_act *bias;   // [O] or NULL
  nn_act *y;            // [N, O]
  nn_act *gelu;         // [N, O] or NULL: gelu(y) as well
  const nn_act *dy;     // [N, O]
  nn_act *dx;           // [N, I] or NULL
  bool dx_accumulate;   // add to dx instead of overwriting it
  // [N, I] or NULL: x is gelu of this, and dx is to be this one's gradient. Not with dx_accumulate.
  const nn_act *gelu_of;
  const float *dy_sums; // [O] or NULL: sums of dy over the rows, for dbias, where they have been made already
  float *dweight;       // [O, I] added to; NULL: not wanted
  float *dbias;         // [O] added to, NULL exactly where bias is NULL
} nn_linear;
nn_status nn_linear_forward(nn_device *device, const nn_linear *op);
nn_status nn_linear_backward(nn_device *device, const nn_linear *op);

// ---- residual + norm: sum = x + delta; y = norm(sum)
//
// RMSNorm (Zhang and Sennrich 2019): y = sum / sqrt(mean(sum^2) + eps) * weight. LayerNorm (Ba et al. 2016):
// y = (sum - mean) / sqrt(var + eps) * weight + bias.
typedef enum { NN_NORM_RMS, NN_NORM_LAYER } nn_norm_kind;
typedef struct {
  nn_norm_kind kind;
  int64_t rows;  // N
  int32_t width; // C
  float eps;
  const nn_act *x;      // [N, C]
  const nn_act *delta;  // [N, C] or NULL: nothing is added and `sum` may be NULL
  nn_act *sum;          // [N, C] x + delta; may be x itself. Backward reads it (or x where delta is NULL)
  const nn_act *weight; // [C]
  const nn_act *bias;   // [C] or NULL
  nn_act *y;            // [N, C]
  float *mean;          // [N], LayerNorm only
  float *rstd;          // [N]
  const nn_act *dy;     // [N, C]
  const nn_act *dsum;   // [N, C] gradient that reaches `sum` by the residual path, or NULL
  nn_act *dx;           // [N, C] = dsum + the norm's gradient: the gradient of x and of delta; may be dsum
  float *dx_sums;       // [C] or NULL: sums of dx over the rows; the dy_sums of the linear that made delta
  float *dweight;       // [C] added to
  float *dbias;         // [C] added to, NULL exactly where bias is NULL
} nn_norm;
nn_status nn_norm_forward(nn_device *device, const nn_norm *op);
nn_status nn_norm_backward(nn_device *device, const nn_norm *op);

// ---- rotary position embedding (Su et al. 2021), in place
//
// Pairs (i, i + D/2) of each head are turned by position * theta^(-2i/D). Backward turns back.
typedef struct {
  int64_t rows;             // N
  int32_t heads, head_size; // the first `heads` heads of every row are turned; D is even
  int64_t row_stride;       // elements from one row to the next (a packed qkv row has more than q and k)
  const float *table;       // [positions, D/2, 2] cos and sin, from nn_rope_table
  int32_t positions;        // rows of the table
  const int32_t *position;  // [N], or NULL: row n is at position n % period
  int32_t period;           // T, where `position` is NULL
  nn_act *x;                // [N, row_stride]
} nn_rope;
nn_status nn_rope_forward(nn_device *device, const nn_rope *op);
nn_status nn_rope_backward(nn_device *device, const nn_rope *op);
nn_status nn_rope_table(nn_device *device, int32_t positions, int32_t head_size, double theta, float *table);

// ---- gated and plain MLP activations
//
// SwiGLU (Shazeer 2020): y = silu(gate) * up. GELU, tanh form (Hendrycks and Gimpel 2016).
typedef enum { NN_MLP_SWIGLU, NN_MLP_GELU } nn_mlp_kind;
typedef struct {
  nn_mlp_kind kind;
  int64_t rows;     // N
  int32_t width;    // F
  const nn_act *x;  // SwiGLU: [N, 2F], a row is gate then up. GELU: [N, F]
  nn_act *y;        // [N, F]
  const nn_act *dy; // [N, F]
  nn_act *dx;       // like x; may be x itself, and of GELU dy
} nn_activation;
nn_status nn_activation_forward(nn_device *device, const nn_activation *op);
nn_status nn_activation_backward(nn_device *device, const nn_activation *op);

// ---- classifier: logits = x weight^T, softmax cross-entropy, and their gradients in one pass
//
// Logits of the whole batch are never stored: rows are taken in pieces. Forward alone is `dx == NULL`.
//   nll[n] = logsumexp(logits[n]) - logits[n, targets[n]]
// Rows with target -1 are not scored. A target outside of the vocabulary is NN_ERR_INPUT on the CPU; CUDA,
// which cannot tell in time, gives its row a loss and a gradient of NaN.
typedef struct {
  int64_t rows;            // N
  int32_t width;           // C
  int32_t vocab;           // rows of weight that take part in the softmax
  const nn_act *x;         // [N, C]
  const nn_act *weight;    // [V, C]
  const int32_t *targets;  // [N], -1 = not scored
  float *nll;              // [N] or NULL; 0 where not scored
  int32_t *best;           // [N] or NULL: the argmax, lowest index on ties
  struct nn_sums *sums;    // added to: nll, scored, correct
  const float *grad_scale; // one number: 1 / scored tokens of the whole step, all ranks and micro-batches
  nn_act *dx;              // [N, C] or NULL
  float *dweight;          // [V, C] added to, with dx
} nn_classifier;
nn_status nn_classifier_run(nn_device *device, const nn_classifier *op);

// Bytes of workspace that a run takes at most, for a table of memory: reads dimensions, and which outputs are
// wanted, but no tensor.
size_t nn_classifier_workspace(const nn_device *device, const nn_classifier *op);

// Plain logits, for sampling: y = x weight^T in float32.
typedef struct {
  int64_t rows;
  int32_t width, vocab;
  const nn_act *x;      // [N, C]
  const nn_act *weight; // [V, C]
  float *y;             // [N, V]
} nn_logits;
nn_status nn_logits_forward(nn_device *device, const nn_logits *op);

// Sums of a step in device memory; float64 so that one addition over ranks merges them. Means are
// sum over count, whatever the ranks and micro-batches were.
typedef struct nn_sums {
  double nll;     // nats
  double scored;  // tokens
  double correct; // tokens whose argmax was the target
  double visible; // (query, key) pairs that the mask shows, over layers and kv heads
  double causal;  // causal pairs, over layers and kv heads
} nn_sums;
enum { NN_SUMS_FIELDS = 5 };

// ---- optimizer: global norm, clipping, AdamW
//
// AdamW (Loshchilov and Hutter 2019) over the whole parameter table, decay decoupled and on matrices only:
//   g = grad * clip;  m = b1 m + (1-b1) g;  v = b2 v + (1-b2) g^2
//   w -= lr * (m / (1 - b1^t) / (sqrt(v / (1 - b2^t)) + eps) + decay * w)
// One nn_step lives in device memory; the host uploads the upper fields once a step, the device fills the
// lower ones and the host reads them with the metrics.
typedef struct {
  float lr[NN_GROUPS]; // 0 leaves the group as it is, moments included
  float beta1, beta2, eps, weight_decay;
  float max_norm;             // 0: no clipping
  float grad_scale;           // what nn_classifier.grad_scale points at
  int64_t updates[NN_GROUPS]; // t above: updates of the group that were made, this one included
  // from here on written by nn_grad_norm
  double squares;     // sum of the squares of the gradient; of a shard, this rank's part
  float grad_norm;    // before clipping
  float clip_factor;  // min(1, max_norm / grad_norm)
  int32_t non_finite; // 1: the gradient holds an infinity or a NaN
} nn_step;

nn_status nn_grad_norm(nn_device *device, const nn_params *params, nn_step *step);
// What follows from `squares`. With a shard nn_grad_norm knows its own part only: all ranks' are added up,
// and these fields uploaded again, before the update.
void nn_step_set_norm(nn_step *step, double squares);
// Updates what this rank owns. Does nothing when step->non_finite is set; else refreshes params->compute too.
nn_status nn_adamw(nn_device *device, const nn_params *params, const nn_step *step);

// to += from, for sums of gradients on their way into nn_params.sum. Both at multiples of NN_PARAM_ALIGN.
nn_status nn_accumulate(nn_device *device, float *to, const float *from, int64_t count);
