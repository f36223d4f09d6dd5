// Kernels with planted bugs. A lane must find each at the line that is marked with the kernel's name; see tests/test_sanitize.py.
#include "common.cuh"

template <typename Index>
__global__ void lost_update(const Index* payer, int64 flows, int* count) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    count[payer[flow]] += 1;  // BUG lost_update: two threads may read the same count
  }
}

__global__ void race_between_blocks(const int64* amount, int64 flows, int64* most) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    if (threadIdx.x != 0) continue;
    if (amount[flow] > *most) {  // BUG race_between_blocks: another block writes it
      *most = amount[flow];      // BUG race_between_blocks
    }
  }
}

__global__ void missing_barrier(const int* values, int* sum) {
  __shared__ int part[64];
  part[threadIdx.x] = values[threadIdx.x];  // BUG missing_barrier: nothing tells thread 0 that this is done
  if (threadIdx.x == 0) {
    int total = 0;
    for (unsigned i = 0; i < blockDim.x; ++i) total += part[i];  // BUG missing_barrier
    *sum = total;
  }
}

__global__ void missing_second_barrier(const int* values, int* sums) {
  __shared__ int part[64];
  for (int round = 0; round < 2; ++round) {
    part[threadIdx.x] = values[threadIdx.x] + round;  // BUG missing_second_barrier: the neighbour may still read round 0
    __syncthreads();
    sums[threadIdx.x] += part[(threadIdx.x + 1) % blockDim.x];  // BUG missing_second_barrier
  }
}

__global__ void shuffle_is_no_barrier(const int* values, int* sums) {
  __shared__ int part[32];
  part[threadIdx.x] = values[threadIdx.x];              // BUG shuffle_is_no_barrier: a vote orders no memory
  if (!__any_sync(kAllLanes, values[threadIdx.x])) return;
  sums[threadIdx.x] = part[(threadIdx.x + 1) % kWarp];  // BUG shuffle_is_no_barrier
}

__global__ void plain_read_of_atomic(const int* payer, int64 flows, int* count, int* seen) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    atomicAdd(&count[payer[flow]], 1);  // BUG plain_read_of_atomic
    seen[flow] = count[payer[flow]];    // BUG plain_read_of_atomic: others still add
  }
}

__global__ void publish_without_fence(int64* data, int* ready, int64* read) {
  if (threadIdx.x != 0) return;
  if (blockIdx.x == 0) {
    *data = 7;  // BUG publish_without_fence: the flag does not carry it
    store_relaxed(ready, 1);
  } else {
    while (load_relaxed(ready) == 0) {
    }
    *read = *data;  // BUG publish_without_fence
  }
}

template <typename Index>
__global__ void write_past_end(const Index* payer, int64 flows, int* count) {
  for (int64 flow = first_item(); flow <= flows; flow += item_stride()) {
    count[flow] = flow < flows ? int(payer[flow]) : 0;  // BUG write_past_end: flow == flows
  }
}

__global__ void read_past_end(const int64* offsets, int64 companies, int64* degree) {
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    degree[company] = offsets[company + 1] - offsets[company];  // BUG read_past_end: offsets hold no last one
  }
}

__global__ void write_before_start(const int* payer, int64 flows, int* count) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    atomicAdd(&count[payer[flow] - 1], 1);  // BUG write_before_start: payer 0
  }
}

__global__ void past_shared_end(const int* values, int* sums) {
  __shared__ int part[32];
  part[threadIdx.x] = values[threadIdx.x];  // BUG past_shared_end: blocks have 64 threads
  __syncthreads();
  sums[threadIdx.x] = part[0];
}

__global__ void shift_past_width(const int* payer, int64 flows, uint64* bitmap) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    atomicOr(bitmap, uint64(1u << payer[flow]));  // BUG shift_past_width: 1u has 32 bits
  }
}

// ---- what ends the process in every lane ------------------------------------------------------------------------------

__global__ void deadlock(int* done) {
  if (threadIdx.x < 16) {
    __syncwarp();  // BUG deadlock
  } else {
    __syncthreads();  // BUG deadlock
  }
  done[threadIdx.x] = 1;
}

__global__ void different_barriers(int* done) {
  if (threadIdx.x < 32) {
    __syncthreads();  // BUG different_barriers
  }
  done[threadIdx.x] = 1;
  __syncthreads();  // BUG different_barriers
}

__global__ void mask_without_caller(int* votes) {
  votes[threadIdx.x] = int(__ballot_sync(0x0000ffffu, 1));  // BUG mask_without_caller: lanes from 16 on
}

__global__ void different_collectives(int* votes) {
  if (lane() < 16) {
    votes[threadIdx.x] = __any_sync(kAllLanes, 1);  // BUG different_collectives
  } else {
    votes[threadIdx.x] = __shfl_sync(kAllLanes, 1, 0);  // BUG different_collectives
  }
}
