// Sampled round trips: the money layout, alias rows, starts and both walkers of cpu_walks.py, bit for bit.
// All is integer arithmetic, so that neither the order of threads nor the device can change a result.
#include "common.cuh"

constexpr int64 kBlock = 64;                 // flows per block of the money layout: one bit each in a word
constexpr uint32 kLeft = 0xffffffffu;        // target of the slot that leaves the component
constexpr int64 kLargest = 0x7fffffffffffffffLL;

// ---- Philox4x32-10 and exact integer draws -----------------------------------------------------------------------------

struct Words {
  uint32 a, b, c, d;
};

// Salmon, Moraes, Dror & Shaw (2011): the block of a walk, one of its blocks, and an attempt, under a seed.
__device__ inline Words philox(uint64 walk, uint32 block, uint32 attempt, uint64 seed) {
  uint32 a = uint32(walk), b = uint32(walk >> 32), c = block, d = attempt;
  uint32 key = uint32(seed), other_key = uint32(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64 first = uint64(0xD2511F53u) * a, second = uint64(0xCD9E8D57u) * c;
    a = uint32(second >> 32) ^ b ^ key;
    b = uint32(second);
    c = uint32(first >> 32) ^ d ^ other_key;
    d = uint32(first);
    key += 0x9E3779B9u;
    other_key += 0xBB67AE85u;
  }
  return {a, b, c, d};
}

__device__ inline uint64 first_draw(const Words& words) { return uint64(words.a) << 32 | words.b; }
__device__ inline uint64 second_draw(const Words& words) { return uint64(words.c) << 32 | words.d; }

// The 64 bits of step 1, 2, ... of a walk: block 0 gives its start and step 1, block s its step s + 1.
__device__ inline uint64 step_bits(uint64 seed, uint64 walk, int64 step) {
  const Words words = philox(walk, uint32(step - 1), 0, seed);
  return step == 1 ? second_draw(words) : first_draw(words);
}

// An exactly uniform integer below bound (Lemire 2019) from the bits of a step; the start is step 0.
__device__ inline int64 uniform_below(uint64 bound, uint64 bits, uint64 seed, uint64 walk, int64 step) {
  if (bits * bound < bound) {
    const uint64 excess = (0 - bound) % bound;
    for (uint32 attempt = 1; bits * bound < excess; ++attempt) {
      bits = first_draw(philox(walk, uint32(step), attempt, seed));
    }
  }
  return int64(__umul64hi(bits, bound));
}

// ---- searching ---------------------------------------------------------------------------------------------------------

// last_at_most from a place on that holds at most value, in doubling strides: for what is near.
__device__ inline int64 last_at_most_from(int64 start, const int64* __restrict__ ascending, int64 size, int64 value) {
  int64 low = start, stride = 1;
  while (low + stride < size && ascending[low + stride] <= value) {
    low += stride;
    stride *= 2;
  }
  const int64 high = min(low + stride, size);
  return low + last_at_most(ascending + low, high - low, value);
}

__device__ inline bool is_inside(uint64 word, int64 flow) { return word >> (flow % kBlock) & 1; }

// The flow, from a flow of the word's block on, whose money lies at a position; so much is laid out before the first.
__device__ inline int64 flow_at(int64 position, int64 passed, int64 flow, uint64 word, const int64* __restrict__ amount) {
  for (const int64 first = flow;; ++flow) {
    if (is_inside(word, flow)) passed += amount[flow];
    if (position < passed) {
      touch_edges(flow + 1 - first);
      return flow;
    }
  }
}

// How many of the flows before this one are inside, given its word and the count before its block.
__device__ inline int64 inside_before(const uint64* __restrict__ inside, const int64* __restrict__ flows_before, int64 flow) {
  const int64 block = flow / kBlock, bits = flow % kBlock;
  return flows_before[block] + (bits ? __popcll(inside[block] & ((uint64(1) << bits) - 1)) : 0);
}

// ---- the money layout --------------------------------------------------------------------------------------------------

// A warp per block of 64 flows: which of them stay in their component (and keep says that it is laid out), and their money.
template <typename Index>
__global__ void mark_inside(const int64* out_offsets, const Index* payee, const int64* amount, const Index* labels,
                            const uint8* keep, uint64* inside, int64* block_paid, int64 companies, int64 flows) {
  const int64 blocks = (flows + kBlock - 1) / kBlock;
  for (int64 block = first_warp_item(); block < blocks; block += warp_stride()) {
    int64 payer = last_at_most(out_offsets, companies + 1, block * kBlock);
    int64 paid = 0;
    uint64 word = 0;
    for (int half = 0; half < 2; ++half) {
      const int64 flow = block * kBlock + half * kWarp + lane();
      bool stays = false;
      if (flow < flows) {
        payer = last_at_most_from(payer, out_offsets, companies + 1, flow);
        const Index label = labels[payer];
        stays = labels[payee[flow]] == label && keep[label];
        if (stays) paid += amount[flow];
        touch_edges(1);
      }
      word |= uint64(__ballot_sync(kAllLanes, stays)) << (half * kWarp);
    }
    for (int distance = kWarp / 2; distance > 0; distance /= 2) paid += __shfl_down_sync(kAllLanes, paid, distance);
    if (lane() == 0) {
      inside[block] = word;
      block_paid[block] = paid;
    }
  }
}

// Money laid out before the first flow of each company, the end included.
__global__ void sum_companies(const int64* out_offsets, const int64* amount, const uint64* inside, const int64* block_before,
                              int64* company_before, int64 companies) {
  for (int64 company = first_item(); company <= companies; company += item_stride()) {
    const int64 end = out_offsets[company], block = end / kBlock;
    int64 before = block_before[block];
    if (end % kBlock) {
      const uint64 word = inside[block];
      for (int64 flow = block * kBlock; flow < end; ++flow) {
        if (is_inside(word, flow)) before += amount[flow];
      }
    }
    company_before[company] = before;
  }
}

// Marks the components where some company passes on less inside the component than goes through it.
template <typename Index>
__global__ void mark_leaky(const int64* throughflow, const int64* company_before, const Index* labels, uint8* leaky,
                           int64 companies) {
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    if (throughflow[company] != company_before[company + 1] - company_before[company]) {
      store_relaxed(&leaky[labels[company]], uint8(1));
    }
  }
}

// ---- alias rows --------------------------------------------------------------------------------------------------------

// Equally likely with the others of its row; a draw below the threshold goes to its own target. While rows are balanced each
// thread writes its threshold and its other target, and reads the own targets of others.
struct alignas(16) Slot {
  uint64 threshold;
  uint32 own, other;
};

// The same for a walk, which reads all of it at once.
struct alignas(16) SlotWords {
  uint64 threshold, targets;
};

__global__ void count_inside(const uint64* inside, int64* count, int64 blocks) {
  for (int64 block = first_item(); block < blocks; block += item_stride()) count[block] = __popcll(inside[block]);
}

// Slots of each row; extremes: the most of a row, and whether amounts times slots pass int64 in any.
__global__ void count_slots(const int64* out_offsets, const int64* throughflow, const uint64* inside,
                            const int64* company_before, const int64* flows_before, int64* row_slots, int64* extremes,
                            int64 companies) {
  int64 longest = 0;
  for (int64 company = first_item(); company < companies; company += item_stride()) {
    const int64 paid = company_before[company + 1] - company_before[company];
    int64 slots = 0;
    if (paid > 0) {
      slots = inside_before(inside, flows_before, out_offsets[company + 1]) -
              inside_before(inside, flows_before, out_offsets[company]) + (throughflow[company] > paid);
      if (throughflow[company] > kLargest / slots) atomicMax(&extremes[1], int64(1));
      longest = max(longest, slots);
    }
    row_slots[company] = slots;
  }
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    longest = max(longest, __shfl_down_sync(kAllLanes, longest, distance));
  }
  if (lane() == 0 && longest > 0) atomicMax(&extremes[0], longest);
}

// A slot before balancing: its own target, and its share as the threshold. What it lacks of a full slot, what it has too
// much, and whether it is rich (full at least) go into arrays whose running sums balance the rows.
__device__ inline void lay_slot(Slot* table, int64 place, int64 first_slot, int64 full, int64 share, uint32 target,
                                uint64* lacking, uint64* spare, int64* rich) {
  table[place].threshold = uint64(share);
  table[place].own = target;
  lacking[place - first_slot] = share < full ? uint64(full - share) : 0;
  spare[place - first_slot] = share < full ? 0 : uint64(share - full);
  rich[place - first_slot] = share >= full;
}

// A warp per block of 64 flows, for the flows of the rows that are being filled.
template <typename Index>
__global__ void lay_flow_slots(const int64* out_offsets, const Index* payee, const int64* amount, const int64* throughflow,
                               const uint64* inside, const int64* flows_before, const int64* row_offsets, uint64* slots,
                               uint64* lacking, uint64* spare, int64* rich, int64 companies, int64 first_flow,
                               int64 end_flow, int64 first_slot) {
  Slot* table = reinterpret_cast<Slot*>(slots);
  const int64 first_block = first_flow / kBlock, blocks = (end_flow + kBlock - 1) / kBlock;
  for (int64 block = first_block + first_warp_item(); block < blocks; block += warp_stride()) {
    const uint64 word = inside[block];
    int64 payer = last_at_most(out_offsets, companies + 1, block * kBlock);
    for (int half = 0; half < 2; ++half) {
      const int64 flow = block * kBlock + half * kWarp + lane();
      if (flow < first_flow || flow >= end_flow || !is_inside(word, flow)) continue;
      payer = last_at_most_from(payer, out_offsets, companies + 1, flow);
      const int64 row = row_offsets[payer], size = row_offsets[payer + 1] - row;
      const int64 place = row + inside_before(inside, flows_before, flow) -
                          inside_before(inside, flows_before, out_offsets[payer]);
      lay_slot(table, place, first_slot, throughflow[payer], size * amount[flow], uint32(payee[flow]), lacking, spare, rich);
      touch_edges(1);
    }
  }
}

// The last slot of a row is for what leaks.
__global__ void lay_leak_slots(const int64* throughflow, const int64* company_before, const int64* row_offsets,
                               uint64* slots, uint64* lacking, uint64* spare, int64* rich, int64 first_company,
                               int64 end_company, int64 first_slot) {
  Slot* table = reinterpret_cast<Slot*>(slots);
  for (int64 company = first_company + first_item(); company < end_company; company += item_stride()) {
    const int64 paid = company_before[company + 1] - company_before[company], full = throughflow[company];
    if (paid == 0 || full == paid) continue;
    const int64 end = row_offsets[company + 1], size = end - row_offsets[company];
    lay_slot(table, end - 1, first_slot, full, size * (full - paid), kLeft, lacking, spare, rich);
  }
}

// floor(part * 2^64 / whole) for part < whole < 2^63: long division in digits as wide as whole allows.
__device__ inline uint64 fraction_bits(uint64 part, uint64 whole) {
  const int width = min(__clzll(int64(whole)), 32);
  uint64 quotient = 0;
  for (int left = 64; left > 0;) {
    const int digit = min(width, left);
    part <<= digit;
    const uint64 next = part / whole;
    quotient = quotient << digit | next;
    part -= next * whole;
    left -= digit;
  }
  return quotient;
}

// The largest place of [row, end) from which on the row holds more than (or, not strictly, at least) an amount, by running
// sums before each place; there is one. Sums of different rows may have passed 2^64; differences within a row have not.
__device__ inline int64 last_that_holds(const uint64* __restrict__ before, int64 row, int64 end, uint64 amount, bool strictly) {
  int64 low = row, high = end;
  while (high - low > 1) {
    const int64 middle = (low + high) / 2;
    const uint64 held = before[end] - before[middle];
    if (held > amount || (held == amount && !strictly)) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// The rich slot of a row with so many rich ones before it.
__device__ inline int64 rich_slot(const int64* __restrict__ rich_before, int64 row, int64 end, int64 rank) {
  return row + last_at_most(rich_before + row, end - row, rank);
}

// Finishes the rows that Vose's (1991) two stacks would fill, without the stacks. The CPU twin pops poor slots and rich ones
// from the highest place down; a giver that falls below full is the next to take. With L(i) the money that poor slots down to
// i lack together and S(j) what rich slots down to j have to spare, a poor slot i takes from the first rich j with S(j) >= L of
// the poor slot before i, and a rich slot j with S(j) < L of them all falls short of full by L(i) - S(j), i the first poor slot
// that lacks more, and takes that from the next rich slot (Huebschle-Schneider & Sanders 2022). Both are found by bisection.
__global__ void balance_slots(const int64* throughflow, const int64* row_offsets, const uint64* lacking_before,
                              const uint64* spare_before, const int64* rich_before, uint64* slots, int64 first_company,
                              int64 end_company, int64 first_slot, int64 end_slot) {
  Slot* table = reinterpret_cast<Slot*>(slots);
  const int64 rows = end_company - first_company;
  for (int64 group = first_slot + first_warp_item() * kWarp; group < end_slot; group += warp_stride() * kWarp) {
    int64 company = first_company + last_at_most(row_offsets + first_company, rows + 1, group);
    if (group + lane() >= end_slot) continue;
    company = last_at_most_from(company, row_offsets, end_company + 1, group + lane());
    // Places in the running sums, which begin with first_slot.
    const int64 place = group + lane() - first_slot;
    const int64 row = row_offsets[company] - first_slot, end = row_offsets[company + 1] - first_slot;
    const uint64 full = uint64(throughflow[company]);
    Slot* slot = &table[first_slot + place];
    uint64 share = slot->threshold;
    int64 giver;
    if (share < full) {
      const uint64 taken = lacking_before[end] - lacking_before[place + 1];
      giver = taken == 0 ? rich_slot(rich_before, row, end, rich_before[end] - 1)
                         : last_that_holds(spare_before, row, end, taken, false);
    } else {
      const uint64 given = spare_before[end] - spare_before[place];
      if (lacking_before[end] - lacking_before[row] <= given) {  // stays exactly full: both ways lead to the own target
        slot->threshold = 0;
        slot->other = slot->own;
        continue;
      }
      const int64 last_taker = last_that_holds(lacking_before, row, end, given, true);
      share = full - (lacking_before[end] - lacking_before[last_taker] - given);
      giver = rich_slot(rich_before, row, end, rich_before[place] - 1);
    }
    slot->threshold = fraction_bits(share, full);
    slot->other = table[first_slot + giver].own;
  }
}

// ---- starts ------------------------------------------------------------------------------------------------------------

// Where walks begin. Walk r of the R that a source has draws the position (r * money + drawn) / R of its money, drawn uniform
// below the money; source s has the money money_begin[s] .. money_end[s] and the walks source_walks[s] .. source_walks[s + 1].
// tally: the payer, or the source.
template <typename Index>
__global__ void draw_starts(const int64* out_offsets, const Index* payee, const int64* amount, const uint64* inside,
                            const int64* block_before, const int64* money_begin, const int64* money_end,
                            const int64* source_walks, Index* payers, Index* tallies, Index* company, int64 companies,
                            int64 flows, int64 sources, int64 by_source, int64 first, int64 walks, uint64 walk_base,
                            uint64 seed) {
  const int64 blocks = (flows + kBlock - 1) / kBlock;
  for (int64 item = first_item(); item < walks; item += item_stride()) {
    const int64 walk = first + item, source = last_at_most(source_walks, sources + 1, walk);
    const int64 begin = money_begin[source], money = money_end[source] - begin;
    const int64 nth = walk - source_walks[source], of = source_walks[source + 1] - source_walks[source];
    const uint64 number = walk_base + uint64(walk);
    const int64 drawn = uniform_below(uint64(money), first_draw(philox(number, 0, 0, seed)), seed, number, 0);
    const int64 share = money / of, rest = nth * (money % of);
    const int64 position = begin + nth * share + rest / of + int64((uint64(rest % of) + uint64(drawn)) / uint64(of));
    const int64 block = last_at_most(block_before, blocks + 1, position);
    const int64 flow = flow_at(position, block_before[block], block * kBlock, inside[block], amount);
    const int64 payer = last_at_most(out_offsets, companies + 1, flow);
    payers[item] = Index(payer);
    tallies[item] = Index(by_source ? source : payer);
    company[item] = payee[flow];
  }
}

// ---- walking -----------------------------------------------------------------------------------------------------------

// One step over alias rows: two reads that wait for each other.
struct AliasRows {
  const int64* __restrict__ row_offsets;
  const SlotWords* __restrict__ slots;

  // Where the money of a company goes next; -1 when it leaves.
  __device__ int64 next(int64 company, uint64 bits, uint64, uint64, int64) const {
    const int64 row = row_offsets[company];
    const uint64 size = uint64(row_offsets[company + 1] - row);
    // bits * size as a 96-bit number: its top is the slot, the 64 bits below are compared with the threshold.
    const SlotWords slot = slots[row + int64(__umul64hi(bits, size))];
    const uint32 target = uint32(bits * size < slot.threshold ? slot.targets : slot.targets >> 32);
    touch_edges(1);
    return target == kLeft ? -1 : int64(target);
  }
};

// One step straight on the flows, without any rounding.
template <typename Index>
struct PlainFlows {
  const int64* __restrict__ out_offsets;
  const Index* __restrict__ payee;
  const int64* __restrict__ amount;
  const int64* __restrict__ throughflow;
  const uint64* __restrict__ inside;
  const int64* __restrict__ company_before;
  const int64* __restrict__ block_before;

  __device__ int64 next(int64 company, uint64 bits, uint64 seed, uint64 walk, int64 step) const {
    const int64 drawn = uniform_below(uint64(throughflow[company]), bits, seed, walk, step);
    const int64 before = company_before[company];
    if (drawn >= company_before[company + 1] - before) return -1;
    const int64 position = before + drawn, flow = out_offsets[company];
    const int64 first_block = flow / kBlock, last_block = (out_offsets[company + 1] - 1) / kBlock;
    const int64 block = first_block + last_at_most(block_before + first_block, last_block - first_block + 1, position);
    // The first block may begin before the company.
    if (block == first_block) return payee[flow_at(position, before, flow, inside[block], amount)];
    return payee[flow_at(position, block_before[block], block * kBlock, inside[block], amount)];
  }
};

template <typename Index>
struct Start {
  Index payer, tally, company;
};

// What became of the walks that a thread took, kept while their payer stays the same: hubs would be added to all the time.
struct Tally {
  int64 place, returned, unfinished;

  __device__ void add(int64* all_returned, int64* all_unfinished, int64 to, bool came_back, bool goes_on) {
    if (to != place) {
      write(all_returned, all_unfinished);
      *this = {to, 0, 0};
    }
    returned += came_back;
    unfinished += goes_on;
  }
  __device__ void write(int64* all_returned, int64* all_unfinished) const {
    if (returned) atomic_add(&all_returned[place], returned);
    if (unfinished) atomic_add(&all_unfinished[place], unfinished);
  }
};

// Walks every start to its end. A thread that has ended one walk goes on with the next of its own in the same round, so that
// warps stay full however long single walks are; the next start has been read ahead.
template <typename Index, typename Roads>
__device__ void follow(const Roads roads, const Index* __restrict__ payers, const Index* __restrict__ tallies,
                       const Index* __restrict__ companies, int64* returned, int64* unfinished, int64* steps_taken,
                       int64 walks, uint64 first_number, uint64 seed, int64 last_step) {
  auto read = [=](int64 walk) {
    return walk < walks ? Start<Index>{payers[walk], tallies[walk], companies[walk]} : Start<Index>{};
  };
  int64 walk = first_item(), step = 0, steps = 0;
  Start<Index> start = read(walk), coming = read(walk + item_stride());
  int64 company = int64(start.company);
  Tally tally{0, 0, 0};
  while (walk < walks) {
    ++step;
    ++steps;
    const uint64 number = first_number + uint64(walk);
    company = roads.next(company, step_bits(seed, number, step), seed, number, step);
    const bool came_back = company == int64(start.payer);
    if (came_back || company < 0 || step == last_step) {
      tally.add(returned, unfinished, int64(start.tally), came_back, !came_back && company >= 0);
      walk += item_stride();
      start = coming;
      coming = read(walk + item_stride());
      company = int64(start.company);
      step = 0;
    }
  }
  tally.write(returned, unfinished);
  for (int distance = kWarp / 2; distance > 0; distance /= 2) steps += __shfl_down_sync(kAllLanes, steps, distance);
  if (lane() == 0 && steps > 0) atomic_add(steps_taken, steps);
}

template <typename Index>
__global__ void walk_alias_rows(const int64* row_offsets, const uint64* slots, const Index* payers, const Index* tallies,
                                const Index* companies, int64* returned, int64* unfinished, int64* steps_taken,
                                int64 walks, uint64 first_number, uint64 seed, int64 last_step) {
  follow(AliasRows{row_offsets, reinterpret_cast<const SlotWords*>(slots)}, payers, tallies, companies, returned, unfinished,
         steps_taken, walks, first_number, seed, last_step);
}

template <typename Index>
__global__ void walk_plain_flows(const int64* out_offsets, const Index* payee, const int64* amount, const int64* throughflow,
                                 const uint64* inside, const int64* company_before, const int64* block_before,
                                 const Index* payers, const Index* tallies, const Index* companies, int64* returned,
                                 int64* unfinished, int64* steps_taken, int64 walks, uint64 first_number, uint64 seed,
                                 int64 last_step) {
  follow(PlainFlows<Index>{out_offsets, payee, amount, throughflow, inside, company_before, block_before}, payers, tallies,
         companies, returned, unfinished, steps_taken, walks, first_number, seed, last_step);
}
