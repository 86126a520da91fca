// The product behind all of attention, compiled for three vector widths from one source (tile_block.h).
#include "nats/cpu/tile.h"
#include "nn/cpu/vector.h"

#define NATS_CONCAT_(a, b) a##b
#define NATS_CONCAT(a, b)  NATS_CONCAT_(a, b)

// Sixteen floats and 32 registers: 4 x 64 results at a time.
#if defined(__x86_64__) && defined(__GNUC__)
#define NATS_WIDTH  16
#define NATS_ROWS   4
#define NATS_VECS   4
#define NATS_LEVEL  avx512
#define NATS_TARGET __attribute__((target("arch=x86-64-v4")))
#include "nats/cpu/tile_block.h"

// Eight floats and 16 registers: 6 x 16.
#define NATS_WIDTH  8
#define NATS_ROWS   6
#define NATS_VECS   2
#define NATS_LEVEL  avx2
#define NATS_TARGET __attribute__((target("arch=x86-64-v3")))
#include "nats/cpu/tile_block.h"
#endif

#define NATS_WIDTH 4
#define NATS_ROWS  4
#define NATS_VECS  2
#define NATS_LEVEL plain
#define NATS_TARGET
#include "nats/cpu/tile_block.h"

void nats_tile_multiply(int m, int n, int k, nats_matrix a, const float *b, ptrdiff_t b_row, float *c,
                        ptrdiff_t c_row, bool add) {
#if defined(__x86_64__) && defined(__GNUC__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw"))
    multiply_avx512(m, n, k, a, b, b_row, c, c_row, add);
  else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
    multiply_avx2(m, n, k, a, b, b_row, c, c_row, add);
  else
#endif
    multiply_plain(m, n, k, a, b, b_row, c, c_row, add);
}

static int strip(int total, int done) {
  return total - done < 16 ? total - done : 16;
}

void nats_tile_scores(bool own, int keys, int lanes, int depth, const float *k, int width, const float *rows,
                      float *scores) {
  if (!own)
    nats_tile_multiply(keys, lanes, depth, (nats_matrix){k, width, 1}, rows, NATS_TILE, scores, NATS_TILE,
                       false);
  for (int key = 0; own && key < keys; key += 16)
    nats_tile_multiply(strip(keys, key), lanes - key, depth, (nats_matrix){k + key * width, width, 1},
                       rows + key, NATS_TILE, scores + key * NATS_TILE + key, NATS_TILE, false);
}

void nats_tile_to_keys(bool own, int keys, int rows, const float *weights, const float *x, int width,
                       float *sum) {
  if (!own)
    nats_tile_multiply(keys, width, rows, (nats_matrix){weights, NATS_TILE, 1}, x, width, sum, width, true);
  for (int key = 0; own && key < keys; key += 16)
    nats_tile_multiply(strip(keys, key), width, rows - key,
                       (nats_matrix){weights + key * NATS_TILE + key, NATS_TILE, 1}, x + key * width, width,
                       sum + key * width, width, true);
}

void nats_tile_to_rows(bool own, int keys, int rows, const float *weights, const float *x, int width,
                       float *sum, bool add) {
  if (!own)
    nats_tile_multiply(rows, width, keys, (nats_matrix){weights, 1, NATS_TILE}, x, width, sum, width, add);
  for (int row = 0; own && row < rows; row += 16)
    nats_tile_multiply(strip(rows, row), width, row + strip(rows, row),
                       (nats_matrix){weights + row, 1, NATS_TILE}, x, width, sum + row * width, width, add);
}
