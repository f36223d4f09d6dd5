"""Strong components on a CPU: the twin behind `ouroflow.components`.

Three ways, chosen by size and shape of the graph, with the same labels:

- few flows: an index of the flows by payer and one depth-first search, in one thread; the only kernels compiled are two small ones;
- many flows per company: sweeps over the raw flows (`cpu_sweep`), then the index and the search for the little that is left;
- sparse graphs, graphs of long paths, graphs without a giant component: companies that cannot be on a cycle are trimmed; if that
  removes little, one search forward and one backward, each in a thread of its own; the depth-first search settles the rest.

Working memory, beside the input and the labels: sweeps 8 bytes per flow and 10 per company; trim and index 24 bytes per flow and
48 per company (ids of int32; twice that for int64).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from ouroflow.components.cpu_sweep import STALLED, busiest_company, close_by_sweeps, undecided_flows

Ids = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Flows = tuple[Ids, Ids]

FEW_FLOWS = 20_000
"""Below this, threads and more kernels cost more than they save (and a newcomer waits for fewer kernels to compile)."""
DENSE = 2
"""Flows per company from which sweeps are tried: below, reachable sets grow too slowly for them."""
TRIM_WORTH = 1 / 8
"""Share of companies (to begin) or of flows (to go on) that a round of trimming must remove to pay for itself."""
TRIM_ROUNDS = 4
BUCKETS = 256
"""Buckets of the counting sort: few enough that every bucket's write position stays in the first-level cache."""


def components_of_flows(payer: Ids, payee: Ids, companies: int) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label the components of raw flows; `payer` and `payee` are contiguous int32 or int64 ids below `companies`.

    Returns
    -------
    labels : int32 or int64[companies]
    sizes : int64[components of two or more companies]
    """
    payer, payee = read_only(payer), read_only(payee)
    if payer.size < FEW_FLOWS:
        return by_depth_first_search(*index_by_payer([(payer, payee)], companies), _no_marks(companies, payer.dtype))
    if payer.size >= DENSE * companies:
        swept = by_sweeps(payer, payee, companies)
        if swept is not None:
            return swept
    return by_trim_and_search(payer, payee, companies)


def components_of_offsets(
    out_offsets: Offsets, payee: Ids, in_offsets: Offsets, in_payer: Ids
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label the components of flows that are indexed by payer and by payee already."""
    out_offsets, payee = read_only(out_offsets), read_only(payee)
    order = _no_marks(out_offsets.size - 1, payee.dtype)
    if payee.size < FEW_FLOWS:
        return by_depth_first_search(out_offsets, payee, order)
    hub = int(np.minimum(np.diff(out_offsets), np.diff(in_offsets)).argmax())
    giant = by_two_searches((out_offsets, payee), (read_only(in_offsets), read_only(in_payer)), hub)
    return by_depth_first_search(out_offsets, payee, order, giant)


def by_sweeps(payer: Ids, payee: Ids, companies: int) -> tuple[Ids, npt.NDArray[np.int64]] | None:
    """Label by sweeps over the raw flows; None where they do not pay (see `close_by_sweeps`)."""
    hub = _sampled_hub(payer, payee, companies)
    reached, reaching = np.zeros(companies, np.uint8), np.zeros(companies, np.uint8)
    # Half of the flows is room enough: with more left after a pass, an index by payer is the better way.
    room = payer.size // 2 + 1
    forward = np.empty(room, payer.dtype), np.empty(room, payer.dtype)
    backward = np.empty(room, payer.dtype), np.empty(room, payer.dtype)
    kept_forward, kept_backward = in_threads(
        lambda: close_by_sweeps(payer, payee, hub, reached, forward[0], forward[1]),
        lambda: close_by_sweeps(payee, payer, hub, reaching, backward[1], backward[0]),
    )
    if STALLED in (kept_forward, kept_backward):
        return None
    rest_payer, rest_payee = undecided_flows(
        (forward[0][:kept_forward], forward[1][:kept_forward]),
        (backward[0][:kept_backward], backward[1][:kept_backward]),
        reached,
        reaching,
    )
    del forward, backward
    members, rest_payer, rest_payee = _dense_ids(rest_payer, rest_payee, companies)
    rest = index_by_payer([(rest_payer, rest_payee)], members.size)
    found = depth_first_components(*rest, _no_marks(members.size, payer.dtype))
    component = np.full(companies, -1, payer.dtype)
    component[members] = found[0]
    return numbered(component, found[1], members[found[2]], reached & reaching)


def by_trim_and_search(payer: Ids, payee: Ids, companies: int) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label by trimming and search along indexes: sparse graphs, long paths, no giant component."""
    chunks, trimmed = trim(payer, payee, companies)
    outgoing = index_by_payer(chunks, companies)
    order = _no_marks(companies, payer.dtype)
    if trimmed:
        return by_depth_first_search(*outgoing, order)
    incoming = index_by_payer([(ends, starts) for starts, ends in chunks], companies)
    giant = by_two_searches(outgoing, incoming, _sampled_hub(payer, payee, companies))
    return by_depth_first_search(*outgoing, order, giant)


def by_two_searches(outgoing: tuple[Offsets, Ids], incoming: tuple[Offsets, Ids], hub: int) -> Bytes:
    """Return uint8[companies]: 1 for the members of the component of `hub`, found forward and backward at once."""
    companies, dtype = outgoing[0].size - 1, outgoing[1].dtype
    reached, reaching = np.zeros(companies, np.uint8), np.zeros(companies, np.uint8)
    in_threads(
        lambda: _search(*outgoing, hub, reached, np.empty(companies, dtype)),
        lambda: _search(*incoming, hub, reaching, np.empty(companies, dtype)),
    )
    return reached & reaching


def by_depth_first_search(
    offsets: Offsets, payee: Ids, order: Ids, giant: Bytes | None = None
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label from the flows by payer; `giant` marks the members of a component that is known already."""
    if giant is not None:
        order[giant.view(np.bool_)] = order.size + 1
    component, sizes, smallest = depth_first_components(offsets, payee, order)
    return numbered(component, sizes, smallest, giant)


def numbered(
    component: Ids, sizes: Ids, smallest: Ids, giant: Bytes | None = None
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Turn provisional component numbers (-1: alone) into final labels, in place; return them and the sizes.

    `sizes` and `smallest` hold the size and the smallest company of each provisional component; `giant` marks one more.
    """
    giant_size = 0 if giant is None else int(np.count_nonzero(giant))
    if giant is not None and giant_size >= 2:
        component[giant.view(np.bool_)] = sizes.size
        sizes = np.append(sizes, giant_size)
        smallest = np.append(smallest, giant.argmax())
    final = np.lexsort((smallest, -sizes))
    rank = np.empty(final.size, component.dtype)
    rank[final] = np.arange(final.size, dtype=component.dtype)
    _renumber(component, rank)
    return component, sizes[final].astype(np.int64)


def trim(payer: Ids, payee: Ids, companies: int) -> tuple[list[Flows], bool]:
    """Drop flows whose payer is never paid or whose payee never pays, in rounds: they lie on no cycle.

    Returns
    -------
    chunks : list of (payer, payee)
        The flows that are left, one piece per thread; views of the input if nothing was trimmed.
    trimmed : bool
    """
    chunks = [(payer[part], payee[part]) for part in _parts(payer.size)]
    pays, is_paid = _active(chunks, companies)
    if companies - np.count_nonzero(pays & is_paid) < TRIM_WORTH * companies:
        return chunks, False
    kept = np.empty_like(payer), np.empty_like(payee)
    room = [(kept[0][part], kept[1][part]) for part in _parts(payer.size)]
    before = payer.size
    for _ in range(TRIM_ROUNDS):
        counts = in_threads(
            *(
                lambda chunk=chunk, out=out: _keep_inner(*chunk, pays, is_paid, *out)
                for chunk, out in zip(chunks, room, strict=True)
            )
        )
        chunks = [(read_only(out[0][:k]), read_only(out[1][:k])) for out, k in zip(room, counts, strict=True)]
        if sum(counts) > (1 - TRIM_WORTH) * before:
            break
        before = sum(counts)
        pays, is_paid = _active(chunks, companies)
    return chunks, True


def index_by_payer(chunks: list[Flows], companies: int) -> tuple[Offsets, Ids]:
    """Sort flows by payer: `payee[offsets[i]:offsets[i + 1]]` are the payees of company i, in the order of the input.

    A counting sort in two steps, so that no write goes far: flows into 256 buckets of neighbouring payers (one thread per chunk),
    then each bucket by payer within the cache.
    """
    flows = sum(payer.size for payer, _ in chunks)
    if flows < FEW_FLOWS:
        payer, payee = (np.concatenate(ends) for ends in zip(*chunks, strict=True))
        counts = np.bincount(payer, minlength=companies)
        return (
            read_only(np.concatenate([[0], np.cumsum(counts)])),
            read_only(payee[np.argsort(payer, kind="stable")]),
        )
    dtype = chunks[0][0].dtype
    shift = max(0, (companies - 1).bit_length() - (BUCKETS - 1).bit_length())
    counts = np.zeros((len(chunks), BUCKETS), np.int64)
    in_threads(*(lambda t=t: _count_buckets(chunks[t][0], shift, counts[t]) for t in range(len(chunks))))
    # Within a bucket the flows of the first chunk come first, so the order of the input is kept whatever the number of threads.
    ends = np.cumsum(counts.T.ravel()).reshape(BUCKETS, len(chunks)).T
    place = np.ascontiguousarray(ends - counts)
    pairs = np.empty((flows, 2), dtype)
    bucket_start = np.append(place[0], flows)
    in_threads(*(lambda t=t: _fill_buckets(*chunks[t], shift, place[t], pairs) for t in range(len(chunks))))
    offsets, payee = np.zeros(companies + 1, np.int64), np.empty(flows, dtype)
    in_threads(
        *(
            lambda part=part: _sort_buckets(pairs, bucket_start, part.start, part.stop, shift, offsets, payee)
            for part in _parts(BUCKETS)
        )
    )
    return read_only(offsets), read_only(payee)


def depth_first_components(offsets: Offsets, payee: Ids, order: Ids) -> tuple[Ids, Ids, Ids]:
    """Find the components of two or more companies by one depth-first search (see `_depth_first`).

    Returns
    -------
    component : int32 or int64[companies]
        Provisional number, -1 for companies alone or settled before.
    sizes, smallest : [components]
        Size and smallest company of each.
    """
    companies, dtype = order.size, order.dtype
    component = np.full(companies, -1, dtype)
    sizes, smallest = np.empty(companies // 2, dtype), np.empty(companies // 2, dtype)
    path, low, next_flow = np.empty(companies, dtype), np.empty(companies, dtype), np.empty(companies, np.int64)
    count = _depth_first(offsets, payee, order, path, low, next_flow, component, sizes, smallest)
    return component, sizes[:count], smallest[:count]


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run calls of nogil kernels at the same time; return their results in order."""
    if len(calls) == 1:
        return [calls[0]()]
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]


def read_only(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view that cannot be written: numba compiles anew for writable and read-only arrays, so all input is made alike."""
    view = array.view()
    view.flags.writeable = False
    return view


def _parts(length: int) -> list[slice]:
    """Cut a range into one part per usable processor, at most 16 (beyond, memory bandwidth is the limit)."""
    parts = min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return [slice(length * t // parts, length * (t + 1) // parts) for t in range(parts)]


def _no_marks(companies: int, dtype: npt.DTypeLike) -> Ids:
    return np.zeros(companies, dtype)


def _sampled_hub(payer: Ids, payee: Ids, companies: int) -> int:
    return int(busiest_company(payer, payee, np.zeros(companies, np.int32), np.zeros(companies, np.int32)))


def _dense_ids(payer: Ids, payee: Ids, companies: int) -> tuple[Ids, Ids, Ids]:
    """Renumber the companies of a few flows from 0, keeping their order; return the companies and the renumbered flows."""
    seen = np.zeros(companies, np.bool_)
    seen[payer] = True
    seen[payee] = True
    members = np.flatnonzero(seen)
    position = np.empty(companies, payer.dtype)
    position[members] = np.arange(members.size, dtype=payer.dtype)
    return members, read_only(position[payer]), read_only(position[payee])


def _active(chunks: list[Flows], companies: int) -> tuple[Bytes, Bytes]:
    """Return who pays and who is paid in the flows; one thread fills each map, so there is no race."""
    pays, is_paid = np.zeros(companies, np.uint8), np.zeros(companies, np.uint8)
    in_threads(
        lambda: [_mark(payer, pays) for payer, _ in chunks],
        lambda: [_mark(payee, is_paid) for _, payee in chunks],
    )
    return pays, is_paid


@njit(cache=True, nogil=True)
def _mark(ids, marks):  # type: ignore[no-untyped-def]
    """Set the marks of the ids."""
    for company in ids:
        marks[company] = 1


@njit(cache=True, nogil=True)
def _keep_inner(payer, payee, pays, is_paid, kept_payer, kept_payee):  # type: ignore[no-untyped-def]
    """Copy the flows whose payer is paid and whose payee pays; return how many. In place is fine: writes never overtake reads."""
    kept = 0
    for flow in range(payer.size):
        start, end = payer[flow], payee[flow]
        kept_payer[kept] = start
        kept_payee[kept] = end
        kept += np.int64(is_paid[start] & pays[end])
    return kept


@njit(cache=True, nogil=True)
def _count_buckets(payer, shift, counts):  # type: ignore[no-untyped-def]
    """Count the flows of each bucket of payers."""
    for company in payer:
        counts[company >> shift] += 1


@njit(cache=True, nogil=True)
def _fill_buckets(payer, payee, shift, place, pairs):  # type: ignore[no-untyped-def]
    """Write each flow to the next free place of its bucket."""
    for flow in range(payer.size):
        bucket = payer[flow] >> shift
        at = place[bucket]
        pairs[at, 0] = payer[flow]
        pairs[at, 1] = payee[flow]
        place[bucket] = at + 1


@njit(cache=True, nogil=True)
def _sort_buckets(pairs, bucket_start, first, last, shift, offsets, payee):  # type: ignore[no-untyped-def]
    """Sort buckets `first` to `last` by payer, and set the offsets of their companies.

    offsets[i + 1] first counts the flows of company i, then is the next free place for them, and so ends as the end of company i.
    """
    companies = offsets.size - 1
    for bucket in range(first, last):
        begin, end = bucket_start[bucket], bucket_start[bucket + 1]
        for at in range(begin, end):
            offsets[pairs[at, 0] + 1] += 1
        place = begin
        for company in range(bucket << shift, min((bucket + 1) << shift, companies)):
            count = offsets[company + 1]
            offsets[company + 1] = place
            place += count
        for at in range(begin, end):
            company = pairs[at, 0]
            place = offsets[company + 1]
            payee[place] = pairs[at, 1]
            offsets[company + 1] = place + 1


@njit(cache=True, nogil=True)
def _search(offsets, target, start, seen, queue):  # type: ignore[no-untyped-def]
    """Mark all that `start` reaches, in breadth-first order; `queue` has room for every company."""
    queue[0] = start
    seen[start] = 1
    head, tail = 0, 1
    while head < tail:
        company = queue[head]
        head += 1
        for flow in range(offsets[company], offsets[company + 1]):
            other = target[flow]
            if not seen[other]:
                seen[other] = 1
                queue[tail] = other
                tail += 1


@njit(cache=True, nogil=True)
def _depth_first(offsets, payee, order, path, low, next_flow, component, sizes, smallest):  # type: ignore[no-untyped-def]
    """Tarjan's search without recursion; return the number of components of two or more companies.

    `order` is the order of discovery from 1; 0: not seen; companies + 1: settled, its component is closed (larger than any order,
    so that a flow to it lowers nothing). `path` holds two stacks in one array, since no company is on both (Pearce 2016): from the
    left the path of the search, from the right the finished companies that wait for the first of their component. `low` and
    `next_flow` go with the path: the least order reached from there, and the next flow to follow.
    """
    companies = order.size
    settled = companies + 1
    clock, count, waiting = 0, 0, companies
    for first in range(companies):
        if order[first] != 0 or offsets[first] == offsets[first + 1]:
            continue
        clock += 1
        order[first] = clock
        path[0], low[0], next_flow[0], depth = first, clock, offsets[first], 0
        while depth >= 0:
            company, flow, lowest = path[depth], next_flow[depth], low[depth]
            last = offsets[company + 1]
            deeper = False
            while flow < last:
                other = payee[flow]
                flow += 1
                if order[other] != 0:
                    lowest = min(lowest, order[other])
                elif offsets[other] == offsets[other + 1]:
                    order[other] = settled
                else:
                    deeper = True
                    break
            if deeper:
                next_flow[depth], low[depth] = flow, lowest
                clock += 1
                depth += 1
                order[other] = clock
                path[depth], low[depth], next_flow[depth] = other, clock, offsets[other]
                continue
            depth -= 1
            if depth >= 0:
                low[depth] = min(low[depth], lowest)
            if lowest < order[company]:
                waiting -= 1
                path[waiting] = company
                continue
            opened, members, least = order[company], 1, company
            order[company] = settled
            while waiting < companies and order[path[waiting]] > opened:
                member = path[waiting]
                waiting += 1
                members += 1
                least = min(least, member)
                component[member] = count
                order[member] = settled
            if members > 1:
                component[company] = count
                sizes[count], smallest[count] = members, least
                count += 1
    return count


@njit(cache=True, nogil=True)
def _renumber(component, rank):  # type: ignore[no-untyped-def]
    """Replace provisional numbers by their rank, and number the companies alone after them, by id."""
    following = rank.size
    for company in range(component.size):
        if component[company] >= 0:
            component[company] = rank[component[company]]
        else:
            component[company] = following
            following += 1
