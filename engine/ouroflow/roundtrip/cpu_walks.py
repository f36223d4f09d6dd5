"""The CPU twin of the sampled walks: money layout, alias tables and both walkers, by numba over threads.

`walks` says what walks are for; here they are walked. Each thread takes a range of the walks of a sample and writes the
tallies of the payers that no other range shares, so that nothing depends on timing. The plain walker follows one walk
after the other; over alias tables each thread advances many walks in lockstep, so that their memory reads overlap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.roundtrip.walks import BLOCK, LEFT, AliasTable, MoneyLayout, WalkCounts
from ouroflow.runtime.threads import in_parts

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]

_LANES = 512  # walks that one thread advances together, so that their memory reads overlap

_RETURNED, _UNFINISHED, _LEAKED = 0, 1, 2  # how a walk ended; the first two are rows of a tally

_LOW32 = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LEFT = np.uint64(LEFT)


# ---- Philox4x32-10 and exact integer draws ---------------------------------------------------------------------------


@njit(cache=True, nogil=True, inline="always")
def philox(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return the four 32-bit words of the Philox4x32-10 block of counter (c0..c3) and key (k0, k1), kept in uint64."""
    for _ in range(10):
        first = np.uint64(0xD2511F53) * c0
        second = np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (second >> _HALF) ^ c1 ^ k0, second & _LOW32, (first >> _HALF) ^ c3 ^ k1, first & _LOW32
        k0 = (k0 + np.uint64(0x9E3779B9)) & _LOW32
        k1 = (k1 + np.uint64(0xBB67AE85)) & _LOW32
    return c0, c1, c2, c3


@njit(cache=True, nogil=True, inline="always")
def _draw_pair(seed: np.uint64, walk: np.uint64, block: np.uint64, attempt: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return two draws of 64 bits.

    Block 0 of a walk gives its start and step 1, block s its step s + 1 (the second draw stays unused: a vectorised
    block costs less than keeping it). Attempts above 0 repeat a rejected draw, the start as block 0 and step s as
    block s.
    """
    a, b, c, d = philox(walk & _LOW32, walk >> _HALF, block, attempt, seed & _LOW32, seed >> _HALF)
    return (a << _HALF) | b, (c << _HALF) | d


@njit(cache=True, nogil=True, inline="always")
def _multiply_high(a: np.uint64, b: np.uint64) -> np.uint64:
    """Return the upper 64 bits of the 128-bit product."""
    a_low, a_high, b_low, b_high = a & _LOW32, a >> _HALF, b & _LOW32, b >> _HALF
    low = a_low * b_low
    middle = a_high * b_low + (low >> _HALF)
    other = a_low * b_high + (middle & _LOW32)
    return a_high * b_high + (middle >> _HALF) + (other >> _HALF)


@njit(cache=True, nogil=True)
def _uniform_below(bound: np.uint64, bits: np.uint64, seed: np.uint64, walk: np.uint64, step: np.uint64) -> np.int64:
    """Return an exactly uniform integer below `bound` (Lemire 2019), given the 64 bits of this step of this walk.

    The few bits that would favour some integers are rejected, and the draw is repeated from blocks of its own.
    """
    if bits * bound < bound:
        excess = (_ZERO - bound) % bound
        attempt = _ZERO
        while bits * bound < excess:
            attempt += _ONE
            bits, _ = _draw_pair(seed, walk, step, attempt)
    return np.int64(_multiply_high(bits, bound))


# ---- the money layout ------------------------------------------------------------------------------------------------


class _Laid(NamedTuple):
    """The arrays of graph and layout that the kernels read."""

    out_offsets: Int64s
    payee: Ids
    amount: Int64s
    throughflow: Int64s
    inside: UInt64s
    company_before: Int64s
    block_before: Int64s


class _Sample(NamedTuple):
    """What makes a sample: the money it is drawn from, how many walks, the number of the first, key, steps at most."""

    first_company: int
    end_company: int
    walks: int
    walk_base: int
    seed: np.uint64
    last_step: int


def _arrays(layout: MoneyLayout) -> _Laid:
    graph = layout.graph
    return _Laid(
        graph.out_offsets,
        graph.payee,
        graph.amount,
        graph.throughflow,
        layout.inside,
        layout.company_before,
        layout.block_before,
    )


def lay_money(graph: FlowGraph, labels: Ids, *, hops: int | None = None, threads: int | None = None) -> MoneyLayout:
    """Lay out the money of all flows inside components: one pass over the flows.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    labels : int array of shape (n,)
        Strong component of each company.
    hops : int, optional
        Hop limit of the walks to come. Without one, closed components (no company leaks, none pays out of it) are set
        aside: their money returns with probability 1, after as many hops as the component has companies on average.
    threads : int, optional
        Threads to use; results do not depend on it.
    """
    blocks = -(-len(graph.payee) // BLOCK)
    inside = np.zeros(blocks, np.uint64)
    block_before = np.zeros(blocks + 1, np.int64)
    company_before = np.zeros(len(labels) + 1, np.int64)
    company_paid, block_paid = company_before[1:], block_before[1:]
    members = np.zeros(int(labels.max(initial=-1)) + 1, np.int64)
    _count_members(labels, members)

    def mark(first: int, last: int) -> tuple[int, int]:
        return _mark_inside(
            first, last, graph.out_offsets, graph.payee, graph.amount, labels, members, inside, block_paid, company_paid
        )

    for company, amount in in_parts(mark, blocks, threads):
        company_paid[company] += amount
    closed = np.zeros(0, np.int64)
    closed_paid = np.zeros(0, np.int64)
    if hops is None:
        leaky = members == 1
        _mark_leaky(graph.throughflow, company_paid, labels, leaky)
        closed = np.empty(int(members[~leaky].sum()), np.int64)
        closed_paid = np.empty_like(closed)
        if closed.size:
            paid = (inside, block_paid, company_paid)
            _take_out(leaky, labels, graph.out_offsets, graph.amount, *paid, closed, closed_paid)
    _accumulate(company_before)
    _accumulate(block_before)
    return MoneyLayout(graph, inside, block_before, company_before, closed, closed_paid)


@njit(cache=True, nogil=True)
def _mark_inside(
    first: int,
    last: int,
    out_offsets: Int64s,
    payee: Ids,
    amount: Int64s,
    labels: Ids,
    members: Int64s,
    inside: UInt64s,
    block_paid: Int64s,
    company_paid: Int64s,
) -> tuple[int, int]:
    """Mark the flows of a range of blocks; return the company whose row began before the range, and its money in it.

    Rows that begin in the range are written here, so that no two ranges write one entry.
    """
    begin, end = first * BLOCK, min(last * BLOCK, len(payee))
    company = _last_at_most(begin, out_offsets, 0)
    began_before, owed = company, np.int64(0)
    while company < len(labels) and out_offsets[company] < end:
        label = labels[company]
        flow, row_end = max(out_offsets[company], begin), min(out_offsets[company + 1], end)
        row_paid = np.int64(0)
        while flow < row_end and members[label] > 1:
            block = flow // BLOCK
            stop = min(row_end, (block + 1) * BLOCK)
            word, paid = _ZERO, np.int64(0)
            for near in range(flow, stop):  # which flows stay inside cannot be predicted: arithmetic, no branch
                stays = np.uint64(labels[payee[near]] == label)
                word |= stays << np.uint64(near % BLOCK)
                paid += amount[near] * np.int64(stays)
            inside[block] |= word
            block_paid[block] += paid
            row_paid += paid
            flow = stop
        if out_offsets[company] < begin:
            owed = row_paid
        else:
            company_paid[company] = row_paid
        company += 1
    return began_before, int(owed)


@njit(cache=True, nogil=True)
def _count_members(labels: Ids, members: Int64s) -> None:
    """Count the companies of each component."""
    for label in labels:
        members[label] += 1


@njit(cache=True, nogil=True)
def _mark_leaky(throughflow: Int64s, company_paid: Int64s, labels: Ids, leaky: npt.NDArray[np.bool_]) -> None:
    """Mark the components where some company passes on less inside the component than goes through it."""
    for company in range(len(labels)):
        if throughflow[company] != company_paid[company]:
            leaky[labels[company]] = True


@njit(cache=True, nogil=True)
def _accumulate(values: Int64s) -> None:
    """Turn values into their running sums, in place (NumPy would copy them first)."""
    for place in range(1, len(values)):
        values[place] += values[place - 1]


@njit(cache=True, nogil=True)
def _take_out(
    leaky: npt.NDArray[np.bool_],
    labels: Ids,
    out_offsets: Int64s,
    amount: Int64s,
    inside: UInt64s,
    block_paid: Int64s,
    company_paid: Int64s,
    closed: Int64s,
    closed_paid: Int64s,
) -> None:
    """Take the flows of closed components out of the layout, and list their companies."""
    found = 0
    for company in range(len(labels)):
        if company_paid[company] > 0 and not leaky[labels[company]]:
            closed[found], closed_paid[found] = company, company_paid[company]
            found += 1
            company_paid[company] = 0
            for flow in range(out_offsets[company], out_offsets[company + 1]):
                inside[flow // BLOCK] &= ~(_ONE << np.uint64(flow % BLOCK))
                block_paid[flow // BLOCK] -= amount[flow]


@njit(cache=True, nogil=True)
def _last_at_most(value: int, ascending: Int64s, start: int) -> int:
    """Return the last place of an ascending array that holds at most `value`, from `start` on in doubling strides."""
    low, stride = start, 1
    while low + stride < len(ascending) and ascending[low + stride] <= value:
        low += stride
        stride *= 2
    high = min(low + stride, len(ascending))
    while high - low > 1:
        middle = (low + high) // 2
        if ascending[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@njit(cache=True, nogil=True, inline="always")
def _laid_amount(flow: int, amount: Int64s, inside: UInt64s) -> int:
    """Return the money of a flow that is laid out: its amount or nothing."""
    return amount[flow] * np.int64((inside[flow // BLOCK] >> np.uint64(flow % BLOCK)) & _ONE)


@njit(cache=True, nogil=True)
def _flow_at(position: np.int64, company: np.int64, laid: _Laid) -> np.int64:
    """Return the flow of a company whose money lies at a position: block by bisection, then at most 64 flows."""
    flow, passed = laid.out_offsets[company], laid.company_before[company]
    low, high = flow // BLOCK, (laid.out_offsets[company + 1] - 1) // BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        if laid.block_before[middle] <= position:
            low = middle
        else:
            high = middle - 1
    if low * BLOCK > flow:
        flow, passed = low * BLOCK, laid.block_before[low]
    passed += _laid_amount(flow, laid.amount, laid.inside)
    while position >= passed:
        flow += 1
        passed += _laid_amount(flow, laid.amount, laid.inside)
    return flow


@njit(cache=True, nogil=True)
def _draw_starts(
    first: int,
    last: int,
    sample: _Sample,
    laid: _Laid,
    cursor: Int64s,
    starts: Int64s,
    payers: Int64s,
    spare: UInt64s,
) -> None:
    """Draw where walks first..last of a sample start: flows, payers, and the second draw of the first block.

    Walk r of R draws position (r * money + drawn) // R with `drawn` uniform below the money laid out: the numerators of
    all walks together are uniform below R * money, so every unit of money is drawn with exactly the same probability,
    and positions ascend. `cursor` keeps (flow, payer, money laid out up to and with that flow) of the last start: the
    next is near when walks are many.
    """
    begin, walks = laid.company_before[sample.first_company], sample.walks
    money = laid.company_before[sample.end_company] - begin
    bound, rejected = np.uint64(money), np.int64(0)
    for place in range(last - first):
        bits, spare[place] = _draw_pair(sample.seed, np.uint64(sample.walk_base + first + place), _ZERO, _ZERO)
        starts[place] = np.int64(_multiply_high(bits, bound))
        rejected += np.int64(bits * bound < bound)
    if rejected > 0:
        for place in range(last - first):
            walk = np.uint64(sample.walk_base + first + place)
            bits, _ = _draw_pair(sample.seed, walk, _ZERO, _ZERO)
            starts[place] = _uniform_below(bound, bits, sample.seed, walk, _ZERO)
    share, rest = money // walks, money % walks
    base, over = begin + first * share + first * rest // walks, first * rest % walks
    divisor = np.uint64(walks)
    inverse = np.uint64(0xFFFFFFFFFFFFFFFF) // divisor
    for place in range(last - first):
        # (over + drawn) // walks by its rounded inverse, at most 2 too small; the sum may pass int64, but not uint64.
        numerator = np.uint64(over) + np.uint64(starts[place])
        quotient = _multiply_high(numerator, inverse)
        quotient += np.uint64(numerator - quotient * divisor >= divisor)
        quotient += np.uint64(numerator - quotient * divisor >= divisor)
        starts[place] = base + np.int64(quotient)
        base, over = base + share, over + rest
        carry = np.int64(over >= walks)
        base, over = base + carry, over - carry * walks
    _find_starts(last - first, laid, cursor, starts, payers)


@njit(cache=True, nogil=True)
def _find_starts(walks: int, laid: _Laid, cursor: Int64s, starts: Int64s, payers: Int64s) -> None:
    """Replace ascending positions by the flows whose money lies there, and note their payers."""
    flow, payer, passed = cursor[0], cursor[1], cursor[2]
    block_end, row_end = laid.block_before[flow // BLOCK + 1], laid.out_offsets[payer + 1]
    for place in range(walks):
        position = starts[place]
        if position >= block_end:
            block = _last_at_most(position, laid.block_before, flow // BLOCK)
            flow, passed, block_end = block * BLOCK, laid.block_before[block], laid.block_before[block + 1]
            passed += _laid_amount(flow, laid.amount, laid.inside)
        while position >= passed:
            flow += 1
            passed += _laid_amount(flow, laid.amount, laid.inside)
        if flow >= row_end:
            payer = _last_at_most(flow, laid.out_offsets, payer)
            row_end = laid.out_offsets[payer + 1]
        starts[place] = flow
        payers[place] = payer
    cursor[0], cursor[1], cursor[2] = flow, payer, passed


@njit(cache=True, nogil=True)
def _first_cursor(company: int, laid: _Laid) -> Int64s:
    """Return the cursor that stands on the first flow of a company."""
    cursor = np.empty(3, np.int64)
    cursor[0], cursor[1] = laid.out_offsets[company], company
    cursor[2] = laid.company_before[company] + _laid_amount(cursor[0], laid.amount, laid.inside)
    return cursor


# ---- tallies ---------------------------------------------------------------------------------------------------------


class _Owed(NamedTuple):
    """What a range of walks has not written to the tally itself: walks of its first payer, and the steps.

    Payers ascend over the walks of a sample. So a payer that several ranges share is the first one of all of them but
    the earliest, and only that one writes its tally.
    """

    payer: int
    returned: int
    unfinished: int
    steps: int


# ---- the plain walker ------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _walk_plain(first: int, last: int, sample: _Sample, laid: _Laid, tally: Int64s) -> tuple[int, int, int, int]:
    """Walk walks first..last of a sample, one after the other; return what is owed to the tally."""
    steps, first_payer, returned, unfinished = 0, -1, 0, 0
    starts, payers, spare = np.empty(_LANES, np.int64), np.empty(_LANES, np.int64), np.empty(_LANES, np.uint64)
    cursor = _first_cursor(sample.first_company, laid)
    for batch in range(first, last, _LANES):
        end = min(batch + _LANES, last)
        _draw_starts(batch, end, sample, laid, cursor, starts, payers, spare)
        if batch == first:
            first_payer = int(payers[0])
        for index in range(batch, end):
            walk, payer, bits = np.uint64(sample.walk_base + index), payers[index - batch], spare[index - batch]
            company = np.int64(laid.payee[starts[index - batch]])
            outcome = _UNFINISHED
            for step in range(1, sample.last_step + 1):
                if step > 1:
                    bits, _ = _draw_pair(sample.seed, walk, np.uint64(step - 1), _ZERO)
                steps += 1
                bound = np.uint64(laid.throughflow[company])
                drawn = _uniform_below(bound, bits, sample.seed, walk, np.uint64(step))
                before = laid.company_before[company]
                if drawn >= laid.company_before[company + 1] - before:
                    outcome = _LEAKED
                    break
                company = np.int64(laid.payee[_flow_at(before + drawn, company, laid)])
                if company == payer:
                    outcome = _RETURNED
                    break
            if payer == first_payer:
                returned += outcome == _RETURNED
                unfinished += outcome == _UNFINISHED
            elif outcome != _LEAKED:
                tally[outcome, payer] += 1
    return first_payer, returned, unfinished, steps


# ---- alias tables and the lockstep walker ----------------------------------------------------------------------------


def alias_table(layout: MoneyLayout, *, threads: int | None = None) -> AliasTable | None:
    """Build the alias tables of all companies with money in the layout, or return None where they cannot be built.

    They cannot where the flows of a company times its throughflow pass int64, or from 2^32 - 1 companies on.
    """
    graph = layout.graph
    companies = len(graph.out_offsets) - 1
    row_offsets = np.zeros(companies + 1, np.int64)

    laid = _arrays(layout)

    def count(first: int, last: int) -> int:
        return _count_slots(first, last, laid, row_offsets[1:])

    longest_rows = in_parts(count, companies, threads)
    longest = max(longest_rows, default=0)
    if min(longest_rows, default=0) < 0 or longest > LEFT or companies >= LEFT:
        return None
    _accumulate(row_offsets)
    slots = np.empty((int(row_offsets[-1]), 2), np.uint64)

    def fill(first: int, last: int) -> None:
        share, target, pending = np.empty(longest, np.int64), np.empty(longest, np.uint64), np.empty(longest, np.int64)
        _fill_rows(first, last, laid, row_offsets, slots, share, target, pending)

    in_parts(fill, companies, threads)
    return AliasTable(row_offsets, slots, longest)


@njit(cache=True, nogil=True)
def _count_slots(first: int, last: int, laid: _Laid, row_slots: Int64s) -> int:
    """Count the slots of each row; return the largest count, or -1 if amounts times slots would pass int64."""
    longest = np.int64(0)
    for company in range(first, last):
        paid = laid.company_before[company + 1] - laid.company_before[company]
        if paid == 0:
            continue
        slots = np.int64(laid.throughflow[company] > paid)
        for flow in range(laid.out_offsets[company], laid.out_offsets[company + 1]):
            slots += np.int64(_laid_amount(flow, laid.amount, laid.inside) > 0)
        if laid.throughflow[company] > np.int64(0x7FFFFFFFFFFFFFFF) // slots:
            return -1
        row_slots[company] = slots
        longest = max(longest, slots)
    return int(longest)


@njit(cache=True, nogil=True)
def _fraction_bits(part: np.uint64, whole: np.uint64) -> np.uint64:
    """Return floor(part * 2^64 / whole) for part < whole < 2^63: long division in digits as wide as `whole` allows."""
    width = _ZERO
    while (whole << (width + _ONE)) >> (width + _ONE) == whole and width < _HALF:
        width += _ONE
    quotient, left = _ZERO, np.uint64(64)
    while left > _ZERO:
        digit = min(width, left)
        part <<= digit
        quotient = (quotient << digit) | (part // whole)
        part %= whole
        left -= digit
    return quotient


@njit(cache=True, nogil=True)
def _fill_rows(
    first: int,
    last: int,
    laid: _Laid,
    row_offsets: Int64s,
    slots: UInt64s,
    share: Int64s,
    target: UInt64s,
    pending: Int64s,
) -> None:
    """Fill alias rows (Vose 1991) in integers: shares are amounts times slots, a full slot holds the throughflow."""
    for company in range(first, last):
        row, size = row_offsets[company], row_offsets[company + 1] - row_offsets[company]
        if size == 0:
            continue
        full = laid.throughflow[company]
        left, used = full, 0
        for flow in range(laid.out_offsets[company], laid.out_offsets[company + 1]):
            paid = _laid_amount(flow, laid.amount, laid.inside)
            if paid > 0:
                share[used], target[used] = size * paid, np.uint64(laid.payee[flow])
                left -= paid
                used += 1
        if left > 0:
            share[used], target[used] = size * left, _LEFT
        poor, rich = 0, size  # poor slots are stacked from the front of `pending`, rich ones from its end
        for slot in range(size):
            if share[slot] < full:
                pending[poor] = slot
                poor += 1
            else:
                rich -= 1
                pending[rich] = slot
        while poor > 0:
            poor -= 1
            taker, giver = pending[poor], pending[rich]
            slots[row + taker, 0] = _fraction_bits(np.uint64(share[taker]), np.uint64(full))
            slots[row + taker, 1] = target[taker] | (target[giver] << _HALF)
            share[giver] -= full - share[taker]
            if share[giver] < full:
                pending[poor] = giver
                poor += 1
                rich += 1
        for entry in range(rich, size):  # exactly full: both ways lead to the own target
            slot = pending[entry]
            slots[row + slot, 0] = _ZERO
            slots[row + slot, 1] = target[slot] | (target[slot] << _HALF)


@njit(cache=True, nogil=True)
def _step_lanes(
    lanes: int, bits: UInt64s, company: UInt64s, slot: UInt64s, size: UInt64s, row_offsets: UInt64s, slots: UInt64s
) -> None:
    """Advance every lane by one step with its 64 bits.

    Short loops, so that the reads of all lanes are under way together. All is unsigned: numba then leaves out the
    test for negative places.
    """
    for lane in range(lanes):
        row = row_offsets[company[lane]]
        slot[lane] = row
        size[lane] = row_offsets[company[lane] + _ONE] - row
    for lane in range(lanes):
        # (bits * size) as a 96-bit number: its top is the slot, the 64 bits below are compared with the threshold.
        middle = (bits[lane] >> _HALF) * size[lane] + (((bits[lane] & _LOW32) * size[lane]) >> _HALF)
        slot[lane] += middle >> _HALF
        bits[lane] *= size[lane]
    for lane in range(lanes):
        place = slot[lane]
        upper = np.uint64(bits[lane] >= slots[place, 0]) << np.uint64(5)
        company[lane] = (slots[place, 1] >> upper) & _LOW32


@njit(cache=True, nogil=True)
def _retire_lanes(
    lanes: int,
    last_step: int,
    company: UInt64s,
    payer: Int64s,
    index: UInt64s,
    step: UInt64s,
    ended_payer: Int64s,
    ended_outcome: Int64s,
) -> tuple[int, int]:
    """List the walks that have ended and close ranks; return how many go on and how many have ended.

    Every lane has just taken a step. Whether a walk ends cannot be predicted, so all is arithmetic, without a branch.
    """
    kept, ended = np.int64(0), np.int64(0)
    horizon = np.uint64(last_step)
    for lane in range(lanes):
        here, home, walk, steps = company[lane], payer[lane], index[lane], step[lane] + _ONE
        returned, left = np.int64(here == np.uint64(home)), np.int64(here == _LEFT)
        ended_payer[ended] = home
        ended_outcome[ended] = _UNFINISHED - (_UNFINISHED - _RETURNED) * returned - (_UNFINISHED - _LEAKED) * left
        company[kept], payer[kept], index[kept], step[kept] = here, home, walk, steps
        goes_on = (1 - returned) & (1 - left) & np.int64(steps < horizon)
        kept += goes_on
        ended += 1 - goes_on
    return int(kept), int(ended)


@njit(cache=True, nogil=True)
def _walk_lockstep(
    first: int,
    last: int,
    sample: _Sample,
    laid: _Laid,
    row_offsets: UInt64s,
    slots: UInt64s,
    tally: Int64s,
) -> tuple[int, int, int, int]:
    """Walk walks first..last of a sample, many at a time; return what is owed to the tally."""
    company, bits, size = np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64)
    index, step, slot = np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64)
    payer, ended_payer, ended_outcome = (
        np.empty(_LANES, np.int64),
        np.empty(_LANES, np.int64),
        np.empty(_LANES, np.int64),
    )
    starts, cursor = np.empty(_LANES, np.int64), _first_cursor(sample.first_company, laid)
    first_payer, returned, unfinished = -1, 0, 0
    lanes, steps, coming = 0, 0, first
    while True:
        for lane in range(lanes):
            bits[lane], _ = _draw_pair(sample.seed, np.uint64(sample.walk_base) + index[lane], step[lane], _ZERO)
        free = min(_LANES - lanes, last - coming)
        _draw_starts(coming, coming + free, sample, laid, cursor, starts, payer[lanes:], bits[lanes:])
        if coming == first:
            first_payer = int(payer[0])
        for place in range(free):
            company[lanes + place] = np.uint64(laid.payee[starts[place]])
            index[lanes + place], step[lanes + place] = np.uint64(coming + place), _ZERO
        lanes, coming = lanes + free, coming + free
        if lanes == 0:
            return first_payer, returned, unfinished, steps
        steps += lanes
        _step_lanes(lanes, bits, company, slot, size, row_offsets, slots)
        lanes, ended = _retire_lanes(lanes, sample.last_step, company, payer, index, step, ended_payer, ended_outcome)
        for walk in range(ended):
            home, outcome = ended_payer[walk], ended_outcome[walk]
            if home == first_payer:
                returned += outcome == _RETURNED
                unfinished += outcome == _UNFINISHED
            else:
                tally[_RETURNED, home] += np.int64(outcome == _RETURNED)
                tally[_UNFINISHED, home] += np.int64(outcome == _UNFINISHED)


# ---- samples ---------------------------------------------------------------------------------------------------------


def walk_all(
    layout: MoneyLayout,
    table: AliasTable | None,
    walks: int,
    *,
    seed: int,
    walk_base: int,
    last_step: int,
    threads: int | None = None,
) -> WalkCounts:
    """Walk a sample of all the money laid out.

    Parameters
    ----------
    layout : MoneyLayout
        From `lay_money`.
    table : AliasTable or None
        Walk over it, many walks at a time. None: walk straight on the flows, without any rounding.
    walks : int
        Size of the sample, below 2^31; 0 where no money is laid out.
    seed, walk_base : int
        Key of the generator, and number of the first walk.
    last_step : int
        Steps after which a walk is given up (the drawn flow is no step).
    threads : int, optional
        Threads to use; results do not depend on it.

    Returns
    -------
    WalkCounts
        By payer: arrays of shape (companies,).
    """
    companies = layout.graph.companies
    tally = np.zeros((2, companies), np.int64)
    sample = _Sample(0, companies, walks, walk_base, np.uint64(seed), last_step)
    steps = 0
    for owed in in_parts(_walker(layout, table, sample, tally), walks, threads):
        tally[_RETURNED, owed.payer] += owed.returned
        tally[_UNFINISHED, owed.payer] += owed.unfinished
        steps += owed.steps
    return WalkCounts(tally[_RETURNED], tally[_UNFINISHED], steps)


def walk_each(
    layout: MoneyLayout,
    table: AliasTable | None,
    companies: Int64s,
    sizes: Int64s,
    *,
    seed: int,
    walk_base: int,
    last_step: int,
    threads: int | None = None,
) -> WalkCounts:
    """Walk a sample from each of some companies, whose money is laid out.

    Parameters
    ----------
    layout, table, seed, last_step, threads
        As `walk_all`.
    companies, sizes : int64 arrays
        Where to walk from, and how many walks each.
    walk_base : int
        Number of the first walk of the first company; the others follow.

    Returns
    -------
    WalkCounts
        Arrays of the shape of `companies`.
    """
    bases = walk_base + np.cumsum(sizes) - sizes
    no_others = np.zeros((2, 0), np.int64)

    def walk(first: int, last: int) -> list[_Owed]:
        owed = []
        for nth in range(first, last):
            company, size = int(companies[nth]), int(sizes[nth])
            sample = _Sample(company, company + 1, size, int(bases[nth]), np.uint64(seed), last_step)
            owed.append(_walker(layout, table, sample, no_others)(0, size))
        return owed

    owed = [each for part in in_parts(walk, len(companies), threads) for each in part]
    returned, unfinished, steps = (np.array([each[part] for each in owed], np.int64) for part in (1, 2, 3))
    return WalkCounts(returned, unfinished, int(steps.sum()))


def _walker(
    layout: MoneyLayout, table: AliasTable | None, sample: _Sample, tally: Int64s
) -> Callable[[int, int], _Owed]:
    """Return the function that walks a range of the walks of a sample into a tally."""
    laid = _arrays(layout)
    if table is None:
        return lambda first, last: _Owed(*_walk_plain(first, last, sample, laid, tally))
    rows = (table.row_offsets.view(np.uint64), table.slots)
    return lambda first, last: _Owed(*_walk_lockstep(first, last, sample, laid, *rows, tally))
