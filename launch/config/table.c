// Every key of the configuration, and how a mistyped one finds its neighbour.
#include "launch/config/table.h"

#include <stdint.h>
#include <string.h>

// The path of a key is the name of its field; _Generic refuses a field of another type.
#define NAME(member)       .path = #member, .offset = offsetof(launch_config, member)
#define MEMBER(member)     (((launch_config *)0)->member)
#define TEXT_SIZE(member)  _Generic(MEMBER(member), char * : sizeof MEMBER(member))
#define WHOLE_SIZE(member) _Generic(MEMBER(member), int32_t : sizeof(int32_t), int64_t : sizeof(int64_t))
#define REAL_SIZE(member)  _Generic(MEMBER(member), double : sizeof(double))
#define FLAG_SIZE(member)  _Generic(MEMBER(member), bool : sizeof(bool))

// clang-format off
#define TEXT(member, value, on_resume, about)                                                                \
  {NAME(member), .type = LAUNCH_TEXT, .size = TEXT_SIZE(member), .fallback = (value),                        \
   .fixed = (on_resume), .help = (about)}
#define WORD(member, value, list, on_resume, about)                                                          \
  {NAME(member), .type = LAUNCH_WORD, .size = TEXT_SIZE(member), .fallback = (value), .words = (list),       \
   .fixed = (on_resume), .help = (about)}
#define WHOLE(member, value, low, high, on_resume, about)                                                    \
  {NAME(member), .type = LAUNCH_WHOLE, .size = WHOLE_SIZE(member), .fallback = (value), .min = (low),        \
   .max = (high), .fixed = (on_resume), .help = (about)}
#define REAL(member, value, low, high, on_resume, about)                                                     \
  {NAME(member), .type = LAUNCH_REAL, .size = REAL_SIZE(member), .fallback = (value), .min = (low),          \
   .max = (high), .fixed = (on_resume), .help = (about)}
#define POSITIVE(member, value, high, on_resume, about)                                                      \
  {NAME(member), .type = LAUNCH_REAL, .size = REAL_SIZE(member), .fallback = (value), .above = true,         \
   .max = (high), .fixed = (on_resume), .help = (about)}
#define FLAG(member, value, on_resume, about)                                                                \
  {NAME(member), .type = LAUNCH_FLAG, .size = FLAG_SIZE(member), .fallback = (value),                        \
   .fixed = (on_resume), .help = (about)}
// clang-format on

enum { MAY_CHANGE = false, FIXED = true }; // on resume
enum { MANY = 1 << 30 };                   // beyond any sensible count that is stored as int32
#define HUGE_COUNT 1e15                    // int64 counts; exact in a double

// clang-format off
const launch_key launch_keys[] = {
  TEXT(run, "", MAY_CHANGE, "folder of the run: configuration, metrics, checkpoints, plots"),
  WHOLE(seed, "1", 0, HUGE_COUNT, FIXED, "of initialisation, data order and noise"),
  WORD(device, "auto", "auto|cpu|cuda", MAY_CHANGE, "auto: a GPU where this build and this machine have one"),
  WORD(precision, "auto", "auto|float32|bf16", MAY_CHANGE, "what operators compute in; auto: bf16 on a GPU, float32 on the CPU"),
  WHOLE(threads, "0", 0, 4096, MAY_CHANGE, "threads of a rank; 0: the allowed cores, shared by the ranks of the machine"),

  TEXT(data.path, "", MAY_CHANGE, "folder written by `natsformer data build` or `data synth`"),
  WORD(data.sample, "stream", "stream|document", FIXED, "stream: windows across documents; document: one padded sample each"),

  WHOLE(model.layers, "6", 1, 1024, FIXED, "transformer blocks"),
  WHOLE(model.width, "384", 1, 65536, FIXED, "size of the hidden state"),
  WHOLE(model.heads, "6", 1, 1024, FIXED, "query heads"),
  WHOLE(model.kv_heads, "0", 0, 1024, FIXED, "key and value heads, a divisor of heads; 0: heads"),
  WHOLE(model.head_size, "0", 0, 1024, FIXED, "even; 0: width / heads"),
  WHOLE(model.mlp_size, "0", 0, 1 << 20, FIXED, "0: swiglu 8/3 width rounded up to a multiple of 64, gelu 4 width"),
  WHOLE(model.vocab, "0", 0, 1 << 24, FIXED, "rows of the embedding table; 0: the data's, rounded up to a multiple of 64"),
  WORD(model.norm, "rmsnorm", "rmsnorm|layernorm", FIXED, "normalisation before attention and MLP"),
  WORD(model.mlp, "swiglu", "swiglu|gelu", FIXED, "activation of the MLP"),
  FLAG(model.bias, "false", FIXED, "biases in linear layers and in LayerNorm"),
  FLAG(model.tied, "true", FIXED, "the output head is the embedding table"),
  POSITIVE(model.rope_theta, "10000", 1e12, FIXED, "base of the rotary position embedding"),
  POSITIVE(model.norm_eps, "1e-05", 1, FIXED, "added to the variance"),
  REAL(model.init_std, "0", 0, 10, FIXED, "standard deviation of initial weights; 0: sqrt(0.3 / width)"),
  WORD(model.attention, "nats", "dense|nats|window", FIXED, "nats: learned token types; window: plain sliding window"),
  WHOLE(model.window, "16", 0, MANY, FIXED, "W: tokens that a window token lives on, in nats and window attention"),

  WHOLE(nats.type_chunk, "1", 1, 1 << 20, FIXED, "tokens that share one type"),
  POSITIVE(nats.tau, "1", 1000, FIXED, "temperature of the straight-through softmax"),
  REAL(nats.type_grad_clip, "1", 0, 1e6, FIXED, "cap of hidden pairs in the type gradient: 0 (none) or at least 1"),
  POSITIVE(nats.type_grad_rows, "1", 1, FIXED, "share of query blocks on which hidden pairs are visited"),
  REAL(nats.scorer_bias, "4", -100, 100, FIXED, "initial bias of the scorer for global"),
  REAL(nats.scorer_lr, "1", 0, 1000, FIXED, "factor on the scorer's learning rate"),
  FLAG(nats.scorer_detach, "false", FIXED, "the scorer's gradient stays out of the rest of the model"),
  REAL(nats.type_warmup, "0.2", 0, 1, FIXED, "share of steps in which every token is global and the scorer does not learn"),
  REAL(nats.lambda, "0.05", 0, 1e6, FIXED, "price of the whole KV cache, in nats"),
  REAL(nats.lambda_ramp, "0.2", 0, 1, FIXED, "share of steps over which lambda rises from 0 after the warm-up"),
  REAL(nats.kv_target, "0", 0, 1, FIXED, "KV fraction that lambda is driven to after the warm-up; 0: constant lambda"),
  REAL(nats.kv_eta, "0.003", 0, 1000, FIXED, "lambda += kv_eta (KV fraction - kv_target), once a step"),

  TEXT(train.from, "", MAY_CHANGE, "run folder whose last weights a new run begins with, instead of random ones"),
  WHOLE(train.steps, "1000", 1, HUGE_COUNT, MAY_CHANGE, "updates of the whole run; schedules and phases are shares of it"),
  WHOLE(train.batch, "32", 1, 1 << 24, FIXED, "sequences of a step, over all ranks"),
  WHOLE(train.micro_batch, "8", 1, 1 << 20, MAY_CHANGE, "sequences of one pass on one rank, at most"),
  WHOLE(train.length, "512", 1, 1 << 24, FIXED, "T: tokens of a sequence"),
  WORD(train.recompute, "none", "none|attention|block", MAY_CHANGE, "activations that backward computes again instead of keeping them: less memory, more work"),
  REAL(train.skip_spikes, "0", 0, 1e6, MAY_CHANGE, "steps are left out whose loss exceeds this times the median of the last 32; 0: none"),
  WHOLE(train.max_skipped, "10", 1, MANY, MAY_CHANGE, "steps in a row that are left out (non-finite gradient, loss spike) that end the run"),
  REAL(train.time_limit, "0", 0, 1e9, MAY_CHANGE, "minutes after which this start saves and stops with exit code 75; 0: none"),
  REAL(train.stop_before, "0", 0, 1e9, MAY_CHANGE, "minutes before the end of the Slurm job (SLURM_JOB_END_TIME) to save and stop with exit code 75; 0: not"),

  POSITIVE(optimizer.lr, "0.001", 1000, FIXED, "peak learning rate"),
  REAL(optimizer.lr_min, "0.0001", 0, 1000, FIXED, "learning rate at the end of the schedule"),
  WORD(optimizer.schedule, "cosine", "cosine|wsd|constant", FIXED, "wsd: warm-up, stable, decay"),
  WHOLE(optimizer.warmup, "100", 0, HUGE_COUNT, FIXED, "steps of linear warm-up"),
  WHOLE(optimizer.decay, "0", 0, HUGE_COUNT, FIXED, "last steps over which wsd decays"),
  REAL(optimizer.beta1, "0.9", 0, 0.999999, FIXED, "of AdamW's first moment"),
  REAL(optimizer.beta2, "0.95", 0, 0.999999, FIXED, "of AdamW's second moment"),
  POSITIVE(optimizer.eps, "1e-08", 1, FIXED, "of AdamW"),
  REAL(optimizer.weight_decay, "0.1", 0, 1000, FIXED, "decoupled, on matrices only"),
  REAL(optimizer.clip, "1", 0, 1e9, FIXED, "global gradient norm is clipped to this; 0: not"),

  WHOLE(eval.every, "250", 0, HUGE_COUNT, MAY_CHANGE, "steps between evaluations; 0: only at the end"),
  WHOLE(eval.samples, "64", 0, HUGE_COUNT, MAY_CHANGE, "samples of the validation split; 0: all"),

  WHOLE(checkpoint.every, "250", 0, HUGE_COUNT, MAY_CHANGE, "steps between checkpoints; 0: only at the end"),
  WHOLE(checkpoint.keep, "3", 1, MANY, MAY_CHANGE, "newest checkpoints that are kept"),
  WHOLE(checkpoint.writers, "64", 1, MANY, MAY_CHANGE, "ranks that write, at most"),
  FLAG(checkpoint.keep_best, "true", MAY_CHANGE, "also keep the one with the lowest validation loss, of those evaluated"),

  REAL(dist.bucket_mib, "0", 0, 4096, MAY_CHANGE, "size of a gradient bucket; 0: 4 on CPUs, 32 on GPUs; results repeat for one size"),
  WORD(dist.gradients, "float32", "float32|bf16", MAY_CHANGE, "what gradients travel as between ranks; bf16: on GPUs, half the bytes, rounded to 8 significant bits"),
  WORD(dist.shard, "none", "none|optimizer|gradients", MAY_CHANGE, "what each rank has a part of only: moments and, on GPUs in bf16, float32 parameters; gradients: their sums too, for more messages"),
  REAL(dist.deadline, "600", 0, 1e9, MAY_CHANGE, "seconds that a rank waits for another in a step before the run fails; 0: any time"),
  REAL(dist.deadline_setup, "1800", 0, 1e9, MAY_CHANGE, "the same while the run is set up: reading manifests, hashing and reading a checkpoint"),
  REAL(dist.deadline_evaluation, "600", 0, 1e9, MAY_CHANGE, "the same in evaluations, where ranks meet after every batch"),
  REAL(dist.deadline_checkpoint, "1800", 0, 1e9, MAY_CHANGE, "the same while a checkpoint is begun and ended; writing goes on beside the steps"),

  WHOLE(log.every, "10", 1, HUGE_COUNT, MAY_CHANGE, "steps between progress lines where standard error is no terminal"),
};
// clang-format on
const int launch_key_count = sizeof launch_keys / sizeof *launch_keys;

const launch_key *launch_key_find(const char *path) {
  for (int i = 0; i < launch_key_count; i++)
    if (strcmp(launch_keys[i].path, path) == 0)
      return &launch_keys[i];
  return NULL;
}

// Edits (insert, delete, replace, swap neighbours) from a to b: the optimal string alignment distance.
static int edit_distance(const char *a, const char *b) {
  enum { LONGEST = 64 };
  size_t n = strlen(a), m = strlen(b);
  if (n >= LONGEST || m >= LONGEST)
    return LONGEST;
  int d[LONGEST][LONGEST];
  for (size_t i = 0; i <= n; i++)
    d[i][0] = (int)i;
  for (size_t j = 0; j <= m; j++)
    d[0][j] = (int)j;
  for (size_t i = 1; i <= n; i++)
    for (size_t j = 1; j <= m; j++) {
      int best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
      if (d[i - 1][j] + 1 < best)
        best = d[i - 1][j] + 1;
      if (d[i][j - 1] + 1 < best)
        best = d[i][j - 1] + 1;
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
        best = d[i - 2][j - 2] + 1;
      d[i][j] = best;
    }
  return d[n][m];
}

static const char *leaf(const char *path) {
  const char *dot = strrchr(path, '.');
  return dot != NULL ? dot + 1 : path;
}

const char *launch_key_near(const char *path) {
  const char *near = NULL;
  int least = 3; // more than two edits are another word
  for (int i = 0; i < launch_key_count; i++) {
    const char *candidate = launch_keys[i].path;
    int distance = edit_distance(path, candidate);
    if (strcmp(leaf(path), leaf(candidate)) == 0 && distance > 1)
      distance = 1; // the right key in the wrong section
    if (distance < least) {
      least = distance;
      near = candidate;
    }
  }
  return near;
}
