// What the host lane must do as a device does it: one kernel for each claim of tests/test_simt.py.
#include "common.cuh"

__global__ void stride_over_items(int64 items, int64* owner, int* visits) {
  for (int64 item = first_item(); item < items; item += item_stride()) {
    owner[item] = first_item();
    visits[item] += 1;
    touch_edges(3);
  }
}

__global__ void warp_items(int64 items, int64* owner) {
  for (int64 item = first_warp_item(); item < items; item += warp_stride()) {
    if (lane() == kWarp - 1) owner[item] = first_warp_item();
  }
}

// Sums through shared memory, one atomic per block.
template <typename Real>
__global__ void block_sums(const Real* values, int64 items, Real* total) {
  __shared__ Real part[256];
  Real sum = 0;
  for (int64 item = first_item(); item < items; item += item_stride()) sum += values[item];
  part[threadIdx.x] = sum;
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) atomicAdd(total, part[0]);
}

// The same through shuffles, one atomic per warp.
template <typename Index>
__global__ void warp_sums(const Index* values, int64 items, Index* total) {
  Index sum = 0;
  for (int64 item = first_item(); item < items; item += item_stride()) sum += values[item];
  for (int distance = kWarp / 2; distance > 0; distance /= 2) sum += __shfl_down_sync(kAllLanes, sum, distance);
  if (lane() == 0) atomic_add(total, sum);
}

// Every thread writes what it gets; values[i] is what thread i brings.
__global__ void shuffles(const int* values, int width, int* from, int* down, int* up, int* crosswise) {
  const int me = int(threadIdx.x), value = values[me];
  from[me] = __shfl_sync(kAllLanes, value, 5, width);
  down[me] = __shfl_down_sync(kAllLanes, value, 3, width);
  up[me] = __shfl_up_sync(kAllLanes, value, 3, width);
  crosswise[me] = __shfl_xor_sync(kAllLanes, value, 12, width);
}

// Lanes of `mask` meet alone, the others go their own way.
__global__ void partial_votes(const int* values, uint32 mask, uint32* ballots, int* any, int* all, uint32* equal) {
  const int me = int(threadIdx.x);
  if (!(mask >> lane() & 1)) return;
  ballots[me] = __ballot_sync(mask, values[me] > 0);
  any[me] = __any_sync(mask, values[me] > 1);
  all[me] = __all_sync(mask, values[me] >= 0);
  equal[me] = __match_any_sync(mask, values[me]);
}

__global__ void two_halves(const int* values, int* sums) {  // each half of a warp reduces by itself
  const int me = int(threadIdx.x);
  const uint32 half = lane() < 16 ? 0x0000ffffu : 0xffff0000u;
  int sum = values[me];
  if (lane() < 16) {
    for (int distance = 8; distance > 0; distance /= 2) sum += __shfl_xor_sync(half, sum, distance, 16);
  } else {
    for (int distance = 1; distance < 16; distance *= 2) sum += __shfl_xor_sync(half, sum, distance, 16);
  }
  sums[me] = sum;
}

__global__ void block_votes(const int* values, int* count, int* any, int* all) {
  const int me = int(threadIdx.x);
  count[me] = __syncthreads_count(values[me]);
  any[me] = __syncthreads_or(values[me] > 2);
  all[me] = __syncthreads_and(values[me] > 0);
}

// All 64 bits of a word survive, also where a sum passes zero or a comparison is signed.
__global__ void wide_atomics(const int64* values, int64 items, int64* sum, int64* least, int64* most, uint64* bits) {
  for (int64 item = first_item(); item < items; item += item_stride()) {
    atomic_add(sum, values[item]);
    atomicMin(least, values[item]);
    atomicMax(most, values[item]);
    atomicOr(bits, uint64(values[item]));
  }
}

// The first to come claims a slot; everybody counts what was claimed by the time it looked.
__global__ void claim(const int* slot, int64 items, int64* owner, int* claimed) {
  for (int64 item = first_item(); item < items; item += item_stride()) {
    if (atomic_swap_if(&owner[slot[item]], int64(-1), item) == -1) atomicAdd(claimed, 1);
  }
}

__global__ void bits(const uint32* words, const uint64* wide, int* ones, int* wide_ones, int* zeros, int* first, uint64* high) {
  const int me = int(threadIdx.x);
  ones[me] = __popc(words[me]);
  wide_ones[me] = __popcll(wide[me]);
  zeros[me] = __clz(int(words[me]));
  first[me] = __ffs(int(words[me]));
  high[me] = __umul64hi(wide[me], wide[(me + 1) % blockDim.x]);
}

__global__ void last_places(const int64* ascending, int64 size, const int64* values, int64 items, int64* places) {
  for (int64 item = first_item(); item < items; item += item_stride()) {
    places[item] = last_at_most(ascending, size, values[item]);
  }
}

// The product must be rounded before the sum, as NumPy does it.
template <typename Real>
__global__ void product_and_sum(const Real* a, const Real* b, const Real* c, int64 items, Real* result) {
  for (int64 item = first_item(); item < items; item += item_stride()) result[item] = a[item] * b[item] + c[item];
}

// The last block to finish adds up what the others left: right only behind fences.
__global__ void last_block_sums(const int64* values, int64 items, int64* part, uint32* finished, int64* total) {
  int64 sum = 0;
  for (int64 item = first_item(); item < items; item += item_stride()) sum += values[item];
  part[first_item()] = sum;
  __threadfence();
  __shared__ bool last;
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int64 place = threadIdx.x; place < item_stride(); place += blockDim.x) atomic_add(total, part[place]);
}
