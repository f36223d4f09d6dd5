"""Payments to flows in both orders, for millions of payments: what ``FlowGraph`` does beyond the reach of NumPy.

Payments are spread over blocks of neighbouring payers, about as many payments in each as fit the cache. Each block
is sorted by payer and payee (radix sort of packed keys), equal keys are summed, and the flows are written out. The
order by payee is made the same way from blocks of neighbouring payees, where a counting sort is enough: within a payee
the flows already stand by payer. Blocks are shared out among threads; integer sums make the result the same for any
number of them.

Memory beyond input and result: 16 bytes per payment, and 16 bytes per payment of the block in each thread, while the
payments are summed; then 4 bytes per flow and, in each thread, 8 per flow of its block (twice that for int64 ids); and
up to 1 MiB of counters per thread.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from ouroflow.runtime.threads import do_tasks, threads_available

RANGES_LOG = 17
"""Companies are counted in up to 2**17 ranges of neighbouring ids, so that the counters stay in the cache."""
MOST_BLOCKS = 2048
KEY_BITS = 62
"""Payer within the block and payee share one int64 key; blocks of very many companies are cut so that they fit."""
PAYMENTS_PER_BLOCK = 1 << 15
FLOWS_PER_BLOCK = 1 << 16


def sum_payments(
    payer: npt.NDArray[Any],
    payee: npt.NDArray[Any],
    amount: npt.NDArray[np.int64] | None,
    companies: int,
    threads: int | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[Any]]:
    """Sum parallel payments into flows by payer, leaving out payments to oneself.

    Parameters
    ----------
    payer, payee : int32 or int64 arrays of shape (payments,)
        Ids in 0..companies-1.
    amount : int64 array of shape (payments,) or None
        Minor units; the sum of all fits int64. None: 1 per payment.
    companies : int
    threads : int, optional
        Default: as many as the process may use.

    Returns
    -------
    out_offsets : int64 array of shape (companies + 1,)
    payee : array of shape (flows,)
        Of the dtype of the ids, ascending within a payer.
    amount : int64 array of shape (flows,)
    payments : int32 (int64 from 2**31 payments on) array of shape (flows,)
    """
    threads = threads or threads_available()
    given = np.empty(0, dtype=np.int64) if amount is None else amount
    shift = max(0, companies.bit_length() - RANGES_LOG)
    payee_bits = max(1, (companies - 1).bit_length())
    shares = _even_shares(len(payer), threads)
    counts = np.zeros((len(shares) - 1, (companies >> shift) + 1), dtype=np.int64)
    do_tasks(
        lambda t: _count_payers(payer, payee, shares[t], shares[t + 1], shift, counts[t]), range(len(counts)), threads
    )
    widest = 1 << max(0, KEY_BITS - payee_bits - shift)
    block_of, first_range, starts, cursors = _blocks(counts, PAYMENTS_PER_BLOCK, widest)
    blocks = len(first_range) - 1
    pairs = np.empty((starts[-1], 2), dtype=np.int64)
    do_tasks(
        lambda t: _spread_payments(
            payer, payee, given, shares[t], shares[t + 1], shift, payee_bits, block_of, first_range, cursors[t], pairs
        ),
        range(len(counts)),
        threads,
    )
    distinct = np.zeros(blocks + 1, dtype=np.int64)

    def sort(block: int) -> None:
        part = pairs[starts[block] : starts[block + 1]]
        local_bits = (int(first_range[block + 1] - first_range[block]) << shift).bit_length()
        distinct[block + 1] = _sort_pairs(part, payee_bits + local_bits)

    do_tasks(sort, _largest_first(starts), threads)
    flow_starts = np.cumsum(distinct)
    flows = int(flow_starts[-1])
    out_offsets = np.empty(companies + 1, dtype=np.int64)
    out_offsets[companies] = flows
    flow_payee, flow_amount = np.empty(flows, dtype=payee.dtype), np.empty(flows, dtype=np.int64)
    flow_payments = np.empty(flows, dtype=np.int32 if len(payer) < 2**31 else np.int64)

    def write(block: int) -> None:
        low, high = (min(int(first_range[b]) << shift, companies) for b in (block, block + 1))
        span = slice(flow_starts[block], flow_starts[block + 1])
        _write_flows(
            pairs[starts[block] : starts[block + 1]], payee_bits, flow_starts[block], out_offsets[low:high],
            flow_payee[span], flow_amount[span], flow_payments[span],
        )  # fmt: skip

    do_tasks(write, range(blocks), threads)
    return out_offsets, flow_payee, flow_amount, flow_payments


def by_payee(
    out_offsets: npt.NDArray[np.int64], payee: npt.NDArray[Any], threads: int | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[Any], npt.NDArray[Any]]:
    """Order the flows by payee, then payer.

    Returns
    -------
    in_offsets : int64 array of shape (companies + 1,)
    in_payer : array of shape (flows,)
        Of the dtype of `payee`.
    in_flow : int32 (int64 from 2**31 flows on) array of shape (flows,)
        Position in the order by payer.
    """
    threads = threads or threads_available()
    companies, flows = len(out_offsets) - 1, len(payee)
    shift = max(0, companies.bit_length() - RANGES_LOG)
    rows = np.searchsorted(out_offsets, _even_shares(flows, threads)).astype(np.int64)
    rows[-1] = companies
    counts = np.zeros((threads, (companies >> shift) + 1), dtype=np.int64)
    do_tasks(
        lambda t: _count_payees(payee, out_offsets[rows[t]], out_offsets[rows[t + 1]], shift, counts[t]),
        range(threads),
        threads,
    )
    block_of, first_range, starts, cursors = _blocks(counts, FLOWS_PER_BLOCK, counts.shape[1])
    in_offsets = np.empty(companies + 1, dtype=np.int64)
    in_offsets[companies] = flows
    in_payer, spread_payee = np.empty(flows, dtype=payee.dtype), np.empty(flows, dtype=payee.dtype)
    in_flow = np.empty(flows, dtype=np.int32 if flows < 2**31 else np.int64)
    do_tasks(
        lambda t: _spread_flows(
            out_offsets, payee, rows[t], rows[t + 1], shift, block_of, cursors[t], spread_payee, in_payer, in_flow
        ),
        range(threads),
        threads,
    )

    def sort(block: int) -> None:
        low, high = (min(int(first_range[b]) << shift, companies) for b in (block, block + 1))
        span = slice(starts[block], starts[block + 1])
        _sort_flows(spread_payee[span], low, starts[block], in_offsets[low:high], in_payer[span], in_flow[span])

    do_tasks(sort, _largest_first(starts), threads)
    return in_offsets, in_payer, in_flow


def _even_shares(items: int, threads: int) -> npt.NDArray[np.int64]:
    """Return the bounds of even shares, one per thread."""
    return np.array([items * t // threads for t in range(threads + 1)], dtype=np.int64)


def _largest_first(starts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the blocks by falling size, so that no thread is left alone with a large one at the end."""
    return np.argsort(-np.diff(starts), kind="stable")


def _blocks(counts: npt.NDArray[np.int64], target: int, widest: int) -> tuple[Any, Any, Any, Any]:
    """Join up to `widest` neighbouring ranges into blocks of about `target` entries; a range alone may be larger.

    Returns the block of each range, the first range of each block (and the end), where each block begins, and where
    each thread begins to write in each block: earlier threads first, so that the order of the input is kept.
    """
    sizes = counts.sum(axis=0)
    ends = np.cumsum(sizes)
    target = max(target, int(ends[-1]) // MOST_BLOCKS)
    # A range belongs to the block in which its middle entry falls when entries are cut every `target`.
    wanted = (ends - sizes // 2) // target
    block_of = np.zeros(len(sizes), dtype=np.int64)
    too_wide = np.diff(np.arange(len(sizes)) // widest)
    np.cumsum((np.diff(wanted) != 0) | (too_wide != 0), out=block_of[1:])
    first_range = np.flatnonzero(np.diff(block_of, prepend=-1, append=-1))
    per_block = np.add.reduceat(counts, first_range[:-1], axis=1)
    starts = np.zeros(per_block.shape[1] + 1, dtype=np.int64)
    np.cumsum(per_block.sum(axis=0), out=starts[1:])
    cursors = starts[:-1] + np.cumsum(per_block, axis=0) - per_block
    return block_of.astype(np.int32), first_range.astype(np.int64), starts, np.ascontiguousarray(cursors)


@numba.njit(cache=True, nogil=True)
def _count_payers(payer: Any, payee: Any, begin: int, end: int, shift: int, counts: Any) -> None:
    """Count the payments of each range of payers, those to oneself left out."""
    for i in range(begin, end):
        if payer[i] != payee[i]:
            counts[payer[i] >> shift] += 1


@numba.njit(cache=True, nogil=True)
def _count_payees(payee: Any, begin: int, end: int, shift: int, counts: Any) -> None:
    """Count the flows of each range of payees."""
    for i in range(begin, end):
        counts[payee[i] >> shift] += 1


@numba.njit(cache=True, nogil=True)
def _spread_payments(
    payer: Any,
    payee: Any,
    amount: Any,
    begin: int,
    end: int,
    shift: int,
    payee_bits: int,
    block_of: Any,
    first_range: Any,
    cursors: Any,
    pairs: Any,
) -> None:
    """Move payments into their blocks as (key, amount); the key is the payer's place in the block, then the payee."""
    unit = len(amount) == 0
    for i in range(begin, end):
        if payer[i] == payee[i]:
            continue
        block = block_of[payer[i] >> shift]
        at = cursors[block]
        cursors[block] = at + 1
        local = np.int64(payer[i]) - (first_range[block] << shift)
        pairs[at, 0] = (local << payee_bits) | np.int64(payee[i])
        pairs[at, 1] = 1 if unit else amount[i]


@numba.njit(cache=True, nogil=True)
def _sort_pairs(pairs: Any, bits: int) -> int:
    """Sort the pairs of a block by key, by radix in an even number of rounds; return the number of distinct keys."""
    rounds = 2 if bits <= 22 else 4 if bits <= 44 else 6
    digit = (bits + rounds - 1) // rounds
    mask = (1 << digit) - 1
    counts = np.zeros((rounds, mask + 1), np.int64)
    for i in range(len(pairs)):
        for turn in range(rounds):
            counts[turn, (pairs[i, 0] >> (turn * digit)) & mask] += 1
    source, target = pairs, np.empty_like(pairs)
    for turn in range(rounds):
        place = 0
        for value in range(mask + 1):
            place, counts[turn, value] = place + counts[turn, value], place
        for i in range(len(source)):
            value = (source[i, 0] >> (turn * digit)) & mask
            at = counts[turn, value]
            counts[turn, value] = at + 1
            target[at, 0], target[at, 1] = source[i, 0], source[i, 1]
        source, target = target, source
    distinct = 0
    for i in range(len(pairs)):
        distinct += i == 0 or pairs[i, 0] != pairs[i - 1, 0]
    return distinct


@numba.njit(cache=True, nogil=True)
def _write_flows(
    pairs: Any, payee_bits: int, first_flow: int, offsets: Any, payee: Any, amount: Any, payments: Any
) -> None:
    """Sum equal keys of a sorted block and write its flows and the offsets of its payers."""
    mask = (1 << payee_bits) - 1
    flow, company = -1, 0
    for i in range(len(pairs)):
        key = pairs[i, 0]
        if i == 0 or key != pairs[i - 1, 0]:
            flow += 1
            payee[flow], amount[flow], payments[flow] = key & mask, 0, 0
            while company <= key >> payee_bits:
                offsets[company] = first_flow + flow
                company += 1
        amount[flow] += pairs[i, 1]
        payments[flow] += 1
    while company < len(offsets):
        offsets[company] = first_flow + flow + 1
        company += 1


@numba.njit(cache=True, nogil=True)
def _spread_flows(
    out_offsets: Any,
    payee: Any,
    first_row: int,
    last_row: int,
    shift: int,
    block_of: Any,
    cursors: Any,
    spread_payee: Any,
    in_payer: Any,
    in_flow: Any,
) -> None:
    """Move the flows of a range of payers into the blocks of their payees, in order."""
    for payer in range(first_row, last_row):
        for flow in range(out_offsets[payer], out_offsets[payer + 1]):
            block = block_of[payee[flow] >> shift]
            at = cursors[block]
            cursors[block] = at + 1
            spread_payee[at], in_payer[at], in_flow[at] = payee[flow], payer, flow


@numba.njit(cache=True, nogil=True)
def _sort_flows(payee: Any, low: int, first_flow: int, offsets: Any, in_payer: Any, in_flow: Any) -> None:
    """Sort the flows of a block by payee, equal ones as they stand, and write the offsets of its payees."""
    next_place = np.zeros(len(offsets) + 1, np.int64)
    for i in range(len(payee)):
        next_place[payee[i] - low + 1] += 1
    for company in range(len(offsets)):
        next_place[company + 1] += next_place[company]
        offsets[company] = first_flow + next_place[company]
    spread_payer, spread_flow = in_payer.copy(), in_flow.copy()
    for i in range(len(payee)):
        at = next_place[payee[i] - low]
        next_place[payee[i] - low] = at + 1
        in_payer[at], in_flow[at] = spread_payer[i], spread_flow[i]
