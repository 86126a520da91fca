// Runs CUDA kernels on the CPU: the project's .cu files are compiled as C++ with tests/emulator/include in
// front, each thread of a block becomes a fiber, and the blocks of a grid run one after another. It is there
// to debug kernels and to test them where there is no GPU.
//
// What it checks
//   - launches that a GPU refuses (block, grid, shared memory too large);
//   - barriers and warp operations that not all threads reach: deadlocks, and threads that meet at different
//     lines, end the program with kernel, block, thread and line;
//   - asynchronous copies that are read before they are waited for: the target holds NaN until
//     nats_copy_wait, which is when the copy is made;
//   - memory that is read before it is written: device memory starts as NaN bytes, shared memory does so in
//     every block;
//   - with AddressSanitizer, accesses outside of an allocation, global or shared; with UBSan, alignment;
//   - copies and fills by the runtime that leave an allocation or mistake host for device memory.
// NATSFORMER_EMULATOR_ORDER=forward|reverse|random chooses the order in which the threads of a block take
// their turns, and the blocks of a grid too: results that change with it reveal a missing barrier.
// NATSFORMER_EMULATOR_SHARED=KIB is the shared memory that a block can have: 227 as on Hopper unless it says
// so, 99 as on Ada and on Ampere's smaller GPUs. NATSFORMER_EMULATOR_PROCESSORS=N is the number of
// multiprocessors, on which the cutting of work depends: 3 unless it says so.
// NATSFORMER_EMULATOR_CAPABILITY=80 is a GPU without Hopper's instructions (90).
//
// What it cannot: timing, occupancy and registers, bank conflicts, coalescing, the memory model (fences are
// no-ops, and a thread keeps its turn until it meets others), float32 sums in the order of tensor cores or
// approximations such as __expf to the last bit, kernels that wait for another block.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <tuple>

#include <cuda_runtime_api.h>

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct uint3 {
  unsigned x, y, z;
};

extern dim3 gridDim, blockDim;
extern uint3 blockIdx, threadIdx; // of the fiber that runs

// The line of a kernel that calls an operation; it is told apart from others by it.
struct emulator_place {
  const char *file;
  int line;
  static constexpr emulator_place here(const char *file = __builtin_FILE(), int line = __builtin_LINE()) {
    return {file, line};
  }
};

// Meets the other lanes of `mask` at the same operation. The last one to arrive calls `act` with the payload
// of every lane (NULL: not in the mask, or returned from the kernel), for all of them.
enum { EMULATOR_LANES = 32 };
void emulator_meet(emulator_place place, const char *operation, unsigned mask, void *payload,
                   void (*act)(void *payloads[EMULATOR_LANES]));

// Meets all threads of the block that have not returned; how many of them came with a predicate.
int emulator_barrier(emulator_place place, bool predicate);

// Waits until `ready(context)`, which other threads bring about.
void emulator_wait(emulator_place place, const char *operation, bool (*ready)(const void *context),
                   const void *context);

// What the environment variables above say of the GPU.
size_t emulator_shared_limit(); // bytes
int emulator_processors();
int emulator_capability(); // compute capability, 10 x major + minor

// The dynamic shared memory of the block.
void *emulator_shared();

// Asynchronous copies of the running thread (cp.async).
void emulator_copy16(emulator_place place, void *shared, const void *global, bool valid);
void emulator_copy_commit();
void emulator_copy_wait(int pending_groups);

// The time that events read. Products of cuBLASLt let it pass.
extern double emulator_milliseconds;

// Ends the program with what went wrong, and where.
[[noreturn]] void emulator_fail(emulator_place place, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

cudaError_t emulator_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                         void (*thread)(void *context), void *context);

// Parameters are converted as at a real launch.
template <typename... Parameters, typename... Arguments>
static inline cudaError_t emulator_launch(const char *name, void (*kernel)(Parameters...), dim3 grid,
                                          dim3 block, size_t shared_bytes, Arguments... arguments) {
  std::tuple<void (*)(Parameters...), std::tuple<Parameters...>> call{
      kernel, std::tuple<Parameters...>(static_cast<Parameters>(arguments)...)};
  auto thread = [](void *context) {
    auto &c = *static_cast<decltype(call) *>(context);
    std::apply(std::get<0>(c), std::get<1>(c));
  };
  return emulator_run(name, grid, block, shared_bytes, thread, &call);
}
