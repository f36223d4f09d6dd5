// What all kernels share. Header-free: the same text is compiled by NVRTC for a device and by g++ for the tests.
#pragma once

typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;
typedef unsigned char uint8;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

// ---- which item a thread works on ----------------------------------------------------------------------------------
// Grids are capped at what the device keeps in flight, so kernels stride:
//   for (int64 item = first_item(); item < items; item += item_stride())

__device__ inline int64 first_item() { return blockIdx.x * int64(blockDim.x) + threadIdx.x; }
__device__ inline int64 item_stride() { return gridDim.x * int64(blockDim.x); }

// The same with one warp per item; all lanes of a warp get the same item.
__device__ inline int lane() { return int(threadIdx.x) % kWarp; }
__device__ inline int64 first_warp_item() { return first_item() / kWarp; }
__device__ inline int64 warp_stride() { return item_stride() / kWarp; }

// ---- words that several threads read and write ------------------------------------------------------------------------
// A word that others update atomically is never read or written plainly: that would be a race.

#ifdef SIMT_HOST
template <typename T>
__device__ T load_relaxed(const T* word) {
  return std::atomic_ref<T>(*const_cast<T*>(word)).load(std::memory_order_relaxed);
}
template <typename T>
__device__ void store_relaxed(T* word, T value) {
  std::atomic_ref<T>(*word).store(value, std::memory_order_relaxed);
}
#else
template <typename T>
__device__ T load_relaxed(const T* word) {
  return *static_cast<const volatile T*>(word);
}
template <typename T>
__device__ void store_relaxed(T* word, T value) {
  *static_cast<volatile T*>(word) = value;
}
#endif

// CUDA adds, exchanges and compares 64-bit words only as unsigned ones; two's complement makes that the same.
__device__ inline int atomic_add(int* word, int value) { return atomicAdd(word, value); }
__device__ inline int64 atomic_add(int64* word, int64 value) {
  return int64(atomicAdd(reinterpret_cast<uint64*>(word), uint64(value)));
}
__device__ inline int atomic_swap_if(int* word, int expected, int value) { return atomicCAS(word, expected, value); }
__device__ inline int64 atomic_swap_if(int64* word, int64 expected, int64 value) {
  return int64(atomicCAS(reinterpret_cast<uint64*>(word), uint64(expected), uint64(value)));
}

// ---- searching ------------------------------------------------------------------------------------------------------------

// The last place of ascending[0..size) that holds at most value; ascending[0] <= value.
template <typename T, typename V>
__device__ int64 last_at_most(const T* __restrict__ ascending, int64 size, V value) {
  int64 low = 0, high = size;
  while (high - low > 1) {
    const int64 middle = (low + high) / 2;
    if (ascending[middle] <= T(value)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// ---- traffic -----------------------------------------------------------------------------------------------------------------
// Kernels say how many edges they read. On a device this is nothing; the tests count it against the model in the docstrings.

#ifdef SIMT_HOST
__device__ inline void touch_edges(int64 count) { simt::touched_edges += count; }
#else
__device__ inline void touch_edges(int64) {}
#endif
