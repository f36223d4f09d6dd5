"""Sampled round trips: draw a unit of money, walk from its payee, see whether it comes back to its payer.

The unit is drawn with probability w_e / W, so one walk is one yes/no answer to "does it return?" and the share of yes
is the round-trip fraction, whatever the size of the graph. Money that leaves its component never comes back: only the
flows inside components are laid out and drawn from, and a walk that leaves its component has ended.

Everything random is integer arithmetic on a counter-based generator (Philox4x32-10; Salmon, Moraes, Dror & Shaw 2011)
keyed by seed, walk and draw. Threads therefore never change a result, and a GPU twin can walk the same paths bit for
bit.

Two walkers share starts and generator. The plain one needs no tables beyond the money layout and draws from the flows
themselves without any rounding: for few walks. The lockstep one advances many walks together over alias tables (Walker
1977, Vose 1991) with 64-bit thresholds: for many. `walk_returns` and `walk_companies` choose by predicted cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.certified import Certified
from ouroflow.errors import UsageError
from ouroflow.graph import exact_sum
from ouroflow.roundtrip.intervals import clopper_pearson, draws_needed
from ouroflow.runtime.threads import in_parts

if TYPE_CHECKING:
    from ouroflow.graph import FlowGraph, Ids

Int64s = npt.NDArray[np.int64]
UInt64s = npt.NDArray[np.uint64]
UInt8s = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Result = TypeVar("Result")

LEAKED, RETURNED, UNFINISHED = 0, 1, 2
"""How a walk ended: its money left for good, came back to its payer, or was still walking at the horizon."""

HORIZON = 4096
"""Hops after which a walk without hop limit is given up; such walks widen the interval."""

MOST_WALKS = 2**31 - 1
"""Walks of one sample: their squares must fit int64."""

_BLOCK = 64  # flows per block of the money layout: one bit each in a word
_LANES = 512  # walks that one thread advances together, so that their memory reads overlap
_LONGEST_ROW = 2**32 - 1  # slots of one alias row: the draw is multiplied by it in 32-bit halves

_LOW32 = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ZERO = np.uint64(0)
_ONE = np.uint64(1)
_LEFT = np.uint64(0xFFFFFFFF)  # target of the slot that leaves the component; no company has this id in an alias table


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


@dataclass(frozen=True, eq=False)
class MoneyLayout:
    """The money paid inside components, laid end to end in payer order.

    Attributes
    ----------
    graph : FlowGraph
        Where the flows are.
    inside : uint64 array of shape (ceil(flows / 64),)
        Bit e % 64 of word e // 64: whether flow e is laid out.
    block_before : int64 array of shape (ceil(flows / 64) + 1,)
        Money laid out before each block of 64 flows; the last entry is all of it.
    company_before : int64 array of shape (companies + 1,)
        Money laid out before the first flow of each company.
    closed : int64 array of shape (closed companies,)
        Companies of closed components (nothing leaks, by exact integers). All their money returns, so it is not laid
        out.
    closed_paid : int64 array of shape (closed companies,)
        What each of them pays.

    Notes
    -----
    Memory: 8 bytes per company and 0.25 bytes per flow; while it is built 8 more per component.
    """

    graph: FlowGraph
    inside: UInt64s
    block_before: Int64s
    company_before: Int64s
    closed: Int64s
    closed_paid: Int64s

    @property
    def certain(self) -> int:
        """Return the money that returns for sure."""
        return int(self.closed_paid.sum())

    @property
    def laid(self) -> int:
        """Return the money laid out."""
        return int(self.company_before[-1])

    @property
    def _arrays(self) -> _Laid:
        graph = self.graph
        return _Laid(
            graph.out_offsets,
            graph.payee,
            graph.amount,
            graph.throughflow,
            self.inside,
            self.company_before,
            self.block_before,
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
    blocks = -(-len(graph.payee) // _BLOCK)
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
    begin, end = first * _BLOCK, min(last * _BLOCK, len(payee))
    company = _last_at_most(begin, out_offsets, 0)
    began_before, owed = company, np.int64(0)
    while company < len(labels) and out_offsets[company] < end:
        label = labels[company]
        flow, row_end = max(out_offsets[company], begin), min(out_offsets[company + 1], end)
        row_paid = np.int64(0)
        while flow < row_end and members[label] > 1:
            block = flow // _BLOCK
            stop = min(row_end, (block + 1) * _BLOCK)
            word, paid = _ZERO, np.int64(0)
            for near in range(flow, stop):  # which flows stay inside cannot be predicted: arithmetic, no branch
                stays = np.uint64(labels[payee[near]] == label)
                word |= stays << np.uint64(near % _BLOCK)
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
                inside[flow // _BLOCK] &= ~(_ONE << np.uint64(flow % _BLOCK))
                block_paid[flow // _BLOCK] -= amount[flow]


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
    return amount[flow] * np.int64((inside[flow // _BLOCK] >> np.uint64(flow % _BLOCK)) & _ONE)


@njit(cache=True, nogil=True)
def _flow_at(position: np.int64, company: np.int64, laid: _Laid) -> np.int64:
    """Return the flow of a company whose money lies at a position: block by bisection, then at most 64 flows."""
    flow, passed = laid.out_offsets[company], laid.company_before[company]
    low, high = flow // _BLOCK, (laid.out_offsets[company + 1] - 1) // _BLOCK
    while low < high:
        middle = (low + high + 1) // 2
        if laid.block_before[middle] <= position:
            low = middle
        else:
            high = middle - 1
    if low * _BLOCK > flow:
        flow, passed = low * _BLOCK, laid.block_before[low]
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
    payers: Ids,
    spare: UInt64s,
) -> None:
    """Draw where walks of a sample start: flows, payers, and the second draw of the first block.

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
    _find_starts(first, last, laid, cursor, starts, payers)


@njit(cache=True, nogil=True)
def _find_starts(first: int, last: int, laid: _Laid, cursor: Int64s, starts: Int64s, payers: Ids) -> None:
    """Replace ascending positions by the flows whose money lies there, and note their payers."""
    flow, payer, passed = cursor[0], cursor[1], cursor[2]
    block_end, row_end = laid.block_before[flow // _BLOCK + 1], laid.out_offsets[payer + 1]
    for place in range(last - first):
        position = starts[place]
        if position >= block_end:
            block = _last_at_most(position, laid.block_before, flow // _BLOCK)
            flow, passed, block_end = block * _BLOCK, laid.block_before[block], laid.block_before[block + 1]
            passed += _laid_amount(flow, laid.amount, laid.inside)
        while position >= passed:
            flow += 1
            passed += _laid_amount(flow, laid.amount, laid.inside)
        if flow >= row_end:
            payer = _last_at_most(flow, laid.out_offsets, payer)
            row_end = laid.out_offsets[payer + 1]
        starts[place] = flow
        payers[first + place] = payer
    cursor[0], cursor[1], cursor[2] = flow, payer, passed


@njit(cache=True, nogil=True)
def _first_cursor(company: int, laid: _Laid) -> Int64s:
    """Return the cursor that stands on the first flow of a company."""
    cursor = np.empty(3, np.int64)
    cursor[0], cursor[1] = laid.out_offsets[company], company
    cursor[2] = laid.company_before[company] + _laid_amount(cursor[0], laid.amount, laid.inside)
    return cursor


# ---- the plain walker ------------------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _walk_plain(first: int, last: int, sample: _Sample, laid: _Laid, payers: Ids, outcomes: UInt8s) -> int:
    """Walk walks first..last of a sample, one after the other; return the steps taken."""
    steps = 0
    starts, spare, cursor = (
        np.empty(_LANES, np.int64),
        np.empty(_LANES, np.uint64),
        _first_cursor(sample.first_company, laid),
    )
    for batch in range(first, last, _LANES):
        end = min(batch + _LANES, last)
        _draw_starts(batch, end, sample, laid, cursor, starts, payers, spare)
        for index in range(batch, end):
            walk, payer, bits = np.uint64(sample.walk_base + index), payers[index], spare[index - batch]
            company = np.int64(laid.payee[starts[index - batch]])
            outcome = UNFINISHED
            for step in range(1, sample.last_step + 1):
                if step > 1:
                    bits, _ = _draw_pair(sample.seed, walk, np.uint64(step - 1), _ZERO)
                steps += 1
                bound = np.uint64(laid.throughflow[company])
                drawn = _uniform_below(bound, bits, sample.seed, walk, np.uint64(step))
                before = laid.company_before[company]
                if drawn >= laid.company_before[company + 1] - before:
                    outcome = LEAKED
                    break
                company = np.int64(laid.payee[_flow_at(before + drawn, company, laid)])
                if company == payer:
                    outcome = RETURNED
                    break
            outcomes[index] = outcome
    return steps


# ---- alias tables and the lockstep walker ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AliasTable:
    """Where money goes next, one equally likely slot per flow inside the component, and one for what leaves it.

    Attributes
    ----------
    row_offsets : int64 array of shape (companies + 1,)
        The slots of company i are ``row_offsets[i]:row_offsets[i + 1]``.
    slots : uint64 array of shape (slots, 2)
        Column 0: 64-bit threshold; a draw below it goes to the lower 32 bits of column 1, else to the upper 32 bits.
    longest : int
        Slots of the longest row.

    Notes
    -----
    Memory: 16 bytes per flow inside a component, 16 per leaking company in one, 8 per company.

    The amounts are balanced in exact integers; only the final thresholds are rounded down to multiples of 2^-64. A
    row of k slots then errs by less than k 2^-63 in total variation: each of its 2k pieces is an interval of 64-bit
    draws whose count differs from the exact length by less than 1 for the ends and by less than 1 for the threshold.
    """

    row_offsets: Int64s
    slots: UInt64s
    longest: int

    @property
    def error_per_step(self) -> float:
        """Return a bound of the total variation error of one step."""
        return self.longest * 2.0**-63


def alias_table(layout: MoneyLayout, *, threads: int | None = None) -> AliasTable | None:
    """Build the alias tables of all companies with money in the layout, or return None where they cannot be built.

    They cannot where the flows of a company times its throughflow pass int64, or from 2^32 - 1 companies on.
    """
    graph = layout.graph
    companies = len(graph.out_offsets) - 1
    row_offsets = np.zeros(companies + 1, np.int64)

    laid = layout._arrays

    def count(first: int, last: int) -> int:
        return _count_slots(first, last, laid, row_offsets[1:])

    longest_rows = in_parts(count, companies, threads)
    longest = max(longest_rows, default=0)
    if min(longest_rows, default=0) < 0 or longest > _LONGEST_ROW or companies >= int(_LEFT):
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
    lanes: int, last_step: int, company: UInt64s, index: UInt64s, step: UInt64s, payers: Ids, outcomes: UInt8s
) -> int:
    """Record the walks that have ended and close ranks; return how many go on. Every lane has just taken a step.

    Whether a walk ends cannot be predicted, so all is arithmetic, without a branch.
    """
    kept = np.int64(0)
    horizon = np.uint64(last_step)
    for lane in range(lanes):
        here, walk, steps = company[lane], index[lane], step[lane] + _ONE
        returned, left = np.int64(here == np.uint64(payers[walk])), np.int64(here == _LEFT)
        outcomes[walk] = UNFINISHED - (UNFINISHED - RETURNED) * returned - (UNFINISHED - LEAKED) * left
        company[kept], index[kept], step[kept] = here, walk, steps
        kept += (1 - returned) & (1 - left) & np.int64(steps < horizon)
    return int(kept)


@njit(cache=True, nogil=True)
def _walk_lockstep(
    first: int,
    last: int,
    sample: _Sample,
    laid: _Laid,
    row_offsets: UInt64s,
    slots: UInt64s,
    payers: Ids,
    outcomes: UInt8s,
) -> int:
    """Walk walks first..last of a sample, many at a time; return the steps taken."""
    company, bits, size = np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64)
    index, step, slot = np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64), np.empty(_LANES, np.uint64)
    starts, cursor = np.empty(_LANES, np.int64), _first_cursor(sample.first_company, laid)
    lanes, steps, coming = 0, 0, first
    while True:
        for lane in range(lanes):
            bits[lane], _ = _draw_pair(sample.seed, np.uint64(sample.walk_base) + index[lane], step[lane], _ZERO)
        free = min(_LANES - lanes, last - coming)
        _draw_starts(coming, coming + free, sample, laid, cursor, starts, payers, bits[lanes:])
        for place in range(free):
            company[lanes + place] = np.uint64(laid.payee[starts[place]])
            index[lanes + place], step[lanes + place] = np.uint64(coming + place), _ZERO
        lanes, coming = lanes + free, coming + free
        if lanes == 0:
            return steps
        steps += lanes
        _step_lanes(lanes, bits, company, slot, size, row_offsets, slots)
        lanes = _retire_lanes(lanes, sample.last_step, company, index, step, payers, outcomes)


# ---- samples ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class WalkTally:
    """How the walks of one sample ended, and what follows from it.

    Attributes
    ----------
    layout : MoneyLayout
        The money they were drawn from.
    payer : int32 or int64 array of shape (walks,)
        Where each walk started; ascending.
    outcome : uint8 array of shape (walks,)
        `LEAKED`, `RETURNED` or `UNFINISHED`.
    steps : int
        Steps that all of them took together.
    hops : int or None
        Hop limit: with one, an unfinished walk has not returned within it. Without, it may yet return or not.
    confidence : float
        Level at which this sample gives intervals.
    error : float
        Bound of the rounding error of the walker in any return probability (0 for the plain walker).

    Notes
    -----
    Memory: 5 bytes per walk (9 with int64 ids).
    """

    layout: MoneyLayout
    payer: Ids
    outcome: UInt8s
    steps: int
    hops: int | None
    confidence: float
    error: float

    @property
    def walks(self) -> int:
        """Return the number of walks."""
        return len(self.outcome)

    @cached_property
    def hits(self) -> int:
        """Return how many walks came back to their payer."""
        return int(np.count_nonzero(self.outcome == RETURNED))

    @cached_property
    def unfinished(self) -> int:
        """Return how many walks were given up at the horizon without knowing whether they return."""
        return 0 if self.hops is not None else int(np.count_nonzero(self.outcome == UNFINISHED))

    @property
    def method(self) -> str:
        """Return the words for `Certified.method`."""
        limit = "" if self.hops is None else f" within {self.hops} hops"
        return f"{self.walks} seeded walks{limit}, Clopper-Pearson {self.confidence:.6g}"

    def round_trip(self) -> Certified:
        """Return the money of the whole graph that comes back to its payers, sum C_i, in minor units."""
        certain, laid = self.layout.certain, self.layout.laid
        if laid == 0 or self.walks == 0:
            return Certified.exact(certain, "exact: closed components and acyclic money only")
        low, high = _share_bounds(self.hits, self.unfinished, self.walks, self.confidence, self.error)
        value = certain + laid * (self.hits + self.unfinished / 2) / self.walks
        # Sums past 2^53 are rounded: the value must stay in its interval all the same.
        low_money, high_money = certain + laid * float(low), certain + laid * float(high)
        return Certified(value, min(low_money, value), max(high_money, value), self.method)

    def fraction(self) -> Certified:
        """Return the round-trip fraction RTF = sum C_i / W."""
        return _scaled(self.round_trip(), self.layout.graph.total)

    def finn(self) -> Certified:
        """Return the Finn cycling index FCI = sum C_i / sum T_i (Finn 1976)."""
        return _scaled(self.round_trip(), exact_sum(self.layout.graph.throughflow))

    def company_counts(self) -> tuple[Int64s, Int64s, Int64s]:
        """Return how many walks started, returned and stayed unfinished per company, int64 arrays."""
        companies = len(self.layout.company_before) - 1
        payer, outcome = self.payer, self.outcome
        unfinished = payer[outcome == UNFINISHED] if self.hops is None else payer[:0]
        return (
            np.bincount(payer, minlength=companies),
            np.bincount(payer[outcome == RETURNED], minlength=companies),
            np.bincount(unfinished, minlength=companies),
        )

    def companies(self) -> tuple[Floats, Floats, Floats]:
        """Return round-trip money C_i of every company with its interval: value, low, high, float64 minor units.

        Each interval holds at the level of the sample for its company alone, not for all companies at once.

        Notes
        -----
        Walk r draws from the r-th of R equal strata of the money. "Walk r starts in a flow of i and returns" is an
        event whose probabilities, summed over the strata that touch the money of i, are C_i R / laid. So
        `clopper_pearson` bounds their mean with the number of touched strata, those shared with a neighbour included,
        as the number of draws.
        """
        paid = np.diff(self.layout.company_before).astype(np.float64)
        certain = np.zeros_like(paid)
        certain[self.layout.closed] = self.layout.closed_paid
        if self.walks == 0:
            return certain, certain.copy(), certain.copy()
        _, hits, unfinished = self.company_counts()
        stratum = self.layout.laid / self.walks
        # Rounded outwards by more than the float error: one stratum too many only widens the interval.
        first = np.floor(self.layout.company_before[:-1] / stratum * (1 - 2.0**-50))
        end = np.ceil(self.layout.company_before[1:] / stratum * (1 + 2.0**-50))
        draws = np.maximum(end - first, 1)
        low, high = _share_bounds(hits, unfinished, draws, self.confidence, self.error)
        money = draws * stratum
        value = np.minimum((hits + unfinished / 2) * stratum, paid)
        low_money = np.minimum(money * low, value)
        high_money = np.where(paid > 0, np.maximum(np.minimum(money * high, paid), value), 0)
        return certain + value, certain + low_money, certain + high_money


def _scaled(figure: Certified, whole: int) -> Certified:
    """Divide an amount of money and its bounds by a whole, ends rounded outwards and kept within [0, 1]."""
    if whole == 0:
        return Certified.exact(0.0, "exact: no flow")
    value = min(figure.value / whole, 1.0)
    if figure.width == 0:
        return Certified.exact(value, figure.method)
    low, high = math.nextafter(figure.low / whole, 0), math.nextafter(figure.high / whole, 2)
    return Certified(value, min(low, value), max(min(high, 1.0), value), figure.method)


def _share_bounds(
    hits: npt.ArrayLike, unfinished: npt.ArrayLike, draws: npt.ArrayLike, confidence: float, error: float
) -> tuple[Floats, Floats]:
    """Bound mean return probabilities: unfinished walks are misses for the low end and hits for the high end."""
    low, _ = clopper_pearson(hits, draws, confidence)
    _, high = clopper_pearson(np.add(hits, unfinished), draws, confidence)
    return np.maximum(low - error, 0), np.minimum(high + error, 1)


def walk_sample(
    layout: MoneyLayout,
    walks: int,
    *,
    seed: int,
    table: AliasTable | None = None,
    walk_base: int = 0,
    hops: int | None = None,
    confidence: float = 0.99,
    threads: int | None = None,
) -> WalkTally:
    """Walk one stratified sample.

    Parameters
    ----------
    layout : MoneyLayout
        From `lay_money`, with the same `hops`.
    walks : int
        Size of the sample, below 2^31.
    seed : int
        Key of the generator, 0 <= seed < 2^64.
    table : AliasTable, optional
        Walk over it, many walks at a time. None: walk straight on the flows, without any rounding.
    walk_base : int
        Number of the first walk: samples with disjoint numbers are independent.
    hops : int, optional
        Count returns within so many hops only (the drawn flow is the first hop).
    confidence : float
        Level of the intervals that the tally will give.
    threads : int, optional
        Threads to use; results do not depend on it.

    Raises
    ------
    UsageError
        If there are too many walks.
    """
    if not 0 <= walks <= MOST_WALKS:
        raise UsageError(f"a sample has 0 to {MOST_WALKS} walks, not {walks}")
    size = walks if layout.laid else 0
    payers, outcomes = np.empty(size, layout.graph.payee.dtype), np.empty(size, np.uint8)
    companies = len(layout.company_before) - 1
    sample = _Sample(0, companies, walks, walk_base, np.uint64(seed), _last_step(hops))
    walk = _walker(layout, table, sample, payers, outcomes)
    steps = sum(in_parts(walk, size, threads))
    error = 0.0 if table is None else sample.last_step * table.error_per_step
    return WalkTally(layout, payers, outcomes, steps, hops, confidence, error)


def _last_step(hops: int | None) -> int:
    return (HORIZON if hops is None else hops) - 1


def _walker(
    layout: MoneyLayout, table: AliasTable | None, sample: _Sample, payers: Ids, outcomes: UInt8s
) -> Callable[[int, int], int]:
    """Return the function that walks a range of the walks of a sample and says how many steps they took."""
    laid = layout._arrays
    if table is None:
        return lambda first, last: _walk_plain(first, last, sample, laid, payers, outcomes)
    rows = (table.row_offsets.view(np.uint64), table.slots)
    return lambda first, last: _walk_lockstep(first, last, sample, laid, *rows, payers, outcomes)


# ---- how many walks, and by which walker -----------------------------------------------------------------------------

_PILOT_SHARE, _MAIN_SHARE = 0.1, 0.8  # of the error level; each repetition takes half of what is left

# Nanoseconds per step or slot on one thread of a 2.7 GHz server core; only their ratios matter.
_PLAIN_STEP, _LOCKSTEP_STEP, _BUILD_SLOT = 110.0, 15.0, 45.0


def walk_returns(
    graph: FlowGraph,
    labels: Ids,
    *,
    seed: int,
    tolerance: float = 1e-3,
    confidence: float = 0.99,
    hops: int | None = None,
    walks: int | None = None,
    threads: int | None = None,
) -> WalkTally:
    """Sample the round-trip fraction to a tolerance, or with a given number of walks.

    Parameters
    ----------
    graph : FlowGraph
        n companies, m flows, int64 minor units.
    labels : int array of shape (n,)
        Strong component of each company.
    seed : int
        Key of the generator, 0 <= seed < 2^64. The result is a function of graph, settings and seed alone.
    tolerance : float
        Wanted distance from the fraction to either end of its interval.
    confidence : float
        Level of the interval, at least 0.5.
    hops : int, optional
        Count returns within so many hops only, at least 2.
    walks : int, optional
        Take one sample of so many walks, whatever interval it gives.
    threads : int, optional
        Threads to use; results do not depend on it.

    Returns
    -------
    WalkTally
        The last sample taken. Its interval may be wider than the tolerance only where walks were still unfinished after
        `HORIZON` hops, or where more than `MOST_WALKS` would have been needed.

    Raises
    ------
    UsageError
        If a setting is out of range.

    Notes
    -----
    A pilot says how many walks a sample needs; then a sample of its own is taken and used alone. So every interval is
    that of a sample whose size was fixed before it was drawn, and holds at its level given all that was drawn before.
    Looking at several samples and keeping the first that is narrow enough misses at most as often as all looks
    together: the pilot is given a tenth of the error level, the first sample eight tenths, each repetition half of
    what is left.

    Memory: that of `MoneyLayout`, 5 bytes per walk, and `AliasTable` where so many walks are needed that it pays.
    """
    _check_settings(seed, tolerance, confidence, hops, walks)
    layout = lay_money(graph, labels, hops=hops, threads=threads)
    tables = _Tables(layout, threads)
    common: dict[str, Any] = {"seed": seed, "hops": hops, "threads": threads}
    if walks is not None:
        return walk_sample(layout, walks, table=tables.for_steps(2 * walks), confidence=confidence, **common)
    if layout.laid == 0:
        return walk_sample(layout, 0, confidence=confidence, **common)
    half_width = tolerance * graph.total / layout.laid
    taken, size, steps = 0, 0, 2.0
    share, unknown = 0.0, 0.0
    for level in _levels(confidence):
        size = max(size, int(draws_needed(share, half_width - unknown, level)))
        size = min(size, MOST_WALKS)
        tally = walk_sample(
            layout, size, table=tables.for_steps(size * steps), walk_base=taken, confidence=level, **common
        )
        low, high = _share_bounds(tally.hits, tally.unfinished, size, level, tally.error)
        share, unknown = tally.hits / size, tally.unfinished / size / 2
        if (
            max(high - share - unknown, share + unknown - low) <= half_width
            or unknown >= half_width
            or size == MOST_WALKS
        ):
            return tally
        taken, steps, share = taken + size, tally.steps / size, float(_cautious(tally.hits, size))
    raise AssertionError("the levels never end")


@dataclass(frozen=True, eq=False)
class SampledReturns:
    """Return fractions of some companies, each with the interval of walks that started at it.

    Attributes
    ----------
    companies : int64 array of shape (companies,)
    value, low, high : float64 arrays of shape (companies,)
        C_i / out_i (0 where nothing is paid) and its interval, which holds at the asked confidence for each company
        alone.
    walks : int64 array of shape (companies,)
        Walks of the sample that was used.
    """

    companies: Int64s
    value: Floats
    low: Floats
    high: Floats
    walks: Int64s


def walk_companies(
    graph: FlowGraph,
    labels: Ids,
    companies: npt.ArrayLike,
    *,
    seed: int,
    tolerance: float = 1e-3,
    confidence: float = 0.99,
    hops: int | None = None,
    threads: int | None = None,
) -> SampledReturns:
    """Sample the return fractions of some companies to a tolerance: walks from each of them alone.

    Parameters
    ----------
    graph, labels, seed, confidence, hops, threads
        As `walk_returns`.
    companies : int array
        Whose return fractions are wanted.
    tolerance : float
        Wanted distance from each fraction to either end of its interval.

    Raises
    ------
    UsageError
        If a setting is out of range or a company does not exist.

    Notes
    -----
    Pilot, sample and repetitions as in `walk_returns`. A fraction near 0 or 1 takes a few thousand walks at a
    tolerance of 1e-3, one near 1/2 takes 1.7 million: there `push_returns` is faster.

    Memory: that of `MoneyLayout` and `AliasTable`, and 5 bytes per walk of as many companies as there are threads.
    """
    _check_settings(seed, tolerance, confidence, hops, None)
    chosen = np.asarray(companies, np.int64)
    if chosen.ndim != 1 or np.any((chosen < 0) | (chosen >= len(labels))):
        raise UsageError(f"companies must be a list of ids in 0..{len(labels) - 1}")
    layout = lay_money(graph, labels, hops=hops, threads=threads)
    tables = _Tables(layout, threads)
    value, low, high = np.zeros(len(chosen)), np.zeros(len(chosen)), np.zeros(len(chosen))
    walks = np.zeros(len(chosen), np.int64)
    value[np.isin(chosen, layout.closed)] = low[np.isin(chosen, layout.closed)] = high[
        np.isin(chosen, layout.closed)
    ] = 1
    inside = np.diff(layout.company_before)[chosen] / np.maximum(graph.paid[chosen], 1)
    open_, taken, steps = np.flatnonzero(inside > 0), 0, 2.0
    share, unknown = np.zeros(len(chosen)), np.zeros(len(chosen))
    for level in _levels(confidence):
        if not open_.size:
            break
        wanted = np.maximum(tolerance / inside[open_] - unknown[open_], 1e-9)
        walks[open_] = np.clip(draws_needed(share[open_], wanted, level), walks[open_], MOST_WALKS)
        sizes = walks[open_]
        table = tables.for_steps(float(sizes.sum()) * steps)
        counts = _walk_each(layout, table, chosen[open_], sizes, taken, seed, hops, threads)
        hits, unfinished = counts[:, 0], counts[:, 1]
        error = 0.0 if table is None else _last_step(hops) * table.error_per_step
        bottom, top = _share_bounds(hits, unfinished, sizes, level, error)
        unknown[open_] = unfinished / sizes / 2
        middle = hits / sizes + unknown[open_]
        value[open_], low[open_], high[open_] = (inside[open_] * part for part in (middle, bottom, top))
        done = np.maximum(top - middle, middle - bottom) * inside[open_] <= tolerance
        done |= (unknown[open_] * inside[open_] >= tolerance) | (sizes == MOST_WALKS)
        share[open_] = _cautious(hits, sizes)
        taken, steps = taken + int(sizes.sum()), counts[:, 2].sum() / sizes.sum()
        open_ = open_[~done]
    return SampledReturns(chosen, value, low, np.minimum(high, 1), walks)


def _walk_each(
    layout: MoneyLayout,
    table: AliasTable | None,
    companies: Int64s,
    sizes: Int64s,
    walk_base: int,
    seed: int,
    hops: int | None,
    threads: int | None,
) -> Int64s:
    """Walk a sample from each company; return hits, unfinished walks and steps: int64, shape (companies, 3)."""
    bases = walk_base + np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    counts = np.zeros((len(companies), 3), np.int64)

    def walk(first: int, last: int) -> None:
        for nth in range(first, last):
            company, size = int(companies[nth]), int(sizes[nth])
            payers, outcomes = np.empty(size, layout.graph.payee.dtype), np.empty(size, np.uint8)
            sample = _Sample(company, company + 1, size, int(bases[nth]), np.uint64(seed), _last_step(hops))
            steps = _walker(layout, table, sample, payers, outcomes)(0, size)
            unfinished = 0 if hops is not None else np.count_nonzero(outcomes == UNFINISHED)
            counts[nth] = np.count_nonzero(outcomes == RETURNED), unfinished, steps

    in_parts(walk, len(companies), threads)
    return counts


def _check_settings(seed: int, tolerance: float, confidence: float, hops: int | None, walks: int | None) -> None:
    if not 0 <= seed < 2**64:
        raise UsageError(f"seed must be in 0..2^64-1, got {seed}")
    if not tolerance > 0:
        raise UsageError(f"tolerance must be positive, got {tolerance}")
    if not 0.5 <= confidence < 1:
        raise UsageError(f"confidence must be in [0.5, 1), got {confidence}")
    if hops is not None and hops < 2:
        raise UsageError(f"hops must be at least 2 (there and back), got {hops}")
    if walks is not None and not 1 <= walks <= MOST_WALKS:
        raise UsageError(f"walks must be in 1..{MOST_WALKS}, got {walks}")


def _levels(confidence: float) -> Iterator[float]:
    """Yield the levels of pilot, sample and repetitions; their errors add up to that of `confidence` at most."""
    error = 1 - confidence
    yield 1 - _PILOT_SHARE * error
    share, left = _MAIN_SHARE, 1 - _PILOT_SHARE
    while True:
        yield 1 - share * error
        left -= share
        share = left / 2


def _cautious(hits: npt.ArrayLike, walks: npt.ArrayLike) -> Floats:
    """Return the share of returns, two standard errors nearer to one half: the next sample should not fall short."""
    share = np.add(hits, 1.0) / np.add(walks, 2)
    spread = 2 * np.sqrt(share * (1 - share) / walks)
    return np.asarray(np.where(share < 0.5, np.minimum(share + spread, 0.5), np.maximum(share - spread, 0.5)))


class _Tables:
    """Builds the alias table once it is predicted to pay."""

    def __init__(self, layout: MoneyLayout, threads: int | None) -> None:
        self.layout, self.threads = layout, threads
        self.table: AliasTable | None = None
        self.possible = True

    def for_steps(self, steps: float) -> AliasTable | None:
        """Return the table if so many steps over it, building included, are predicted to be faster than without."""
        saved = steps * (_PLAIN_STEP - _LOCKSTEP_STEP)
        if self.table is None and self.possible and saved > len(self.layout.graph.payee) * _BUILD_SLOT:
            self.table = alias_table(self.layout, threads=self.threads)
            self.possible = self.table is not None
        return self.table
