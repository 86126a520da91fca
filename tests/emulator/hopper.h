// The functions of nats/cuda/hopper.h on the CPU, which includes this file and says what they do. A product
// is made when it is waited for, from what its operands hold then; until that moment its sums are NaN. Each
// warp makes its sixteen rows by itself. A description of a tile is its address.
#pragma once

#include <vector>

#include "tests/emulator/emulator.h"

struct emulator_wgmma {
  float *c;
  const uint32_t *a; // nullptr: in shared memory, the warp's rows from here on
  uint64_t a_rows;
  uint64_t b;
  bool across, add;
  int group;
  std::vector<float> before; // what `c` held, where no earlier product on it is under way

  static float half(uint32_t pair, int i) { // element i = 0, 1 of two bf16
    return __uint_as_float(i == 0 ? pair << 16 : pair & 0xffff0000u);
  }
  // Of a tile: bits 4 to 6 of the address are exchanged with bits 7 to 9.
  static float element(uint64_t tile, int row, int column) {
    uint64_t at = tile + static_cast<uint64_t>(row * 128 + column * 2);
    at ^= (at >> 7 & 7) << 4;
    return __uint_as_float(static_cast<uint32_t>(*reinterpret_cast<const uint16_t *>(at)) << 16);
  }
  float b_element(int k, int n) const { return across ? element(b, k, n) : element(b, n, k); }
  static void multiply(emulator_wgmma *lanes[EMULATOR_LANES]) {
    float a[16][16], b[16][64];
    for (int i = 0; i < 16 * 16 && lanes[0]->a == nullptr; i++)
      a[i / 16][i % 16] = element(lanes[0]->a_rows, i / 16, i % 16);
    for (int lane = 0; lane < EMULATOR_LANES && lanes[0]->a != nullptr; lane++)
      for (int i = 0; i < 8; i++)
        a[lane / 4 + i / 2 % 2 * 8][lane % 4 * 2 + i % 2 + i / 4 * 8] = half(lanes[lane]->a[i / 2], i % 2);
    for (int k = 0; k < 16; k++)
      for (int n = 0; n < 64; n++)
        b[k][n] = lanes[0]->b_element(k, n);
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
      emulator_wgmma &mine = *lanes[lane];
      for (int i = 0; i < 32; i++) {
        const int row = lane / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
        float sum = mine.before.empty() ? mine.c[i] : mine.before[i];
        sum = mine.add ? sum : 0;
        for (int k = 0; k < 16; k++)
          sum += a[row][k] * b[k][column];
        mine.c[i] = sum;
      }
    }
  }
};

// What a thread has under way.
struct emulator_wgmma_queue {
  std::vector<emulator_wgmma> products;
  int groups; // that were committed
  int wanted; // that have to be complete

  static void act(void *payloads[EMULATOR_LANES]) {
    auto *lanes = reinterpret_cast<emulator_wgmma_queue **>(payloads);
    for (int lane = 0; lane < EMULATOR_LANES; lane++)
      if (lanes[lane] == nullptr || lanes[lane]->products.size() != lanes[0]->products.size())
        emulator_fail({nullptr, 0}, "wgmma: lane %d has started other products than lane 0", lane);
    size_t done = 0;
    for (; done < lanes[0]->products.size() && lanes[0]->products[done].group < lanes[0]->wanted; done++) {
      emulator_wgmma *products[EMULATOR_LANES];
      for (int lane = 0; lane < EMULATOR_LANES; lane++)
        products[lane] = &lanes[lane]->products[done];
      emulator_wgmma::multiply(products);
    }
    for (int lane = 0; lane < EMULATOR_LANES; lane++) {
      auto &mine = lanes[lane]->products;
      mine.erase(mine.begin(), mine.begin() + static_cast<ptrdiff_t>(done));
    }
  }
};
inline emulator_wgmma_queue emulator_wgmma_queues[1024]; // by thread of the block

static inline uint64_t nats_wgmma_tile(const void *shared, EMULATOR_HERE) {
  if (reinterpret_cast<uintptr_t>(shared) % 1024 != 0)
    emulator_fail(here, "wgmma: a tile at %p, not at a multiple of 1024 bytes", shared);
  return reinterpret_cast<uint64_t>(shared);
}
static inline uint64_t nats_wgmma_at(uint64_t tile, uint32_t bytes) { return tile + bytes; }
static inline void nats_wgmma_fence() {}
static inline void nats_wgmma_done(float (&)[32]) {}
static inline void nats_wgmma_ready(uint32_t (&)[4]) {}
static inline void nats_wgmma_publish() {}

// What is behind nats_phases.
struct emulator_phases {
  uint16_t left, arrivals; // that this phase waits for still, and every phase
  uint32_t phase;
};
typedef uint64_t nats_phases;
static_assert(sizeof(emulator_phases) == sizeof(nats_phases), "kept in its place");
static inline void nats_begin_phases(nats_phases *barrier, int arrivals) {
  const uint16_t n = static_cast<uint16_t>(arrivals);
  const emulator_phases begin = {n, n, 0};
  memcpy(barrier, &begin, sizeof begin);
}
static inline void nats_arrive(nats_phases *barrier) {
  emulator_phases now;
  memcpy(&now, barrier, sizeof now);
  if (--now.left == 0) {
    now.left = now.arrivals;
    now.phase ^= 1;
  }
  memcpy(barrier, &now, sizeof now);
}
static inline void nats_wait_phase(nats_phases *barrier, uint32_t phase, EMULATOR_HERE) {
  struct wanted {
    const nats_phases *barrier;
    uint32_t phase;
    static bool over(const void *context) {
      const wanted *self = static_cast<const wanted *>(context);
      emulator_phases now;
      memcpy(&now, self->barrier, sizeof now);
      return now.phase != self->phase;
    }
  } const wait = {barrier, phase};
  emulator_wait(here, "the end of a phase", wanted::over, &wait);
}

static inline void nats_wgmma_commit() { emulator_wgmma_queues[threadIdx.x].groups++; }
template <int N> static inline void nats_wgmma_wait(EMULATOR_HERE) {
  emulator_wgmma_queue &mine = emulator_wgmma_queues[threadIdx.x];
  mine.wanted = mine.groups - N;
  emulator_meet(here, "wgmma", ~0u, &mine, emulator_wgmma_queue::act);
}
static inline void emulator_start_wgmma(float (&c)[32], const uint32_t *a, uint64_t a_rows, uint64_t b,
                                        bool across, bool add) {
  emulator_wgmma_queue &mine = emulator_wgmma_queues[threadIdx.x];
  emulator_wgmma product = {c, a, a_rows, b, across, add, mine.groups, std::vector<float>(c, c + 32)};
  for (const emulator_wgmma &other : mine.products)
    if (other.c == c)
      product.before.clear();
  for (float &sum : c)
    sum = NAN;
  mine.products.push_back(product);
}
template <bool ACROSS>
static inline void nats_wgmma(float (&c)[32], const uint32_t (&a)[4], uint64_t b, bool add) {
  emulator_start_wgmma(c, a, 0, b, ACROSS, add);
}
template <bool ACROSS> static inline void nats_wgmma(float (&c)[32], uint64_t a, uint64_t b, bool add) {
  emulator_start_wgmma(c, nullptr, a + threadIdx.x / 32 % 4 * 16 * 128, b, ACROSS, add);
}
