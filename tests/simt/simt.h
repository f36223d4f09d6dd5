// Runs CUDA C++ kernels on the host: g++ -std=c++20 -include simt.h -x c++ kernels.cu
//
// One OS thread runs one block at a time. The CUDA threads of a block are fibers that give way only at barriers and warp
// collectives; blocks run in parallel. Supported: shared memory, barriers, masked shuffles and ballots, atomics (only the
// overloads that CUDA has, so that what compiles here compiles there). Not: grid-wide barriers, extern __shared__, waiting
// for another thread in a loop.
//
// What CUDA leaves undefined ends the process with a message that names the lines: threads of a block at different barriers,
// a mask without the caller, lanes of one mask at different collectives, a wait that can never end.
#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#define SIMT_HOST 1
#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __constant__ static const
// At block scope thread_local is static: one copy per OS thread, and so one per running block.
#define __shared__ thread_local

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
extern constinit thread_local uint3 threadIdx, blockIdx;
extern constinit thread_local dim3 blockDim, gridDim;

namespace simt {

// Edges that kernels say they read. Counted behind a call, because a sanitizer would see threads race for the counter.
struct EdgeCounter {
  void operator+=(long long edges);
};
extern EdgeCounter touched_edges;

// What every lane of a warp brought to a collective, and who came.
struct Meeting {
  unsigned lane;
  uint32_t arrived;
  uint64_t brought[32];
};

enum class Collective { sync, shuffle, vote, match };
using Site = std::source_location;

int wait_for_block(int predicate, Site site);  // how many threads of the block came with a nonzero one
const Meeting& meet_in_warp(Collective kind, uint32_t lanes, uint64_t brought, Site site);  // waits for all live lanes of the mask
void fence();
int run(const unsigned* grid, const unsigned* block, void (*body)(void**), void** arguments, int workers);

template <class T>
uint64_t to_bits(T value) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T from_bits(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Names of parameter types, as Python declares them.
template <class T>
std::string type_name() {
  if constexpr (std::is_pointer_v<T>) {
    using Target = std::remove_pointer_t<T>;
    return (std::is_const_v<Target> ? "const " : "") + type_name<std::remove_const_t<Target>>() + "*";
  } else {
    static_assert(std::is_arithmetic_v<T>, "kernels take numbers and pointers to numbers");
    const char* family = std::is_floating_point_v<T> ? "float" : std::is_signed_v<T> ? "int" : "uint";
    return family + std::to_string(8 * sizeof(T));
  }
}

template <auto K>
struct Kernel;
template <class... Parameters, void (*K)(Parameters...)>
struct Kernel<K> {
  template <size_t... I>
  static void call(void** arguments, std::index_sequence<I...>) {
    K(*static_cast<std::remove_cv_t<Parameters>*>(arguments[I])...);
  }
  static void body(void** arguments) { call(arguments, std::index_sequence_for<Parameters...>{}); }
  static const char* signature() {
    static const std::string text = ((type_name<std::remove_cv_t<Parameters>>() + ",") + ... + "");
    return text.c_str();
  }
};

}  // namespace simt

#define SIMT_EXPORT(symbol, ...)                                                                                  \
  extern "C" const char* symbol##_signature() { return simt::Kernel<&::__VA_ARGS__>::signature(); }                 \
  extern "C" int symbol(const unsigned* grid, const unsigned* block, void** arguments, int workers) {             \
    return simt::run(grid, block, simt::Kernel<&::__VA_ARGS__>::body, arguments, workers);                          \
  }

// ---- barriers and warp collectives -----------------------------------------------------------------------------------

inline void __syncthreads(simt::Site site = simt::Site::current()) { simt::wait_for_block(0, site); }
inline int __syncthreads_count(int predicate, simt::Site site = simt::Site::current()) {
  return simt::wait_for_block(predicate, site);
}
inline int __syncthreads_or(int predicate, simt::Site site = simt::Site::current()) {
  return simt::wait_for_block(predicate, site) != 0;
}
inline int __syncthreads_and(int predicate, simt::Site site = simt::Site::current()) {
  return simt::wait_for_block(!predicate, site) == 0;
}
inline void __syncwarp(uint32_t lanes = ~0u, simt::Site site = simt::Site::current()) {
  simt::meet_in_warp(simt::Collective::sync, lanes, 0, site);
}
inline void __threadfence() { simt::fence(); }
inline void __threadfence_block() { simt::fence(); }

template <class T>
T __shfl_sync(uint32_t lanes, T value, int source, int width = 32, simt::Site site = simt::Site::current()) {
  const simt::Meeting& met = simt::meet_in_warp(simt::Collective::shuffle, lanes, simt::to_bits(value), site);
  return simt::from_bits<T>(met.brought[(met.lane & ~(width - 1)) + (source & (width - 1))]);
}
template <class T>
T __shfl_down_sync(uint32_t lanes, T value, unsigned distance, int width = 32, simt::Site site = simt::Site::current()) {
  const simt::Meeting& met = simt::meet_in_warp(simt::Collective::shuffle, lanes, simt::to_bits(value), site);
  const unsigned source = met.lane + distance;
  return source / width == met.lane / width ? simt::from_bits<T>(met.brought[source]) : value;
}
template <class T>
T __shfl_up_sync(uint32_t lanes, T value, unsigned distance, int width = 32, simt::Site site = simt::Site::current()) {
  const simt::Meeting& met = simt::meet_in_warp(simt::Collective::shuffle, lanes, simt::to_bits(value), site);
  return (met.lane & (width - 1)) >= distance ? simt::from_bits<T>(met.brought[met.lane - distance]) : value;
}
template <class T>
T __shfl_xor_sync(uint32_t lanes, T value, int mask, int width = 32, simt::Site site = simt::Site::current()) {
  const simt::Meeting& met = simt::meet_in_warp(simt::Collective::shuffle, lanes, simt::to_bits(value), site);
  const unsigned source = met.lane ^ unsigned(mask);  // earlier groups can be read, later ones cannot
  return source / width <= met.lane / width ? simt::from_bits<T>(met.brought[source]) : value;
}
inline uint32_t __ballot_sync(uint32_t lanes, int predicate, simt::Site site = simt::Site::current()) {
  const simt::Meeting& met = simt::meet_in_warp(simt::Collective::vote, lanes, predicate != 0, site);
  uint32_t votes = 0;
  for (int lane = 0; lane < 32; ++lane) votes |= uint32_t((met.arrived >> lane & 1) && met.brought[lane]) << lane;
  return votes;
}
inline int __any_sync(uint32_t lanes, int predicate, simt::Site site = simt::Site::current()) {
  return __ballot_sync(lanes, predicate, site) != 0;
}
inline int __all_sync(uint32_t lanes, int predicate, simt::Site site = simt::Site::current()) {
  return __ballot_sync(lanes, !predicate, site) == 0;
}
template <class T>
uint32_t __match_any_sync(uint32_t lanes, T value, simt::Site site = simt::Site::current()) {
  const uint64_t bits = simt::to_bits(value);
  const simt::Meeting& met = simt::meet_in_warp(simt::Collective::match, lanes, bits, site);
  uint32_t equal = 0;
  for (int lane = 0; lane < 32; ++lane) equal |= uint32_t((met.arrived >> lane & 1) && met.brought[lane] == bits) << lane;
  return equal;
}

// ---- arithmetic -----------------------------------------------------------------------------------------------------------

inline int __popc(uint32_t word) { return __builtin_popcount(word); }
inline int __popcll(unsigned long long word) { return __builtin_popcountll(word); }
inline int __ffs(int word) { return __builtin_ffs(word); }
inline int __ffsll(long long word) { return __builtin_ffsll(word); }
inline unsigned __brev(unsigned word) {
  unsigned reversed = 0;
  for (int bit = 0; bit < 32; ++bit) reversed |= (word >> bit & 1u) << (31 - bit);
  return reversed;
}
inline int __clz(int word) { return word ? __builtin_clz(word) : 32; }
inline int __clzll(long long word) { return word ? __builtin_clzll(word) : 64; }
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
template <class T>
T __ldg(const T* word) {
  return *word;
}
using std::max;
using std::min;

// ---- atomics: exactly the overloads of CUDA ----------------------------------------------------------------------------

#define SIMT_ATOMIC(name, T, ...)                                                              \
  inline T name(T* word, T value) {                                                            \
    std::atomic_ref<T> shared(*word);                                                          \
    T old = shared.load(std::memory_order_relaxed);                                            \
    while (!shared.compare_exchange_weak(old, (__VA_ARGS__), std::memory_order_relaxed)) {     \
    }                                                                                          \
    return old;                                                                                \
  }
#define SIMT_SWAP_IF(T)                                                                        \
  inline T atomicCAS(T* word, T expected, T value) {                                           \
    std::atomic_ref<T>(*word).compare_exchange_strong(expected, value, std::memory_order_relaxed); \
    return expected;                                                                           \
  }
SIMT_ATOMIC(atomicAdd, int, old + value)
SIMT_ATOMIC(atomicAdd, unsigned, old + value)
SIMT_ATOMIC(atomicAdd, unsigned long long, old + value)
SIMT_ATOMIC(atomicAdd, float, old + value)
SIMT_ATOMIC(atomicAdd, double, old + value)
SIMT_ATOMIC(atomicSub, int, old - value)
SIMT_ATOMIC(atomicSub, unsigned, old - value)
SIMT_ATOMIC(atomicMin, int, std::min(old, value))
SIMT_ATOMIC(atomicMin, unsigned, std::min(old, value))
SIMT_ATOMIC(atomicMin, long long, std::min(old, value))
SIMT_ATOMIC(atomicMin, unsigned long long, std::min(old, value))
SIMT_ATOMIC(atomicMax, int, std::max(old, value))
SIMT_ATOMIC(atomicMax, unsigned, std::max(old, value))
SIMT_ATOMIC(atomicMax, long long, std::max(old, value))
SIMT_ATOMIC(atomicMax, unsigned long long, std::max(old, value))
SIMT_ATOMIC(atomicExch, int, value)
SIMT_ATOMIC(atomicExch, unsigned, value)
SIMT_ATOMIC(atomicExch, unsigned long long, value)
SIMT_ATOMIC(atomicExch, float, value)
SIMT_ATOMIC(atomicOr, int, old | value)
SIMT_ATOMIC(atomicOr, unsigned, old | value)
SIMT_ATOMIC(atomicOr, unsigned long long, old | value)
SIMT_ATOMIC(atomicAnd, int, old & value)
SIMT_ATOMIC(atomicAnd, unsigned, old & value)
SIMT_ATOMIC(atomicAnd, unsigned long long, old & value)
SIMT_ATOMIC(atomicXor, int, old ^ value)
SIMT_ATOMIC(atomicXor, unsigned, old ^ value)
SIMT_ATOMIC(atomicXor, unsigned long long, old ^ value)
SIMT_SWAP_IF(int)
SIMT_SWAP_IF(unsigned)
SIMT_SWAP_IF(unsigned long long)
