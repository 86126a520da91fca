// The optimizer on a shard of the arenas: what the ranks of a sharded run do, one after the other on one
// device, against the update of everything at once.
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

#include "nn/ops.h"
#include "nn/random.h"
#include "tests/device.h"
#include "tests/nn/fresh_seed.h"

enum { RANKS = 3, PIECES = 1000 };

typedef struct {
  nn_device *device;
  nn_param_table table;
  uint64_t seed;
  float *grad; // [total] on the host
  nn_piece pieces[RANKS][PIECES];
  nn_shard shard[RANKS];
} fixture;

#define cr_ok(expression) cr_assert_eq((expression), NN_OK, "%s", nn_error_text())

static uint32_t draw(const fixture *f, uint64_t counter) {
  uint32_t bits[4];
  nn_random_u32x4(nn_random_key_make(f->seed, NN_RANDOM_TEST, 3, 0), 0, counter, bits);
  return bits[0];
}

// Pieces of random lengths, to random ranks, stored in the order from the arena's end: more of them than one
// launch on a GPU takes.
static void cut(fixture *f) {
  uint64_t next = 0;
  for (int64_t end = f->table.total, count; end > 0; end -= count) {
    count = NN_PARAM_ALIGN * (1 + draw(f, next++) % 8);
    count = count < end ? count : end;
    nn_shard *shard = &f->shard[draw(f, next++) % RANKS];
    cr_assert_lt(shard->count, PIECES);
    shard->items[shard->count++] = (nn_piece){.offset = end - count, .count = count, .at = shard->total};
    shard->total += count;
  }
}

static void set_up(fixture *f, nn_device *device) {
  memset(f, 0, sizeof *f);
  f->device = device;
  f->seed = fresh_seed();
  f->table.block = NN_BLOCK_KEPT;
  cr_ok(nn_param_add(&f->table, "kept", 2, 7, 9, NN_INIT_NORMAL, 1, true, NN_GROUP_WEIGHTS, NULL));
  f->table.block = 0;
  cr_ok(nn_param_add(&f->table, "bias", 1, 17, 1, NN_INIT_NORMAL, 1, false, NN_GROUP_WEIGHTS, NULL));
  cr_ok(nn_param_add(&f->table, "scorer", 2, 6, 33, NN_INIT_NORMAL, 1, true, NN_GROUP_SCORER, NULL));
  f->table.block = 1;
  cr_ok(nn_param_add(&f->table, "large", 2, 331, 91, NN_INIT_NORMAL, 1, true, NN_GROUP_WEIGHTS, NULL));
  for (int rank = 0; rank < RANKS; rank++)
    f->shard[rank].items = f->pieces[rank];
  cut(f);
  f->grad = test_host((size_t)f->table.total * sizeof *f->grad);
}

static nn_step make_step(int64_t update) {
  return (nn_step){.lr = {1e-2f, 3e-2f},
                   .beta1 = 0.9f,
                   .beta2 = 0.95f,
                   .eps = 1e-8f,
                   .weight_decay = 0.1f,
                   .max_norm = 1.0f,
                   .updates = {update, update}};
}

static void fill_gradient(fixture *f, uint64_t seed) {
  for (int32_t p = 0; p < f->table.count; p++) {
    const nn_param *param = &f->table.items[p];
    nn_param_initial(param, seed, 0, param->count, f->grad + param->offset);
  }
}

// The gradient where the optimizer of this kind of shard reads it.
static void upload_gradient(const fixture *f, const nn_params *params) {
  if (params->shard == NULL) {
    cr_ok(nn_device_upload(f->device, params->grad, f->grad, (size_t)f->table.total * sizeof(float)));
    return;
  }
  for (int32_t i = 0; i < params->shard->count; i++) {
    nn_piece piece = params->shard->items[i];
    float *to = params->sum != NULL ? params->sum + piece.at : params->grad + piece.offset;
    cr_ok(nn_device_upload(f->device, to, f->grad + piece.offset, (size_t)piece.count * sizeof(float)));
  }
}

static nn_step norm_of(const fixture *f, const nn_params *params, nn_step step) {
  nn_step *there = test_bytes(f->device, &step, sizeof step);
  cr_ok(nn_grad_norm(f->device, params, there));
  memcpy(&step, test_read_bytes(f->device, there, sizeof step), sizeof step);
  return step;
}

static void update(const fixture *f, const nn_params *params, const nn_step *step) {
  cr_ok(nn_adamw(f->device, params, test_bytes(f->device, step, sizeof *step)));
}

static void expect_same(const float *whole, const float *part, nn_piece piece, const char *what) {
  cr_assert(memcmp(whole + piece.offset, part, (size_t)piece.count * sizeof *part) == 0,
            "%s of [%lld, +%lld) differ", what, (long long)piece.offset, (long long)piece.count);
}

// What one rank has after the same steps as `whole`.
static void compare(const fixture *f, const nn_params *whole, const nn_params *mine) {
  int64_t total = f->table.total, owned = mine->shard->total;
  bool sharded = nn_params_master_sharded(mine);
  const float *master = test_read_floats(f->device, whole->master, total),
              *moment1 = test_read_floats(f->device, whole->moment1, total),
              *moment2 = test_read_floats(f->device, whole->moment2, total),
              *compute = test_read_acts(f->device, whole->compute, total),
              *my_master = test_read_floats(f->device, mine->master, sharded ? owned : total),
              *my_moment1 = test_read_floats(f->device, mine->moment1, owned),
              *my_moment2 = test_read_floats(f->device, mine->moment2, owned),
              *my_compute = test_read_acts(f->device, mine->compute, total);
  for (int32_t i = 0; i < mine->shard->count; i++) {
    nn_piece piece = mine->shard->items[i];
    expect_same(master, my_master + (sharded ? piece.at : piece.offset), piece, "masters");
    expect_same(moment1, my_moment1 + piece.at, piece, "first moments");
    expect_same(moment2, my_moment2 + piece.at, piece, "second moments");
    expect_same(compute, my_compute + piece.offset, piece, "parameters in the compute type");
  }
}

static void check_kind(nn_device *device, nn_shard_kind kind) {
  fixture f;
  nn_params whole, part[RANKS];
  set_up(&f, device);
  cr_ok(nn_params_create(device, &f.table, true, &whole));
  cr_ok(nn_params_init(&whole, f.seed));
  for (int rank = 0; rank < RANKS; rank++) {
    cr_ok(nn_params_create_shard(device, &f.table, &f.shard[rank], kind, &part[rank]));
    cr_ok(nn_params_init(&part[rank], f.seed));
    compare(&f, &whole, &part[rank]);
  }
  for (int64_t t = 1; t <= 2; t++) {
    double squares = 0;
    fill_gradient(&f, f.seed + (uint64_t)t);
    upload_gradient(&f, &whole);
    nn_step step = norm_of(&f, &whole, make_step(t)), mine = make_step(t);
    for (int rank = 0; rank < RANKS; rank++) {
      upload_gradient(&f, &part[rank]);
      squares += norm_of(&f, &part[rank], make_step(t)).squares;
    }
    nn_step_set_norm(&mine, squares);
    cr_assert_float_eq(squares / step.squares, 1.0, 1e-12);
    cr_assert_eq(mine.grad_norm, step.grad_norm);
    update(&f, &whole, &step);
    for (int rank = 0; rank < RANKS; rank++) {
      update(&f, &part[rank], &step);
      compare(&f, &whole, &part[rank]);
    }
  }
  for (int rank = 0; rank < RANKS; rank++)
    nn_params_free(&part[rank]);
  nn_params_free(&whole);
  nn_param_table_free(&f.table);
}

// Breaks: a run with dist.shard=optimizer trains another model than one without.
DEVICE_TEST(shard, optimizer) {
  check_kind(device, NN_SHARD_OPTIMIZER);
}

// Breaks: the same of dist.shard=gradients.
DEVICE_TEST(shard, gradients) {
  check_kind(device, NN_SHARD_GRADIENTS);
}

// Breaks: with dist.shard=gradients two layers, or a layer and the embedding table, write over each other.
DEVICE_TEST(shard, window) {
  fixture f;
  nn_params params;
  set_up(&f, device);
  cr_ok(nn_params_create_shard(device, &f.table, &f.shard[0], NN_SHARD_GRADIENTS, &params));
  const nn_param *rows = f.table.items;
  cr_expect_eq(params.grad_total, rows[1].offset + f.table.total - rows[3].offset);
  cr_expect_eq(nn_params_grad(&params, 0), params.grad);
  cr_expect_eq(nn_params_grad(&params, 1), params.grad + rows[1].offset);
  cr_expect_eq(nn_params_grad(&params, 2), params.grad + rows[2].offset);
  cr_expect_eq(nn_params_grad(&params, 3), params.grad + rows[1].offset);
  cr_expect_eq(nn_params_grad_at(&params, rows[3].offset + 32), params.grad + rows[1].offset + 32);
  nn_params_free(&params);
  nn_param_table_free(&f.table);
}

// Breaks: gradients of several passes are lost with dist.shard=gradients.
DEVICE_TEST(shard, accumulate) {
  enum { COUNT = 16 * 333 };
  float *a = test_host(COUNT * sizeof *a), *b = test_host(COUNT * sizeof *b);
  for (int i = 0; i < COUNT; i++) {
    a[i] = (float)i / 7.0f;
    b[i] = (float)(i * i % 1001) - 500.0f;
  }
  float *to = test_floats(device, a, COUNT);
  cr_ok(nn_accumulate(device, to, test_floats(device, b, COUNT), COUNT));
  const float *sum = test_read_floats(device, to, COUNT);
  for (int i = 0; i < COUNT; i++)
    cr_assert_eq(sum[i], a[i] + b[i]);
}
