#include "tests/emulator/emulator.h"

#include <algorithm> // shuffle, reverse
#include <numeric>   // iota
#include <random>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <string>
#include <sys/mman.h>
#include <vector>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

enum {
  THREADS_MAX = 1024,
  GRID_YZ_MAX = 65535,
  BLOCK_Z_MAX = 64,
  SHARED_ALIGN = 1024,
  GUARD = 4096,
  POISON = 0xff, // NaN in float32, bf16 and float64; -1 in integers
#ifdef __SANITIZE_ADDRESS__
  STACK = 256 << 10, // sanitized frames are larger
#else
  STACK = 64 << 10,
#endif
};

dim3 gridDim, blockDim;
uint3 blockIdx, threadIdx;

// ---- fibers: a stack each, and a switch that saves the registers that a call must preserve

struct fiber {
  void *stack_pointer;
  char *stack; // lowest address
  size_t size;
};

#ifdef __x86_64__
extern "C" void emulator_switch(void **save, void *load);
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");

// `entry` runs when the fiber is first switched to; it never returns.
static void prepare(fiber *f, void (*entry)()) {
  enum { SAVED_REGISTERS = 6 };
  void **top = reinterpret_cast<void **>(f->stack + f->size) - 2; // 16-byte aligned, below it as after a call
  *top = reinterpret_cast<void *>(entry);
  f->stack_pointer = top - SAVED_REGISTERS;
}
static void switch_stacks(fiber *from, fiber *to) {
  emulator_switch(&from->stack_pointer, to->stack_pointer);
}
#else
#include <ucontext.h>
static ucontext_t *context_of(fiber *f) {
  if (f->stack_pointer == nullptr)
    f->stack_pointer = calloc(1, sizeof(ucontext_t));
  return static_cast<ucontext_t *>(f->stack_pointer);
}
static void prepare(fiber *f, void (*entry)()) {
  ucontext_t *context = context_of(f);
  getcontext(context);
  context->uc_stack.ss_sp = f->stack;
  context->uc_stack.ss_size = f->size;
  makecontext(context, entry, 0);
}
static void switch_stacks(fiber *from, fiber *to) { swapcontext(context_of(from), context_of(to)); }
#endif

// What the last thread on this stack left behind when it gave up its turn for good.
static void forget_last_frames(fiber *f) {
#ifdef __SANITIZE_ADDRESS__
  enum { FRAMES = 4096 };
  ASAN_UNPOISON_MEMORY_REGION(f->stack + f->size - FRAMES, FRAMES);
#else
  (void)f;
#endif
}

static fiber scheduler;

static void arrive(void *fake_stack) {
#ifdef __SANITIZE_ADDRESS__
  const void *left;
  size_t size;
  __sanitizer_finish_switch_fiber(fake_stack, &left, &size);
  if (scheduler.stack == nullptr) { // the first switch of all comes from it
    scheduler.stack = const_cast<char *>(static_cast<const char *>(left));
    scheduler.size = size;
  }
#else
  (void)fake_stack;
#endif
}

static void switch_fiber(fiber *from, fiber *to) {
  void *fake_stack = nullptr;
#ifdef __SANITIZE_ADDRESS__
  __sanitizer_start_switch_fiber(&fake_stack, to->stack, to->size);
#endif
  switch_stacks(from, to);
  arrive(fake_stack);
}

// ---- threads of the block that runs

enum thread_state { READY, MEETS_LANES, MEETS_BLOCK, WAITS, RETURNED };

struct pending_copy {
  void *shared;
  const void *global; // NULL: zeros
  int group;
};

struct thread {
  fiber own;
  thread_state state;
  uint3 index;
  unsigned number; // in the block
  // what it waits for
  emulator_place place;
  const char *operation;
  unsigned mask;
  void *payload;
  void (*act)(void *payloads[EMULATOR_LANES]);
  bool (*ready)(const void *context);
  const void *context;
  // cp.async
  std::vector<pending_copy> copies;
  int groups; // committed so far
};

static thread threads[THREADS_MAX];

static struct {
  const char *kernel;
  void (*run)(void *context);
  void *context;
  unsigned size, live;   // threads
  unsigned waiting;      // at the barrier
  int predicates, count; // that arrived so far, and at the last barrier
  thread *running;
  void *shared;
} block;

static std::string place_text(emulator_place place) {
  return place.file != nullptr ? std::string(place.file) + ":" + std::to_string(place.line) : "its end";
}

void emulator_fail(emulator_place place, const char *format, ...) {
  fflush(stdout);
  fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u) of %u threads", block.kernel, blockIdx.x,
          blockIdx.y, blockIdx.z, block.size);
  if (block.running != nullptr)
    fprintf(stderr, ", thread (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z);
  fprintf(stderr, ", %s: ", place_text(place).c_str());
  va_list arguments;
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fputc('\n', stderr);
  abort();
}

static void wait_turn() {
  thread *self = block.running;
  switch_fiber(&self->own, &scheduler);
}

static bool is_awaited(const thread *t, unsigned mask) {
  return t->number < block.size && t->state != RETURNED && (t->state != MEETS_LANES || t->mask != mask);
}

// Lets the lanes of `mask` go on when all of them that still run have come. The lanes behind the one that came
// last are those that mostly have not.
static void meet_if_complete(unsigned warp, unsigned mask, unsigned last) {
  for (unsigned i = 1; i < EMULATOR_LANES; i++) {
    unsigned lane = (last + i) % EMULATOR_LANES;
    if (mask >> lane & 1 && is_awaited(&threads[warp * EMULATOR_LANES + lane], mask))
      return;
  }
  void *payloads[EMULATOR_LANES] = {};
  thread *first = nullptr;
  for (unsigned lane = 0; lane < EMULATOR_LANES; lane++) {
    thread *t = &threads[warp * EMULATOR_LANES + lane];
    if (!(mask >> lane & 1) || t->number >= block.size || t->state == RETURNED)
      continue;
    if (first == nullptr)
      first = t;
    if (t->operation != first->operation || t->place.line != first->place.line)
      emulator_fail(t->place, "lane %u meets %s there, but lane %u %s at %s", lane, t->operation,
                    first->number % EMULATOR_LANES, first->operation, place_text(first->place).c_str());
    payloads[lane] = t->payload;
  }
  if (first == nullptr)
    return;
  first->act(payloads);
  for (unsigned lane = 0; lane < EMULATOR_LANES; lane++)
    if (payloads[lane] != nullptr)
      threads[warp * EMULATOR_LANES + lane].state = READY;
}

void emulator_meet(emulator_place place, const char *operation, unsigned mask, void *payload,
                   void (*act)(void *payloads[EMULATOR_LANES])) {
  thread *self = block.running;
  if (!(mask >> self->number % EMULATOR_LANES & 1))
    emulator_fail(place, "%s with mask %08x, in which the lane itself is not", operation, mask);
  self->place = place;
  self->operation = operation;
  self->mask = mask;
  self->payload = payload;
  self->act = act;
  self->state = MEETS_LANES;
  meet_if_complete(self->number / EMULATOR_LANES, mask, self->number);
  if (self->state != READY)
    wait_turn();
}

static void release_barrier_if_complete() {
  if (block.waiting == 0 || block.waiting < block.live)
    return;
  block.count = block.predicates;
  block.waiting = 0;
  block.predicates = 0;
  for (unsigned i = 0; i < block.size; i++)
    if (threads[i].state == MEETS_BLOCK)
      threads[i].state = READY;
}

int emulator_barrier(emulator_place place, bool predicate) {
  thread *self = block.running;
  for (unsigned i = 0; i < block.size && block.waiting > 0; i++)
    if (threads[i].state == MEETS_BLOCK) {
      if (threads[i].place.line != place.line)
        emulator_fail(place, "another thread of the block waits at the barrier of %s",
                      place_text(threads[i].place).c_str());
      break;
    }
  self->place = place;
  self->operation = "the block's barrier";
  self->state = MEETS_BLOCK;
  block.waiting++;
  block.predicates += predicate;
  release_barrier_if_complete();
  if (self->state != READY)
    wait_turn();
  return block.count;
}

void emulator_wait(emulator_place place, const char *operation, bool (*ready)(const void *context),
                   const void *context) {
  if (ready(context))
    return;
  thread *self = block.running;
  self->place = place;
  self->operation = operation;
  self->ready = ready;
  self->context = context;
  self->state = WAITS;
  wait_turn();
}

void *emulator_shared() { return block.shared; }

void emulator_copy16(emulator_place place, void *shared, const void *global, bool valid) {
  if (reinterpret_cast<uintptr_t>(shared) % 16 != 0 ||
      (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0))
    emulator_fail(place, "an asynchronous copy from %p to %p: not 16-byte aligned", global, shared);
  memset(shared, POISON, 16);
  block.running->copies.push_back({shared, valid ? global : nullptr, block.running->groups});
}

void emulator_copy_commit() { block.running->groups++; }

void emulator_copy_wait(int pending_groups) {
  thread *self = block.running;
  auto done = self->copies.begin();
  for (; done != self->copies.end() && done->group < self->groups - pending_groups; ++done)
    if (done->global != nullptr)
      memcpy(done->shared, done->global, 16);
    else
      memset(done->shared, 0, 16);
  self->copies.erase(self->copies.begin(), done);
}

// ---- blocks

static void thread_main() {
  arrive(nullptr);
  block.run(block.context);
  thread *self = block.running;
  self->state = RETURNED;
  self->place = {nullptr, 0};
  self->copies.clear();
  block.live--;
  release_barrier_if_complete();
  unsigned warp = self->number / EMULATOR_LANES;
  for (unsigned i = warp * EMULATOR_LANES; i < (warp + 1) * EMULATOR_LANES && i < block.size; i++)
    if (threads[i].state == MEETS_LANES)
      meet_if_complete(warp, threads[i].mask, i);
  wait_turn();
}

[[noreturn]] static void fail_deadlock() {
  block.running = nullptr;
  enum { SHOWN = 8 };
  unsigned shown = 0;
  const thread *last = nullptr;
  for (unsigned i = 0; i < block.size && shown < SHOWN; i++) {
    const thread *t = &threads[i];
    if (last != nullptr && t->state == last->state && t->place.line == last->place.line &&
        t->mask == last->mask)
      continue;
    fprintf(stderr, "emulator: from thread %u on: ", i);
    if (t->state == RETURNED)
      fprintf(stderr, "returned\n");
    else
      fprintf(stderr, "waits for %s at %s, mask %08x\n", t->operation, place_text(t->place).c_str(),
              t->state == MEETS_LANES ? t->mask : ~0u);
    last = t;
    shown++;
  }
  emulator_fail({nullptr, 0}, "deadlock: no thread can go on");
}

static void start_threads() {
  block.live = block.size;
  block.waiting = 0;
  block.predicates = 0;
  for (unsigned i = 0; i < block.size; i++) {
    thread *t = &threads[i];
    t->state = READY;
    t->number = i;
    t->index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
    t->groups = 0;
    forget_last_frames(&t->own);
    prepare(&t->own, thread_main);
  }
}

enum turn_order { FORWARD, REVERSE, RANDOM };

static void run_block(turn_order order, std::mt19937 *random) {
  static std::vector<unsigned> turns;
  turns.resize(block.size);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order == REVERSE)
    std::reverse(turns.begin(), turns.end());
  start_threads();
  while (block.live > 0) {
    bool moved = false;
    if (order == RANDOM)
      std::shuffle(turns.begin(), turns.end(), *random);
    for (unsigned i : turns) {
      if (threads[i].state == WAITS && threads[i].ready(threads[i].context))
        threads[i].state = READY;
      if (threads[i].state == READY) {
        block.running = &threads[i];
        threadIdx = threads[i].index;
        switch_fiber(&scheduler, &threads[i].own);
        moved = true;
      }
    }
    if (!moved)
      fail_deadlock();
  }
  block.running = nullptr;
}

static void make_stacks() {
  if (threads[0].own.stack != nullptr)
    return;
  char *memory =
      static_cast<char *>(mmap(nullptr, static_cast<size_t>(THREADS_MAX) * (STACK + GUARD),
                               PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (memory == MAP_FAILED) {
    perror("emulator: stacks");
    abort();
  }
  for (thread &t : threads) {
    mprotect(memory, GUARD, PROT_NONE); // an overflow ends the program instead of spoiling a neighbour
    t.own.stack = memory + GUARD;
    t.own.size = STACK;
    memory += STACK + GUARD;
  }
}

static turn_order chosen_order() {
  const char *text = getenv("NATSFORMER_EMULATOR_ORDER");
  if (text == nullptr || strcmp(text, "forward") == 0)
    return FORWARD;
  return strcmp(text, "reverse") == 0 ? REVERSE : RANDOM;
}

static int number_from(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text != nullptr && atoi(text) > 0 ? atoi(text) : otherwise;
}

size_t emulator_shared_limit() {
  return static_cast<size_t>(number_from("NATSFORMER_EMULATOR_SHARED", 227)) << 10;
}

int emulator_capability() { return number_from("NATSFORMER_EMULATOR_CAPABILITY", 90); }

int emulator_processors() { return number_from("NATSFORMER_EMULATOR_PROCESSORS", 3); }

cudaError_t emulator_run(const char *kernel, dim3 grid, dim3 size, size_t shared_bytes,
                         void (*run)(void *context), void *context) {
  uint64_t in_block = static_cast<uint64_t>(size.x) * size.y * size.z;
  if (in_block == 0 || in_block > THREADS_MAX || size.z > BLOCK_Z_MAX ||
      shared_bytes > emulator_shared_limit() || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > INT32_MAX || grid.y > GRID_YZ_MAX || grid.z > GRID_YZ_MAX)
    return cudaErrorInvalidConfiguration;
  make_stacks();
  block = {};
  block.kernel = kernel;
  block.run = run;
  block.context = context;
  block.size = static_cast<unsigned>(in_block);
  if (posix_memalign(&block.shared, SHARED_ALIGN, shared_bytes > 0 ? shared_bytes : 1) != 0)
    return cudaErrorMemoryAllocation;
  gridDim = grid;
  blockDim = size;
  turn_order order = chosen_order();
  std::mt19937 random(1);
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  for (uint64_t i = 0; i < blocks; i++) {
    uint64_t number = order == FORWARD ? i : blocks - 1 - i;
    blockIdx = {static_cast<unsigned>(number % grid.x), static_cast<unsigned>(number / grid.x % grid.y),
                static_cast<unsigned>(number / grid.x / grid.y)};
    memset(block.shared, POISON, shared_bytes);
    run_block(order, &random);
  }
  free(block.shared);
  return cudaSuccess;
}
