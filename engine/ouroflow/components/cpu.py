"""Strong components on a CPU: the twin behind `ouroflow.components`.

Three ways, chosen by size and shape of the graph, with the same labels:

- few flows: an index of the flows by payer and one depth-first search, in one thread; the only kernels compiled are two
  small ones;
- many flows per company: sweeps over the raw flows (`cpu_sweep`), then the index and the search for the little that is
  left;
- sparse graphs, graphs of long paths, graphs without a giant component: companies that cannot be on a cycle are
  trimmed; if that removes little, one search forward and one backward, each in a thread of its own; the depth-first
  search settles the rest.

Cost, with m flows and n companies and int32 ids (measured; the tests hold the memory to it):

- bytes read and written per flow: sweeps 8 per pass and direction, 1.6 to 4.5 passes, and two one-byte marks a flow;
  trim 24 a round on what is left; an index about 60 per direction;
- memory at the peak, labels included: sweeps 8 m + 15 n, trim 20 m + 46 n, two searches 16 m + 46 n, so never more than
  `BYTES_PER_FLOW` m + `BYTES_PER_COMPANY` n. Ids of another type are first copied to int32, 8 m more.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import int64, njit

from ouroflow.components.cpu_sweep import BLOCK, STALLED, busiest_company, close_by_sweeps, keep_same_class
from ouroflow.runtime.threads import in_threads, slices

Ids = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]
Flows = tuple[Ids, Ids]
"""Payer and payee of each flow."""
Index = tuple[Offsets, Ids]
"""Flows by one end: offsets[companies + 1] of each company's flows, and the other end of each flow."""

BYTES_PER_FLOW, BYTES_PER_COMPANY = 20, 50
"""Most memory that this stage takes beside its input."""
FEW_FLOWS = 20_000
"""Below this, threads and more kernels cost more than they save (and a newcomer waits for fewer kernels to compile)."""
DENSE = 2
"""Flows per company from which sweeps are tried: below, reachable sets grow too slowly for them."""
TRIM_WORTH = 1 / 5
"""Share of companies (to begin) or of flows (to go on) that a round of trimming must remove to pay for itself."""
TRIM_ROUNDS = 4
BUCKETS = 256
"""Buckets of the counting sort: few enough that every bucket's write position stays in the first-level cache."""


def components_of_flows(
    payer: Ids, payee: Ids, companies: int, indexes: tuple[Index, Index] | None = None
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label the components of flows; `payer` and `payee` are contiguous int32 or int64 ids below `companies`.

    `indexes` are the same flows by payer and by payee, for those who have them. Sweeps and trimming read the raw flows
    even then: on graphs with a giant component that takes half the time of a search along the indexes.

    Returns
    -------
    labels : int32 or int64[companies]
    sizes : int64[components of two or more companies]
    """
    payer, payee = as_input(payer), as_input(payee)
    if indexes is not None:
        indexes = _input_index(indexes[0]), _input_index(indexes[1])
    if payer.size < FEW_FLOWS:
        return by_depth_first_search(*(indexes[0] if indexes else index_by_payer([(payer, payee)], companies)))
    if payer.size >= DENSE * companies:
        swept = by_sweeps(payer, payee, companies)
        if swept is not None:
            return swept
    trimmed = trim(payer, payee, companies)
    if trimmed is not None:
        return by_search_among_ends(trimmed, companies)
    return by_two_searches(payer, payee, companies, indexes)


def by_sweeps(payer: Ids, payee: Ids, companies: int) -> tuple[Ids, npt.NDArray[np.int64]] | None:
    """Label by sweeps over the raw flows; None where they do not pay (see `close_by_sweeps`)."""
    reached, reaching = np.zeros(companies, np.uint8), np.zeros(companies, np.uint8)
    hub = busiest_company(payer, payee, reached, reaching)
    # Half of the flows is room enough: with more left after a pass, an index by payer is the better way.
    room = payer.size // 2 + BLOCK
    forward, backward = ((np.empty(room, payer.dtype), np.empty(room, payer.dtype)) for _ in range(2))
    left_forward, left_backward = in_threads(
        lambda: close_by_sweeps(payer, payee, hub, reached, forward[0], forward[1]),
        lambda: close_by_sweeps(payee, payer, hub, reaching, backward[1], backward[0]),
    )
    if STALLED in (left_forward, left_backward):
        return None
    # A component other than the hub's lies within one class: reaching the hub only, reached only, or neither. Flows
    # inside the first and the last are among those left forward, flows inside the second among those left backward: no
    # need to read all again.
    undecided = [
        _cut(forward, keep_same_class(*_cut(forward, left_forward), reaching, 0)),
        _cut(backward, keep_same_class(*_cut(backward, left_backward), reached, 1)),
    ]
    reached &= reaching
    return by_search_among_ends(undecided, companies, reached)


def by_two_searches(
    payer: Ids, payee: Ids, companies: int, indexes: tuple[Index, Index] | None
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label by a search forward and one backward from a hub, then depth first in what is left: graphs of long paths."""
    if indexes is None:
        chunks = _chunks((payer, payee))
        reverse = [(ends, starts) for starts, ends in chunks]
        indexes = index_by_payer(chunks, companies), index_by_payer(reverse, companies)
    outgoing, incoming = indexes
    reached, reaching = np.zeros(companies, np.uint8), np.zeros(companies, np.uint8)
    hub = busiest_company(payer, payee, reached, reaching)
    in_threads(
        partial(_search, *outgoing, hub, reached, np.empty(companies, payee.dtype)),
        partial(_search, *incoming, hub, reaching, np.empty(companies, payee.dtype)),
    )
    reached &= reaching
    return by_depth_first_search(*outgoing, reached)


def by_depth_first_search(
    offsets: Offsets, payee: Ids, giant: Bytes | None = None
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label from the flows by payer; `giant` marks the members of a component that is known already."""
    companies = offsets.size - 1
    component, sizes, smallest = _with_giant(giant, companies, payee.dtype)
    order = np.zeros(companies, component.dtype)
    if giant is not None:
        np.multiply(giant, companies, out=order, dtype=order.dtype)
    found = depth_first_components(offsets, payee, order, component, len(sizes))
    return numbered(component, np.append(sizes, found[0]), np.append(smallest, found[1]))


def by_search_among_ends(
    chunks: list[Flows], companies: int, giant: Bytes | None = None
) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Label from the flows that are left, none at a member of `giant`; the search spans only the companies at them.

    The flows are renumbered in place.
    """
    dtype = chunks[0][0].dtype
    component, sizes, smallest = _with_giant(giant, companies, dtype)
    pays, is_paid = np.empty(companies, np.uint8), np.empty(companies, np.uint8)
    _mark_active(chunks, pays, is_paid)
    # Until their component is known, `component` lends its places to the new ids of these companies.
    members = np.empty(companies, dtype)
    members = members[: _list_active(pays, is_paid, component, members)]
    del pays, is_paid
    in_threads(*(partial(_translate, ids, component) for chunk in chunks for ids in chunk))
    offsets, payee = index_by_payer([(as_input(starts), as_input(ends)) for starts, ends in chunks], members.size)
    found_component, order = np.full(members.size, -1, component.dtype), np.zeros(members.size, component.dtype)
    found = depth_first_components(offsets, payee, order, found_component, len(sizes))
    _scatter(found_component, members, component)
    return numbered(component, np.append(sizes, found[0]), np.append(smallest, members[found[1]]))


def _with_giant(giant: Bytes | None, companies: int, dtype: np.dtype[Any]) -> tuple[Ids, list[int], list[int]]:
    """Return provisional components (0: the giant one, if any; -1: alone), their sizes and smallest companies."""
    signed = np.dtype(np.int64 if dtype.itemsize == 8 else np.int32)
    size = 0 if giant is None else int(np.count_nonzero(giant))
    if giant is None or size < 2:
        return np.full(companies, -1, signed), [], []
    component = giant.astype(signed)
    component -= 1
    return component, [size], [int(giant.argmax())]


def numbered(component: Ids, sizes: Ids, smallest: Ids) -> tuple[Ids, npt.NDArray[np.int64]]:
    """Turn provisional component numbers (-1: alone) into final labels, in place; return them and the sizes.

    `sizes` and `smallest` hold the size and the smallest company of each provisional component.
    """
    sizes = sizes.astype(np.int64)
    final = np.lexsort((smallest, -sizes))
    rank = np.zeros(final.size + 1, component.dtype)
    rank[final] = np.arange(final.size)
    _renumber(component, rank)
    return component, sizes[final]


def trim(payer: Ids, payee: Ids, companies: int) -> list[Flows] | None:
    """Drop flows whose payer is never paid or whose payee never pays, in rounds: they lie on no cycle.

    Returns the flows that are left as (payer, payee), one piece per thread; None, after one look, if trimming is not
    worth it.
    """
    chunks = _chunks((payer, payee))
    pays, is_paid = np.empty(companies, np.uint8), np.empty(companies, np.uint8)
    _mark_active(chunks, pays, is_paid)
    # A payer pays, so its flows are kept if it is paid as well, likewise a payee: one map for both stays in the cache.
    inner = np.bitwise_and(pays, is_paid, out=pays)
    if companies - np.count_nonzero(inner) < TRIM_WORTH * companies:
        return None
    room = _chunks((np.empty_like(payer), np.empty_like(payee)))
    before = payer.size
    for _ in range(TRIM_ROUNDS):
        counts = in_threads(
            *(partial(_keep_inner, *chunk, inner, *out) for chunk, out in zip(chunks, room, strict=True))
        )
        room = [_cut(out, count) for out, count in zip(room, counts, strict=True)]
        if sum(counts) > (1 - TRIM_WORTH) * before:
            break
        before = sum(counts)
        chunks = [(as_input(starts), as_input(ends)) for starts, ends in room]
        _mark_active(chunks, pays, is_paid)
        inner = np.bitwise_and(pays, is_paid, out=pays)
    return room


def index_by_payer(chunks: list[Flows], companies: int) -> Index:
    """Sort flows by payer: `payee[offsets[i]:offsets[i + 1]]` are the payees of company i, in the order of the input.

    A counting sort in two steps, so that no write goes far: flows into 256 buckets of neighbouring payers (one thread
    per chunk), then each bucket by payer within the cache.
    """
    flows = sum(payer.size for payer, _ in chunks)
    if flows < FEW_FLOWS:
        payer, payee = (np.concatenate(ends) for ends in zip(*chunks, strict=True))
        counts = np.bincount(payer, minlength=companies)
        return (
            as_input(np.concatenate([[0], np.cumsum(counts)])),
            as_input(payee[np.argsort(payer, kind="stable")]),
        )
    dtype = chunks[0][0].dtype
    shift = max(0, (companies - 1).bit_length() - (BUCKETS - 1).bit_length())
    counts = np.zeros((len(chunks), BUCKETS), np.int64)
    in_threads(*(partial(_count_buckets, chunks[t][0], shift, counts[t]) for t in range(len(chunks))))
    # Within a bucket the flows of the first chunk come first, so the order of the input is kept whatever the number of
    # threads.
    ends = np.cumsum(counts.T.ravel()).reshape(BUCKETS, len(chunks)).T
    place = np.ascontiguousarray(ends - counts)
    pairs = np.empty((flows, 2), dtype)
    bucket_start = np.append(place[0], flows)
    in_threads(*(partial(_fill_buckets, *chunks[t], shift, place[t], pairs) for t in range(len(chunks))))
    offsets, payee = np.zeros(companies + 1, np.int64), np.empty(flows, dtype)
    in_threads(
        *(
            partial(_sort_buckets, pairs, bucket_start, part.start, part.stop, shift, offsets, payee)
            for part in slices(((companies - 1) >> shift) + 1)
        )
    )
    return as_input(offsets), as_input(payee)


def depth_first_components(
    offsets: Offsets, payee: Ids, order: Ids, component: Ids, first_number: int
) -> tuple[Ids, Ids]:
    """Find the components of two or more companies by one depth-first search (see `_depth_first`).

    `order` holds the number of companies for those that are settled already, 0 for all others. In `component` the
    members of those found are set to their provisional number, counted from `first_number`. Returns their sizes and
    smallest companies.
    """
    companies = order.size
    path, next_flow = np.empty(companies, payee.dtype), np.empty(companies, np.int64)
    low = np.empty(companies, order.dtype)
    sizes, smallest = np.empty(companies // 2, order.dtype), np.empty(companies // 2, order.dtype)
    count = _depth_first(offsets, payee, order, path, low, next_flow, component, first_number, sizes, smallest)
    return sizes[:count], smallest[:count]


def as_input(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the view of an array that kernels read: never writable, and unsigned for int32.

    numba compiles anew for writable and for read-only arrays, so all input is made alike. With unsigned ids it leaves
    out the test for negative indices at each access: the sweeps are 15% faster. (int64 stays signed: with uint64 numba
    would turn to floats.)
    """
    view = array.view(np.uint32) if array.dtype == np.int32 else array.view()
    view.flags.writeable = False
    return view


def _input_index(index: Index) -> Index:
    return as_input(index[0]), as_input(index[1])


def _cut(flows: Flows, count: int) -> Flows:
    return flows[0][:count], flows[1][:count]


def _chunks(flows: Flows) -> list[Flows]:
    """Cut flows into one piece per thread."""
    return [(flows[0][part], flows[1][part]) for part in slices(flows[0].size)]


def _mark_active(chunks: list[Flows], pays: Bytes, is_paid: Bytes) -> None:
    """Set the marks of those who pay and of those who are paid; one thread fills each map, so there is no race."""
    in_threads(
        partial(_mark, [payer for payer, _ in chunks], pays),
        partial(_mark, [payee for _, payee in chunks], is_paid),
    )


def _mark(chunks: list[Ids], marks: Bytes) -> None:
    marks[:] = 0
    for ids in chunks:
        _mark_chunk(as_input(ids), marks)


@njit(cache=True, nogil=True)
def _mark_chunk(ids: Ids, marks: Bytes) -> None:
    """Set the marks of the ids."""
    for company in ids:
        marks[company] = 1


@njit(cache=True, nogil=True)
def _list_active(pays: Bytes, is_paid: Bytes, new_id: Ids, members: Ids) -> int:
    """List the companies with a mark, write their places in the list to `new_id`, return how many. Free of branches."""
    count = 0
    for company in range(pays.size):
        active = int64(pays[company] | is_paid[company])
        members[count] = company
        new_id[company] += active * (count - new_id[company])
        count += active
    return count


@njit(cache=True, nogil=True)
def _scatter(values: Ids, places: Ids, out: Ids) -> None:
    """Write each value to its place."""
    for at in range(places.size):
        out[places[at]] = values[at]


@njit(cache=True, nogil=True)
def _translate(ids: Ids, new_id: Ids) -> None:
    """Replace ids by their new ids."""
    for at in range(ids.size):
        ids[at] = new_id[ids[at]]


@njit(cache=True, nogil=True)
def _keep_inner(payer: Ids, payee: Ids, inner: Bytes, kept_payer: Ids, kept_payee: Ids) -> int:
    """Copy the flows with both ends marked; return how many. In place is fine: writes never overtake reads."""
    kept = 0
    for flow in range(payer.size):
        start, end = payer[flow], payee[flow]
        kept_payer[kept] = start
        kept_payee[kept] = end
        kept += int64(inner[start] & inner[end])
    return kept


@njit(cache=True, nogil=True)
def _count_buckets(payer: Ids, shift: int, counts: Offsets) -> None:
    """Count the flows of each bucket of payers."""
    for company in payer:
        counts[company >> shift] += 1


@njit(cache=True, nogil=True)
def _fill_buckets(payer: Ids, payee: Ids, shift: int, place: Offsets, pairs: Ids) -> None:
    """Write each flow to the next free place of its bucket."""
    for flow in range(payer.size):
        bucket = payer[flow] >> shift
        at = place[bucket]
        pairs[at, 0] = payer[flow]
        pairs[at, 1] = payee[flow]
        place[bucket] = at + 1


@njit(cache=True, nogil=True)
def _sort_buckets(
    pairs: Ids,
    bucket_start: Offsets,
    first: int,
    last: int,
    shift: int,
    offsets: Offsets,
    payee: Ids,
) -> None:
    """Sort buckets `first` to `last` by payer, and set the offsets of their companies.

    offsets[i + 1] first counts the flows of company i, then is the next free place for them, and so ends as the end of
    company i.
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
def _search(offsets: Offsets, target: Ids, start: int, seen: Bytes, queue: Ids) -> None:
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
def _depth_first(
    offsets: Offsets,
    payee: Ids,
    order: Ids,
    path: Ids,
    low: Ids,
    next_flow: Offsets,
    component: Ids,
    first_number: int,
    sizes: Ids,
    smallest: Ids,
) -> int:
    """Tarjan's search without recursion; return the number of components of two or more companies.

    `order` is the order of discovery from 1; 0: not seen; the number of companies: settled, its component is closed
    (no order is larger, so a flow to it lowers nothing). `path` holds two stacks in one array, since no company is on
    both (Pearce 2016): from the left the path of the search, from the right the finished companies that wait for the
    first of their component. `low` and `next_flow` go with the path: the least order reached from there, and the next
    flow to follow.
    """
    companies = order.size
    settled = companies
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
                component[member] = first_number + count
                order[member] = settled
            if members > 1:
                component[company] = first_number + count
                sizes[count], smallest[count] = members, least
                count += 1
    return count


@njit(cache=True, nogil=True)
def _renumber(component: Ids, rank: Ids) -> None:
    """Replace provisional numbers by their rank, and number the companies alone after them, by id.

    Free of branches: rank[-1] is a spare 0 for those alone.
    """
    following = rank.size - 1
    for company in range(component.size):
        alone = int64(component[company] < 0)
        component[company] = rank[component[company]] + alone * following
        following += alone
