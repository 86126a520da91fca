// The functions of nats/cuda/tensor_core.h on the CPU, which includes this file and says what they do. A copy
// is made when it is waited for; until then its target holds NaN. Products are exact, sums float32 in the
// order of k.
#pragma once

#include "tests/emulator/emulator.h"

static inline void nats_copy16(void *shared, const void *global, bool valid, EMULATOR_HERE) {
  emulator_copy16(here, shared, global, valid);
}
static inline void nats_copy_commit() { emulator_copy_commit(); }
template <int N> static inline void nats_copy_wait() { emulator_copy_wait(N); }

struct emulator_ldmatrix {
  const uint16_t *row; // 8 elements of matrix lane / 8
  uint32_t *r;
  emulator_place here;
  template <bool TRANSPOSED> static void act(void *payloads[EMULATOR_LANES]) {
    auto *lanes = reinterpret_cast<emulator_ldmatrix **>(payloads);
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
      if (lanes[lane] == nullptr)
        emulator_fail({nullptr, 0}, "ldmatrix without lane %d", lane);
      if (reinterpret_cast<uintptr_t>(lanes[lane]->row) % 16 != 0)
        emulator_fail(lanes[lane]->here, "ldmatrix: the address of lane %d is not 16-byte aligned", lane);
    }
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
      for (int m = 0; m < 4; m++) {
        auto element = [&](int i) -> uint32_t { // i = 0, 1
          int first = lane / 4, second = lane % 4 * 2 + i;
          return TRANSPOSED ? lanes[8 * m + second]->row[first] : lanes[8 * m + first]->row[second];
        };
        lanes[lane]->r[m] = element(0) | element(1) << 16;
      }
  }
};
static inline void nats_ldmatrix4(uint32_t r[4], const void *shared, EMULATOR_HERE) {
  emulator_ldmatrix lane = {static_cast<const uint16_t *>(shared), r, here};
  emulator_meet(here, "ldmatrix", ~0u, &lane, emulator_ldmatrix::act<false>);
}
static inline void nats_ldmatrix4_transposed(uint32_t r[4], const void *shared, EMULATOR_HERE) {
  emulator_ldmatrix lane = {static_cast<const uint16_t *>(shared), r, here};
  emulator_meet(here, "transposed ldmatrix", ~0u, &lane, emulator_ldmatrix::act<true>);
}

struct emulator_mma {
  float *c;
  const uint32_t *a, *b;
  static float half(uint32_t pair, int i) { // element i = 0, 1 of two bf16
    return __uint_as_float(i == 0 ? pair << 16 : pair & 0xffff0000u);
  }
  static void act(void *payloads[EMULATOR_LANES]) {
    auto *lanes = reinterpret_cast<emulator_mma **>(payloads);
    float a[16][16], b[16][8];
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
      if (lanes[lane] == nullptr)
        emulator_fail({nullptr, 0}, "mma without lane %d", lane);
      int r = lane / 4, c = lane % 4 * 2;
      for (int i = 0; i < 2; i++) {
        a[r][c + i] = half(lanes[lane]->a[0], i);
        a[r + 8][c + i] = half(lanes[lane]->a[1], i);
        a[r][c + 8 + i] = half(lanes[lane]->a[2], i);
        a[r + 8][c + 8 + i] = half(lanes[lane]->a[3], i);
        b[c + i][r] = half(lanes[lane]->b[0], i);
        b[c + 8 + i][r] = half(lanes[lane]->b[1], i);
      }
    }
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
      for (int i = 0; i < 4; i++) {
        int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; k++)
          sum += a[row][k] * b[k][column];
        lanes[lane]->c[i] += sum;
      }
  }
};
static inline void nats_mma(float c[4], const uint32_t a[4], const uint32_t b[2], EMULATOR_HERE) {
  emulator_mma lane = {c, a, b};
  emulator_meet(here, "mma", ~0u, &lane, emulator_mma::act);
}
