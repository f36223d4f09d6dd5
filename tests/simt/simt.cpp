// The scheduler behind simt.h. It is compiled without a sanitizer: only kernels are watched.
#include "simt.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

#ifdef SIMT_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
void __tsan_destroy_fiber(void*);
void __tsan_switch_to_fiber(void*, unsigned);
void* __tsan_get_current_fiber();
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#define WITH_TSAN(...) __VA_ARGS__
#else
#define WITH_TSAN(...)
#endif

constinit thread_local uint3 threadIdx{}, blockIdx{};
constinit thread_local dim3 blockDim{}, gridDim{};

namespace simt {

constinit thread_local long long touched_edges = 0;
static std::atomic<long long> all_touched_edges{0};

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kNoSwitch = 1;  // tells ThreadSanitizer that a switch of fibers orders nothing by itself

enum class State { ready, at_barrier, at_collective, done };

struct Fiber : Meeting {
  ucontext_t context;
  jmp_buf resume_point;
  bool started = false;
  std::unique_ptr<char[]> stack;
  uint3 thread;
  unsigned warp;
  State state = State::done;
  uint32_t awaited_lanes;
  uint64_t value;
  int predicate;
  void* tsan = nullptr;
};

// The block that an OS thread is running.
struct Block {
  std::vector<std::unique_ptr<Fiber>> running, idle;
  Fiber* current;
  ucontext_t scheduler_context;
  jmp_buf scheduler_point;
  void (*body)(void**);
  void** arguments;
  unsigned started, threads, finished;
  int votes;
  void* scheduler_tsan;
  char barrier_clock, warp_clock[32], start_clock;  // what ThreadSanitizer orders accesses by

  void run();
  void start_threads();
  unsigned release_barrier(bool& moved);
  void release_collectives(bool& moved);
  void resume(Fiber& fiber);
  void give_way();
  void place(Fiber& fiber, unsigned index);
};
static thread_local Block block;

void Block::place(Fiber& fiber, unsigned index) {
  fiber.thread = {index % blockDim.x, index / blockDim.x % blockDim.y, index / (blockDim.x * blockDim.y)};
  fiber.lane = index % 32;
  fiber.warp = index / 32;
  fiber.state = State::ready;
  threadIdx = fiber.thread;
}

void Block::give_way() {
  WITH_TSAN(__tsan_switch_to_fiber(scheduler_tsan, kNoSwitch);)
#ifdef SIMT_SANITIZED
  swapcontext(&current->context, &scheduler_context);
#else
  if (!_setjmp(current->resume_point)) _longjmp(scheduler_point, 1);  // swapcontext would make a system call each time
#endif
}

void Block::resume(Fiber& fiber) {
  current = &fiber;
  threadIdx = fiber.thread;
  WITH_TSAN(__tsan_switch_to_fiber(fiber.tsan, kNoSwitch);)
#ifdef SIMT_SANITIZED
  swapcontext(&scheduler_context, &fiber.context);
#else
  if (_setjmp(scheduler_point)) return;
  if (fiber.started) _longjmp(fiber.resume_point, 1);
  fiber.started = true;
  setcontext(&fiber.context);
#endif
}

// A fiber runs one CUDA thread after the other for as long as none waits; a wait makes the scheduler start another fiber.
static void fiber_main() {
  for (;;) {
    Fiber& fiber = *block.current;
    WITH_TSAN(__tsan_acquire(&block.start_clock);)
    block.body(block.arguments);
    WITH_TSAN(__tsan_release(&block.barrier_clock);)
    fiber.state = State::done;
    ++block.finished;
#ifndef SIMT_TSAN
    if (block.started < block.threads) {
      block.place(fiber, block.started++);
      continue;
    }
#endif
    block.give_way();
  }
}

void Block::start_threads() {
  while (started < threads) {
    std::unique_ptr<Fiber> fiber;
    if (!idle.empty()) {
      fiber = std::move(idle.back());
      idle.pop_back();
    } else {
      fiber = std::make_unique<Fiber>();
      fiber->stack.reset(new char[kStackBytes]);
      getcontext(&fiber->context);
      fiber->context.uc_stack.ss_sp = fiber->stack.get();
      fiber->context.uc_stack.ss_size = kStackBytes;
      fiber->context.uc_link = nullptr;
      makecontext(&fiber->context, fiber_main, 0);
      WITH_TSAN(fiber->tsan = __tsan_create_fiber(0);)
    }
    place(*fiber, started++);
    running.push_back(std::move(fiber));
    resume(*running.back());
  }
}

// Lets the threads at the barrier go once all that have not returned are there; returns how many wait.
unsigned Block::release_barrier(bool& moved) {
  unsigned waiting = 0;
  int nonzero = 0;
  for (auto& fiber : running) {
    if (fiber->state != State::at_barrier) continue;
    ++waiting;
    nonzero += fiber->predicate != 0;
  }
  if (!waiting || waiting + finished != threads) return waiting;
  votes = nonzero;
  for (auto& fiber : running) {
    if (fiber->state == State::at_barrier) fiber->state = State::ready;
  }
  for (auto& fiber : running) {
    if (fiber->state == State::ready) {
      moved = true;
      resume(*fiber);
    }
  }
  return waiting;
}

// Lets the lanes of a warp go that wait with one mask, once every live lane of that mask is there.
void Block::release_collectives(bool& moved) {
  for (size_t first = 0; first < running.size(); ++first) {
    Fiber& waiting = *running[first];
    if (waiting.state != State::at_collective) continue;
    uint32_t here = 0, live = 0;
    uint64_t brought[32] = {};
    std::vector<Fiber*> group;
    for (auto& other : running) {
      if (other->warp != waiting.warp || other->state == State::done) continue;
      live |= 1u << other->lane;
      if (other->state != State::at_collective || other->awaited_lanes != waiting.awaited_lanes) continue;
      here |= 1u << other->lane;
      brought[other->lane] = other->value;
      group.push_back(other.get());
    }
    if (here != (waiting.awaited_lanes & live)) continue;
    for (Fiber* member : group) {
      std::memcpy(member->brought, brought, sizeof brought);
      member->arrived = here;
      member->state = State::ready;
    }
    for (Fiber* member : group) {
      moved = true;
      resume(*member);
    }
  }
}

void Block::run() {
  started = finished = 0;
  for (auto& fiber : running) idle.push_back(std::move(fiber));
  running.clear();
  start_threads();
  while (finished < threads) {
    bool moved = false;
    const unsigned waiting = release_barrier(moved);
    release_collectives(moved);
    if (moved) continue;
    fprintf(stderr, "simt: deadlock in block %u: of %u threads %u have returned, %u wait at a barrier, %u at a collective\n",
            blockIdx.x, threads, finished, waiting, threads - finished - waiting);
    abort();
  }
}

int wait_for_block(int predicate) {
  block.current->predicate = predicate;
  block.current->state = State::at_barrier;
  WITH_TSAN(__tsan_release(&block.barrier_clock);)
  block.give_way();
  WITH_TSAN(__tsan_acquire(&block.barrier_clock);)
  return block.votes;
}

const Meeting& meet_in_warp(uint32_t lanes, uint64_t value) {
  Fiber& fiber = *block.current;
  fiber.awaited_lanes = lanes;
  fiber.value = value;
  fiber.state = State::at_collective;
  WITH_TSAN(__tsan_release(&block.warp_clock[fiber.warp]);)
  block.give_way();
  WITH_TSAN(__tsan_acquire(&block.warp_clock[fiber.warp]);)
  return fiber;
}

// Runs all blocks of a grid on so many OS threads. Under ThreadSanitizer each block has an OS thread of its own, and so
// shared memory of its own: memory that blocks use in turn would look like a race.
int run(const unsigned* grid, const unsigned* threads, void (*body)(void**), void** arguments, int workers) {
  const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  std::atomic<uint64_t> next{0};
  auto work = [&] {
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {threads[0], threads[1], threads[2]};
    block.body = body;
    block.arguments = arguments;
    block.threads = threads[0] * threads[1] * threads[2];
    touched_edges = 0;
    WITH_TSAN(block.scheduler_tsan = __tsan_get_current_fiber(); __tsan_release(&block.start_clock);)
    for (uint64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
      blockIdx = {unsigned(i % grid[0]), unsigned(i / grid[0] % grid[1]), unsigned(i / (uint64_t(grid[0]) * grid[1]))};
      block.run();
      WITH_TSAN(break;)
    }
    all_touched_edges.fetch_add(touched_edges, std::memory_order_relaxed);
    WITH_TSAN(__tsan_acquire(&block.barrier_clock); for (auto& fiber : block.running) __tsan_destroy_fiber(fiber->tsan);)
  };
  WITH_TSAN(workers = int(blocks) + 1;)
  std::vector<std::thread> pool;
  for (int i = 1; i < workers; ++i) pool.emplace_back(work);
  WITH_TSAN(if (0)) work();
  for (auto& thread : pool) thread.join();
  return 0;
}

}  // namespace simt

extern "C" long long simt_take_touched_edges() { return simt::all_touched_edges.exchange(0); }
