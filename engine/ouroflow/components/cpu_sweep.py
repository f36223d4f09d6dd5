"""The fast way through a graph with one giant component: no index at all, only passes over the raw flow arrays.

From a busy company the reachable set is closed by passes over all flows: a flow whose payer is reached makes its payee
reached. A pass sees its own changes, so money travels many hops in one pass, and a graph of short paths is closed in a
handful of them. The set that reaches the company is closed in the same way with payer and payee exchanged.

Cost, with m flows and n companies: 1.6 to 4.5 reads of the flows per direction, 8 bytes of flow and two one-byte marks
each (the marks of a million companies stay in the second-level cache). Working memory: 8 bytes per flow and 2 per
company.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int64, njit

Ids = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

STALLED = -1
BLOCK = 1 << 12
"""Flows between two looks at the counters: long enough for a tight inner loop, short enough to stop in time."""
SAMPLED_STRETCHES, STRETCH = 2048, 16
"""The hub is looked for in 2048 stretches of 16 neighbouring flows: one cache line of each array a stretch."""
REREAD_LIMIT = 8
"""A closure that has read the flows this often belongs to a graph of long paths: searching an index is faster there."""


@njit(cache=True, nogil=True)
def busiest_company(payer: Ids, payee: Ids, times_paid: Bytes, times_received: Bytes) -> int:
    """Return the company that pays and receives most often in a sample of the flows: likely part of a giant component.

    Balance comes first (the smaller of the two counts), then the sum. The counts are uint8[companies] of zeros, lent by
    the caller and given back as zeros; they stop at 255, which is busy enough.
    """
    hub, hub_balance, hub_sum = 0, -1, 0
    step = max(STRETCH, payer.size // SAMPLED_STRETCHES)
    for start in range(0, payer.size, step):
        for flow in range(start, min(start + STRETCH, payer.size)):
            if payer[flow] == payee[flow]:
                continue
            times_paid[payer[flow]] += times_paid[payer[flow]] < 255
            times_received[payee[flow]] += times_received[payee[flow]] < 255
            for company in (payer[flow], payee[flow]):
                paid, received = int64(times_paid[company]), int64(times_received[company])
                balance = min(paid, received)
                if balance > hub_balance or (balance == hub_balance and paid + received > hub_sum):
                    hub, hub_balance, hub_sum = int64(company), balance, paid + received
    times_paid[:] = 0
    times_received[:] = 0
    return hub


@njit(cache=True, nogil=True)
def close_by_sweeps(source: Ids, target: Ids, hub: int, reached: Bytes, kept_source: Ids, kept_target: Ids) -> int:
    """Mark all that `hub` reaches along flows source -> target; return the number of flows kept, or STALLED.

    `reached` is uint8[companies] of zeros, and belongs to this thread alone, as do the kept arrays: the two directions
    share nothing that is written, so there is no race. The kept flows are those with neither end reached: all other
    flows lie in the reached set or lead into it, and no component has a part in both.

    STALLED means that sweeping does not pay here: the reached set grows too slowly, or more than the kept arrays hold
    stays outside it. The marks are then incomplete.
    """
    total, position = _grow_on_prefixes(source, target, hub, reached)
    if total == STALLED:
        return STALLED
    # One pass over every flow, from where growth stopped and around, keeps what is still undecided; then only that is
    # read again.
    kept, new = _sweep(source, target, position, source.size, reached, kept_source, kept_target, 0)
    if kept != STALLED:
        kept, more = _sweep(source, target, 0, position, reached, kept_source, kept_target, kept)
        new += more
    reading = source.size
    while kept != STALLED and new > 0:
        reading += kept
        if reading > REREAD_LIMIT * source.size:
            return STALLED
        kept, new = _sweep(kept_source, kept_target, 0, kept, reached, kept_source, kept_target, 0)
    return kept


@njit(cache=True, nogil=True)
def _grow_on_prefixes(source: Ids, target: Ids, hub: int, reached: Bytes) -> tuple[int, int]:
    """Reach an eighth of the companies on growing prefixes of the flows; return how many, and the flow to go on from.

    While few are reached nearly every flow is without effect, and which flows are read hardly matters: a short prefix
    read first and longer ones later reach as far as whole passes, for less.
    """
    flows, enough = source.size, reached.size // 8
    reached[hub] = 1
    total, position, prefix = 1, 0, min(flows, flows // 16 + 1)
    while total < enough:
        before, position = total, 0
        while position < prefix and total < enough:
            stop = min(prefix, position + BLOCK)
            if total < enough // 4:
                # The branch is nearly never taken, so it is predicted, and the mark of the target is not even loaded.
                for flow in range(position, stop):
                    if reached[source[flow]]:
                        total += 1 - int64(reached[target[flow]])
                        reached[target[flow]] = 1
            else:
                for flow in range(position, stop):
                    known = reached[target[flow]]
                    found = reached[source[flow]] & (known ^ 1)
                    reached[target[flow]] = known | found
                    total += int64(found)
            position = stop
        if prefix == flows and total < enough and total < 2 * before:
            return STALLED, 0
        prefix = min(flows, 2 * prefix)
    return total, position


@njit(cache=True, nogil=True)
def _sweep(
    source: Ids,
    target: Ids,
    first: int,
    last: int,
    reached: Bytes,
    kept_source: Ids,
    kept_target: Ids,
    kept: int,
) -> tuple[int, int]:
    """Pass over flows `first` to `last`, append those with no end reached to the kept; return (kept, newly reached).

    Branch-free: in this phase the marks are as good as random. The kept arrays may be the source and target arrays
    themselves, since a flow is never written behind the place it is read from.
    """
    new = 0
    for start in range(first, last, BLOCK):
        stop = min(last, start + BLOCK)
        if kept + (stop - start) > kept_source.size:
            return STALLED, new
        for flow in range(start, stop):
            begin, end = source[flow], target[flow]
            before = reached[end]
            after = reached[begin] | before
            reached[end] = after
            new += int64(after ^ before)
            kept_source[kept] = begin
            kept_target[kept] = end
            kept += 1 - int64(after)
    return kept, new


@njit(cache=True, nogil=True)
def keep_same_class(source: Ids, target: Ids, marks: Bytes, least: int) -> int:
    """Move the flows whose ends have the same mark, of at least `least`, to the front; return how many."""
    kept = 0
    for flow in range(source.size):
        begin, end = source[flow], target[flow]
        source[kept] = begin
        target[kept] = end
        kept += int64((marks[begin] == marks[end]) & (marks[begin] >= least))
    return kept
