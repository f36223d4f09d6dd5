// Round trips: panels of 32 companies whose money is followed hop by hop, and the sweeps of small dense chains.
//
// A panel has a row for each company of some components, and in it a number for each root: the share of the root's money
// that is there. A warp works on a row with one lane per root, so a row of a payer is read in one piece (128 bytes in
// single precision, 256 in double). Sums are formed in the order of the CPU twin: runs of kRun flows in the precision of the
// panel, runs in float64 in parts of kPart flows, parts in float64. So both get the same bits.
#include "common.cuh"

constexpr int kRoots = kWarp;
constexpr int kRun = 64;    // flows of one payee that are summed in the precision of the panel
constexpr int kPart = 256;  // weight of a part of the payees; longer rows are cut, and stand last in their part
constexpr int kGroup = 64;  // rows of sums that are added up together
constexpr double kUnits = 9007199254740992.0;  // 2^53: shares that many companies add to are counted in units of 2^-53
constexpr int kNever = 0x7fffffff;

// ---- single precision ----------------------------------------------------------------------------------------------------

// CuPy adds -ftz=true to whatever options it is given: then a device takes single numbers below 2^-126 for zero, which the
// CPU twin does not. Instructions that are spelled out keep them, and are never fused either.
#ifdef SIMT_HOST
__device__ inline float times(float left, float right) { return left * right; }
__device__ inline float plus(float left, float right) { return left + right; }
__device__ inline double widened(float value) { return double(value); }
__device__ inline void narrow(double value, float& narrowed) { narrowed = float(value); }
#else
__device__ inline float times(float left, float right) {
  float product;
  asm("mul.rn.f32 %0, %1, %2;" : "=f"(product) : "f"(left), "f"(right));
  return product;
}
__device__ inline float plus(float left, float right) {
  float sum;
  asm("add.rn.f32 %0, %1, %2;" : "=f"(sum) : "f"(left), "f"(right));
  return sum;
}
__device__ inline double widened(float value) {
  double wide;
  asm("cvt.f64.f32 %0, %1;" : "=d"(wide) : "f"(value));
  return wide;
}
__device__ inline void narrow(double value, float& narrowed) {
  asm("cvt.rn.f32.f64 %0, %1;" : "=f"(narrowed) : "d"(value));
}
#endif
__device__ inline double times(double left, double right) { return left * right; }
__device__ inline double plus(double left, double right) { return left + right; }
__device__ inline double widened(double value) { return value; }
__device__ inline void narrow(double value, double& narrowed) { narrowed = value; }

// ---- the flows inside components ---------------------------------------------------------------------------------------

// What each member pays and gets inside its component. Flows stand by payee, so those of a hub fill whole warps.
template <typename Index>
__global__ void sum_inside(const int* __restrict__ payer, const int* __restrict__ payee, const Index* __restrict__ flow,
                           const int64* __restrict__ amount, int64 flows, int64* paid, int64* received) {
  for (int64 first = first_warp_item() * kWarp; first < flows; first += warp_stride() * kWarp) {
    const int64 place = first + lane();
    const bool mine = place < flows;
    const int64 money = mine ? amount[flow[place]] : 0;
    const int to = mine ? payee[place] : payee[flows - 1];
    if (mine) atomic_add(&paid[payer[place]], money);
    if (__all_sync(kAllLanes, to == __shfl_sync(kAllLanes, to, 0))) {
      int64 sum = money;
      for (int half = kWarp / 2; half; half /= 2) sum += __shfl_down_sync(kAllLanes, sum, half);
      if (lane() == 0) atomic_add(&received[to], sum);
    } else if (mine) {
      atomic_add(&received[to], money);
    }
  }
  if (first_item() == 0) touch_edges(flows);
}

// The share of each member's throughflow that is still inside after two hops, rounded up flow by flow to units.
__global__ void sum_stay(const int* __restrict__ payer, const int* __restrict__ payee, const double* __restrict__ share,
                         const double* __restrict__ stay, int64 flows, int64* stay_twice) {
  for (int64 place = first_item(); place < flows; place += item_stride()) {
    const double part = share[place] * stay[payee[place]];
    atomic_add(&stay_twice[payer[place]], int64(part * kUnits) + (part > 0.0));
  }
  if (first_item() == 0) touch_edges(flows);
}

// ---- the first hop -----------------------------------------------------------------------------------------------------

// A bit for each row of a panel says whether there is anything in it; rows counts the bits.
__device__ inline bool is_filled(const uint32* __restrict__ filled, int64 row) {
  return filled[row / 32] >> (row % 32) & 1u;
}

// Spreads what each root pays over the members of its component. The flows of root k are items first[k]..first[k + 1].
template <typename Real, typename Index>
__global__ void place_roots(const int64* __restrict__ first, int64 roots, const int64* __restrict__ out_begin,
                            const int* __restrict__ root_component, const int64* __restrict__ paid,
                            const Index* __restrict__ payee, const int64* __restrict__ amount,
                            const int* __restrict__ local, const int* __restrict__ component, Real* now, uint32* filled,
                            int64* filled_rows) {
  for (int64 item = first_item(); item < first[roots]; item += item_stride()) {
    const int64 column = last_at_most(first, roots + 1, item);
    const int64 flow = out_begin[column] + item - first[column];
    const int row = local[payee[flow]];
    if (row < 0 || component[row] != root_component[column]) continue;
    narrow(double(amount[flow]) / double(paid[column]), now[row * int64(kRoots) + column]);
    const uint32 bit = 1u << (row % 32);
    if (!(atomicOr(&filled[row / 32], bit) & bit)) atomic_add(filled_rows, int64(1));
  }
}

// What can still come back of what is in a row: the smaller of two bounds, each times what is there.
__device__ inline double can_return(double there, double most, double reach) { return there * (reach < most ? reach : most); }

// The bound of what is under way in each part of the payees; after a first hop, for the hops bound it as they go.
template <typename Real>
__global__ void bound_parts(const Real* __restrict__ now, const int64* __restrict__ bounds, int64 parts,
                            const double* __restrict__ stay_twice, const double* __restrict__ per_outside,
                            const double* __restrict__ root_throughflow, const uint32* __restrict__ filled, double* open) {
  const double throughflow = root_throughflow[lane()];
  for (int64 part = first_warp_item(); part < parts; part += warp_stride()) {
    double bound = 0.0;
    for (int64 row = bounds[part]; row < bounds[part + 1]; ++row) {
      if (!is_filled(filled, row)) continue;
      bound += can_return(widened(now[row * kRoots + lane()]), stay_twice[row], throughflow * per_outside[row]);
    }
    open[part * kRoots + lane()] = bound;
  }
}

// ---- a hop --------------------------------------------------------------------------------------------------------------

// Adds up the rows of the payers of some flows, which stand from payer[0] and share[0] on, for one or more payees. The flows
// of the first payee end at row_end; at_end(sum) takes the sum of a payee and says where the flows of the next one end.
//
// Flows are taken 32 at a time, a lane for each, whatever payees they belong to; the next 32 are fetched meanwhile, and
// kAhead rows are asked for before the first is added. While most rows are empty (sparse) only those that are not are read:
// adding zero would change nothing.
template <typename Real, typename AtEnd>
__device__ void gather_flows(const Real* __restrict__ now, const int* __restrict__ payer, const Real* __restrict__ share,
                             int flows, const uint32* __restrict__ filled, bool sparse, int row_end, AtEnd at_end) {
  constexpr int kAhead = 64 / int(sizeof(Real));  // 2 KB for a warp
  constexpr unsigned kBatch = (1u << kAhead) - 1;
  Real run_sum = 0;
  double sum = 0.0;
  int event = row_end < kRun ? row_end : kRun;  // where a run or a row ends
  auto pass_events = [&](int place) {
    while (event <= place) {
      const int here = event;
      sum += widened(run_sum);
      run_sum = 0;
      while (here == row_end) {  // more than once where nobody pays the next payee
        row_end = at_end(sum);
        sum = 0.0;
      }
      event = row_end < here + kRun ? row_end : here + kRun;
    }
  };
  int next_giver = 0;
  Real next_passed = 0;
  auto fetch = [&](int place) {
    const bool mine = place < flows;
    next_giver = mine ? payer[place] : 0;
    next_passed = mine ? share[place] : Real(0);
  };
  fetch(lane());
  for (int window = 0; window < flows; window += kWarp) {
    const bool wanted = window + lane() < flows && (!sparse || is_filled(filled, next_giver));
    // A flow that is not wanted passes nothing on, of a row that is in the cache before long.
    const int giver = wanted ? next_giver : 0;
    const Real passed = wanted ? next_passed : Real(0);
    const unsigned rows = __ballot_sync(kAllLanes, wanted);
    fetch(window + kWarp + lane());
    if (lane() == 0) touch_edges(__popc(rows));
#pragma unroll 1
    for (int first = 0; first < kWarp; first += kAhead) {
      if (!(rows >> first & kBatch)) continue;
      Real there[kAhead];
#pragma unroll
      for (int next = 0; next < kAhead; ++next) {
        there[next] = now[__shfl_sync(kAllLanes, giver, first + next) * int64(kRoots) + lane()];
      }
#pragma unroll
      for (int next = 0; next < kAhead; ++next) {
        pass_events(window + first + next);
        run_sum = plus(run_sum, times(__shfl_sync(kAllLanes, passed, first + next), there[next]));
      }
    }
  }
  pass_events(flows);
}

// Whether so many rows are empty that it pays to look before reading one.
__device__ inline bool is_sparse(int64 filled_rows, int64 members) { return filled_rows < members / 4 * 3; }

// Sums of the pieces of long rows, kPart flows each: pieces first_piece[k]..first_piece[k + 1] are those of long_row[k].
template <typename Real>
__global__ void gather_pieces(const Real* __restrict__ now, const int64* __restrict__ offsets,
                              const int* __restrict__ payer, const Real* __restrict__ share,
                              const int64* __restrict__ long_row, const int64* __restrict__ first_piece, int64 long_rows,
                              int64 pieces, const uint32* __restrict__ filled, const int64* __restrict__ filled_rows,
                              int64 members, double* piece_sums) {
  const bool sparse = is_sparse(*filled_rows, members);
  for (int64 piece = first_warp_item(); piece < pieces; piece += warp_stride()) {
    const int64 nth = last_at_most(first_piece, long_rows, piece), row = long_row[nth];
    const int64 at = offsets[row] + (piece - first_piece[nth]) * kPart, row_end = offsets[row + 1];
    const int flows = int(row_end < at + kPart ? row_end - at : kPart);
    gather_flows(now, payer + at, share + at, flows, filled, sparse, flows, [&](double sum) {
      piece_sums[piece * kRoots + lane()] = sum;
      return kNever;
    });
  }
}

// What finishing a row needs, a lane for each of 32 rows.
struct RowFacts {
  double most, per_outside;
  int end, column;  // where its flows end among those of the part, and which root it is
};

// The next rows of the payees of each part, and the bound of what is in them. What reaches its own root is absorbed.
template <typename Real>
__global__ void gather_parts(const Real* __restrict__ now, Real* after, const int64* __restrict__ bounds, int64 parts,
                             const int64* __restrict__ offsets, const int* __restrict__ payer,
                             const Real* __restrict__ share, const double* __restrict__ stay_twice,
                             const double* __restrict__ per_outside, const uint8* __restrict__ column_of,
                             const double* __restrict__ root_throughflow, const int64* __restrict__ long_row,
                             const int64* __restrict__ first_piece, int64 long_rows,
                             const double* __restrict__ piece_sums, const uint32* __restrict__ filled,
                             const int64* __restrict__ filled_rows, int64 members, uint32* filled_after,
                             int64* filled_rows_after, double* open) {
  const bool sparse = is_sparse(*filled_rows, members);
  const double throughflow = root_throughflow[lane()];
  for (int64 part = first_warp_item(); part < parts; part += warp_stride()) {
    const int64 first = bounds[part], last = bounds[part + 1];
    if (first == last) {
      open[part * kRoots + lane()] = 0.0;
      continue;
    }
    const bool cut = offsets[last] - offsets[last - 1] > kPart;
    const int64 whole = last - cut, begin = offsets[first];  // rows before `whole` are gathered here
    int64 row = first, base = first, rows_filled = 0;
    uint32 bits = 0;
    double bound = 0.0;
    RowFacts facts;
    auto take_facts = [&] {
      base = row;
      const int64 mine = base + lane() < last ? base + lane() : last - 1;
      facts = {stay_twice[mine], per_outside[mine], int(offsets[mine + 1] - begin), column_of[mine]};
    };
    auto write_bits = [&](int64 word) {
      if (lane() == 0 && bits) atomicOr(&filled_after[word], bits);
      bits = 0;
    };
    auto finish_row = [&](double sum) {
      const int from = int(row - base);
      if (__shfl_sync(kAllLanes, facts.column, from) == lane()) sum = 0.0;
      Real kept;
      narrow(sum, kept);
      after[row * kRoots + lane()] = kept;
      const double most = __shfl_sync(kAllLanes, facts.most, from);
      bound += can_return(sum, most, throughflow * __shfl_sync(kAllLanes, facts.per_outside, from));
      if (__any_sync(kAllLanes, widened(kept) != 0.0)) {
        bits |= 1u << (row % 32);
        ++rows_filled;
      }
      if (row % 32 == 31) write_bits(row / 32);
      ++row;
      if (row == base + kWarp && row < last) take_facts();
    };
    auto next_row = [&](double sum) {
      finish_row(sum);
      return row < whole ? __shfl_sync(kAllLanes, facts.end, int(row - base)) : kNever;
    };
    take_facts();
    if (first < whole) {
      const int flows = int(offsets[whole] - begin), row_end = __shfl_sync(kAllLanes, facts.end, 0);
      gather_flows(now, payer + begin, share + begin, flows, filled, sparse, row_end, next_row);
    }
    if (cut) {
      const int64 nth = last_at_most(long_row, long_rows, row);
      double sum = 0.0;
#pragma unroll 8
      for (int64 piece = first_piece[nth]; piece < first_piece[nth + 1]; ++piece) sum += piece_sums[piece * kRoots + lane()];
      finish_row(sum);
    }
    write_bits((last - 1) / 32);
    if (lane() == 0 && rows_filled) atomic_add(filled_rows_after, rows_filled);
    open[part * kRoots + lane()] = bound;
  }
}

// Adds up rows of 32 numbers, kGroup neighbours in order; called again and again until one row is left.
__global__ void sum_groups(const double* __restrict__ rows, int64 count, double* sums) {
  const int64 groups = (count + kGroup - 1) / kGroup;
  for (int64 group = first_warp_item(); group < groups; group += warp_stride()) {
    const int64 stop = (group + 1) * kGroup < count ? (group + 1) * kGroup : count;
    double sum = 0.0;
#pragma unroll 8
    for (int64 row = group * kGroup; row < stop; ++row) sum += rows[row * kRoots + lane()];
    sums[group * kRoots + lane()] = sum;
  }
}

// ---- what comes back ---------------------------------------------------------------------------------------------------

// The sum of one number per lane, by halves; in lane 0.
__device__ inline double sum_of_lanes(double value) {
#pragma unroll
  for (int half = kWarp / 2; half; half /= 2) value += __shfl_down_sync(kAllLanes, value, half);
  return value;
}

// What the next hop brings back to each root over each of its flows, and the sum of each piece of kPart of them, lane by
// lane. The flows into root k begin at begin[k] and are last hops first[k]..first[k + 1].
template <typename Real>
__global__ void bring_back(const Real* __restrict__ now, const int64* __restrict__ begin, const int64* __restrict__ first,
                           const int64* __restrict__ first_piece, int64 roots, const int* __restrict__ payer,
                           const double* __restrict__ share, double* last_hop_share, double* piece_sums) {
  for (int64 piece = first_warp_item(); piece < first_piece[roots]; piece += warp_stride()) {
    const int64 column = last_at_most(first_piece, roots + 1, piece);
    const int64 at = (piece - first_piece[column]) * kPart, length = first[column + 1] - first[column];
    const int64 stop = length < at + kPart ? length : at + kPart;
    double sum = 0.0;
    for (int64 nth = at + lane(); nth < stop; nth += kWarp) {
      const int64 place = begin[column] + nth;
      const double brought = share[place] * widened(now[payer[place] * int64(kRoots) + column]);
      last_hop_share[first[column] + nth] += brought;
      sum += brought;
    }
    sum = sum_of_lanes(sum);
    if (lane() == 0) {
      piece_sums[piece] = sum;
      touch_edges(stop - at);
    }
  }
}

// Adds the sums of each root's pieces, lane by lane, to what has arrived there.
__global__ void add_arrivals(const double* __restrict__ piece_sums, const int64* __restrict__ first_piece, int64 roots,
                             double* arrived) {
  for (int64 column = first_warp_item(); column < roots; column += warp_stride()) {
    double sum = 0.0;
    for (int64 piece = first_piece[column] + lane(); piece < first_piece[column + 1]; piece += kWarp) sum += piece_sums[piece];
    sum = sum_of_lanes(sum);
    if (lane() == 0) arrived[column] += sum;
  }
}

// ---- two hops, in closed form --------------------------------------------------------------------------------------------

// For each flow i -> j the share that j pays straight back to i, looked up in the row of j.
template <typename Index>
__global__ void pay_straight_back(const int64* __restrict__ out_offsets, const Index* __restrict__ payer,
                                  const Index* __restrict__ payee, const int64* __restrict__ amount,
                                  const int64* __restrict__ throughflow, int64 flows, double* returned) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    const Index from = payer[flow], to = payee[flow];
    const int64 begin = out_offsets[to], length = out_offsets[to + 1] - begin;
    double share = 0.0;
    if (length && payee[begin] <= from) {
      const int64 back = begin + last_at_most(payee + begin, length, from);
      if (payee[back] == from) share = double(amount[back]) / double(throughflow[to]);
    }
    returned[flow] = share;
  }
  if (first_item() == 0) touch_edges(flows);
}

// ---- dense chains -----------------------------------------------------------------------------------------------------------

constexpr int kSweepThreads = 256;

// The sum of one number per thread of the block, by halves; in every thread.
__device__ inline double sum_of_block(double value) {
  __shared__ double sums[kSweepThreads / kWarp];
  value = sum_of_lanes(value);
  if (lane() == 0) sums[threadIdx.x / kWarp] = value;
  __syncthreads();
  double sum = 0.0;
  for (int warp = 0; warp < kSweepThreads / kWarp; ++warp) sum += sums[warp];
  __syncthreads();
  return sum;
}

// Overwrites dense chains with their expected visits (I - P)^-1, one block for each chain, one company after the other.
// Only non-negative numbers are ever added: the pivot is the rest of the row and the leak (Grassmann, Taksar, Heyman 1985).
// Chain c has size[c] companies, its entries begin at chain_start[c] and its leaks at leak_start[c]; row and column are
// work space in the order of the leaks.
__global__ void sweep_chains(const int64* __restrict__ chain_start, const int64* __restrict__ leak_start,
                             const int* __restrict__ size, int64 count, double* chains, double* leaks, double* rows,
                             double* columns) {
  for (int64 nth = blockIdx.x; nth < count; nth += gridDim.x) {
    const int companies = size[nth];
    double* chain = chains + chain_start[nth];
    double* leak = leaks + leak_start[nth];
    double* row = rows + leak_start[nth];
    double* column = columns + leak_start[nth];
    for (int swept = 0; swept < companies; ++swept) {
      double rest = 0.0;
      for (int other = swept + 1 + int(threadIdx.x); other < companies; other += kSweepThreads) {
        rest += chain[swept * companies + other];
      }
      const double own_leak = leak[swept], pivot = sum_of_block(rest) + own_leak;
      for (int other = int(threadIdx.x); other < companies; other += kSweepThreads) {
        const bool itself = other == swept;
        const double share = itself ? 0.0 : chain[other * companies + swept] / pivot;
        row[other] = itself ? 0.0 : chain[swept * companies + other];
        column[other] = share;
        leak[other] += share * own_leak;  // of use only to companies still to come
      }
      __syncthreads();
      for (int entry = int(threadIdx.x); entry < companies * companies; entry += kSweepThreads) {
        const int payer = entry / companies, payee = entry % companies;
        double value = chain[entry] + column[payer] * row[payee];
        if (payer == swept) value = payee == swept ? 1.0 / pivot : row[payee] / pivot;
        else if (payee == swept) value = column[payer];
        chain[entry] = value;
      }
      __syncthreads();
    }
  }
}
