// The scheduler behind simt.h. It is compiled without a sanitizer: only kernels are watched.
#include "simt.h"

#include <setjmp.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#ifdef SIMT_TSAN
extern "C" {
void* __tsan_create_fiber(unsigned);
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

constinit static thread_local long long block_touched_edges = 0;
static std::atomic<long long> all_touched_edges{0};
EdgeCounter touched_edges;
void EdgeCounter::operator+=(long long edges) { block_touched_edges += edges; }

constexpr size_t kStackBytes = 64 << 10;
constexpr unsigned kNoSwitch = 1;  // tells ThreadSanitizer that a switch of fibers orders nothing by itself
constexpr uint64_t kNotBrought = 0xbadbadbadbadbadbull;  // what a shuffle reads from a lane that did not come

enum class State { ready, at_barrier, at_collective, done };

struct Fiber : Meeting {
  ucontext_t context;
  jmp_buf resume_point;
  bool started = false;
  std::unique_ptr<char[]> stack;
  uint3 thread;
  unsigned warp;
  State state = State::done;
  Site site;  // where it waits
  Collective kind;
  unsigned syncs = 0, clock = 0, clocks = 0;  // which of its warp's two clocks it left its memory in, and which those it met did
  uint32_t awaited_lanes;
  uint64_t value;
  int predicate;
  void* tsan = nullptr;
};

// The block that an OS thread is running.
struct Block {
  std::vector<std::unique_ptr<Fiber>> running, idle;
  std::vector<Fiber*> group;
  Fiber* current;
  ucontext_t scheduler_context;
  jmp_buf scheduler_point;
  void (*body)(void**);
  void** arguments;
  unsigned started, threads, finished;
  int votes;
  void* scheduler_tsan;
  unsigned barriers;
  // What ThreadSanitizer orders accesses by. A thread may come to the next barrier before another has left this one, so
  // barriers take turns with two clocks; one would order too much.
  uint64_t start_clock, end_clock, barrier_clock[2], warp_clock[32][2];

  void run();
  void start_threads();
  void release_barrier(bool& moved);
  void release_collectives(bool& moved);
  [[gnu::noinline]] void resume(Fiber& fiber);
  [[gnu::noinline]] void give_way();
  [[noreturn]] void refuse(const char* what);
  void place(Fiber& fiber, unsigned index);
};
static thread_local Block block;

void Block::place(Fiber& fiber, unsigned index) {
  fiber.thread = {index % blockDim.x, index / blockDim.x % blockDim.y, index / (blockDim.x * blockDim.y)};
  fiber.lane = index % 32;
  fiber.warp = index / 32;
  fiber.state = State::ready;
  fiber.syncs = 0;
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
    WITH_TSAN(__tsan_release(&block.end_clock);)
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

// Ends the process: says what is wrong with this block, and at which lines its threads wait.
void Block::refuse(const char* what) {
  unsigned waiting = 0;
  for (auto& fiber : running) waiting += fiber->state != State::done;
  fprintf(stderr, "simt: %s in block %u of %u threads: %u have returned, %u wait\n", what, blockIdx.x, threads, finished, waiting);
  for (size_t i = 0; i < running.size(); ++i) {
    const Fiber& fiber = *running[i];
    if (fiber.state == State::done) continue;
    unsigned same = 0;
    bool first = true;
    for (size_t j = 0; j < running.size(); ++j) {
      const Fiber& other = *running[j];
      if (other.state != fiber.state || other.site.line() != fiber.site.line()) continue;
      first = first && j >= i;
      ++same;
    }
    if (first) {
      fprintf(stderr, "simt:   %s:%u: %u threads wait at a %s, the first of them thread %u\n", fiber.site.file_name(),
              unsigned(fiber.site.line()), same, fiber.state == State::at_barrier ? "barrier" : "warp collective", fiber.thread.x);
    }
  }
  abort();
}

// Lets the threads at the barrier go once all that have not returned are there.
void Block::release_barrier(bool& moved) {
  unsigned waiting = 0;
  int nonzero = 0;
  const Fiber* any = nullptr;
  bool together = true;
  for (auto& fiber : running) {
    if (fiber->state != State::at_barrier) continue;
    if (!any) any = fiber.get();
    together = together && fiber->site.line() == any->site.line();
    ++waiting;
    nonzero += fiber->predicate != 0;
  }
  if (!waiting || waiting + finished != threads) return;
  if (!together) refuse("threads wait at different barriers");
  votes = nonzero;
  ++barriers;
  for (auto& fiber : running) {
    if (fiber->state == State::at_barrier) fiber->state = State::ready;
  }
  for (auto& fiber : running) {
    if (fiber->state == State::ready) {
      moved = true;
      resume(*fiber);
    }
  }
}

// Lets the lanes of a warp go that wait with one mask, once every live lane of that mask is there.
void Block::release_collectives(bool& moved) {
  for (size_t first = 0; first < running.size(); ++first) {
    Fiber& waiting = *running[first];
    if (waiting.state != State::at_collective) continue;
    uint32_t here = 0, live = 0;
    uint64_t brought[32];
    std::fill_n(brought, 32, kNotBrought);
    bool alike = true;
    unsigned clocks = 0;
    group.clear();
    size_t begin = first;  // threads stand in order, so a warp stands together
    while (begin > 0 && running[begin - 1]->warp == waiting.warp) --begin;
    for (size_t i = begin; i < running.size() && running[i]->warp == waiting.warp; ++i) {
      Fiber* other = running[i].get();
      if (other->state == State::done) continue;
      live |= 1u << other->lane;
      if (other->state != State::at_collective || other->awaited_lanes != waiting.awaited_lanes) continue;
      alike = alike && other->kind == waiting.kind;
      clocks |= 1u << other->clock;
      here |= 1u << other->lane;
      brought[other->lane] = other->value;
      group.push_back(other);
    }
    if (here != (waiting.awaited_lanes & live)) continue;
    if (!alike) refuse("lanes of one mask meet at different collectives");
    for (Fiber* member : group) {
      std::memcpy(member->brought, brought, sizeof brought);
      member->arrived = here;
      member->clocks = clocks;
      member->state = State::ready;
    }
    for (Fiber* member : group) {
      moved = true;
      resume(*member);
    }
  }
}

void Block::run() {
  started = finished = barriers = 0;
  for (auto& fiber : running) idle.push_back(std::move(fiber));
  running.clear();
  start_threads();
  while (finished < threads) {
    bool moved = false;
    release_barrier(moved);
    release_collectives(moved);
    if (!moved) refuse("deadlock");
  }
}

int wait_for_block(int predicate, Site site) {
  block.current->predicate = predicate;
  block.current->site = site;
  block.current->state = State::at_barrier;
  [[maybe_unused]] uint64_t* clock = &block.barrier_clock[block.barriers % 2];
  WITH_TSAN(__tsan_release(clock);)
  block.give_way();
  WITH_TSAN(__tsan_acquire(clock);)
  return block.votes;
}

// CUDA orders the memory of a warp at __syncwarp only, not at shuffles and votes.
const Meeting& meet_in_warp(Collective kind, uint32_t lanes, uint64_t value, Site site) {
  Fiber& fiber = *block.current;
  fiber.kind = kind;
  fiber.site = site;
  fiber.awaited_lanes = lanes;
  fiber.value = value;
  fiber.state = State::at_collective;
  if (!(lanes >> fiber.lane & 1)) block.refuse("a mask without the lane that calls");
  if (kind == Collective::sync) {
    [[maybe_unused]] uint64_t* clocks = block.warp_clock[fiber.warp];
    fiber.clock = fiber.syncs++ % 2;
    WITH_TSAN(__tsan_release(&clocks[fiber.clock]);)
    block.give_way();
    WITH_TSAN(for (int i : {0, 1}) if (fiber.clocks >> i & 1) __tsan_acquire(&clocks[i]);)
  } else {
    block.give_way();
  }
  return fiber;
}

// ThreadSanitizer knows no fences: here a fence sees all that was written before an earlier one, as if each followed an atomic.
void fence() {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  WITH_TSAN(static uint64_t clock; __tsan_acquire(&clock); __tsan_release(&clock);)
}

// One launch, and the OS threads that run its blocks. They stay for the next launch, with their fibers: ThreadSanitizer takes
// 0.3 ms to make one. Under it each block has an OS thread of its own, and so shared memory of its own: memory that blocks
// use in turn would look like a race. The threads are woken by atomics, which this file hides from it: a mutex would order a
// block that starts late behind one that has ended, and hide their race.
struct Pool {
  struct Member {
    std::atomic<uint32_t> launch{0};
  };
  std::vector<std::unique_ptr<Member>> members;
  std::atomic<uint32_t> unfinished{0};
  const unsigned *grid, *threads;
  void (*body)(void**);
  void** arguments;
  std::atomic<uint64_t> next_block;
  uint64_t launch_clock, end_clock;  // what orders launches, for ThreadSanitizer
  pid_t process = getpid();

  void work(Member& member);
  void run_blocks();
  void run(unsigned workers);
};

void Pool::work(Member& member) {
  for (uint32_t seen = 0;; ++seen) {
    member.launch.wait(seen);
    run_blocks();
    if (unfinished.fetch_sub(1) == 1) unfinished.notify_all();
  }
}

void Pool::run_blocks() {
  const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  gridDim = {grid[0], grid[1], grid[2]};
  blockDim = {threads[0], threads[1], threads[2]};
  block.body = body;
  block.arguments = arguments;
  block.threads = threads[0] * threads[1] * threads[2];
  block_touched_edges = 0;
  WITH_TSAN(block.scheduler_tsan = __tsan_get_current_fiber(); __tsan_acquire(&launch_clock); __tsan_release(&block.start_clock);)
  for (uint64_t i; (i = next_block.fetch_add(1, std::memory_order_relaxed)) < blocks;) {
    blockIdx = {unsigned(i % grid[0]), unsigned(i / grid[0] % grid[1]), unsigned(i / (uint64_t(grid[0]) * grid[1]))};
    block.run();
    WITH_TSAN(break;)
  }
  WITH_TSAN(__tsan_acquire(&block.end_clock); __tsan_release(&end_clock);)
  all_touched_edges.fetch_add(block_touched_edges, std::memory_order_relaxed);
}

void Pool::run(unsigned workers) {
  while (members.size() < workers) {
    members.push_back(std::make_unique<Member>());
    std::thread(&Pool::work, this, std::ref(*members.back())).detach();
  }
  WITH_TSAN(__tsan_release(&launch_clock);)
  next_block = 0;
  unfinished = workers;
  for (unsigned i = 0; i < workers; ++i) {
    members[i]->launch.fetch_add(1);
    members[i]->launch.notify_one();
  }
  for (uint32_t left; (left = unfinished) != 0;) unfinished.wait(left);
  WITH_TSAN(__tsan_acquire(&end_clock);)
}

int run(const unsigned* grid, const unsigned* threads, void (*body)(void**), void** arguments, [[maybe_unused]] int workers) {
  static std::mutex one_launch;
  const std::lock_guard alone(one_launch);
  static Pool* pool = new Pool;                    // never destroyed: its threads wait until the process ends
  if (pool->process != getpid()) pool = new Pool;  // a forked process has none of the threads
  pool->grid = grid;
  pool->threads = threads;
  pool->body = body;
  pool->arguments = arguments;
  const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
#ifdef SIMT_TSAN
  pool->run(unsigned(blocks));
#else
  pool->run(unsigned(std::min<uint64_t>(workers, blocks)));
#endif
  return 0;
}

}  // namespace simt

extern "C" long long simt_take_touched_edges() { return simt::all_touched_edges.exchange(0); }
