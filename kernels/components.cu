// Strong components. Launched by engine/ouroflow/components/gpu*.py, where the algorithm is told.
//
// A set of companies is a bitmap: bit company % 32 of word company / 32. A frontier is a list of entries, each one row
// of an index whose flows are to be read: an entry c >= 0 is what company c pays, ~c is what it is paid by.
#include "common.cuh"

constexpr int kStaged = 128;      // entries that a warp gathers before it takes places in a list
constexpr int kWarps = 8;         // of a block of any kernel but the *_small ones, which are one block
constexpr int kSmallWarps = 32;   // which the compiler must know, or it takes more registers than such a block can have
constexpr int kSoloFlows = 64;    // flows of a row that one thread reads by itself
constexpr int kLinkHops = 8;      // links of a chain that one thread follows in one launch; gpu_search.py counts on it
constexpr int kSignatureHops = 32;

// Words of a tally: what a launch tells the host.
constexpr int kRows = 0, kFlows = 1, kRounds = 2;

// Of a chain pointer: nobody is left; more than one.
constexpr int kNobody = -1, kSeveral = -2;

// ---- sets ------------------------------------------------------------------------------------------------------------

template <typename Index>
__device__ bool contains(const uint32* set, Index company) {
  return load_relaxed(&set[company / 32]) >> (company % 32) & 1;
}

// True for the one thread that took the company out.
template <typename Index>
__device__ bool remove(uint32* set, Index company) {
  const uint32 bit = 1u << (company % 32);
  return atomicAnd(&set[company / 32], ~bit) & bit;
}

// How many members come before this company: `before` counts those of the words before each word.
template <typename Index>
__device__ int64 rank_in(const uint32* set, const int64* before, Index company) {
  return before[company / 32] + __popc(set[company / 32] & ((1u << (company % 32)) - 1));
}

// ---- lists that a launch writes ------------------------------------------------------------------------------------------

// A warp's part in writing a list: it gathers in shared memory and takes places for many at a time, so that the common
// counter is no bottleneck. All lanes of a warp call together.
template <typename Index>
struct Gathered {
  Index* staged;
  int count;

  // Returns where this lane's item goes, -1 if it has none; flush before if the answer would pass the room.
  __device__ int place(bool wanted) {
    const uint32 votes = __ballot_sync(kAllLanes, wanted);
    const int at = wanted ? count + __popc(votes & ((1u << lane()) - 1)) : -1;
    count += __popc(votes);
    return at;
  }
  __device__ bool full() const { return count > kStaged - kWarp; }
  __device__ int64 take_places(int64* counter) {
    int64 first = 0;
    if (lane() == 0) first = atomic_add(counter, int64(count));
    return __shfl_sync(kAllLanes, first, 0);
  }
};

// The frontier of the next round.
template <typename Index>
struct Frontier {
  const int64 *out_offsets, *in_offsets;
  Index* entries;
  uint32* lengths;
  int64* tally;
  Gathered<Index> gathered;

  __device__ int64 row_begin(Index entry) const { return entry >= 0 ? out_offsets[entry] : in_offsets[~entry]; }
  __device__ int64 row_end(Index entry) const { return entry >= 0 ? out_offsets[entry + 1] : in_offsets[~entry + 1]; }

  __device__ void add(bool wanted, Index entry) {
    const int at = gathered.place(wanted);
    if (at >= 0) gathered.staged[at] = entry;
    if (gathered.full()) flush();
  }
  __device__ void flush() {
    if (gathered.count == 0) return;
    __syncwarp();
    const int64 first = gathered.take_places(&tally[kRows]);
    int64 flows = 0;
    for (int at = lane(); at < gathered.count; at += kWarp) {
      const Index entry = gathered.staged[at];
      const int64 length = row_end(entry) - row_begin(entry);
      entries[first + at] = entry;
      lengths[first + at] = uint32(length);
      flows += length;
    }
    for (int distance = kWarp / 2; distance; distance /= 2) flows += __shfl_down_sync(kAllLanes, flows, distance);
    if (lane() == 0) atomic_add(&tally[kFlows], flows);
    __syncwarp();
    gathered.count = 0;
  }
};

// The flows that a filter keeps.
template <typename Index>
struct KeptFlows {
  Index *payer, *payee;
  int64* tally;
  Index* staged_payee;
  Gathered<Index> gathered;

  __device__ void add(bool wanted, Index from, Index to) {
    const int at = gathered.place(wanted);
    if (at >= 0) {
      gathered.staged[at] = from;
      staged_payee[at] = to;
    }
    if (gathered.full()) flush();
  }
  __device__ void flush() {
    if (gathered.count == 0) return;
    __syncwarp();
    const int64 first = gathered.take_places(&tally[kFlows]);
    for (int at = lane(); at < gathered.count; at += kWarp) {
      payer[first + at] = gathered.staged[at];
      payee[first + at] = staged_payee[at];
    }
    __syncwarp();
    gathered.count = 0;
  }
};

// ---- reading rows by flows: a hub's row is spread over as many threads as it has flows -------------------------------------

// The first place in [low, high) of ascending that holds more than value, high if none does.
__device__ inline int64 first_above(const int64* ascending, int64 low, int64 high, int64 value) {
  while (low < high) {
    const int64 middle = (low + high) / 2;
    if (ascending[middle] <= value) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// The flows begin..end that a warp takes: neighbours, for then it has to search all rows only once.
struct Share {
  int64 begin, end;

  __device__ explicit Share(int64 flows) {
    const int64 length = ((flows + warp_stride() - 1) / warp_stride() + kWarp - 1) / kWarp * kWarp;
    begin = min(first_warp_item() * length, flows);
    end = min(begin + length, flows);
  }
};

// The rows of a share's flows, 32 flows after 32, where `ends` are the running totals of the rows' lengths and no row is
// empty: the rows of the next 32 flows are among 33, from that of the flow before.
struct RowSearch {
  const int64* ends;
  int64 rows, before;

  __device__ RowSearch(const int64* ends, int64 rows, const Share& share)
      : ends(ends), rows(rows), before(share.begin < share.end ? first_above(ends, 0, rows, share.begin) : 0) {}

  // The row of this lane's flow, if it has one. All lanes of a warp call together.
  __device__ int64 row_of(int64 flow, bool has_one) {
    const int64 row = has_one ? first_above(ends, before, min(before + kWarp + 1, rows), flow) : 0;
    before = __shfl_sync(kAllLanes, row, kWarp - 1);
    return row;
  }
};

// Trimming: the company at the other end loses a flow, and is done with once it has none left on that side. All lanes of a
// warp call together.
template <typename Index>
struct Release {
  uint32 *remaining_out, *remaining_in, *live;

  __device__ bool operator()(bool active, Index entry, Index other) const {
    active = active && contains(live, other);
    // A hub loses many flows at once. Lanes that meet the same company on the same side take theirs together: single
    // atomics on its one word would wait for each other.
    const Index nobody = Index(uint64(1) << (8 * sizeof(Index) - 1));
    const uint32 alike = __match_any_sync(kAllLanes, active ? (entry >= 0 ? other : Index(~other)) : nobody);
    if (!active || lane() != __ffs(alike) - 1) return false;
    const uint32 lost = __popc(alike);
    uint32* losing = entry >= 0 ? remaining_in : remaining_out;
    if (atomicSub(&losing[other], lost) != lost) return false;
    // Nobody left on either side: there is no row to read.
    return remove(live, other) && load_relaxed(&(entry >= 0 ? remaining_out : remaining_in)[other]) > 0;
  }
};

// Searching: the company at the other end is reached, once.
template <typename Index>
struct Reach {
  uint32 *open, *reached;

  __device__ bool operator()(bool active, Index, Index other) const {
    if (!active || !contains(open, other) || !remove(open, other)) return false;
    atomicOr(&reached[other / 32], 1u << (other % 32));
    return true;
  }
};

template <typename Index, typename Action>
__device__ void expand(Action act, const Index* payee, const Index* payer, const Index* entries, const int64* ends,
                       int64 rows, int64 flows, Frontier<Index>& next) {
  const Share share(flows);
  RowSearch search(ends, rows, share);
  for (int64 base = share.begin; base < share.end; base += kWarp) {
    const int64 flow = base + lane(), row = search.row_of(flow, flow < share.end);
    Index entry = 0, other = 0;
    if (flow < share.end) {
      entry = entries[row];
      const int64 at = next.row_end(entry) - (ends[row] - flow);
      other = entry >= 0 ? payee[at] : payer[at];
    }
    next.add(act(flow < share.end, entry, other), entry >= 0 ? other : Index(~other));
  }
  next.flush();
  if (first_item() == 0) touch_edges(flows);
}

// Many rounds of a small frontier in one block: no round trip to the host for each.
template <typename Index, typename Action>
__device__ void expand_small(Action act, const Index* payee, const Index* payer, Index* entries, uint32* lengths,
                             Index* other_entries, uint32* other_lengths, int64 rows, int64 flows, int64 most_rows,
                             int64 most_flows, int64 most_rounds, Frontier<Index>& next) {
  int64 round = 0, touched = 0;
  for (; rows > 0 && rows <= most_rows && flows <= most_flows && round < most_rounds; ++round) {
    const Index* current = round % 2 ? other_entries : entries;
    next.entries = round % 2 ? entries : other_entries;
    next.lengths = round % 2 ? lengths : other_lengths;
    touched += flows;
    for (int64 row = first_warp_item(); row < rows; row += warp_stride()) {
      const Index entry = current[row];
      const int64 end = next.row_end(entry);
      for (int64 base = next.row_begin(entry); base < end; base += kWarp) {
        const int64 at = base + lane();
        Index other = 0;
        if (at < end) other = entry >= 0 ? payee[at] : payer[at];
        next.add(act(at < end, entry, other), entry >= 0 ? other : Index(~other));
      }
    }
    next.flush();
    __syncthreads();
    rows = load_relaxed(&next.tally[kRows]);
    flows = load_relaxed(&next.tally[kFlows]);
    __syncthreads();
    if (threadIdx.x == 0) {
      store_relaxed(&next.tally[kRows], int64(0));
      store_relaxed(&next.tally[kFlows], int64(0));
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    store_relaxed(&next.tally[kRows], rows);
    store_relaxed(&next.tally[kFlows], flows);
    store_relaxed(&next.tally[kRounds], round);
    touch_edges(touched);
  }
}

// ---- trimming ------------------------------------------------------------------------------------------------------------------

// Live are those who pay and are paid; who does one of both only begins the trimming. One warp a word.
template <typename Index>
__global__ void begin_trim(const int64* __restrict__ out_offsets, const int64* __restrict__ in_offsets, int64 companies,
                           uint32* __restrict__ remaining_out, uint32* __restrict__ remaining_in,
                           uint32* __restrict__ live, Index* entries, uint32* lengths, int64* tally) {
  __shared__ Index staged[kWarps][kStaged];
  Frontier<Index> next{out_offsets, in_offsets, entries, lengths, tally, {staged[threadIdx.x / kWarp], 0}};
  const int64 words = (companies + 31) / 32;
  for (int64 word = first_warp_item(); word < words; word += warp_stride()) {
    const int64 company = word * 32 + lane();
    uint32 pays = 0, is_paid = 0;
    if (company < companies) {
      remaining_out[company] = pays = uint32(out_offsets[company + 1] - out_offsets[company]);
      remaining_in[company] = is_paid = uint32(in_offsets[company + 1] - in_offsets[company]);
    }
    const uint32 members = __ballot_sync(kAllLanes, pays && is_paid);
    if (lane() == 0) live[word] = members;
    next.add((pays != 0) != (is_paid != 0), pays ? Index(company) : Index(~company));
  }
  next.flush();
}

template <typename Index>
__global__ void release_rows(const int64* __restrict__ out_offsets, const Index* __restrict__ payee,
                             const int64* __restrict__ in_offsets, const Index* __restrict__ payer,
                             const Index* __restrict__ entries, const int64* __restrict__ ends, int64 rows, int64 flows,
                             uint32* remaining_out, uint32* remaining_in, uint32* live, Index* next_entries,
                             uint32* next_lengths, int64* tally) {
  __shared__ Index staged[kWarps][kStaged];
  Frontier<Index> next{out_offsets, in_offsets, next_entries, next_lengths, tally, {staged[threadIdx.x / kWarp], 0}};
  expand(Release<Index>{remaining_out, remaining_in, live}, payee, payer, entries, ends, rows, flows, next);
}

template <typename Index>
__global__ void __launch_bounds__(kSmallWarps * kWarp) release_small(const int64* __restrict__ out_offsets, const Index* __restrict__ payee,
                              const int64* __restrict__ in_offsets, const Index* __restrict__ payer, Index* entries,
                              uint32* lengths, Index* other_entries, uint32* other_lengths, int64 rows, int64 flows,
                              int64 most_rows, int64 most_flows, int64 most_rounds, uint32* remaining_out,
                              uint32* remaining_in, uint32* live, int64* tally) {
  __shared__ Index staged[kSmallWarps][kStaged];
  Frontier<Index> next{out_offsets, in_offsets, nullptr, nullptr, tally, {staged[threadIdx.x / kWarp], 0}};
  expand_small(Release<Index>{remaining_out, remaining_in, live}, payee, payer, entries, lengths, other_entries,
               other_lengths, rows, flows, most_rows, most_flows, most_rounds, next);
}

// ---- looking for one member of a set in a row -------------------------------------------------------------------------------

// Each lane with `wanted` looks in the row of its company, the first flows by itself, the rest with the whole warp.
// Returns the member found, or -1. All lanes call together; rows are no longer than the caller allows.
template <typename Index>
__device__ Index find_in_row(bool wanted, const int64* offsets, const Index* others, int64 company, const uint32* set) {
  int64 at = 0, end = 0, touched = 0;
  if (wanted) {
    at = offsets[company];
    end = offsets[company + 1];
  }
  Index found = -1;
  const int64 alone = min(end, at + kSoloFlows);
  for (; at < alone && found < 0; ++at, ++touched) {
    const Index other = others[at];
    if (contains(set, other)) found = other;
  }
  uint32 unfinished = __ballot_sync(kAllLanes, found < 0 && at < end);
  for (; unfinished; unfinished &= unfinished - 1) {
    const int whose = __ffs(unfinished) - 1;
    const int64 row_end = __shfl_sync(kAllLanes, end, whose);
    int64 base = __shfl_sync(kAllLanes, at, whose);
    for (uint32 hits = 0; base < row_end && !hits; base += kWarp) {
      Index other = -1;
      if (base + lane() < row_end) {
        ++touched;
        other = others[base + lane()];
        if (!contains(set, other)) other = -1;
      }
      hits = __ballot_sync(kAllLanes, other >= 0);
      const Index hit = __shfl_sync(kAllLanes, other, hits ? __ffs(hits) - 1 : 0);
      if (lane() == whose) found = hit;
    }
  }
  touch_edges(touched);
  return found;
}

// ---- chains: companies with one payer left (or, with the index turned round, one payee) ----------------------------------------

template <typename Index>
__global__ void link_chains(const int64* __restrict__ offsets, const Index* __restrict__ others, int64 companies,
                            int64 longest, const uint32* __restrict__ remaining, const uint32* __restrict__ live,
                            Index* __restrict__ link) {
  const int64 words = (companies + 31) / 32;
  for (int64 word = first_warp_item(); word < words; word += warp_stride()) {
    const int64 company = word * 32 + lane();
    const bool linked = company < companies && contains(live, company) && remaining[company] == 1 &&
                        offsets[company + 1] - offsets[company] <= longest;
    const Index found = find_in_row(linked, offsets, others, company, live);
    if (company < companies) link[company] = linked ? found : Index(kSeveral);
  }
}

// Shortens every chain: a link then leads as far as kLinkHops links before, or to kNobody where the chain begins with
// nobody. A link that comes back is on a cycle, which has no beginning.
template <typename Index>
__global__ void jump_links(Index* link, int64 companies, int64* tally) {
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    const Index old = load_relaxed(&link[company]);
    Index to = old;
    for (int hop = 0; hop < kLinkHops && to >= 0; ++hop) {
      const Index further = to == company ? Index(kSeveral) : load_relaxed(&link[to]);
      if (further == kSeveral && to != company) break;
      to = further;
    }
    if (to == old) continue;
    store_relaxed(&link[company], to);
    store_relaxed(&tally[kRounds], int64(1));
  }
}

// Companies whose chain begins with nobody are done with: the chains run along payers (`along_payers`), and what such a
// company pays joins the frontier, or the other way round.
template <typename Index>
__global__ void cut_chains(const int64* __restrict__ out_offsets, const int64* __restrict__ in_offsets, int64 companies,
                           const Index* __restrict__ link, int along_payers, uint32* __restrict__ remaining,
                           uint32* live, Index* entries, uint32* lengths, int64* tally) {
  __shared__ Index staged[kWarps][kStaged];
  Frontier<Index> next{out_offsets, in_offsets, entries, lengths, tally, {staged[threadIdx.x / kWarp], 0}};
  const int64 words = (companies + 31) / 32;
  for (int64 word = first_warp_item(); word < words; word += warp_stride()) {
    const int64 company = word * 32 + lane();
    const bool cut = company < companies && link[company] == kNobody;
    if (cut) {
      remaining[company] = 0;
      remove(live, company);
    }
    next.add(cut, along_payers ? Index(company) : Index(~company));
  }
  next.flush();
}

// ---- searching from the hub ---------------------------------------------------------------------------------------------------------

// Forward search: `offsets` and `others` are the index by payer; backward: by payee.
template <typename Index>
__global__ void push_level(const int64* __restrict__ offsets, const Index* __restrict__ others,
                           const Index* __restrict__ entries, const int64* __restrict__ ends, int64 rows, int64 flows,
                           uint32* open, uint32* reached, Index* next_entries, uint32* next_lengths, int64* tally) {
  __shared__ Index staged[kWarps][kStaged];
  Frontier<Index> next{offsets, offsets, next_entries, next_lengths, tally, {staged[threadIdx.x / kWarp], 0}};
  expand(Reach<Index>{open, reached}, others, others, entries, ends, rows, flows, next);
}

template <typename Index>
__global__ void __launch_bounds__(kSmallWarps * kWarp) push_small(const int64* __restrict__ offsets, const Index* __restrict__ others, Index* entries,
                           uint32* lengths, Index* other_entries, uint32* other_lengths, int64 rows, int64 flows,
                           int64 most_rows, int64 most_flows, int64 most_rounds, uint32* open, uint32* reached,
                           int64* tally) {
  __shared__ Index staged[kSmallWarps][kStaged];
  Frontier<Index> next{offsets, offsets, nullptr, nullptr, tally, {staged[threadIdx.x / kWarp], 0}};
  expand_small(Reach<Index>{open, reached}, others, others, entries, lengths, other_entries, other_lengths, rows, flows,
               most_rows, most_flows, most_rounds, next);
}

// Companies not reached yet look for one that is, along the index turned round. One warp a word, so only this warp
// writes it. What is reached meanwhile may be seen or not: it is in the next frontier either way.
template <typename Index>
__global__ void pull_level(const int64* __restrict__ offsets, const int64* __restrict__ turned_offsets,
                           const Index* __restrict__ turned_others, int64 companies, int64 longest,
                           uint32* __restrict__ open, uint32* reached, Index* entries, uint32* lengths, int64* tally) {
  __shared__ Index staged[kWarps][kStaged];
  Frontier<Index> next{offsets, offsets, entries, lengths, tally, {staged[threadIdx.x / kWarp], 0}};
  const int64 words = (companies + 31) / 32;
  for (int64 word = first_warp_item(); word < words; word += warp_stride()) {
    const uint32 unreached = load_relaxed(&open[word]);
    if (!unreached) continue;
    const int64 company = word * 32 + lane();
    const bool looks = (unreached >> lane() & 1) && turned_offsets[company + 1] - turned_offsets[company] <= longest;
    const bool found = find_in_row(looks, turned_offsets, turned_others, company, reached) >= 0;
    const uint32 news = __ballot_sync(kAllLanes, found);
    if (news && lane() == 0) {
      store_relaxed(&open[word], unreached & ~news);
      store_relaxed(&reached[word], load_relaxed(&reached[word]) | news);
    }
    next.add(found, Index(company));
  }
  next.flush();
}

// The same for the companies whose rows are too long for one warp: a thread for each flow of theirs.
template <typename Index>
__global__ void pull_long_rows(const int64* __restrict__ offsets, const int64* __restrict__ turned_offsets,
                               const Index* __restrict__ turned_others, const Index* __restrict__ long_companies,
                               const int64* __restrict__ ends, int64 rows, int64 flows, uint32* open, uint32* reached,
                               Index* entries, uint32* lengths, int64* tally) {
  __shared__ Index staged[kWarps][kStaged];
  Frontier<Index> next{offsets, offsets, entries, lengths, tally, {staged[threadIdx.x / kWarp], 0}};
  const Reach<Index> reach{open, reached};
  int64 touched = 0;
  const Share share(flows);
  RowSearch search(ends, rows, share);
  for (int64 base = share.begin; base < share.end; base += kWarp) {
    const int64 flow = base + lane(), row = search.row_of(flow, flow < share.end);
    Index company = 0;
    bool found = false;
    if (flow < share.end) {
      company = long_companies[row];
      if (contains(open, company)) {
        ++touched;
        found = contains(reached, turned_others[turned_offsets[company + 1] - (ends[row] - flow)]) &&
                reach(true, company, company);
      }
    }
    next.add(found, company);
  }
  next.flush();
  touch_edges(touched);
}

// ---- what is left: a list of flows between places, the places numbered anew -----------------------------------------------------------

// How many members each word has; one thread a word.
__global__ void count_members(const uint32* __restrict__ set, int64 words, int64* __restrict__ counts) {
  for (int64 word = first_item(); word < words; word += item_stride()) counts[word] = __popc(set[word]);
}

template <typename Index>
__global__ void list_members(const uint32* __restrict__ set, const int64* __restrict__ before, int64 companies,
                             const int64* __restrict__ offsets, Index* __restrict__ members,
                             uint32* __restrict__ lengths) {
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    if (!contains(set, company)) continue;
    const int64 place = rank_in(set, before, company);
    members[place] = Index(company);
    lengths[place] = uint32(offsets[company + 1] - offsets[company]);
  }
}

// Flows between two members of one class (`split` or not); self-flows decide nothing.
template <typename Index>
__global__ void keep_inner_flows(const int64* __restrict__ offsets, const Index* __restrict__ payees,
                                 const Index* __restrict__ members, const int64* __restrict__ ends, int64 rows,
                                 int64 flows, const uint32* __restrict__ set, const uint32* __restrict__ split,
                                 const int64* __restrict__ before, Index* kept_payer, Index* kept_payee,
                                 int64* tally) {
  __shared__ Index staged[2][kWarps][kStaged];
  const int warp = threadIdx.x / kWarp;
  KeptFlows<Index> kept{kept_payer, kept_payee, tally, staged[1][warp], {staged[0][warp], 0}};
  const Share share(flows);
  RowSearch search(ends, rows, share);
  for (int64 base = share.begin; base < share.end; base += kWarp) {
    const int64 flow = base + lane(), row = search.row_of(flow, flow < share.end);
    bool keep = false;
    int64 to = 0;
    if (flow < share.end) {
      const Index from = members[row];
      const Index other = payees[offsets[from + 1] - (ends[row] - flow)];
      keep = other != from && contains(set, other) && contains(split, other) == contains(split, from);
      if (keep) to = rank_in(set, before, other);
    }
    kept.add(keep, Index(row), Index(to));
  }
  kept.flush();
  if (first_item() == 0) touch_edges(flows);
}

// The only payer of each place and its only payee, kNobody or kSeveral.
template <typename Index>
__device__ void note_end(Index* only, Index at, Index other) {
  const Index known = load_relaxed(&only[at]);
  if (known == other || known == kSeveral) return;
  if (known == kNobody) {
    const Index before = atomic_swap_if(&only[at], Index(kNobody), other);
    if (before == kNobody || before == other) return;
  }
  store_relaxed(&only[at], Index(kSeveral));
}

template <typename Index>
__global__ void link_flows(const Index* __restrict__ payer, const Index* __restrict__ payee, int64 flows,
                           Index* only_payer, Index* only_payee) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    note_end(only_payer, payee[flow], payer[flow]);
    note_end(only_payee, payer[flow], payee[flow]);
  }
  if (first_item() == 0) touch_edges(flows);
}

// Flows whose ends are on no chain that begins with nobody, in either direction.
template <typename Index>
__global__ void keep_live_flows(const Index* __restrict__ payer, const Index* __restrict__ payee, int64 flows,
                                const Index* __restrict__ only_payer, const Index* __restrict__ only_payee,
                                Index* kept_payer, Index* kept_payee, int64* tally) {
  __shared__ Index staged[2][kWarps][kStaged];
  const int warp = threadIdx.x / kWarp;
  KeptFlows<Index> kept{kept_payer, kept_payee, tally, staged[1][warp], {staged[0][warp], 0}};
  for (int64 base = first_item() - lane(); base < flows; base += item_stride()) {
    const int64 flow = base + lane();
    const Index from = flow < flows ? payer[flow] : 0, to = flow < flows ? payee[flow] : 0;
    // That is enough: where the payee's chain of payers begins with nobody, this payer is on it.
    const bool keep = flow < flows && only_payer[from] != kNobody && only_payee[to] != kNobody;
    kept.add(keep, from, to);
  }
  kept.flush();
  if (first_item() == 0) touch_edges(flows);
}

// ---- signatures: the largest number that reaches a place, and the largest that it reaches --------------------------------------------

// A permutation of 0..mask, so that neither long paths in order of ids nor hubs with small ids are a worst case. Both
// multipliers are odd, so they have inverses modulo a power of two; shifted by half of the bits or more, x ^ x >> shift
// undoes itself.
struct Shuffle {
  static constexpr uint64 kFirst = 0x9e3779b97f4a7c15ull, kSecond = 0xbf58476d1ce4e5b9ull;
  __device__ static constexpr uint64 inverse(uint64 odd) {
    uint64 found = odd;  // right in the lowest three bits; each step doubles them
    for (int step = 0; step < 5; ++step) found *= 2 - odd * found;
    return found;
  }
  uint64 mask;
  int shift;

  __device__ explicit Shuffle(int bits) : mask((uint64(1) << bits) - 1), shift((bits + 1) / 2) {}
  __device__ uint64 number(uint64 place) const {
    uint64 x = place * kFirst & mask;
    x ^= x >> shift;
    return x * kSecond & mask;
  }
  __device__ uint64 place(uint64 number) const {
    constexpr uint64 first = inverse(kFirst), second = inverse(kSecond);
    uint64 x = number * second & mask;
    x ^= x >> shift;
    return x * first & mask;
  }
};

// True if the word rose.
template <typename Index>
__device__ bool raise(Index* word, Index value) {
  if (load_relaxed(word) >= value) return false;
  atomicMax(word, value);
  return true;
}

template <typename Index>
__global__ void begin_signatures(int64 places, int bits, Index* __restrict__ reached_by, Index* __restrict__ reaches) {
  const Shuffle shuffle(bits);
  for (int64 place = first_item(); place < places; place += item_stride()) {
    reached_by[place] = reaches[place] = Index(shuffle.number(place));
  }
}

template <typename Index>
__global__ void spread_signatures(const Index* __restrict__ payer, const Index* __restrict__ payee, int64 flows,
                                  Index* reached_by, Index* reaches, int64* tally) {
  bool news = false;
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    const Index from = payer[flow], to = payee[flow];
    news |= raise(&reached_by[to], load_relaxed(&reached_by[from]));
    news |= raise(&reaches[from], load_relaxed(&reaches[to]));
  }
  if (news) store_relaxed(&tally[kRounds], int64(1));
  if (first_item() == 0) touch_edges(flows);
}

// A place is reached by what reaches the one that reaches it: signatures are followed like pointers. And that one
// reaches what the place reaches, so each signature is a short cut for the other direction too.
template <typename Index>
__global__ void jump_signatures(int64 places, int bits, Index* reached_by, Index* reaches, int64* tally) {
  const Shuffle shuffle(bits);
  bool news = false;
  for (int64 place = first_item(); place < places; place += item_stride()) {
    Index above = load_relaxed(&reached_by[place]), below = load_relaxed(&reaches[place]);
    for (int hop = 0; hop < kSignatureHops; ++hop) {
      const Index further = load_relaxed(&reached_by[shuffle.place(above)]);
      if (further <= above) break;
      above = further;
    }
    for (int hop = 0; hop < kSignatureHops; ++hop) {
      const Index further = load_relaxed(&reaches[shuffle.place(below)]);
      if (further <= below) break;
      below = further;
    }
    news |= raise(&reached_by[place], above);
    news |= raise(&reaches[place], below);
    news |= raise(&reaches[shuffle.place(above)], below);
    news |= raise(&reached_by[shuffle.place(below)], above);
  }
  if (news) store_relaxed(&tally[kRounds], int64(1));
}

// One payer and one payee of each place, whichever: a path up and a path down from everywhere.
template <typename Index>
__global__ void pick_paths(const Index* __restrict__ payer, const Index* __restrict__ payee, int64 flows, Index* up,
                           Index* down) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    store_relaxed(&up[payee[flow]], payer[flow]);
    store_relaxed(&down[payer[flow]], payee[flow]);
  }
  if (first_item() == 0) touch_edges(flows);
}

// One step of doubling along such paths: `path` leads 2^k places up, `further` 2^(k+1). After all steps each signature has
// gone all the way. (Down, with the signatures turned round.)
template <typename Index>
__global__ void double_paths(const Index* __restrict__ path, Index* __restrict__ further, int64 places,
                             Index* reached_by, Index* reaches) {
  for (int64 place = first_item(); place < places; place += item_stride()) {
    const Index above = path[place];
    raise(&reached_by[place], load_relaxed(&reached_by[above]));
    raise(&reaches[above], load_relaxed(&reaches[place]));
    further[place] = path[above];
  }
}

// Where both signatures agree the component is known: that of the company with this number.
template <typename Index>
__global__ void finish_places(int64 places, int bits, const Index* __restrict__ reached_by,
                              const Index* __restrict__ reaches, const Index* __restrict__ members,
                              Index* __restrict__ component) {
  const Shuffle shuffle(bits);
  for (int64 place = first_item(); place < places; place += item_stride()) {
    if (reached_by[place] == reaches[place]) component[members[place]] = members[shuffle.place(reaches[place])];
  }
}

template <typename Index>
__global__ void keep_undecided_flows(const Index* __restrict__ payer, const Index* __restrict__ payee, int64 flows,
                                     const Index* __restrict__ reached_by, const Index* __restrict__ reaches,
                                     Index* kept_payer, Index* kept_payee, int64* tally) {
  __shared__ Index staged[2][kWarps][kStaged];
  const int warp = threadIdx.x / kWarp;
  KeptFlows<Index> kept{kept_payer, kept_payee, tally, staged[1][warp], {staged[0][warp], 0}};
  for (int64 base = first_item() - lane(); base < flows; base += item_stride()) {
    const int64 flow = base + lane();
    const Index from = flow < flows ? payer[flow] : 0, to = flow < flows ? payee[flow] : 0;
    const bool keep = flow < flows && reached_by[from] == reached_by[to] && reaches[from] == reaches[to] &&
                      reached_by[from] != reaches[from];
    kept.add(keep, from, to);
  }
  kept.flush();
  if (first_item() == 0) touch_edges(flows);
}

template <typename Index>
__global__ void mark_ends(const Index* __restrict__ payer, const Index* __restrict__ payee, int64 flows,
                          uint8* marks) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    store_relaxed(&marks[payer[flow]], uint8(1));
    store_relaxed(&marks[payee[flow]], uint8(1));
  }
  if (first_item() == 0) touch_edges(flows);
}

// `rank` counts the marked places up to and including each.
template <typename Index>
__global__ void renumber_ends(Index* __restrict__ payer, Index* __restrict__ payee, int64 flows,
                              const int64* __restrict__ rank) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    payer[flow] = Index(rank[payer[flow]] - 1);
    payee[flow] = Index(rank[payee[flow]] - 1);
  }
  if (first_item() == 0) touch_edges(flows);
}

// ---- numbering: `component` names a member of each company's component ----------------------------------------------------------------

template <typename Index>
__global__ void name_members(const uint32* __restrict__ set, int64 companies, Index name,
                             Index* __restrict__ component) {
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    if (contains(set, company)) component[company] = name;
  }
}

// Counts the members besides the namesake, and finds the smallest. Each warp sums up the component that it meets first,
// for a giant one is met by all of them; the others are counted at once for all lanes that have the same.
template <typename Index>
__global__ void measure_components(const Index* __restrict__ component, int64 companies, Index* others,
                                   Index* smallest) {
  Index held = -1, held_smallest = 0;
  int64 held_count = 0;
  for (int64 base = first_item() - lane(); base < companies; base += item_stride()) {
    const Index company = Index(base + lane());
    const Index name = base + lane() < companies ? component[company] : company;
    const bool counts = name != company;
    const uint32 votes = __ballot_sync(kAllLanes, counts);
    if (!votes) continue;
    if (held < 0) {
      held = __shfl_sync(kAllLanes, name, __ffs(votes) - 1);
      held_smallest = Index(base + __ffs(votes) - 1);
    }
    held_count += __popc(__ballot_sync(kAllLanes, counts && name == held));
    const bool apart = counts && name != held;
    if (!__any_sync(kAllLanes, apart)) continue;
    const uint32 alike = __match_any_sync(kAllLanes, apart ? name : Index(-1));
    if (apart && lane() == __ffs(alike) - 1) {
      atomic_add(&others[name], Index(__popc(alike)));
      atomicMin(&smallest[name], company);
    }
  }
  if (held >= 0 && lane() == 0) {
    atomic_add(&others[held], Index(held_count));
    atomicMin(&smallest[held], held_smallest);
  }
}

// `singles` counts the companies that are alone up to and including each; `rank` is the label of each namesake.
template <typename Index>
__global__ void write_labels(const Index* __restrict__ component, const Index* __restrict__ others,
                             const Index* __restrict__ rank, const int64* __restrict__ singles, int64 companies,
                             int64 nontrivial, Index* __restrict__ labels) {
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    const Index name = component[company];
    labels[company] = others[name] ? rank[name] : Index(nontrivial + singles[company] - 1);
  }
}

// ---- indexes from raw flows ---------------------------------------------------------------------------------------------------------------

// One key a flow, by `first` and then `second`; self-flows go to the end, past every company.
template <typename Index>
__global__ void pack_flows(const Index* __restrict__ first, const Index* __restrict__ second, int64 flows, int bits,
                           uint64* __restrict__ keys) {
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) {
    const uint64 from = uint64(first[flow]), to = uint64(second[flow]);
    keys[flow] = from == to ? ~uint64(0) : from << bits | to;
  }
  if (first_item() == 0) touch_edges(flows);
}

template <typename Index>
__global__ void unpack_flows(const uint64* __restrict__ keys, int64 flows, int bits, Index* __restrict__ second) {
  const uint64 mask = (uint64(1) << bits) - 1;
  for (int64 flow = first_item(); flow < flows; flow += item_stride()) second[flow] = Index(keys[flow] & mask);
  if (first_item() == 0) touch_edges(flows);
}
